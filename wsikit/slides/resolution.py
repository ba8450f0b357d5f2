"""Resolutions that files state: numbers in text, TIFF tags, OME sizes, objective powers. No pixels, no I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

UM_PER_UNIT = {"INCH": 25_400.0, "CENTIMETER": 10_000.0, "MILLIMETER": 1_000.0, "MICROMETER": 1.0}
"""Micrometres per TIFF ResolutionUnit (tag 296: 2 inch, 3 centimetre; 4 and 5 are common extensions)."""
UM_PER_OME_UNIT = {"µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6}
"""Micrometres per unit of OME-XML PhysicalSizeXUnit, whose default is the micrometre."""
PRINT_DPI = (300, 350, 360, 400, 600, 720, 800, 1200, 1440, 2400)
"""Printer and scanner settings whose pixel (85 to 11 um) could pass for a microscope's. Coarser ones, such as 72 and 96
dpi, give a pixel over 100 um, which ``Slide`` refuses as absurd."""
POWER_MPP = 10.0
"""Objective power times um per px: 0.25 um/px is called 40x."""

Stated = tuple[tuple[float, float] | None, str]
"""((mpp x, mpp y) or None, where it was found or what was found instead)."""


def number(text: object) -> float | None:
    """The number that a property holds, with a decimal comma or point; None where it holds none."""
    try:
        return float(str(text).strip().replace(",", "."))
    except ValueError:
        return None


def is_print_setting(x: float, y: float) -> bool:
    """Whether an mpp is the pixel of a common print resolution (to 0.1 %), which says nothing about a microscope."""
    return all(math.isfinite(v) and v > 0 for v in (x, y)) and any(
        abs(25_400 / x - dpi) < 0.001 * dpi and abs(25_400 / y - dpi) < 0.001 * dpi for dpi in PRINT_DPI
    )


def from_resolution(x: float, y: float, source: str) -> Stated:
    """Accept a TIFF resolution's mpp unless it is a print setting."""
    if is_print_setting(x, y):
        return None, f"{source} is {25_400 / x:.0f} dots per inch, a print setting"
    return (x, y), source


def from_ome(xml: str | None) -> Stated | None:
    """The physical pixel size of the first image of an OME-XML description, or None where it states none."""
    sizes = []
    for axis in "XY":
        size = re.search(rf'\bPhysicalSize{axis}="([^"]*)"', xml or "")
        unit = re.search(rf'\bPhysicalSize{axis}Unit="([^"]*)"', xml or "")
        scale = UM_PER_OME_UNIT.get(unit.group(1)) if unit else 1.0
        value = number(size.group(1)) if size else None
        if value is None or scale is None:
            return None
        sizes.append(value * scale)
    return (sizes[0], sizes[1]), "OME PhysicalSizeX"


def from_tiff_tags(tags: Mapping[str, Any]) -> Stated:
    """The mpp of TIFF XResolution, YResolution and ResolutionUnit.

    Args:
        tags: ``tifffile.TiffPage.tags`` (values have a ``value``), by name.
    """
    if "XResolution" not in tags or "YResolution" not in tags:
        return None, "the TIFF has no resolution tags"
    rationals = [tags[name].value for name in ("XResolution", "YResolution")]
    unit = tags["ResolutionUnit"].value if "ResolutionUnit" in tags else None
    name = str(getattr(unit, "name", unit))
    found = f"TIFF XResolution {rationals[0]} with unit {name}"
    try:
        scale = UM_PER_UNIT[name]
        x, y = (scale * denominator / numerator for numerator, denominator in rationals)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None, found
    return from_resolution(x, y, "TIFF XResolution")


def power(mpp: float) -> float | int:
    """The objective power of a resolution, whole where it is one within 2 %: 0.2527 um/px is called 40x."""
    exact = POWER_MPP / mpp
    return round(exact) if abs(exact / max(round(exact), 1) - 1) <= 0.02 else exact
