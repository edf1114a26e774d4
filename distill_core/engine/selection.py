"""The select stage: a selector ranks the prepared sequences, the budget cuts, and every verdict goes to disk.

The stage's directory is a data directory (``tokens.arrow``, ``data.json``) of what was kept, in the order of the pool,
with ``decisions.arrow`` beside it: one row per sequence of the pool, kept or not, with its score and the reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distill_core.engine.data import IGNORE, SUMMARY_FILE, TOKENS_FILE, TokenDataset, TokenSequence
from distill_core.engine.features import Features, data_key
from distill_core.engine.likeness import Likeness, likeness, token_shares
from distill_core.engine.manifest import read_manifest
from distill_core.errors import DataError, PluginError
from distill_core.files import atomic_file, write_json
from distill_core.interfaces import Budget, Ranking, SelectionContext

if TYPE_CHECKING:
    from distill_core.config import BudgetConfig, SelectConfig
    from distill_core.engine.context import RunContext

DECISIONS_FILE = "decisions.arrow"
WORK = "checkpoints"
"""Directory of a selector's own working state: no output of the stage."""

DECISIONS = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("key", pa.binary(16), nullable=False),
        pa.field("document", pa.string(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("rank", pa.int64(), nullable=True),
        pa.field("score", pa.float64(), nullable=True),
        pa.field("reason", pa.string(), nullable=False),
    ]
)
"""``index``: place in the pool. ``rank``: place in the selector's order from 0, null if it is not there. ``score``:
null where the selector has none. The metadata of the file hold the selector, and what its score means."""

KEPT, BEYOND, NOT_REACHED = "within the budget", "beyond the budget", "not reached before the budget was full"
CHOSEN_BEFORE = "kept by an earlier selection"
LEARNED_AGAIN = "kept by an earlier selection and learned from again"


def select_sequences(
    context: RunContext, config: SelectConfig, directory: Path, *, reads: Collection[str]
) -> dict[str, Any]:
    """Choose from ``data:train`` what is learned from; returns notes for the manifest.

    Args:
        context: the run.
        config: its ``select`` section.
        directory: where ``tokens.arrow``, ``data.json`` and ``decisions.arrow`` are written.
        reads: stages whose output the selector reads.

    Raises:
        DataError: a budget beyond the pool, or one into which no sequence fits; a pool that the selector refuses.
        PluginError: the selector's answer is no ranking of the pool.
    """
    whole = context.prepared("train")
    name = config.selector.use
    excluded, again = _kept_by(whole, config.exclude), _kept_by(whole, config.keep)
    free = np.flatnonzero(~(excluded | again))
    if not len(free):
        raise DataError(
            f"select.exclude: the selections in {', '.join([*config.exclude, *config.keep])} kept all {len(whole)} "
            "sequences of data.train: nothing is left to choose from"
        )
    pool = whole if len(free) == len(whole) else [whole[int(index)] for index in free]
    lengths = np.array([len(sequence) for sequence in pool], dtype=np.int64)
    budget = budget_of(config.budget, lengths)
    if not budget.most(lengths):
        raise DataError(
            f"select.budget.tokens is {budget.tokens}, less than the shortest sequence of data.train, which has "
            f"{lengths.min()} tokens: raise it"
        )
    work = directory / WORK
    work.mkdir(parents=True, exist_ok=True)
    given = SelectionContext(
        pool=pool,
        target=context.prepared("target") if "data:target" in reads else None,
        budget=budget,
        labels=() if context.task is None else tuple(context.task.labels),
        seed=context.config.seed,
        features=_features(context, config, reads),
        directory=work,
        say=context.progress.say,
    )
    likeness = _likeness(given, reads)
    ranking = context.registry.build("selector", config.selector).select(given)
    order = checked_order(ranking, len(pool), name)
    kept = order[: budget.fitting(lengths[order])]
    if not len(kept):
        raise DataError(_nothing_kept(name, budget, ranking, lengths, order))
    placed = _placed(ranking, free, len(whole))
    order = free[order]
    reasons = _reasons(placed, order, len(kept), excluded, again)
    _write_decisions(directory / DECISIONS_FILE, whole, placed, order, len(kept), reasons, name)
    counts = Counter(reason.partition(": ")[0] for reason in reasons)
    said = "" if likeness is None else likeness.sentence()
    dropped = counts - Counter({KEPT: len(whole), LEARNED_AGAIN: len(whole)})
    indices = np.union1d(free[kept], np.flatnonzero(again))
    bought = {"sequences": len(kept), "tokens": int(lengths[kept].sum())}
    summary = write_kept(whole, indices, directory, dropped=dropped, note=said, bought=bought)
    sentence = f"{len(kept)} of {len(pool)} sequences kept by {name}, {bought['tokens']} tokens"
    if again.any():
        sentence += f"; with those of earlier selections {summary['sequences']} are learned from"
    if len(kept) == len(order) and len(order) < budget.most(lengths):
        sentence += f"; the selector refused {len(ranking.refused)} and the budget is not filled"
    context.progress.say(f"select: {sentence}")
    if said:
        context.progress.say(f"select: {said}")
    return {
        "kept": len(kept),
        "pool": len(pool),
        "pool_key": data_key(pool),
        "tokens": bought["tokens"],
        "score": ranking.meaning,
        "reasons": dict(sorted(counts.items())),
        **({"likeness": said} if said else {}),
        **ranking.notes,
    }


