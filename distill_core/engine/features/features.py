"""What selectors ask of a model, from the store of features or made into it.

Legend: n sequences, D hidden, K columns of a projection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from distill_core.engine.data import TokenSequence, collate
from distill_core.engine.features.table import FeatureStore, Floats
from distill_core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from distill_core.config import StudentConfig
    from distill_core.engine.features.sequence_model import SequenceModel
    from distill_core.engine.progress import Progress
    from distill_core.interfaces import Task
    from distill_core.types import TokenBatch


@dataclass(frozen=True)
class ModelState:
    """A model other than the initial student, e.g. one of its checkpoints.

    Args:
        key: what it is, for the store: two states with one key must be equal.
        load: gives the model.
        change: what is made of per-sequence gradients before they are projected, by layer; the key must speak of it.
    """

    key: str
    load: Callable[[], Any]
    change: Callable[[str, Tensor], Tensor] | None = None


class Features:
    """Features of sequences by a model, keyed by model, data and projection; made once.

    Args:
        root: directory of the store.
        student: directory of the initial student; None where the selector reads no model.
        key: digest of that directory.
        config: how the student is loaded.
        task: what it predicts; None: the next token.
        batch_sequences: sequences per pass of the model.
        progress: shows what is made.
        shard_rows: sequences per shard of the store.
    """

    def __init__(
        self,
        root: Path,
        *,
        student: Path | None,
        key: str | None,
        config: StudentConfig,
        task: Task | None,
        batch_sequences: int,
        progress: Progress,
        shard_rows: int = 256,
    ) -> None:
        self.store = FeatureStore(root, shard_rows=shard_rows, progress=progress)
        self.student, self.key, self.config, self.task = student, key, config, task
        self.batch_sequences = batch_sequences
        self._loaded: tuple[str, SequenceModel] | None = None

    def initial(self) -> ModelState:
        """The initial student.

        Raises:
            DataError: the selector does not declare that it reads the model.
        """
        if self.student is None or self.key is None:
            raise DataError("this selector asked for the model, which it does not declare: add the signal `model`")
        return ModelState(f"student {self.key}", self.fresh_model)

    def fresh_model(self) -> Any:
        """A copy of the initial student of one's own, in fp32, on the device that evaluation uses."""
        import torch

        from distill_core.engine.student import load_model

        self.initial()
        model = load_model(str(self.student), self.config.model_copy(update={"dtype": "float32"}), self.task)
        return model.to("cuda" if torch.cuda.is_available() else "cpu")

    def sequence_model(self, state: ModelState | None = None) -> SequenceModel:
        """A model (default: the initial student) as a function of sequences; the last one stays loaded."""
        from distill_core.engine.features.sequence_model import SequenceModel

        state = self.initial() if state is None else state
        if self._loaded is None or self._loaded[0] != state.key:
            self._loaded = None
            self._loaded = (state.key, SequenceModel(state.load(), next_token=self.task is None))
        return self._loaded[1]

    def hidden(self, sequences: Sequence[TokenSequence], state: ModelState | None = None) -> Floats:
        """[n, D] mean of the last hidden state over each sequence's tokens."""

        def compute(batch: TokenBatch) -> Tensor:
            return self.sequence_model(state).hidden(batch)

        return self._table({"what": "hidden, mean"}, sequences, None, compute, state, "hidden states")

    def losses(self, sequences: Sequence[TokenSequence], state: ModelState | None = None) -> Floats:
        """[n] mean cross-entropy of each sequence in nat; 0 where nothing is to be predicted."""
        import torch

        def compute(batch: TokenBatch) -> Tensor:
            with torch.no_grad():
                return self.sequence_model(state).losses(batch)[:, None]

        return self._table({"what": "loss"}, sequences, 1, compute, state, "losses")[:, 0]

    def error_norms(self, sequences: Sequence[TokenSequence], state: ModelState | None = None) -> Floats:
        """[n] mean over predictions of the distance between probabilities and the one-hot label."""

        def compute(batch: TokenBatch) -> Tensor:
            return self.sequence_model(state).error_norms(batch)[:, None]

        return self._table({"what": "error norm"}, sequences, 1, compute, state, "errors")[:, 0]

    def doubts(self, sequences: Sequence[TokenSequence], state: ModelState | None = None) -> Floats:
        """[n] mean over predictions of ``1 - p`` of the label."""

        def compute(batch: TokenBatch) -> Tensor:
            return self.sequence_model(state).doubts(batch)[:, None]

        return self._table({"what": "doubt"}, sequences, 1, compute, state, "doubts")[:, 0]

    def entropies(self, sequences: Sequence[TokenSequence], state: ModelState | None = None) -> Floats:
        """[n] mean entropy of the predictions in nat."""

        def compute(batch: TokenBatch) -> Tensor:
            return self.sequence_model(state).entropies(batch)[:, None]

        return self._table({"what": "entropy"}, sequences, 1, compute, state, "entropies")[:, 0]

    def leads(self, sequences: Sequence[TokenSequence], state: ModelState | None = None) -> Floats:
        """[n] mean lead of the likeliest outcome's probability over the next one's."""

        def compute(batch: TokenBatch) -> Tensor:
            return self.sequence_model(state).leads(batch)[:, None]

        return self._table({"what": "lead"}, sequences, 1, compute, state, "leads")[:, 0]

    def gradient_norms(
        self, sequences: Sequence[TokenSequence], state: ModelState | None = None, *, layers: str | None = None
    ) -> Floats:
        """[n] norm of each sequence's gradient over linear layers, the head among them (weights and biases)."""
        from distill_core.engine.features.per_sample import gradient_norms, linear_layers

        def compute(batch: TokenBatch) -> Tensor:
            model = self.sequence_model(state)
            return gradient_norms(model, linear_layers(model.model, layers, head=True), batch)[:, None]

        parts = {"what": "gradient norm", "layers": layers}
        return self._table(parts, sequences, 1, compute, state, "gradient norms")[:, 0]

    def gradients(
        self,
        sequences: Sequence[TokenSequence],
        state: ModelState | None = None,
        *,
        dim: int,
        seed: int,
        layers: str | None = None,
        of: Literal["loss", "margin"] = "loss",
    ) -> Floats:
        """[n, K] random projections of each sequence's gradient over linear layers without the head.

        Args:
            sequences: whose gradients.
            state: at which model; default: the initial student.
            dim: K.
            seed: of the projection.
            layers: regular expression on the layers' names; None: all.
            of: what the gradient is of: the mean loss, or the mean log-odds of the labels.
        """
        from distill_core.engine.features.per_sample import ProjectedGradients, linear_layers

        def compute(batch: TokenBatch) -> Tensor:
            model = self.sequence_model(state)
            change = None if state is None else state.change
            chosen = linear_layers(model.model, layers)
            return ProjectedGradients(model, chosen, dim=dim, seed=seed, change=change, of=of)(batch)

        parts = {"what": "gradient, projected", "dim": dim, "seed": seed, "layers": layers, "of": of}
        return self._table(parts, sequences, dim, compute, state, "gradients")

    def _refuse_foreign_ids(self, batch: TokenBatch, state: ModelState | None) -> None:
        """Ids that the model has no embedding for come from another tokenizer."""
        if batch.inputs:
            return
        known = self.sequence_model(state).model.get_input_embeddings().weight.shape[0]
        largest = int(batch.input_ids_BT.max())
        if largest >= known:
            raise DataError(
                f"the data hold the token id {largest}, but the student has {known} embeddings: they were made by "
                "another tokenizer; set student.tokenizer to the model's own"
            )

    def _table(
        self,
        what: Mapping[str, Any],
        sequences: Sequence[TokenSequence],
        width: int | None,
        compute: Callable[[TokenBatch], Tensor],
        state: ModelState | None,
        label: str,
    ) -> Floats:
        model = (self.initial() if state is None else state).key
        parts = {**what, "model": model, "data": data_key(sequences)}

        def rows(start: int, stop: int) -> Any:
            step = self.batch_sequences
            batches = [collate(sequences[i : min(i + step, stop)]) for i in range(start, stop, step)]
            for batch in batches:
                self._refuse_foreign_ids(batch, state)
            return np.concatenate([compute(batch).float().cpu().numpy() for batch in batches])

        return self.store.table(parts, len(sequences), width, rows, label=label)


def data_key(sequences: Sequence[TokenSequence]) -> str:
    """What sequences are: their tokens, what is to be predicted and with which weight, in order."""
    state = hashlib.blake2b(digest_size=16)
    for sequence in sequences:
        state.update(sequence.key)
        state.update(np.ascontiguousarray(sequence.labels, dtype=np.int32).tobytes())
        weights = sequence.weights
        state.update(b"-" if weights is None else np.ascontiguousarray(weights, dtype=np.float32).tobytes())
    return state.hexdigest()
