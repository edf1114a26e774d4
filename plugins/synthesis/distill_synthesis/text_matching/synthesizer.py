"""What the synthesizers of texts have in common: reading, the students, the choice among candidates, writing.

Legend: n candidates, P matched parameters.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from distill_core import ops
from distill_core.engine.data import collate
from distill_core.errors import DataError, TrainingError
from distill_core.interfaces import SynthesisContext
from distill_synthesis.matching.coresets import k_center, random_choice
from distill_synthesis.matching.randomness import generator
from distill_synthesis.text_matching.attention_labels import FIELD, as_field
from distill_synthesis.text_matching.choosing import greedy, nearest
from distill_synthesis.text_matching.language_model import LanguageModel
from distill_synthesis.text_matching.network import Labels
from distill_synthesis.text_matching.networks import Networks
from distill_synthesis.text_matching.options import GeneratorMatchingOptions, GradientMatchingTextOptions
from distill_synthesis.text_matching.texts import LabelledTexts, Reader, Written, read_texts


@dataclass(frozen=True)
class Draft:
    """Ids that may become a text, of a class.

    Args:
        content: the ids.
        number: the class.
        origin: where it comes from, for the provenance.
        shares: learned probabilities of the classes; None: all on its own.
        attention: learned attention label [S, H, T], special tokens included; None: none.
    """

    content: Sequence[int]
    number: int
    origin: dict[str, Any]
    shares: tuple[float, ...] | None = None
    attention: Tensor | None = None


@dataclass(frozen=True)
class Candidate:
    """A text that can be read again.

    Args:
        written: the text and its ids.
        draft: what it was written from.
    """

    written: Written
    draft: Draft

    @property
    def number(self) -> int:
        """The class."""
        return self.draft.number


class TextSynthesizer(ABC):
    """Makes texts that stand for the real ones; the state is on disk, and everything random has a key of its own."""

    NAME: ClassVar[str]
    options: GradientMatchingTextOptions | GeneratorMatchingOptions

    def __init__(self, options: GradientMatchingTextOptions | GeneratorMatchingOptions) -> None:
        self.options = options
        self._summary: dict[str, Any] = {}

    def build(self, ctx: SynthesisContext) -> None:
        """Takes the run's seed, task and students.

        Raises:
            TrainingError: the device is not there.
        """
        self.ctx, self.seed = ctx, ctx.seed
        if self.options.device == "cuda" and not torch.cuda.is_available():
            raise TrainingError(f"{self.NAME}: device is cuda, but torch sees no GPU: use auto or cpu")
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(auto if self.options.device == "auto" else self.options.device)

    @abstractmethod
    def candidates(self, directory: Path) -> Iterator[Draft]:
        """The best first where there is an order."""

    @abstractmethod
    def described(self) -> dict[str, Any]:
        """What the summary says of the method itself."""

    def synthesize(self, source: Iterable[Mapping[str, Any]], directory: Path) -> Iterator[dict[str, Any]]:
        """Synthetic records, class by class.

        Raises:
            DataError: see ``read_texts``; fewer texts asked for than there are classes; no candidate is readable; a
                state of another run in ``directory``.
            TrainingError: a loss is no longer finite.
        """
        self.prepare(source, directory)
        kept, counts = self._chosen(self.candidates(directory))
        if not kept:
            raise DataError(f"{self.NAME}: no candidate is left ({_told(counts)}): ask for more `candidates`")
        wanted = {number: self.wanted(number) for number in range(self.texts.classes)}
        found = Counter(candidate.number for candidate in kept)
        missing = sum(max(0, count - found[number]) for number, count in wanted.items())
        if missing:
            self.ctx.say(
                f"{self.NAME}: {missing} of {self.options.texts} texts are missing ({_told(counts)}): more `candidates`"
            )
        self._summary = {
            "texts": len(kept),
            "missing": missing,
            "classes": self.texts.classes,
            "real_texts": len(self.texts.sequences),
            "candidates": dict(sorted(counts.items())),
            **self.described(),
        }
        for place, candidate in enumerate(kept):
            yield from self._records(candidate, place)

    def prepare(self, source: Iterable[Mapping[str, Any]], directory: Path) -> None:
        """Read the texts, make the students; see :meth:`synthesize`."""
        self.texts: LabelledTexts = read_texts(source, self.ctx)
        if self.options.texts < self.texts.classes:
            raise DataError(
                f"{self.NAME}: texts is {self.options.texts}, but there are {self.texts.classes} classes: ask for at "
                "least one text of each"
            )
        self.key = self._key()
        self.reader = Reader(self.ctx, self.texts, self.options.length_tokens, self._record)
        self.networks = Networks(self.ctx, self.options, self.texts, directory, self.key, self.device)
        self.table_AD = self.networks.networks[0].table(self.texts.allowed_A)

    def summary(self) -> dict[str, Any]:
        """Counts, and what became of candidates."""
        return {self.NAME: self._summary}

    def wanted(self, number: int) -> int:
        """Texts of a class: all alike, the first classes one more where it does not divide."""
        each, rest = divmod(self.options.texts, self.texts.classes)
        return each + (number < rest)

    def language_model(self) -> LanguageModel:
        """Untrained; :meth:`LanguageModel.trained` trains it, or finds what it was."""
        options = self.options
        return LanguageModel(options.language_model, self.texts, options.length_tokens, self.seed, self.device)

    def distance(self, real: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], Tensor]:
        """Of gradients from the real one."""
        options = self.options
        return partial(ops.gradient_match, real=real, distance=options.distance, group=options.group)

    def check_finite(self, value: float, iteration: int) -> None:
        """Raises TrainingError where a loss is not."""
        if value != value or abs(value) == float("inf"):
            raise TrainingError(
                f"{self.NAME}: iteration {iteration} has a distance of {value}, which is not finite: lower "
                "learning_rate"
            )

    def _chosen(self, candidates: Iterable[Draft]) -> tuple[list[Candidate], Counter[str]]:
        """What stays, class by class, and what became of all candidates."""
        counts: Counter[str] = Counter()
        by_class: list[list[Candidate]] = [[] for _ in range(self.texts.classes)]
        seen = set()
        for draft in candidates:
            written = self.reader.written(draft.content, draft.number)
            if isinstance(written, str):
                counts[written] += 1
            elif draft.attention is not None and len(written.content) != len(draft.content):
                counts["tokens of an attention label merged"] += 1
            elif (written.content, draft.number) in seen:
                counts["twice"] += 1
            else:
                seen.add((written.content, draft.number))
                by_class[draft.number].append(Candidate(written, draft))
        kept = []
        for number, members in enumerate(by_class):
            right = self._of_their_class(members, number)
            counts["wrong label"] += len(members) - len(right)
            chosen = [right[index] for index in self._best(right, number)]
            counts["kept"] += len(chosen)
            counts["not chosen"] += len(right) - len(chosen)
            kept += chosen
        return kept, +counts

    def _of_their_class(self, members: list[Candidate], number: int) -> list[Candidate]:
        """Those that the trained students give to their class."""
        if not self.texts.labels or self.options.wrong_label == "keep" or not members:
            return members
        votes = self.networks.votes(collate([self.texts.framed(c.written.content, number) for c in members]))
        return [member for member, vote in zip(members, votes.argmax(-1).tolist(), strict=True) if vote == number]

    def _best(self, members: list[Candidate], number: int) -> list[int]:
        wanted, rule = self.wanted(number), self.options.choose
        if not members:
            return []
        if rule == "random":
            return random_choice(len(members), wanted, generator(self.seed, "choice", number)).tolist()
        if rule == "k-center":
            batch = collate([self.texts.framed(member.written.content, number) for member in members])
            features = self.networks.networks[0].sequence.hidden(batch).cpu()
            return k_center(features, min(wanted, len(members))).tolist()
        gradients, distance = self._gradients(members, number)
        return (greedy if rule == "greedy" else nearest)(gradients, distance, wanted)

    def _gradients(
        self, members: list[Candidate], number: int
    ) -> tuple[list[list[Tensor]], Callable[[Sequence[Tensor]], float]]:
        """Of each candidate, in every state of every student side by side; and the distance from the real ones."""
        gradients: list[list[Tensor]] = [[] for _ in members]
        distances = []
        for index, (network, states) in enumerate(zip(self.networks.networks, self.networks.states, strict=True)):
            for step, state in enumerate(states):
                leaves = network.leaves(state)
                real = self.networks.real_gradient(network, leaves, number, "choice", index, step)
                distances.append(self.distance(real))
                for place, member in enumerate(members):
                    batch = collate([self.texts.framed(member.written.content, number)])
                    loss = network.losses(leaves, batch, labels=self._labels(member.draft)).mean()
                    gradients[place] += network.gradient(loss, leaves)
        size = len(self.networks.networks[0].matched)

        def distance(gradient: Sequence[Tensor]) -> float:
            return sum(float(d(gradient[i * size : (i + 1) * size])) for i, d in enumerate(distances))

        return gradients, distance

    def _labels(self, draft: Draft) -> Labels:
        """What a student is taught of one text."""
        shares = None if draft.shares is None else torch.tensor([draft.shares], device=self.device)
        attention = None if draft.attention is None else draft.attention[None].to(self.device)
        return Labels(shares, attention, getattr(self.options, "attention_weight", 1.0))

    def _record(self, text: str, number: int) -> dict[str, Any]:
        record: dict[str, Any] = {self.options.text: text}
        if self.texts.labels:
            record[self.options.label] = self.texts.labels[number]
        return record

    def _records(self, candidate: Candidate, place: int) -> Iterator[dict[str, Any]]:
        """One record; with a learned label, one for each class that has a share, weighted by it."""
        document = f"{self.NAME}:{place}"
        origin = {
            "synthesizer": self.NAME,
            "seed": self.seed,
            "real_texts": len(self.texts.sequences),
            "real_sha256": self.texts.fingerprint(),
            **candidate.draft.origin,
        }
        base = {"document": document, "provenance": origin}
        if candidate.draft.attention is not None:
            depth = int(self.networks.networks[0].model.config.num_hidden_layers)
            label = candidate.draft.attention.cpu()
            base[FIELD] = as_field(label, depth=depth, position=self.texts.position)
        if candidate.draft.shares is None:
            yield {**self._record(candidate.written.text, candidate.number), **base}
            return
        for number, share in enumerate(candidate.draft.shares):
            if share:
                yield {**self._record(candidate.written.text, number), **base, "weight": share}

    def _key(self) -> str:
        """Hash of everything that the result depends on, besides the code and the initial students."""
        options = self.options.model_dump(mode="json", exclude={"checkpoint_iterations"})
        text = json.dumps([self.NAME, self.seed, self.texts.fingerprint(), options], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in sorted(counts.items())) or "none was made"