def _likeness(given: SelectionContext, reads: Collection[str]) -> Likeness | None:
    """Whether the pool is already like the target, by the features that the selector's signals allow."""
    if not given.target:
        return None
    numbers: Callable[[Sequence[TokenSequence]], npt.NDArray[Any]]
    if "student" in reads:
        name, numbers = "mean hidden states", given.features.hidden
    else:
        name, numbers = "token shares", token_shares
    known, aimed = ([sequence.document for sequence in part] for part in (given.pool, given.target))
    return likeness(numbers(given.pool), known, numbers(given.target), aimed, features=name, seed=given.seed)


def budget_of(config: BudgetConfig, lengths: npt.NDArray[np.int64]) -> Budget:
    """The budget in sequences and tokens of a pool with these lengths; a share is rounded down, to at least one.

    Raises:
        DataError: the pool holds less.
    """
    count, tokens = len(lengths), int(lengths.sum())
    for asked, held, unit in ((config.sequences, count, "sequences"), (config.tokens, tokens, "tokens")):
        if asked is not None and asked > held:
            raise DataError(
                f"select.budget.{unit} is {asked}, but data.train has {held} {unit} after its filters and without what "
                "select.exclude names: ask for at most as many, or leave `select` out to learn from all"
            )
    if config.share is not None:
        return Budget(sequences=max(1, math.floor(config.share * count + 1e-9)))
    return Budget(sequences=config.sequences or count, tokens=config.tokens)


def checked_order(ranking: Any, count: int, name: str) -> npt.NDArray[np.int64]:
    """The order of a ranking, if it is one of a pool of ``count``.

    Raises:
        PluginError: an index that does not exist or comes twice, a score too few, an empty meaning.
    """
    if not isinstance(ranking, Ranking):
        raise PluginError(f"the selector {name} returned {type(ranking).__name__}, expected a Ranking")
    order = np.asarray(ranking.order, dtype=np.int64)
    inside = bool(np.isin(order, np.arange(count)).all())
    if order.ndim != 1 or len(np.unique(order)) != len(order) or not inside:
        raise PluginError(
            f"the selector {name} returned an order of shape {order.shape} that is no list of distinct indices from 0 "
            f"to {count - 1}"
        )
    if np.shape(ranking.scores) != (count,):
        raise PluginError(
            f"the selector {name} returned scores of shape {np.shape(ranking.scores)} for a pool of {count}: expected "
            "one per sequence, NaN where there is none"
        )
    return order


def _features(context: RunContext, config: SelectConfig, reads: Collection[str]) -> Features:
    root = context.directory / "features" if config.features is None else Path(config.features).expanduser()
    directory = key = None
    if "student" in reads:
        directory = context.path("student")
        manifest = read_manifest(directory)
        assert manifest is not None
        key = manifest.output_digest
    return Features(
        root,
        student=directory,
        key=key,
        config=context.config.student,
        task=context.task,
        batch_sequences=config.batch_sequences,
        progress=context.progress,
    )


