"""How numbers, sizes and times are written. A missing value never becomes a zero here: None is refused."""

from __future__ import annotations

import math
from decimal import Decimal

MINUS = "−"


def whole(value: int) -> str:
    """12,345,678."""
    return f"{value:,}".replace("-", MINUS)


def figure(value: float, digits: int = 3) -> str:
    """Fixed number of decimals, with a real minus sign; -0.000 is written 0.000."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """A difference: always with its sign, but 0 has none."""
    text = figure(value, digits)
    return text if text.startswith(MINUS) or float(text) == 0 else f"+{text}"


def significant(value: float, digits: int = 4) -> str:
    """Settings and small quantities: as short as possible, exponent where it helps."""
    if value == 0 or math.isinf(value) or math.isnan(value):
        return f"{value:g}".replace("-", MINUS)
    return f"{value:.{digits}g}".replace("-", MINUS)


def probability(value: float) -> str:
    """A p value; below 0.001 only that."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def share(value: float) -> str:
    """A share between 0 and 1, as percent."""
    return f"{figure(100 * value, 1)} %"


def duration(seconds: float) -> str:
    """Seconds in the two largest units that matter."""
    if seconds < 60:
        return f"{figure(seconds, 1)} s"
    left = round(seconds)
    hours, minutes, rest = left // 3600, left % 3600 // 60, left % 60
    if hours:
        return f"{whole(hours)} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s"


def size(count: int) -> str:
    """Bytes, in powers of 1024."""
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1024 or unit == "TiB":
            break
    return f"{significant(amount, 3)} {unit}"


def powers(value: float) -> str:
    """Very large quantities such as FLOP: 1.23 × 10¹⁵."""
    if value < 1e6:
        return whole(round(value))
    mantissa, exponent = f"{Decimal(value):.2e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"))
    return f"{mantissa} × 10{raised}"


def energy(joules: float) -> str:
    """Energy: joules below 0.01 kWh, else kilowatt-hours."""
    return f"{significant(joules, 3)} J" if joules < 36_000 else f"{significant(joules / 3.6e6, 3)} kWh"
