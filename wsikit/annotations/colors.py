"""Colours as files of the web and of ASAP write them."""

from __future__ import annotations

import re

from wsikit.annotations.annotations import Color
from wsikit.errors import AnnotationError

_HEX = re.compile(r"#(?:[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})", re.IGNORECASE)
_RGB = re.compile(r"rgba?\(\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*(?:,\s*([\d.]+)\s*)?\)", re.IGNORECASE)


def parse_color(text: object, where: str) -> Color | None:
    """RGB of ``#rgb``, ``#rrggbb``, ``rgb(r, g, b)`` or ``rgba(r, g, b, a)``; None for none and for wholly transparent.

    Raises AnnotationError, beginning with ``where``, for anything else.
    """
    if text is None or text == "" or (isinstance(text, str) and text.lower() in ("transparent", "none")):
        return None
    if isinstance(text, str) and _HEX.fullmatch(text.strip()):
        return _of_hex(text.strip()[1:])
    found = _RGB.fullmatch(text.strip()) if isinstance(text, str) else None
    if found is None:
        raise AnnotationError(f"{where}: a colour is #rrggbb or rgb(r, g, b), got {text!r}")
    if found[4] is not None and set(found[4]) <= {"0", "."}:
        return None
    return min(int(found[1]), 255), min(int(found[2]), 255), min(int(found[3]), 255)


def _of_hex(digits: str) -> Color | None:
    step = 1 if len(digits) < 5 else 2
    red, green, blue, *alpha = (int(digits[i : i + step] * (3 - step), 16) for i in range(0, len(digits), step))
    return None if alpha == [0] else (red, green, blue)


def hex_color(color: Color) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*color)
