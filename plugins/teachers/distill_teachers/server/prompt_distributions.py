"""Distributions at the positions of given token sequences, as a server lists them.

A position whose distribution the server leaves out (the first of a prompt, one after an omitted BOS) is asked for by
itself: the prompt up to there, and the distribution of the next token.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from distill_core.errors import SignalError
from distill_teachers.server.alignment import Alignment, find_alignment, listed_indices, probe_pairs
from distill_teachers.server.asking import Answered, Asker
from distill_teachers.server.questions import Question, logprobs_question
from distill_teachers.server.reading import Position
from distill_teachers.server.token_texts import TokenTexts

GO_ON = ("The", " the", "1", "a")
"""Texts that go on after a prompt, where any will do that is one token of its own."""

Row = dict[int, float]
"""Natural log-probabilities by token id."""


class PromptDistributions:
    """Asks a server about sequences of token ids.

    Args:
        asker: the server.
        texts: the model's vocabulary as servers show it.
        label: the server's name for messages.
    """

    def __init__(self, asker: Asker, texts: TokenTexts, *, label: str) -> None:
        self._asker = asker
        self._texts = texts
        self._label = label
        self._guard = threading.Lock()
        self._alignments: dict[bool, Alignment] = {}
        self._adds_bos: bool | None = None
        bos = getattr(texts.tokenizer, "bos_token_id", None)
        self._bos: int | None = None if bos is None else int(bos)

    def of(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], *, k: int) -> list[Row]:
        """Rows of all sequences, one after the other.

        Args:
            sequences: token ids, and the positions whose next-token distribution is wanted.
            k: entries asked for per position.

        Raises:
            SignalError: see :func:`distill_teachers.server.alignment.find_alignment`.
        """
        found: dict[tuple[int, int], Row] = {}
        wanted = [(number, ids) for number, (ids, positions) in enumerate(sequences) if positions]
        questions = [(number, self._echo_question(ids, k)) for number, ids in wanted]
        for number, answered in self._asker.ask_all(questions):
            ids = sequences[number][0]
            for position, row in self._rows(ids, answered).items():
                found[number, position] = row
        missing = [(n, p) for n, (_, positions) in enumerate(sequences) for p in positions if (n, p) not in found]
        prefixes = {(n, p): sequences[n][0][: p + 1] for n, p in missing}
        after = [(place, self._after_question(prefix, k)) for place, prefix in prefixes.items()]
        for place, answered in self._asker.ask_all(after):
            written = answered.read.positions
            if written and written[0].top is not None:
                found[place] = self._row(written[0], prefixes[place])
        for place, prefix in prefixes.items():
            if place not in found:
                found[place] = self._before_another_token(prefix, k)
        return [found[n, p] for n, (_, positions) in enumerate(sequences) for p in positions]

    def _echo_question(self, ids: Sequence[int], k: int) -> Question:
        prompt = self._prompt(ids)
        alignment = self._alignment(ids)
        also = {"alignment": asdict(alignment)}
        return logprobs_question(prompt, self._asker.options, k=k, echo=True, n_tokens=len(ids), also=also)

    def _after_question(self, ids: Sequence[int], k: int) -> Question:
        return logprobs_question(self._prompt(ids), self._asker.options, k=k, echo=False, n_tokens=len(ids))

    def _rows(self, ids: Sequence[int], answered: Answered) -> dict[int, Row]:
        """Rows by position, as far as the server lists them."""
        alignment = self._alignment(ids)
        listed = self._listed(answered, len(ids))
        index, _ = listed_indices(
            listed, ids, self._texts, bos=self._bos, omits_bos=alignment.omits_bos, label=self._label
        )
        rows = {}
        for place, token in enumerate(index):
            position = token + alignment.shift - 1
            if listed[place].top is not None and 0 <= position < len(ids):
                rows[position] = self._row(listed[place], ids[: position + 1])
        return rows

    def _row(self, position: Position, context: Sequence[int]) -> Row:
        """Entries whose ids are certain; the probability of the others belongs to the tail."""
        begins = self._texts.marks_spaces and all(token in self._texts.special_ids for token in context)
        whole = self._ends_whole(context) and not begins
        row: Row = {}
        for shown in position.top or ():
            exact = shown.content is not None or shown.text.startswith("token_id:")
            # Inside a character a server may show the byte that completes it as the whole character; at the beginning
            # of a text a SentencePiece token without its space.
            index = self._texts.id_of(shown) if whole or exact else None
            if index is not None and shown.logprob is not None:
                row[index] = max(shown.logprob, row.get(index, shown.logprob))
        return row

    def _ends_whole(self, context: Sequence[int]) -> bool:
        """Whether the text of these tokens ends with a whole character."""
        tail = b"".join(self._texts.content.get(token, b"") for token in context[-4:])
        for length in range(1, min(4, len(tail)) + 1):
            byte = tail[-length]
            if byte & 0xC0 != 0x80:  # the character's first byte
                expected = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
                return length == expected
        return not tail

    def _listed(self, answered: Answered, n_tokens: int) -> tuple[Position, ...]:
        read = answered.read
        if read.positions is None:
            raise SignalError(
                f"{self._label} lists no log-probabilities (fields `logprobs` and `echo` of the completions endpoint), "
                "so it cannot give targets: leave out `tokenizer` and use it for text alone, or take another server"
            )
        if read.prompt_tokens is not None and read.prompt_tokens != n_tokens:
            raise SignalError(
                f"{self._label} read {read.prompt_tokens} tokens where {n_tokens} were sent: is `tokenizer` the "
                "model's own? A sequence cut inside a word is read differently as text: use prompt_form: ids if it "
                "takes them"
            )
        return read.positions

    def _before_another_token(self, prefix: Sequence[int], k: int) -> Row:
        """For a server that writes an end token, and lists nothing: the prompt goes on with some other token."""
        for word in GO_ON:
            following = self._texts.tokenizer.encode(word, add_special_tokens=False)
            longer = [*prefix, *following]
            if len(following) != 1 or not self._is_own_reading(longer):
                continue
            row = self._rows(longer, self._asker.ask(self._echo_question(longer, k))).get(len(prefix) - 1)
            if row is not None:
                return row
        raise SignalError(
            f"{self._label} lists no distribution after {len(prefix)} tokens of a sequence (it ended at once, or gives "
            "no log-probabilities): mask that position, or use a server that lists whole prompts"
        )

    def _is_own_reading(self, ids: Sequence[int]) -> bool:
        try:
            self._prompt(ids)
        except SignalError:
            return False
        return True

    def _prompt(self, ids: Sequence[int]) -> str | list[int]:
        """The sequence as it is sent; refused where text would be read as other tokens."""
        if self._asker.options.prompt_form == "ids":
            return list(ids)
        sent = list(ids)
        if self._server_adds_bos():
            if not sent or sent[0] != self._bos:
                raise SignalError(
                    f"{self._label} puts a BOS before every prompt, but a sequence does not begin with one (token "
                    f"{self._bos}): its distributions would be those of another text. Use prompt_form: ids if the "
                    "server takes them, or data with a BOS"
                )
            sent = sent[1:]
        return self._text(sent)

    def _text(self, ids: Sequence[int]) -> str:
        tokenizer: Any = self._texts.tokenizer
        text = str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
        again = tokenizer.encode(text, add_special_tokens=False)
        if list(again) != list(ids):
            at = next(
                (i for i, (a, b) in enumerate(zip(ids, again, strict=False)) if a != b), min(len(ids), len(again))
            )
            raise SignalError(
                f"a sequence of {len(ids)} tokens is not what its text {text[:40]!r}... is split into (token {at} "
                f"differs): it was cut inside a word or a character. {self._label} is sent text: use prompt_form: ids "
                "if the server takes token ids, or cut the data at documents"
            )
        return text

    def _server_adds_bos(self) -> bool:
        with self._guard:
            if self._adds_bos is None:
                ids = probe_pairs(self._texts.tokenizer, bos=None, wanted=1)[0].first
                question = logprobs_question(
                    self._text(ids), self._asker.options, k=1, echo=False, n_tokens=len(ids) + 1
                )
                read = self._asker.ask(question, fresh=True).read.prompt_tokens
                if read is not None and read not in (len(ids), len(ids) + 1):
                    raise SignalError(
                        f"{self._label} reads {read} tokens where the tokenizer {self._asker.options.tokenizer} makes "
                        f"{len(ids)}: it is not the model's own"
                    )
                self._adds_bos = read == len(ids) + 1
            return self._adds_bos

    def _alignment(self, ids: Sequence[int]) -> Alignment:
        """Found out once per session, for prompts with and without a BOS in front; never kept beyond it."""
        has_bos = self._bos is not None and len(ids) > 0 and ids[0] == self._bos
        alignment = self._probed(has_bos)
        if not has_bos and self._bos in ids:
            return replace(alignment, omits_bos=self._probed(True).omits_bos)
        return alignment

    def _probed(self, has_bos: bool) -> Alignment:
        with self._guard:
            if has_bos not in self._alignments:
                self._alignments[has_bos] = find_alignment(
                    self._probe_echo,
                    self._probe_after,
                    self._texts,
                    bos=self._bos,
                    has_bos=has_bos,
                    label=self._label,
                )
            return self._alignments[has_bos]

    def _probe_echo(self, ids: Sequence[int]) -> tuple[Position, ...]:
        question = self._probe(ids, echo=True)
        return self._listed(self._asker.ask(question, fresh=True), len(ids))

    def _probe_after(self, ids: Sequence[int]) -> tuple[Position, ...]:
        answered = self._asker.ask(self._probe(ids, echo=False), fresh=True)
        return answered.read.positions or ()

    def _probe(self, ids: Sequence[int], *, echo: bool) -> Question:
        options = self._asker.options
        prompt: str | list[int] = list(ids)
        if options.prompt_form == "text":
            prompt = self._text(ids[1:] if self._adds_bos else ids)
        return logprobs_question(prompt, options, k=options.top_logprobs, echo=echo, n_tokens=len(ids))
