"""The ``hf-classifier`` teacher: a Transformers model for sequence, token or image classification.

Legend: B sequences, T positions, N rows, V classes, D hidden.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_core import taps
from distill_core.engine.classifier import Classified, classify, head_path, logits_of_rows
from distill_core.engine.tasks import labels_of
from distill_core.errors import DistillError, SignalError
from distill_core.interfaces import VocabularyInfo
from distill_core.store import classes_info
from distill_core.types import Needs, RowTarget, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.identity import directory_identity, model_identity
from distill_teachers.options import HFClassifierOptions
from distill_teachers.row_keys import row_keys
from distill_teachers.sparse_targets import check_spec, from_logits, single_draws
from distill_teachers.weights import choose_device, choose_dtype

AUTO_CLASSES = {
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForImageClassification": "AutoModelForImageClassification",
}
"""Auto class of Transformers by the end of the architecture's name in config.json."""

PROVIDED = frozenset({"targets", "hidden_states", "attentions"}) | taps.SIGNALS


class HFClassifier:
    """A Transformers classifier that answers for the rows of a task; loaded at first use, never trained.

    Its classes are those of ``config.id2label``, in order, and must be the task's. A target on all V classes is exact
    and has no tail; ``k`` above V is V.

    Args:
        options: where the weights are, dtype, device.

    >>> HFClassifier(HFClassifierOptions(model="org/name")).label
    'org/name'
    """

    def __init__(self, options: HFClassifierOptions) -> None:
        self.options = options
        self.label = options.model
        self._given: tuple[Any, Any] | None = None

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any = None, *, label: str = "given model") -> HFClassifier:
        """A teacher from a model (and, for text, its tokenizer) that is loaded already."""
        teacher = cls(HFClassifierOptions(model=label))
        teacher._given = (model.eval(), tokenizer)
        return teacher

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self.options.device) if self._given is None else self._given[0].device

    @cached_property
    def config(self) -> Any:
        """The ``PretrainedConfig``."""
        if self._given is not None:
            return self._given[0].config
        from transformers import AutoConfig

        try:
            return AutoConfig.from_pretrained(self._source, **self._loading)
        except (OSError, ValueError, KeyError) as error:
            raise DistillError(f"the teacher {self.label} cannot be loaded: {str(error).splitlines()[0]}") from error

    @property
    def _source(self) -> str:
        path = Path(self.options.model).expanduser()
        return str(path) if path.is_dir() else self.options.model

    @property
    def _loading(self) -> dict[str, Any]:
        return {"revision": self.options.revision or "main", "trust_remote_code": self.options.trust_remote_code}

    @cached_property
    def model(self) -> Any:
        """The loaded ``PreTrainedModel`` in eval mode.

        Raises:
            DistillError: it is no classifier, or cannot be loaded whole.
        """
        if self._given is not None:
            return self._given[0]
        import transformers

        auto = getattr(transformers, self._auto_class())
        dtype = choose_dtype(self.options.dtype, self.device)
        try:
            model, loaded = auto.from_pretrained(
                self._source, dtype=dtype, use_safetensors=True, output_loading_info=True, **self._loading
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise DistillError(f"the teacher {self.label} cannot be loaded: {str(error).splitlines()[0]}") from error
        if loaded["missing_keys"]:
            raise DistillError(
                f"the teacher {self.label} has no weights for {sorted(loaded['missing_keys'])[:5]}: it was not trained "
                "as a classifier; train one first (a run with `task` and train.teacher: none)"
            )
        model.requires_grad_(False)
        return model.eval().to(self.device)

    def _auto_class(self) -> str:
        names = self.config.architectures or [type(self.config).__name__]
        found = next((auto for end, auto in AUTO_CLASSES.items() if names[0].endswith(end)), None)
        if found is None:
            raise DistillError(
                f"the teacher {self.label} is a {names[0]}, expected a model whose name ends in one of "
                f"{', '.join(AUTO_CLASSES)}; for language models use hf"
            )
        return found

    @cached_property
    def _tokenizer(self) -> Any:
        if self._given is not None:
            return self._given[1]
        if self._auto_class() == "AutoModelForImageClassification":
            return None
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self._source, **self._loading)
        except (OSError, ValueError, KeyError) as error:
            raise DistillError(
                f"the tokenizer of the teacher {self.label} cannot be loaded: {str(error).splitlines()[0]}"
            ) from error

    def tokenizer(self) -> Any:
        """The tokenizer that makes its text input; None for images."""
        return self._tokenizer

    def labels(self) -> tuple[str, ...]:
        """Its classes, in the order of their ids."""
        return labels_of(self.config)

    def vocabulary(self) -> VocabularyInfo:
        """Number of classes, and a fingerprint of labels and tokenizer."""
        return classes_info(self.labels(), self._tokenizer, name=self.label)

    def pretrained(self) -> str:
        """A directory or hub id that ``from_pretrained`` loads."""
        if self._given is not None:
            raise SignalError(f"{self.label} was given as a loaded model: save it and name the directory to load it")
        return self._source

    def identity(self) -> str:
        """Equal on every machine: the hub's commit, or a hash of the weight files."""
        return self._identity

    @cached_property
    def _identity(self) -> str:
        if self._given is None and Path(self._source).is_dir():
            return directory_identity(Path(self._source))
        commit = getattr(self.config, "_commit_hash", None)
        return f"{self._source}@{commit}" if commit and self._given is None else model_identity(self.model)

    @torch.no_grad()
    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """Signals named in ``needs.signals``, on the device of the batch.

        Args:
            batch: sequences of a task.
            needs: ``targets`` (at ``batch.rows()``), ``hidden_states`` ([B, T, D]; feature maps of a convolutional net
                become sequences that start with their mean), ``attentions``, ``queries``, ``keys``, ``values``.
            sparse: how targets are made sparse; default: all classes, exact.

        Raises:
            SignalError: an unknown signal, a temperature that cannot be had, next-token batches, or NaN.
        """
        unknown = sorted(needs.signals - PROVIDED)
        if unknown:
            raise SignalError(f"the teacher {self.label} cannot give {unknown}; it gives {sorted(PROVIDED)}")
        if batch.next_token:
            raise SignalError(
                f"the teacher {self.label} is a classifier, but the batch asks for next tokens: set `task` in the run "
                "file"
            )
        home, batch = batch.input_ids_BT.device, batch.to(self.device)
        if "attentions" in needs.signals and self.config._attn_implementation != "eager":
            self.model.set_attn_implementation("eager")
        found = classify(
            self.model,
            self._head_path(batch),
            batch.model_inputs(),
            output_hidden_states="hidden_states" in needs.signals,
            output_attentions="attentions" in needs.signals,
            taps=sorted(needs.signals & taps.SIGNALS),
        )
        targets = self._targets(batch, found, needs, sparse) if "targets" in needs.signals else []
        return TeacherSignals(
            target=targets[0].to(home) if targets else None,
            hidden_states=_moved(found.hidden_states, home),
            attentions=_moved(found.attentions, home),
            extra={
                **({"draws": tuple(target.to(home) for target in targets)} if len(targets) > 1 else {}),
                **{name: _moved(layers, home) for name, layers in found.taps.items()},
            },
        )

    def _head_path(self, batch: TokenBatch) -> str:
        """Found, and proved, on the first batch."""
        if "head_path" not in self.__dict__:
            self.__dict__["head_path"] = head_path(self.model, batch)
        return str(self.__dict__["head_path"])

    def _targets(
        self, batch: TokenBatch, found: Classified, needs: Needs, sparse: SparseSpec | None
    ) -> list[RowTarget]:
        rows = batch.rows()
        logits_NV = logits_of_rows(found.logits, rows).float()
        if bool(torch.isnan(logits_NV).any()):
            raise SignalError(
                f"the teacher {self.label} gives no usable numbers: its logits are NaN. The weights are damaged or "
                "overflow in its dtype; load them with dtype: float32 or get them again"
            )
        classes = logits_NV.shape[1]
        spec = self._spec(needs, sparse, classes)
        return [
            from_logits(
                lambda chunk: logits_NV[chunk],
                len(logits_NV),
                one,
                vocabulary=classes,
                valid_vocab=classes,
                row_keys_N=row_keys(batch.keys, rows.sequence_N, rows.position_N),
            )
            for one in single_draws(spec)
        ]

    def _spec(self, needs: Needs, sparse: SparseSpec | None, classes: int) -> SparseSpec:
        wanted = needs.temperatures or ()
        if sparse is None:
            sparse = SparseSpec("topk", classes, temperatures=wanted or (1.0,))
        elif sparse.method == "topk":
            temperatures = tuple(dict.fromkeys((*sparse.temperatures, *wanted)))
            sparse = replace(sparse, k=min(sparse.k, classes), temperatures=temperatures)
        elif set(wanted) - set(sparse.temperatures):
            raise SignalError(
                f"temperatures {list(wanted)} were asked of a sample drawn at {list(sparse.temperatures)}, which "
                "serves that one alone; use method: topk, or draw at the temperature of the objective"
            )
        check_spec(sparse, valid_vocab=classes, label=self.label)
        return sparse

    @property
    def model_dtype(self) -> torch.dtype:
        """dtype the teacher computes in."""
        dtype: torch.dtype = self.model.dtype
        return dtype


def _moved(tensors: tuple[Tensor, ...] | None, device: torch.device) -> tuple[Tensor, ...] | None:
    return None if tensors is None else tuple(tensor.to(device) for tensor in tensors)
