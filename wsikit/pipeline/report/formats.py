"""Numbers, times and colours as people read them: the filters of the report's template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import quote

from wsikit.pipeline.lettering import printable

NOTHING = "–"


def shown(value: object) -> object:
    """Escape what no HTML file should hold, in all that the template prints; its own markup passes as it is."""
    return printable(value) if type(value) is str else value


def moment(text: str) -> str:
    """An ISO time as 21 November 2026, 11:39 UTC; other text as it is."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{time.day} {time:%B %Y, %H:%M %Z}".strip()


def setting(value: object) -> object:
    """A value of any kind: numbers rounded, lists as text, nothing as a dash."""
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return NOTHING if value is None else significant(value, 4) if isinstance(value, float) else value


def significant(value: float | None, digits: int = 3) -> str:
    """Rounded to so many digits, never in powers of ten."""
    if value is None:
        return NOTHING
    decimals = digits - 1 - math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
    return f"{value:,.{max(0, decimals)}f}"


def number(value: float | None, decimals: int = 0) -> str:
    """With thousands separators."""
    return NOTHING if value is None else f"{value:,.{decimals}f}"


def density(value: float | None) -> str:
    """Objects per mm^2: three digits, more where it is in the thousands."""
    return significant(value, 3)


def percent(share: float | None) -> str:
    """A share of 1 as 12.3 %; what is there is never 0.0 %, and what lacks some never 100.0 %."""
    if share is None:
        return NOTHING
    return "< 0.1 %" if 0 < share < 0.0005 else "> 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"


def duration(seconds: float | None) -> str:
    """Seconds, minutes and seconds, or hours and minutes."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def rgb(color: Sequence[int]) -> str:
    """CSS colour; through int, since a style attribute is no place for text from a file."""
    return "rgb({}, {}, {})".format(*(int(value) for value in color))


def counted(count: int, noun: str) -> str:
    """1 slide, 2 slides."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def url(name: str) -> str:
    """Percent-encoded, byte for byte as the file system has it."""
    return quote(name, safe="", errors="surrogateescape")
