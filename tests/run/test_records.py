"""From records to sequences: cutting, masking, refusing. The tokenizer gives one token for each character."""

from __future__ import annotations

from typing import Any

import pytest

from distill_core.config import DataConfig
from distill_core.engine.records import Piece, cut_record
from distill_core.errors import DataError

EOS, BOS = 2, 1


class Letters:
    """a -> 97; BOS 1, EOS 2; a chat template that writes role initials."""

    eos_token_id: int | None = EOS
    bos_token_id: int | None = BOS
    name_or_path = "letters"
    chat_template: str | None = "yes"

    def __call__(self, text: str, *, add_special_tokens: bool, verbose: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(letter) for letter in text]}

    def apply_chat_template(self, messages: Any, *, tokenize: bool, add_generation_prompt: bool) -> str:
        text = "".join(f"{m['role'][0]}:{m['content']};" for m in messages)
        return text + ("a:" if add_generation_prompt else "")


def data(length: int, **changes: Any) -> DataConfig:
    source = {"source": {"use": "jsonl"}}
    return DataConfig.model_validate(
        {"train": source, "eval": source, "sequence_length_tokens": length, "min_sequence_tokens": 3, **changes}
    )


def cut(record: dict[str, Any], config: DataConfig, tokenizer: Any = None) -> Any:
    return cut_record(record, tokenizer=tokenizer or Letters(), data=config, document="doc-7")


def texts(pieces: list[Piece]) -> list[str]:
    return ["".join(map(chr, piece.input_ids)) for piece in pieces]


@pytest.mark.parametrize(
    ("text", "expected", "dropped"),
    [
        ("abcd", ["abcd"], []),
        ("abcde", ["abcd"], ["short remainder"]),
        ("abcdefg", ["abcd", "efg"], []),
        ("abcdefghij", ["abcd", "efgh"], ["short remainder"]),
        ("ab", ["ab"], []),
        ("a", [], ["fewer than 2 tokens"]),
        ("", [], ["fewer than 2 tokens"]),
    ],
)
def test_text_is_cut_into_consecutive_sequences(text: str, expected: list[str], dropped: list[str]) -> None:
    result = cut({"text": text}, data(4))
    assert texts(result.pieces) == expected and result.dropped == dropped
    assert all(piece.predict is None for piece in result.pieces)


def test_bos_starts_every_sequence() -> None:
    pieces = cut({"text": "abcdef"}, data(4, add_bos=True)).pieces
    assert [piece.input_ids for piece in pieces] == [[BOS, 97, 98, 99], [BOS, 100, 101, 102]]
    without = Letters()
    without.bos_token_id = None
    with pytest.raises(DataError, match="no BOS"):
        cut({"text": "abc"}, data(4, add_bos=True), without)


def test_overlong_error_names_both_lengths() -> None:
    for record in ({"text": "abcde"}, {"prompt": "ab", "completion": "cd"}):
        with pytest.raises(DataError, match=r"doc-7: 5 tokens.* is 4 .*overlong"):
            cut(record, data(4, overlong="error"))
    assert cut({"text": "abcd"}, data(4, overlong="error")).pieces


def test_prompt_is_masked_and_completion_ends_with_eos() -> None:
    (piece,) = cut({"prompt": "ab", "completion": "cd"}, data(8)).pieces
    assert piece.input_ids == [97, 98, 99, 100, EOS]
    assert piece.predict == [False, False, True, True, True]


def test_completion_may_be_cut_but_a_prompt_never() -> None:
    result = cut({"prompt": "ab", "completion": "cdef"}, data(4))
    assert texts(result.pieces) == ["abcd"] and result.pieces[0].predict == [False, False, True, True]
    assert result.dropped == ["end of a completion"]
    for prompt in ("abcd", "abcdefg"):
        with pytest.raises(DataError, match=f"prompt alone has {len(prompt)} tokens.* is 4"):
            cut({"prompt": prompt, "completion": "x"}, data(4))