def _nothing_kept(
    name: str, budget: Budget, ranking: Ranking, lengths: npt.NDArray[np.int64], order: npt.NDArray[np.int64]
) -> str:
    if not len(order):
        reasons = ", ".join(f"{reason}: {n}" for reason, n in sorted(Counter(ranking.refused.values()).items()))
        return f"the selector {name} refused all {len(lengths)} sequences ({reasons}): nothing is left to learn from"
    return (
        f"select.budget.tokens is {budget.tokens}, less than the first sequence of {name}, which has "
        f"{lengths[order[0]]} tokens: raise it"
    )


def _kept_by(pool: TokenDataset, directories: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which sequences of the pool earlier selections kept."""
    before = {sequence.key for directory in directories for sequence in TokenDataset.open(Path(directory).expanduser())}
    return np.array([bool(before) and sequence.key in before for sequence in pool], dtype=bool)


def _placed(ranking: Ranking, free: npt.NDArray[np.int64], count: int) -> Ranking:
    """The ranking of a part of the pool as one of the whole; its order is left to the caller."""
    scores = np.full(count, np.nan)
    scores[free] = ranking.scores
    return replace(ranking, scores=scores, refused={int(free[i]): why for i, why in ranking.refused.items()})


def _reasons(
    ranking: Ranking,
    order: npt.NDArray[np.int64],
    kept: int,
    excluded: npt.NDArray[np.bool_],
    again: npt.NDArray[np.bool_],
) -> list[str]:
    places = zip(excluded, again, strict=True)
    reasons = [LEARNED_AGAIN if kept_on else CHOSEN_BEFORE if out else NOT_REACHED for out, kept_on in places]
    for index, reason in ranking.refused.items():
        reasons[index] = reason
    for rank, index in enumerate(order):
        reasons[index] = KEPT if rank < kept else BEYOND
    return reasons


def _write_decisions(
    path: Path,
    pool: TokenDataset,
    ranking: Ranking,
    order: npt.NDArray[np.int64],
    kept: int,
    reasons: Sequence[str],
    name: str,
) -> None:
    ranks = np.full(len(pool), -1, dtype=np.int64)
    ranks[order] = np.arange(len(order))
    scores = np.asarray(ranking.scores, dtype=np.float64)
    schema = DECISIONS.with_metadata({"selector": name, "score": ranking.meaning})
    columns = [
        pa.array(np.arange(len(pool))),
        pa.array([sequence.key for sequence in pool], type=pa.binary(16)),
        pa.array([sequence.document for sequence in pool]),
        pa.array([len(sequence) for sequence in pool], type=pa.int64()),
        pa.array((ranks >= 0) & (ranks < kept)),
        pa.array(ranks, mask=ranks < 0),
        pa.array(scores, mask=np.isnan(scores)),
        pa.array(reasons),
    ]
    with atomic_file(path) as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(columns, schema=schema))


def write_kept(
    pool: TokenDataset,
    indices: npt.NDArray[np.int64],
    directory: Path,
    *,
    dropped: Counter[str],
    bought: dict[str, int],
    note: str = "",
) -> dict[str, Any]:
    """Write the sequences at ``indices`` of ``pool`` as a data directory; returns its summary, with the note if any.

    ``bought``: sequences and tokens of those that this selection chose itself.
    """
    table = pa.ipc.open_file(pa.memory_map(str(pool.directory / TOKENS_FILE))).read_all().take(pa.array(indices))
    with atomic_file(directory / TOKENS_FILE) as file, pa.ipc.new_file(file, table.schema) as writer:
        for batch in table.combine_chunks().to_batches(max_chunksize=1024):
            writer.write_batch(batch)
    sequences = [pool[int(index)] for index in indices]
    summary = {
        "split": "train",
        "pool": len(pool),
        "dropped": dict(sorted(dropped.items())),
        "sequences": len(sequences),
        "tokens": sum(len(sequence) for sequence in sequences),
        "predicted_tokens": sum(map(_predicted, sequences)),
        "bought": bought,
        "documents": dict(Counter(sequence.document for sequence in sequences)),
        **({"note": note} if note else {}),
    }
    write_json(directory / SUMMARY_FILE, summary)
    return summary


def _predicted(sequence: TokenSequence) -> int:
    return int((sequence.labels[1 if sequence.next_token else 0 :] != IGNORE).sum())
