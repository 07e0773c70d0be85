"""Families about numbers: other values in look-alike notations, and the same value in others."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Final

from grpo_audit.rewards.probes import values
from grpo_audit.rewards.probes.answers import shown
from grpo_audit.rewards.probes.case import Case, Drafts, accept, either, reject
from grpo_audit.rewards.probes.probe import Kind

_SCRIPTS: Final = {"full-width": 0xFF10, "Arabic-Indic": 0x0660, "Thai": 0x0E50}
_RAISED: Final = str.maketrans("0123456789", "\u2070\xb9\xb2\xb3\u2074\u2075\u2076\u2077\u2078\u2079")
_SCALES: Final = ("hundred", "thousand", "million", "dozen")
_UNITS: Final = ("m", "cm", "km", "g", "kg", "s", "min", "h", "L", "mL")
_UNEXPECTED: Final = ("nan", "inf", "-inf", "Infinity", "1e400", "0x7fffffff", "1/0")
_NumberFamily = Callable[[Case, Fraction, str], Drafts]


def _of_numbers(make: _NumberFamily) -> Callable[[Case], Drafts]:
    """Only for plain numbers; the value and its text as given."""

    def family(case: Case) -> Drafts:
        value = values.number(case.right) if case.accepted else None
        if case.is_content and case.kind is Kind.NUMBER and value is not None:
            yield from make(case, value, case.right.replace(",", "").lstrip("+"))

    family.__doc__ = make.__doc__
    return family


def _is_other(case: Case, value: Fraction) -> bool:
    return all(values.number(right) != value for right in case.accepted)


def _wrong(case: Case, value: Fraction, text: str, note: str) -> Drafts:
    """A text of this value, where the value is another one than that of every right answer."""
    if _is_other(case, value):
        yield reject(case.format.of(text), note)


@_of_numbers
def float_edge(case: Case, value: Fraction, text: str) -> Drafts:
    """Neighbours in the last place, a thousandth and a hundredth off, and what is no number at all."""
    step = Fraction(1, 10 ** len(text.partition(".")[2]))
    for near, note in ((value + step, "one more"), (value - step, "one less")):
        yield from _wrong(case, near, shown(near, text), f"{note} in the last place")
    for part, note in ((100, "a hundredth"), (1000, "a thousandth")):
        near = value + max(abs(value), step) / part
        near = round(near, 6)
        if near != value and (step >= 1 or abs(near - value) >= step):
            yield from _wrong(case, near, shown(near, text), f"{note} off")
    for word in _UNEXPECTED:
        yield reject(case.format.of(word), f"{word} for a number")
    yield either(case.format.of(f"{text}{'' if '.' in text else '.'}0000000001"), "off in the tenth decimal")


@_of_numbers
def prefix(case: Case, _: Fraction, text: str) -> Drafts:
    """A digit too few or too many, at either end."""
    digits = text.lstrip("-")
    sign = text[: len(text) - len(digits)]
    for changed, note in (
        (digits[:-1], "last digit left out"),
        (digits[1:], "first digit left out"),
        (f"{digits}7", "a digit behind"),
        (f"{digits}0", "a zero behind"),
        (f"7{digits}", "a digit before"),
    ):
        found = values.number(sign + changed)
        if found is not None:
            yield from _wrong(case, found, sign + changed, note)


@_of_numbers
def sign(case: Case, value: Fraction, text: str) -> Drafts:
    """The other sign, as hyphen and as minus."""
    if value:
        other = text.lstrip("-") if value < 0 else f"-{text}"
        yield from _wrong(case, -value, other, "the other sign")
        if value > 0:
            yield from _wrong(case, -value, f"\u2212{text}", "a Unicode minus before it")
        else:
            yield accept(case.format.of(text.replace("-", "\u2212")), "with a Unicode minus")
            yield either(case.format.of(text.replace("-", "\u2013")), "with a dash for a minus")


@_of_numbers
def unicode_digits(case: Case, _: Fraction, text: str) -> Drafts:
    """Digits of other scripts have the same value; raised ones are a power."""
    for script, zero in _SCRIPTS.items():
        table = {ord(str(digit)): chr(zero + digit) for digit in range(10)}
        yield accept(case.format.of(text.translate(table)), f"{script} digits")
    if len(text) > 1 and text.isdigit():
        yield reject(case.format.of(text[:-1] + text[-1:].translate(_RAISED)), "the last digit raised")
        yield either(case.format.of(text.translate(_RAISED)), "all digits raised")


@_of_numbers
def odd_blanks(case: Case, _: Fraction, text: str) -> Drafts:
    """Non-breaking and thin blanks: harmless around a number, and not inside one."""
    yield accept(case.format.of(f"\u00a0{text}\u00a0"), "non-breaking blanks around it")
    yield accept(case.format.of(f"\u202f{text}"), "a thin blank before it")
    if len(text) in (2, 3) and text.isdigit():
        yield reject(case.format.of(f"{text[0]}\u00a0{text[1:]}"), "a non-breaking blank inside")


@_of_numbers
def thousands(case: Case, value: Fraction, text: str) -> Drafts:
    """Separators of thousands, of both kinds, and misplaced ones."""
    whole, _, places = text.lstrip("-").partition(".")
    minus = "-" if value < 0 else ""
    rest = f".{places}" if places else ""
    if len(whole) > 3:
        yield accept(case.format.of(f"{minus}{int(whole):,}{rest}"), "commas between groups of three")
        for mark in (".", "\u00a0", "\u2009", " ", "'", "_"):
            grouped = f"{int(whole):,}".replace(",", mark)
            yield either(case.format.of(f"{minus}{grouped}"), f"{mark!r} between groups of three")
        yield reject(case.format.of(f"{minus}{whole[:-2]},{whole[-2:]}{rest}"), "a comma in a wrong place")
        yield reject(case.format.of(minus + ",".join(whole) + rest), "a comma behind each digit")
    if len(places) == 3 and int(whole):
        yield from _wrong(case, value * 1000, minus + whole + places, "the point left out")
        yield either(case.format.of(f"{minus}{whole},{places}"), "a comma for the point")


@_of_numbers
def glued_digits(case: Case, _: Fraction, text: str) -> Drafts:
    """Digits of the answer with something between them."""
    if not (text.isdigit() and 2 <= len(text) <= 8) or text[0] == "0":
        return
    first, rest = text[:1], text[1:]
    grouped = len(rest) % 3 == 0  # a blank or a comma there separates thousands
    for mark in (".", "a", "-", "/", "_", "^", *(() if grouped else (" ", ","))):
        make = reject if _differs(case, first, mark, rest) else either
        yield make(case.format.of(f"{first}{mark}{rest}"), f"{mark!r} between its digits")
    yield reject(case.format.of(f"step {first}, then {rest}"), "its digits in a sentence")


def _differs(case: Case, first: str, mark: str, rest: str) -> bool:
    """Whether the digits with a mark between them, read as a calculation, have another value."""
    a, b = int(first), int(rest)
    if mark == "/":
        return b != 0 and _is_other(case, Fraction(a, b))
    if mark == "^":
        return b < 40 and _is_other(case, Fraction(a**b))
    if mark == "-":
        return _is_other(case, Fraction(a - b))
    return True


@_of_numbers
def percent(case: Case, value: Fraction, text: str) -> Drafts:
    """A hundred times too much or too little; with a percent sign it is a convention."""
    if value:
        yield from _wrong(case, value * 100, shown(value * 100, "0"), "a hundred times as much")
        yield from _wrong(case, value / 100, shown(value / 100, "0"), "a hundredth of it")
        yield either(case.format.of(f"{text}%"), "a percent sign behind it")
        yield either(case.format.of(f"{text}\\%"), "a LaTeX percent sign behind it")


@_of_numbers
def number_units(case: Case, value: Fraction, text: str) -> Drafts:
    """A unit is no fault where none was asked for; a word that multiplies is."""
    if value:
        for word in _SCALES:
            yield reject(case.format.of(f"{text} {word}"), f"times a {word}")
        yield reject(case.format.of(f"half of {text}"), "half of it")
        yield reject(case.format.of(f"{text} km {case.wrong[0]} m"), "two amounts")
    for unit in ("apples", "km"):
        yield either(case.format.of(f"{text} {unit}"), f"{unit} behind it")


@_of_numbers
def currency(case: Case, value: Fraction, text: str) -> Drafts:
    """Signs of money: a convention, and never another sign of the number."""
    for before, after in (("$", ""), ("\\$", ""), ("\u20ac", ""), ("", " USD"), ("", " dollars")):
        yield either(case.format.of(f"{before}{text}{after}"), f"with {(before or after).strip()}")
    if value > 0:
        yield reject(case.format.of(f"-${text}"), "an amount that is owed")


@_of_numbers
def notation(case: Case, value: Fraction, text: str) -> Drafts:
    """The same value in other notations."""
    for shape, note in (("{}.0", "with a decimal"), ("+{}", "with a plus"), ("0{}", "with a leading zero")):
        if not (("." in text and shape == "{}.0") or (value < 0 and shape != "{}.0")):
            yield either(case.format.of(shape.format(text)), note)
    for shape in ("${}$", "\\({}\\)", "\\text{{{}}}", "{{{}}}", "\\frac{{{}}}{{1}}", "**{}**"):
        yield either(case.format.of(shape.format(text)), f"as {shape}")


@_of_numbers
def calculation(case: Case, value: Fraction, text: str) -> Drafts:
    """Calculations that name the answer and have another value."""
    whole = text.isdigit()
    for shape, result in (
        ("{}+1", value + 1),
        ("1+{}", value + 1),
        ("2*{}", value * 2),
        ("\\frac{{{}}}{{2}}", value / 2),
        ("{}^{{2}}", value * value),
        ("7-{}", 7 - value),
    ):
        yield from _wrong(case, result, shape.format(text), f"as {shape}")
    if whole and value > 2:
        yield reject(case.format.of(f"{text}!"), "its factorial")
        yield reject(case.format.of(f"\\sqrt{{{text}}}"), "its root")


@_of_numbers
def number_range(case: Case, value: Fraction, text: str) -> Drafts:
    """A range around the answer, or one that begins or ends with it."""
    low, high = shown(value - 1, text), shown(value + 1, text)
    for shape in ("{} to {}", "between {} and {}", "[{}, {}]", "{} < x < {}", "{}..{}"):
        yield reject(case.format.of(shape.format(low, high)), f"as {shape}")
    yield reject(case.format.of(f"{low} to {text}"), "up to it")
    yield reject(case.format.of(f"{text} to {high}"), "from it")
    yield reject(case.format.of(f"> {low}"), "more than")
    yield reject(case.format.of(f"{text} \\pm 1"), "give or take")
    yield either(case.format.of(f"about {text}"), "about")


def units(case: Case) -> Drafts:
    """Amounts: the same number in another unit is another amount."""
    found = values.quantity(case.right) if case.accepted else None
    if not case.is_content or case.kind is not Kind.QUANTITY or found is None:
        yield from number_units(case)
        return
    before, number, unit = found
    if unit in _UNITS:
        for other in _UNITS:
            if other.lower() != unit.lower():
                yield reject(case.format.of(f"{number} {other}"), f"{other} for {unit}")
    if unit in ("%", "\\%"):
        value = values.number(number)
        assert value is not None, "a quantity has a number"
        yield reject(case.format.of(f"{shown(value * 100, '0')}%"), "a hundred times as much")
        yield either(case.format.of(shown(value / 100, "0")), "as a fraction of one")
    if before:
        yield reject(case.format.of(f"-{before}{number}"), "an amount that is owed")
    yield either(case.format.of(number), "without its unit")


def latex(case: Case) -> Drafts:
    """Expressions: the same in another dress, and others that look alike."""
    if case.kind is Kind.NUMBER:
        yield from notation(case)
        return
    if not case.is_content or case.kind is not Kind.EXPRESSION:
        return
    right = case.right
    for changed, note in (
        (right.replace("\\frac", "\\dfrac"), "dfrac"),
        (re.sub(r"(?<!\\left)\(", r"\\left(", right).replace(")", "\\right)"), "left and right"),
        (f"${right}$", "in dollar signs"),
        (right.replace(" ", "").replace(",", ", "), "other blanks"),
    ):
        if changed != right:
            yield accept(case.format.of(changed), note)
    for changed, note in _lookalikes(right):
        if changed != right and all(values.differ(changed, text) for text in case.accepted):
            yield reject(case.format.of(changed), note)


def _lookalikes(right: str) -> list[tuple[str, str]]:
    turned = re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"\\frac{\2}{\1}", right)
    ratio = re.sub(r"\b([0-9]+)/([0-9]+)\b", r"\2/\1", right)
    return [
        (f"-({right})", "the other sign"),
        (turned, "the fraction turned over"),
        (ratio, "the ratio turned over"),
        (right.replace("^", ""), "the power sign left out"),
        (re.sub(r"\\sqrt\{([^{}]+)\}", r"\1", right), "the root left out"),
        (f"{right}^{{2}}", "squared"),
    ]
