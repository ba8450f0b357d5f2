"""Text for people: names made printable, and drawn on pictures in any script, shortened, on pale plates."""

from __future__ import annotations

import functools
import math
import unicodedata
from typing import Any

from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
"""RGB, 0 to 255."""
PAPER: Color = (255, 255, 255)
INK: Color = (24, 28, 34)
MUTED: Color = (96, 104, 116)
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf")
"""Looked for on the system, in this order, since Pillow's own font draws ASCII only."""
BIDI_CONTROLS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Bidirectional classes (UAX 9) of the characters that reorder what follows them."""
PLAIN = str.maketrans({"µ": "u", "×": "x", "²": "2", "·": "-", "…": "~"})
"""What a font without these gets in their place."""


def printable(text: object) -> str:
    """Text that any UTF-8 file or screen takes: control and bidirectional characters and lone surrogates are escaped.

    File names may hold newlines, characters that reverse what follows, and bytes that are no UTF-8 (which Python
    carries as lone surrogates and refuses to encode).
    """
    plain = str(text)
    return plain if plain.isprintable() else "".join(ascii(char)[1:-1] if _harmful(char) else char for char in plain)


def _harmful(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(char) in BIDI_CONTROLS


def text_width(text: str, size: int) -> int:
    """Pixels that ``write`` will take."""
    font = _font(text, size)
    return math.ceil(float(font.getlength(_drawable(text, font))))


def write(draw: ImageDraw.ImageDraw, corner: tuple[int, int], text: str, size: int, color: Color = INK) -> None:
    """Draw ``text`` with its upper left corner at ``corner`` (x, y), ``size`` px high."""
    font = _font(text, size)
    draw.text(corner, _drawable(text, font), fill=color, font=font)


def elided(text: str, size: int, width: int) -> str:
    """Shortened in its middle, where names of slides differ least, to ``width`` px."""
    keep = len(text)
    while keep > 8 and text_width(text, size) > width:
        keep -= max(1, keep // 20)
        text = text[: keep // 2] + "…" + text[-(keep - keep // 2) :]
    return text


def _font(text: str, size: int) -> Any:
    """The first font that draws all of ``text``, else the first there is."""
    fonts = _fonts(size)
    return next((font for font in fonts if not any(_lacks(font, char) for char in set(text))), fonts[0])


@functools.cache
def _fonts(size: int) -> tuple[Any, ...]:
    """Those of ``FONTS`` that this machine has, then Pillow's own."""
    found: list[Any] = []
    for name in FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return (*found, ImageFont.load_default(size))


@functools.lru_cache(maxsize=4096)
def _lacks(font: Any, char: str) -> bool:
    """Whether the font draws its box for missing characters; U+FFFF is one that no font has."""
    return bool(bytes(font.getmask(char)) == bytes(font.getmask("\uffff")))


def _drawable(text: str, font: Any) -> str:
    """Characters that the font lacks in a plain form, or escaped: ``\\u75c5`` can be looked up, a box cannot."""
    plain = "".join(char.translate(PLAIN) if _lacks(font, char) else char for char in text)
    return "".join(char.encode("ascii", "backslashreplace").decode() if _lacks(font, char) else char for char in plain)


def shade(image: Image.Image, box: tuple[int, int, int, int]) -> None:
    """Make the box (x0, y0, x1, y1) of the picture pale, to write on."""
    part = image.crop(box)
    image.paste(Image.blend(part, Image.new("RGB", part.size, PAPER), 0.82), box[:2])


def plate(image: Image.Image, corner: tuple[int, int], text: str, size: int) -> None:
    """Draw ``text`` on a pale plate with its upper left corner at ``corner`` (x, y); nothing for no text."""
    if not text:
        return
    width = text_width(text, size)
    shade(image, (*corner, corner[0] + width + 10, corner[1] + size + 8))
    write(ImageDraw.Draw(image), (corner[0] + 5, corner[1] + 3), text, size)


def nice_length(um: float) -> tuple[float, str]:
    """The largest 1, 2 or 5 times a power of ten that is at most ``um``, and how to write it: (50.0, "50 µm")."""
    power = 10.0 ** math.floor(math.log10(um))
    length = max(step * power for step in (1, 2, 5) if step * power <= um * (1 + 1e-9))
    return length, f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"


def scale_bar(image: Image.Image, mpp: float, size: int) -> None:
    """Draw a scale bar with text ``size`` px high in the lower left corner; ``mpp`` is micrometres per px of ``image``.

    It is left out where there is no room for it.
    """
    if image.width < 120 or image.height < 40:
        return
    length, text = nice_length(image.width * mpp * 0.3)
    draw, bar = ImageDraw.Draw(image), round(length / mpp)
    bottom = image.height - 10
    width = max(bar, text_width(text, size)) + 16
    shade(image, (8, bottom - 32, 8 + width, bottom + 2))
    draw.rectangle((16, bottom - 7, 16 + bar - 1, bottom - 4), fill=INK)
    write(draw, (16, bottom - 29), text, size)