def test_parts_say_what_is_predicted_and_how_much_it_weighs() -> None:
    parts = [{"text": "ab", "predict": False}, {"text": "c", "weight": 2}, {"text": "d", "weight": 0.5}]
    (piece,) = cut({"parts": parts, "weight": 3}, data(8)).pieces
    assert piece.input_ids == [97, 98, 99, 100, EOS]
    assert piece.predict == [False, False, True, True, True]
    assert piece.weights == [3.0, 3.0, 6.0, 1.5, 1.5]
    (plain,) = cut({"parts": [*parts[:1], {"text": "c"}]}, data(8)).pieces
    assert plain.weights is None


def test_a_record_weighs_all_its_tokens() -> None:
    pieces = cut({"text": "abcdefgh", "weight": 0.25}, data(4)).pieces
    assert [piece.weights for piece in pieces] == [[0.25] * 4, [0.25] * 4]
    (piece,) = cut({"prompt": "a", "completion": "b", "weight": 2}, data(4)).pieces
    assert piece.weights == [1.0, 2.0, 2.0]


def test_empty_completion_without_eos_predicts_nothing() -> None:
    without = Letters()
    without.eos_token_id = None
    result = cut({"prompt": "abc", "completion": ""}, data(8), without)
    assert result.pieces == [] and result.dropped == ["nothing to predict"]


def test_only_the_assistant_is_predicted() -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "V"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "unanswered"},
    ]
    (piece,) = cut({"messages": messages}, data(64)).pieces
    assert texts([piece]) == ["s:S;u:U;a:A;u:V;a:B;"]
    assert piece.predict is not None
    predicted = "".join(chr(i) for i, p in zip(piece.input_ids, piece.predict, strict=True) if p)
    assert predicted == "A;B;"


def test_messages_need_a_template_that_keeps_earlier_turns() -> None:
    messages = [{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]
    without = Letters()
    without.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        cut({"messages": messages}, data(64), without)

    class Rewrites(Letters):
        def apply_chat_template(self, messages: Any, *, tokenize: bool, add_generation_prompt: bool) -> str:
            return f"{len(messages)}" + super().apply_chat_template(
                messages, tokenize=tokenize, add_generation_prompt=add_generation_prompt
            )

    with pytest.raises(DataError, match="rewrites earlier turns"):
        cut({"messages": messages}, data(64), Rewrites())


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"text": 3}, "`text` must be a string, received int"),
        ({"text": "ab \ud83d c"}, r"doc-7: `text` holds half of a surrogate pair, '\\ud83d' at character 3"),
        ({"prompt": "a", "completion": "\ude00"}, "`completion` holds half of a surrogate pair"),
        ({"parts": [{"text": "\ud800"}]}, r"parts\[0\]: `text` holds half of a surrogate pair"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, r"`messages\[0\].content` holds half of a surr"),
        ({"label": "a"}, "received the fields .'label'.. What a source keeps of a row is named in its options"),
        ({"prompt": "a", "completion": None}, "`completion` must be a string"),
        ({"body": "a"}, r"received the fields \['body'\]"),
        ({"prompt": "a"}, r"received the fields \['prompt'\]"),
        ({"messages": "hello"}, "`messages` must be a list"),
        ({"messages": [{"role": "user"}]}, "`messages` must be a list"),
        ({"text": "a", "weight": -1}, "`weight` must be a number from 0, received -1"),
        ({"text": "a", "weight": float("nan")}, "`weight` must be a number from 0"),
        ({"parts": []}, "`parts` must be a list"),
        ({"parts": [{"text": "a", "loss": 1}]}, r"parts\[0\] takes text, predict .* and weight, received"),
        ({"parts": [{"predict": True}]}, r"parts\[0\]: `text` must be a string, received NoneType"),
    ],
)
def test_wrong_records_are_refused(record: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        cut(record, data(8))
