"""The ``hf`` teacher: any Transformers causal language model.

Legend: B sequences, T token positions, N rows, V head rows, D hidden.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from distill_core import taps
from distill_core.completions import (
    Completion,
    GenerationParameters,
    GenerationRequest,
    GenerationTally,
    Spending,
    request_seed,
    unique_requests,
)
from distill_core.engine.head import HeadSpec, decoder_of, head_spec
from distill_core.errors import SignalError, TrainingError, VocabularyError
from distill_core.interfaces import VocabularyInfo
from distill_core.store import vocabulary_info
from distill_core.types import Needs, RowTarget, SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.identity import directory_identity, model_identity
from distill_teachers.options import HFOptions
from distill_teachers.prompts import prompt_ids
from distill_teachers.row_keys import row_keys
from distill_teachers.sparse_targets import (
    LinearHead,
    check_spec,
    concatenate,
    from_hidden,
    from_logits,
    single_draws,
    wanted_spec,
)
from distill_teachers.weights import Weights, choose_device, choose_dtype, find_weights, load_model, load_tokenizer
from distill_teachers.writing import Draft, Writer

PROVIDED = frozenset({"targets", "hidden_states", "attentions"}) | taps.SIGNALS


class HFTeacher:
    """A Transformers causal language model that answers for batches; loaded at first use, never trained.

    Targets are computed from the decoder's hidden states at the batch's rows, so that logits [N, V] are never held for
    all rows. A model whose head is not a linear layer with a known cap and scale answers through its own forward pass,
    one sequence at a time.

    Args:
        options: where the weights are, dtype, device.

    >>> teacher = HFTeacher(HFOptions(model="org/name"))
    >>> teacher.label
    'org/name'
    """

    def __init__(self, options: HFOptions) -> None:
        self.options = options
        self.label = options.model or options.gguf_package or str(options.gguf_file)
        self.tally = GenerationTally()
        self._given: tuple[Any, Any] | None = None

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, *, label: str = "given model") -> HFTeacher:
        """A teacher from a model and a tokenizer that are loaded already (notebooks, tests)."""
        teacher = cls(HFOptions(model=label))
        teacher._given = (model.eval(), tokenizer)
        return teacher

    @cached_property
    def device(self) -> torch.device:
        return choose_device(self.options.device) if self._given is None else self._given[0].device

    @cached_property
    def weights(self) -> Weights:
        return find_weights(self.options, choose_dtype(self.options.dtype, self.device))

    @cached_property
    def model(self) -> Any:
        """The loaded ``PreTrainedModel`` in eval mode.

        Raises:
            SignalError: the head's weights hold NaN or infinity.
        """
        if self._given is not None:
            model = self._given[0]
        else:
            dtype = choose_dtype(self.options.dtype, self.device)
            model = load_model(self.weights, self.options, self.device, dtype)
        head = model.get_output_embeddings()
        weight = getattr(head, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            raise SignalError(self._broken("the weights of its head hold NaN or infinity"))
        return model

    @property
    def config(self) -> Any:
        """The model's ``PretrainedConfig``."""
        return self.model.config

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.weights, self.options) if self._given is None else self._given[1]

    def tokenizer(self) -> Any:
        """The teacher's tokenizer."""
        return self._tokenizer

    @cached_property
    def _vocabulary(self) -> VocabularyInfo:
        info = vocabulary_info(self._tokenizer)
        return VocabularyInfo(size=info.size, fingerprint=info.fingerprint, name=self.label)

    def vocabulary(self) -> VocabularyInfo:
        """Size and fingerprint of the teacher's tokenizer."""
        return self._vocabulary

    def pretrained(self) -> str:
        """A directory or hub id that ``from_pretrained`` loads: for students cut from the teacher, and evaluation."""
        if self._given is not None:
            raise SignalError(
                f"{self.label} was given as a loaded model: save it and name the directory to load it again"
            )
        if self.weights.is_directory or self.options.revision is None:
            return self.weights.pretrained
        from huggingface_hub import snapshot_download

        return str(
            snapshot_download(self.weights.pretrained, revision=self.options.revision, cache_dir=self.options.cache_dir)
        )

    def identity(self) -> str:
        """Equal on every machine: the hub's commit, the hash of the GGUF file, or a hash of the weight files; and how
        the weights are quantised, since what is captured is then another teacher's."""
        if self.options.quantization is None:
            return self._identity
        return f"{self._identity} ({self.options.quantization} by bitsandbytes)"

    @cached_property
    def _identity(self) -> str:
        from pathlib import Path

        if self._given is not None:
            return model_identity(self._given[0])
        if self.weights.content is not None:
            return self.weights.content
        if self.weights.is_directory:
            return directory_identity(Path(self.weights.pretrained))
        commit = getattr(self.config, "_commit_hash", None)
        return f"{self.weights.pretrained}@{commit}" if commit else model_identity(self.model)

    @property
    def valid_vocab(self) -> int:
        """Rows of the head that stand for tokens; the rest are padding rows and get no probability."""
        return min(self._vocabulary.size, int(self.model.get_output_embeddings().weight.shape[0]))

    @cached_property
    def _head_spec(self) -> HeadSpec | None:
        """What the model does to its logits; None where only its own forward pass knows."""
        try:
            return head_spec(self.model)
        except TrainingError:
            return None

    @torch.no_grad()
    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """Signals named in ``needs.signals``, on the device of the batch.

        Args:
            batch: right-padded token sequences.
            needs: ``targets`` (at ``batch.rows()``), ``hidden_states`` ([B, T, D], L + 1 of them, the last one after
                the final norm), ``attentions`` ([B, H, T, T], computed by the eager implementation), ``queries``,
                ``keys``, ``values`` (in ``extra``: L tensors [B, T, heads x head size]).
            sparse: how the targets are made sparse; default: the 64 largest entries, exact.

        Raises:
            SignalError: an unknown signal, a temperature or k that cannot be had, a sequence longer than the model's
                context, or NaN in the teacher's output.
            VocabularyError: token ids beyond the model's embedding table.
        """
        unknown = sorted(needs.signals - PROVIDED)
        if unknown:
            raise SignalError(
                f"the teacher {self.label} cannot give {unknown} for a batch; it gives {sorted(PROVIDED)}, and text by "
                "generate()"
            )
        home = batch.input_ids_BT.device
        batch = batch.to(self.device)
        self.check_batch(batch)
        spec = self._sparse_spec(needs, sparse) if "targets" in needs.signals else None
        if "attentions" in needs.signals and self.config._attn_implementation != "eager":
            self.model.set_attn_implementation("eager")
        if self._head_spec is None:
            return self._signals_by_forward(batch, needs, spec, home)
        decoder = decoder_of(self.model)
        with taps.tapped(decoder, needs.signals & taps.SIGNALS) as tapped:
            decoded = decoder(
                input_ids=batch.input_ids_BT,
                attention_mask=batch.attention_mask_BT,
                output_hidden_states="hidden_states" in needs.signals,
                output_attentions="attentions" in needs.signals,
                use_cache=False,
                return_dict=True,
            )
        targets = [] if spec is None else self._targets(batch, decoded.last_hidden_state, spec)
        return TeacherSignals(
            target=targets[0].to(home) if targets else None,
            hidden_states=_moved(decoded.hidden_states, home) if "hidden_states" in needs.signals else None,
            attentions=_moved(decoded.attentions, home) if "attentions" in needs.signals else None,
            extra={**_draws(targets, home), **{name: _moved(layers, home) for name, layers in tapped.items()}},
        )

    def _targets(self, batch: TokenBatch, hidden_BTD: Tensor, spec: SparseSpec) -> list[RowTarget]:
        """One target per draw."""
        rows = batch.rows()
        hidden_ND = rows.select(hidden_BTD)
        if not bool(torch.isfinite(hidden_ND).all()):
            raise SignalError(self._broken("its hidden states are NaN or infinite"))
        head, treatment = self.model.get_output_embeddings(), self._head_spec
        assert treatment is not None
        linear = LinearHead(head.weight, head.bias, treatment.softcap, treatment.logit_scale)
        keys_N = row_keys(batch.keys, rows.sequence_N, rows.position_N)
        return [
            from_hidden(hidden_ND, linear, one, valid_vocab=self.valid_vocab, row_keys_N=keys_N)
            for one in single_draws(spec)
        ]

    def _signals_by_forward(
        self, batch: TokenBatch, needs: Needs, spec: SparseSpec | None, home: torch.device
    ) -> TeacherSignals:
        """For heads that only the model itself knows: its own logits, one sequence at a time."""
        if needs.signals & taps.SIGNALS:
            raise SignalError(
                f"the teacher {self.label} has a head that only its own forward pass knows and gives no "
                f"{sorted(needs.signals & taps.SIGNALS)}"
            )
        rows = batch.rows()
        keys_N = row_keys(batch.keys, rows.sequence_N, rows.position_N)
        outputs: list[Any] = []
        draws: list[list[RowTarget]] = [[] for _ in range(spec.draws if spec is not None else 0)]
        for index in range(len(batch.keys)):
            output = self.model(
                input_ids=batch.input_ids_BT[index : index + 1],
                attention_mask=batch.attention_mask_BT[index : index + 1],
                output_hidden_states="hidden_states" in needs.signals,
                output_attentions="attentions" in needs.signals,
                use_cache=False,
            )
            own_N = rows.sequence_N == index
            for draw, one in enumerate(single_draws(spec) if spec is not None else ()):
                logits_nV = output.logits[0, rows.position_N[own_N]]
                if one.ids_NK is not None:
                    one = replace(one, ids_NK=one.ids_NK[own_N.to(one.ids_NK.device)])
                draws[draw].append(self._target_of_logits(logits_nV, keys_N[own_N.cpu()], one))
            output.logits = None
            outputs.append(output)
        targets = [concatenate(parts) for parts in draws]
        return TeacherSignals(
            target=targets[0].to(home) if targets else None,
            hidden_states=_stacked(outputs, "hidden_states", home) if "hidden_states" in needs.signals else None,
            attentions=_stacked(outputs, "attentions", home) if "attentions" in needs.signals else None,
            extra=_draws(targets, home),
        )

    def _target_of_logits(self, logits_nV: Tensor, keys_n: Tensor, spec: SparseSpec) -> RowTarget:
        if bool(torch.isnan(logits_nV).any()):
            raise SignalError(self._broken("its logits are NaN"))
        return from_logits(
            lambda chunk: logits_nV[chunk].float(),
            len(logits_nV),
            spec,
            vocabulary=logits_nV.shape[1],
            valid_vocab=self.valid_vocab,
            row_keys_N=keys_n,
        )

    def _sparse_spec(self, needs: Needs, sparse: SparseSpec | None) -> SparseSpec:
        spec = wanted_spec(needs, sparse, valid_vocab=self.valid_vocab)
        check_spec(spec, valid_vocab=self.valid_vocab, label=self.label)
        return spec

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        """Write for every request, ``generation_batch`` at a time with one key-value cache; prompts of similar length
        go together.

        A request's random numbers depend on its id and the seed alone, so the batch it is in changes nothing but
        rounding. Chat turns are written out with the tokenizer's template. ``tally`` counts tokens and time.

        Raises:
            SignalError: no chat template, an empty prompt, or a prompt that fills the context.
        """
        size = self.options.generation_batch
        pending = unique_requests(requests)
        while window := list(islice(pending, 8 * size)):
            started_s = time.monotonic()
            drafts = [self._draft(request, parameters) for request in window]
            order = sorted(range(len(drafts)), key=lambda index: -len(drafts[index].prompt))
            writer = Writer(self.model, self._tokenizer, valid_vocab=self.valid_vocab)
            for start in range(0, len(order), size):
                writer.write([drafts[index] for index in order[start : start + size]], parameters)
            completions = [
                Completion(
                    id=request.id,
                    text=writer.text(draft),
                    finish_reason=draft.finish_reason,
                    prompt_tokens=len(draft.prompt),
                    completion_tokens=len(draft.ids),
                    tokens=writer.tokens(draft) if parameters.top_logprobs else None,
                )
                for request, draft in zip(window, drafts, strict=True)
            ]
            self.tally.seconds += time.monotonic() - started_s
            for completion in completions:
                self.tally.add(completion)
                yield completion

    def most_spent(self, request: GenerationRequest, parameters: GenerationParameters) -> Spending:
        """The prompt's tokens and ``max_new_tokens``; a model of one's own costs no money."""
        ids = prompt_ids(request, self._tokenizer, label=self.label)
        return Spending(len(ids) + parameters.max_new_tokens)

    def _draft(self, request: GenerationRequest, parameters: GenerationParameters) -> Draft:
        ids = prompt_ids(request, self._tokenizer, label=self.label)
        room = parameters.max_new_tokens
        limit_tokens = self._context_tokens
        if limit_tokens is not None:
            room = min(room, limit_tokens - len(ids))
            if room < 1:
                raise SignalError(
                    f"request {request.id!r}: a prompt of {len(ids)} tokens leaves no room in the context of the "
                    f"teacher {self.label}, {limit_tokens} tokens: shorten it"
                )
        return Draft(ids, request_seed(parameters.seed, request.id), room)

    @property
    def _context_tokens(self) -> int | None:
        text = self.config.get_text_config() if hasattr(self.config, "get_text_config") else self.config
        limit_tokens: int | None = getattr(text, "max_position_embeddings", None)
        return limit_tokens

    def check_batch(self, batch: TokenBatch) -> None:
        """Raise if the batch does not fit the model: SignalError for its length, VocabularyError for its ids."""
        length_tokens = batch.input_ids_BT.shape[1]
        limit_tokens = self._context_tokens
        if limit_tokens is not None and length_tokens > limit_tokens:
            raise SignalError(
                f"a sequence of {length_tokens} tokens does not fit the context of the teacher {self.label}, "
                f"{limit_tokens} tokens: lower data.sequence_length_tokens"
            )
        n_embeddings = self.model.get_input_embeddings().weight.shape[0]
        largest = int(batch.input_ids_BT.max()) if batch.input_ids_BT.numel() else 0
        if largest >= n_embeddings:
            raise VocabularyError(
                f"the batch holds token id {largest}, but the teacher {self.label} has {n_embeddings} embeddings: the "
                "text was tokenized with another tokenizer than the teacher's"
            )

    def _broken(self, what: str) -> str:
        return (
            f"the teacher {self.label} gives no usable numbers: {what}. The weights are damaged or overflow in "
            f"{str(self.model_dtype).split('.')[-1]}; load them with dtype: float32 or get them again"
        )

    @property
    def model_dtype(self) -> torch.dtype:
        """dtype the teacher computes in."""
        dtype: torch.dtype = (
            choose_dtype(self.options.dtype, self.device) if self._given is None else self._given[0].dtype
        )
        return dtype


def _draws(targets: list[RowTarget], device: torch.device) -> dict[str, Any]:
    """``draws``: all samples of a row, where more than one was asked for."""
    return {"draws": tuple(target.to(device) for target in targets)} if len(targets) > 1 else {}


def _moved(tensors: tuple[Tensor, ...], device: torch.device) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device) for tensor in tensors)


def _stacked(outputs: list[Any], name: str, device: torch.device) -> tuple[Tensor, ...]:
    layers = zip(*(getattr(output, name) for output in outputs), strict=True)
    return tuple(torch.cat(layer).to(device) for layer in layers)
