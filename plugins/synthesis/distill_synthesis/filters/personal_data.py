"""Personal data by its form: where it stands in a text. Numbers with check digits are checked.

A form is no proof: a number of another meaning can look like a telephone number, and names, addresses and everything
without a form of its own are not found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address


@dataclass(frozen=True)
class Finding:
    """Something of a kind at ``text[start:end]``."""

    kind: str
    start: int
    end: int


def findings(text: str, kinds: Sequence[str]) -> list[Finding]:
    """What stands in a text, in order, without overlaps: of two, the one that starts first, then the longer one.

    Args:
        text: any; time grows linearly with its length.
        kinds: of :data:`FORMS`.

    >>> [(f.kind, f.start, f.end) for f in findings("card 4111 1111 1111 1111, not 4111 1111 1111 1112", ["card"])]
    [('card', 5, 24)]
    """
    found = [one for kind in kinds for one in _of_kind(text, kind)]
    result: list[Finding] = []
    for one in sorted(found, key=lambda f: (f.start, -f.end, f.kind)):
        if not result or one.start >= result[-1].end:
            result.append(one)
    return result


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others (Luhn 1954, ISO/IEC 7812-1).

    >>> luhn("79927398713"), luhn("79927398710")
    (True, False)
    """
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def iban(text: str) -> bool:
    """Whether the remainder is 1 (ISO 13616, ISO 7064 mod 97-10), for a text without spaces.

    >>> iban("GB82WEST12345698765432"), iban("GB82WEST12345698765433")
    (True, False)
    """
    moved = text[4:] + text[:4]
    return int("".join(str(int(character, 36)) for character in moved)) % 97 == 1


def ean13(digits: str) -> bool:
    """Whether the last of 13 digits is the check digit of EAN-13.

    >>> ean13("7569217076985"), ean13("7569217076984")
    (True, False)
    """
    return sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(digits)) % 10 == 0


def _card(text: str) -> bool:
    digits = re.sub("[^0-9]", "", text)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits)


def _iban(text: str) -> bool:
    plain = text.replace(" ", "").upper()
    return 15 <= len(plain) <= 34 and iban(plain)


def _ip(text: str) -> bool:
    if ":" not in text:
        return all(int(part) < 256 for part in text.split("."))
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return sum(map(bool, text.split(":"))) > 2  # "::" alone is punctuation


def _ssn(text: str) -> bool:
    area, group, serial = re.findall("[0-9]+", text)
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _nir(text: str) -> bool:
    plain = text.replace(" ", "").upper()
    number = plain[:-2].replace("2A", "19").replace("2B", "18")  # Corsica
    return int(number) % 97 == 97 - int(plain[-2:])


def _dni(text: str) -> bool:
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(text[:8]) % 23] == text[-1].upper()


def _ahv(text: str) -> bool:
    return ean13(text.replace(".", ""))


Form = tuple[re.Pattern[str], "Callable[[str], bool] | None"]


def _form(pattern: str, check: Callable[[str], bool] | None = None) -> Form:
    return re.compile(pattern), check


_BEFORE, _AFTER = r"(?<![\w.+-])", r"(?![\w-])"
_PAIR = "[0-9]{2}"

FORMS: dict[str, Form] = {
    "email": _form(r"(?<![\w.+%-])[\w+%-]{1,64}(?:\.[\w+%-]{1,64}){0,8}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w])"),
    "phone": _form(
        rf"{_BEFORE}(?:\+[0-9](?:[ ()./-]{{0,2}}[0-9]){{7,14}}"
        r"|(?:\([0-9]{3}\) ?|[0-9]{3}[.-])[0-9]{3}[.-][0-9]{4})(?![\w])"
    ),
    "iban": _form(
        rf"{_BEFORE}[A-Za-z]{{2}}{_PAIR}(?: ?[A-Za-z0-9]{{4}}){{2,7}}(?: ?[A-Za-z0-9]{{1,3}})?{_AFTER}", _iban
    ),
    "card": _form(
        rf"{_BEFORE}(?:[0-9]{{13,19}}|[0-9]{{4,6}}([ -])[0-9]{{4,6}}(?:\1[0-9]{{1,6}}){{1,3}}){_AFTER}", _card
    ),
    "ip": _form(
        r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])"
        r"|(?<![\w.:])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])",
        _ip,
    ),
    "us-ssn": _form(rf"{_BEFORE}[0-9]{{3}}([ -]){_PAIR}\1[0-9]{{4}}{_AFTER}", _ssn),
    "gb-nino": _form(
        rf"{_BEFORE}(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?{_PAIR}){{3}} ?[A-D]{_AFTER}"
    ),
    "fr-nir": _form(
        rf"{_BEFORE}[12](?: ?{_PAIR}){{2}} ?(?:{_PAIR}|2[ABab])(?: ?[0-9]{{3}}){{2}} ?{_PAIR}{_AFTER}", _nir
    ),
    "es-dni": _form(rf"{_BEFORE}[0-9]{{8}}-?[A-Za-z]{_AFTER}", _dni),
    "ch-ahv": _form(rf"{_BEFORE}756(\.?)[0-9]{{4}}\1[0-9]{{4}}\1{_PAIR}{_AFTER}", _ahv),
}
"""Kind -> what it looks like, and the check of what looks like it.

The national ones: numbers of the US Social Security, the UK's National Insurance, the French NIR, the Spanish DNI and
the Swiss AHV. Telephone numbers are those with a country code after ``+`` and the North American ``(ddd) ddd-dddd``.
"""


def _of_kind(text: str, kind: str) -> Iterator[Finding]:
    pattern, check = FORMS[kind]
    place = 0
    while match := pattern.search(text, place):
        start, end = match.span()
        while check is not None and not check(text[start:end]):
            # The words after an account number may only look like a part of it.
            end = max(text.rfind(" ", start, end), text.rfind("-", start, end), start)
            if not pattern.fullmatch(text, start, end):
                end = start
                break
        if end > start:
            yield Finding(kind, start, end)
        place = max(end, start + 1)
