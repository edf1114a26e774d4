"""Answers of a fake server that has a real (tiny) model: log-probabilities as different servers list them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.teachers.faults.http_server import Json


@dataclass
class ModelChoice:
    """Makes completions with log-probabilities.

    Args:
        model: causal language model.
        tokenizer: the server's.
        shift: beside token m stands the distribution that predicts token m + shift.
        omits_bos: BOS tokens are left out of echoed lists.
        shift_with_bos: the shift on prompts that begin with a BOS; None: as ``shift``.
        adds_bos: a BOS is put before every prompt that is text.
        show: ``replace`` or ``ignore`` (what becomes of broken characters), ``bytes``, ``token_id``.
        lists: whether log-probabilities are given at all.
        noise_nat: added to every log-probability, another for each answer.
        frozen: the same distributions whatever the prompt.
        scale: factor on log-probabilities (another base than e).
    """

    model: Any
    tokenizer: Any
    shift: int = 0
    omits_bos: bool = False
    shift_with_bos: int | None = None
    adds_bos: bool = False
    show: str = "replace"
    lists: bool = True
    noise_nat: float = 0.0
    frozen: bool = False
    scale: float = 1.0
    answers: int = 0

    def __call__(self, payload: Json) -> tuple[Json, int, int]:
        self.answers += 1
        ids = self._ids(payload["prompt"])
        if len(ids) + 1 > 256:
            raise ValueError("the prompt does not fit the context")
        logp_TV = self._logp(ids)
        written = int(logp_TV[-1].argmax())
        listed = None
        if self.lists and payload.get("logprobs"):
            k = int(payload["logprobs"])
            listed = self._echo(ids, written, logp_TV, k) if payload.get("echo") else self._after(written, logp_TV, k)
        text = self.tokenizer.decode([written])
        choice = {"index": 0, "text": text, "logprobs": listed, "finish_reason": "length"}
        return choice, len(ids), 1

    def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, list):
            return prompt
        ids = list(self.tokenizer.encode(prompt, add_special_tokens=False))
        return [self.tokenizer.bos_token_id, *ids] if self.adds_bos else ids

    @torch.no_grad()
    def _logp(self, ids: list[int]) -> Tensor:
        read = [5] * len(ids) if self.frozen else ids
        logits_TV = self.model(torch.tensor([read])).logits[0].float()
        noise = self.noise_nat * torch.randn(logits_TV.shape, generator=torch.Generator().manual_seed(self.answers))
        return (logits_TV + noise).log_softmax(-1) * self.scale

    def _echo(self, ids: list[int], written: int, logp_TV: Tensor, k: int) -> Json:
        tokens = [*ids, written]
        bos = self.tokenizer.bos_token_id
        shift = self.shift_with_bos if self.shift_with_bos is not None and ids[0] == bos else self.shift
        listed: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": []}
        for m, token in enumerate(tokens):
            if self.omits_bos and token == bos:
                continue
            place = m + shift - 1
            nothing = not listed["tokens"] or not 0 <= place < len(ids)  # the first entry is null everywhere
            self._list(listed, token, None if nothing else logp_TV[place], k)
        return listed

    def _after(self, written: int, logp_TV: Tensor, k: int) -> Json:
        listed: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": []}
        if not (self.omits_bos and written == self.tokenizer.bos_token_id):
            self._list(listed, written, logp_TV[-1], k)
        return listed

    def _list(self, listed: Json, token: int, logp_V: Tensor | None, k: int) -> None:
        listed["tokens"].append(self._shown(token))
        listed["token_logprobs"].append(None if logp_V is None else float(logp_V[token]))
        if logp_V is None:
            listed["top_logprobs"].append(None)
            return
        top = logp_V.topk(k)
        shown = {self._shown(i): value for i, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)}
        listed["top_logprobs"].append({**shown, self._shown(token): float(logp_V[token])})

    def _shown(self, token: int) -> str:
        if self.show == "token_id":
            return f"token_id:{token}"
        if token in self.tokenizer.all_special_ids:
            return "" if self.show == "ignore" else str(self.tokenizer.convert_ids_to_tokens(token))
        letters = _letters()
        content = bytes(letters[letter] for letter in self.tokenizer.convert_ids_to_tokens(token))
        if self.show == "bytes":
            try:
                return content.decode("utf-8")
            except UnicodeDecodeError:
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)
        return content.decode("utf-8", errors=self.show)


def _letters() -> dict[str, int]:
    from tokenizers import pre_tokenizers

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {chr(byte): byte for byte in printable}
    letters |= {chr(256 + i): byte for i, byte in enumerate(b for b in range(256) if b not in printable)}
    assert set(letters) == set(pre_tokenizers.ByteLevel.alphabet())
    return letters
