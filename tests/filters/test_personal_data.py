"""What is found as personal data, checked against known numbers, and what is put in its place."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from distill_core.errors import ConfigError
from distill_core.registry import get_registry
from distill_synthesis.filters.options import ALL_PII
from distill_synthesis.filters.personal_data import FORMS, findings, iban, luhn
from tests.filters.conftest import Make

# Test card numbers that payment processors publish, and the example of Luhn's rule in ISO/IEC 7812-1 annexes.
CARDS = (
    "4111111111111111",
    "4012888888881881",
    "5555555555554444",
    "5105105105105100",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "30569309025904",
    "3530111333300000",
    "4222222222222",
)
# Examples of the IBAN registry.
IBANS = (
    "GB29NWBK60161331926819",
    "DE89370400440532013000",
    "FR1420041010050500013M02606",
    "NO9386011117947",
    "MT84MALT011000012345MTLCAST001S",
    "CH9300762011623852957",
)


@pytest.mark.parametrize("number", CARDS)
def test_luhn_on_known_numbers(number: str) -> None:
    assert luhn(number)
    for place, digit in enumerate(number):  # every single wrong digit is noticed
        for other in "0123456789":
            assert luhn(number[:place] + other + number[place + 1 :]) == (other == digit)


@pytest.mark.parametrize("number", IBANS)
def test_iban_on_known_numbers(number: str) -> None:
    assert iban(number)
    spaced = " ".join(number[i : i + 4] for i in range(0, len(number), 4))
    for text in (number, spaced, f"IBAN: {spaced}, thank you", f"({number})", f"{spaced} and then some"):
        (found,) = findings(text, ["iban"])
        assert text[found.start : found.end].replace(" ", "") == number, text
    wrong = number[:2] + f"{(int(number[2:4]) + 1) % 97:02d}" + number[4:]
    assert not iban(wrong) and findings(wrong, ["iban"]) == []


@pytest.mark.parametrize("number", CARDS)
def test_cards_are_found_in_their_surroundings(number: str) -> None:
    grouped = "-".join(number[i : i + 4] for i in range(0, len(number), 4))
    for text in (number, grouped, f"card {number} exp 12", f"12 {grouped} 20.", f"{number}, {number}"):
        found = [text[one.start : one.end].replace("-", "") for one in findings(text, ["card"])]
        assert found == [number] * text.replace("-", "").count(number), text
    assert findings(f"x{number}", ["card"]) == findings(f"{number}1234567", ["card"]) == []
    assert findings("0000 0000 0000 0000", ["card"]) == []


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("email", ["jane.doe+news@mail.example.co.uk", "é@exämple.org"], ["a@b", "@home", "jane@", "a@1.2"]),
        ("phone", ["+49 30 1234567", "+1 (212) 555-0100", "(555) 123-4567"], ["2024-2025", "+12", "12345678"]),
        ("ip", ["192.0.2.17", "2001:db8::8a2e:370:7334"], ["999.1.1.1", "1.2.3", "1.2.3.4.5", "12:30:45", "a::b"]),
        ("us-ssn", ["078-05-1120", "219 09 9999"], ["000-12-3456", "666-12-3456", "900-12-3456", "078-05 1120"]),
        ("gb-nino", ["AB 12 34 56 C", "JG103759A"], ["GB123456C", "QQ123456C", "AB123456E"]),
        ("fr-nir", ["2 55 08 14 168 025 38", "255081416802538"], ["2 55 08 14 168 025 39"]),
        ("es-dni", ["12345678Z", "12345678-Z"], ["12345678A"]),
        ("ch-ahv", ["756.9217.0769.85", "7569217076985"], ["756.9217.0769.84", "757.9217.0769.85"]),
    ],
)
def test_each_kind(kind: str, good: list[str], bad: list[str]) -> None:
    for text in good:
        around = f"see {text}, please"
        assert [around[one.start : one.end] for one in findings(around, [kind])] == [text]
    for text in bad:
        assert findings(f"see {text}, please", [kind]) == [], text


def test_every_kind_is_told_and_counted(make: Make) -> None:
    text = "Mail a@example.org or b@example.org, call +49 30 1234567, pay 4111 1111 1111 1111."
    verdict = make("pii").verdict({"text": text})
    assert verdict == "personal data: 1 card, 2 email, 1 phone"
    assert make("pii", kinds=["card"]).verdict({"text": text}) == "personal data: 1 card"
    assert make("pii", allowed=4).verdict({"text": text}) is None
    assert make("pii").private and set(ALL_PII) == set(FORMS)
    with pytest.raises(ConfigError, match=r"kinds.*passport"):
        make("pii", kinds=["passport"])


def redact(record: dict[str, Any], **options: Any) -> dict[str, Any]:
    (made,) = get_registry().build("transform", {"use": "pii-redact", **options}).transform(record)
    return dict(made)


def test_redaction_leaves_nothing_to_find_and_everything_else() -> None:
    record = {
        "messages": [{"role": "user", "content": "I am a@example.org"}, {"role": "assistant", "content": "Hello"}],
        "document": "b@example.org",
        "provenance": {"teacher": "t"},
    }
    made = redact(record)
    assert made["messages"][0] == {"role": "user", "content": "I am [EMAIL]"}
    assert made["messages"][1] == record["messages"][1] and made["document"] == record["document"]
    assert made["provenance"] == {"teacher": "t", "redacted": {"email": 1}}
    assert record["messages"][0]["content"] == "I am a@example.org", "the record was edited"
    assert redact({"parts": [{"text": "4111111111111111", "predict": False}, 3]})["parts"] == [
        {"text": "[CARD]", "predict": False},
        3,
    ]
    assert redact({"text": "192.0.2.1 and 192.0.2.2"}, replacement="***")["text"] == "*** and ***"
    same = {"text": "nothing here", "prompt": 3}
    assert redact(same) == same
    with pytest.raises(ConfigError, match="braces"):
        redact(same, replacement="{name}")


def test_redacted_random_mixtures_hold_nothing() -> None:
    rng = random.Random(0)
    pieces = [*CARDS, *IBANS, "a@example.org", "+49 30 1234567", "192.0.2.17", "078-05-1120", "word", "12", "(", "-"]
    for _ in range(300):
        text = rng.choice([" ", "\n", ", "]).join(rng.choices(pieces, k=12))
        assert findings(redact({"text": text})["text"], ALL_PII) == [], text


@pytest.mark.parametrize("unit", ["a", "1", "1 ", "+1", "a.a@", ":::", "ab12 ", "1-", "@", "a@b.", "(1"])
def test_time_grows_with_the_length_alone(unit: str) -> None:
    def cpu_seconds(length: int) -> float:
        start = time.process_time()
        findings(unit * (length // len(unit)), ALL_PII)
        return time.process_time() - start

    cpu_seconds(1000)
    assert (
        cpu_seconds(32_000) < 40 * cpu_seconds(2_000) + 0.05
    )  # 16 times the length; a square law would take 256 times
