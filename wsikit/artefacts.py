"""What lies on a slide and is no tissue, told by its colour: pen ink and the edge of the cover slip. And folds.

Colour is judged in hue-saturation-density space (van der Laak et al., Cytometry 39 (2000) 275-284): the optical
densities (OD) of a pixel's channels are taken apart into their mean, the density, and their ratios, the chromaticity.
By Beer-Lambert the amount of a dye changes its density only, so that a dye has one place in the plane of chromaticity
however strong it is. The constants below are the places that tissue leaves free there. They were measured on pictures
averaged to 8 um per pixel: ``benchmarks/tissue_quality.py``, ``tissue_limits.py`` and docs/measured.md say on which.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsikit.slides import Pixels
from wsikit.stain.density import decadic_density

Mask = NDArray[np.bool_]

LOOK_MPP = 8.0
"""um per pixel that colours are judged at, or as coarse as the picture is: there a nucleus is averaged with its
surroundings, and the stroke of a pen (0.3 mm and more) is not."""
BLUE_GREEN = 0.5
"""Chromaticity x from which a colour is blue or green ink: anything from 0.2 to 0.5 does the same. Tissue has 0.33 at
most (99th percentile, haematoxylin in IHC and H&E); inks have 0.6 to 0.85."""
GREEN = 0.15
"""Chromaticity y that parts green ink (-0.1 to 0.05) from blue (0.3 to 0.4)."""
BLUE_GREEN_DENSITY = 0.15
"""Least density of blue and green ink: paler colours have an uncertain hue."""
COVERED_X, COVERED_DENSITY = 0.20, 0.35
"""Blue or green ink on tissue is less blue, and denser; anything from 0 to 0.2 and from 0.15 to 0.45 does the same.
Tissue without ink passes both limits on 0.1 % of its area."""
RED_X, RED_Y, RED_EXCESS = -0.60, 0.45, 0.30
"""Red ink has the hue of eosin (x and y below these) and is stronger: OD that it takes from green and blue light beyond
what it takes from red. Eosin and blood exceed that on 1.9 % of a picture's tissue at most, in pieces too small."""
DARK_DENSITY, DARK_Y = 0.5, 0.18
"""Black ink, and inks on top of one another or of tissue: dense, and between the stains of H&E (y 0.2 and more) and
that of IHC (DAB, y below 0). No DAB passes from a density of 0.4 on, 0.5 % of it at 0.35."""
DAB_Y = -0.02
"""Chromaticity y below which a dark colour is brown: DAB, and no ink. 99 % of dense DAB (0.35 and more) have less than
-0.04."""
BLACK_WIDTH_UM = 90.0
"""A stroke of black is wider; nuclei that touch and the line of a cover slip's edge are not."""
INK_AREA_UM2 = 5_000.0
"""Smaller spots of an ink's colour are blood, pigment or dust."""
INK_SHARE = 0.05
"""Of a picture so small that a spot of that area would fill it, this share is enough."""
REACH_UM = 400.0
"""How far from what is certainly ink paler ink is looked for."""
PALE_DENSITY = 0.06
"""Least density of ink that is joined to certain ink: glass has 0.03 (a white of 240)."""
PALE_BLUE_GREEN, PALE_RED_X, PALE_RED_EXCESS = 0.25, -0.45, 0.15
"""The limits above for ink that is joined to certain ink."""
PALE_BLACK_DENSITY, BLACK_GREY = 0.4, 0.30
"""Such ink is black where it is nearly grey (distance from grey in the plane of chromaticity)."""
HE_Y = 0.2
"""Chromaticity y of H&E is larger, on 95 % of tissue."""
RIM_UM = 30.0
"""Margin that is taken with the ink: its blurred rim."""
EDGE_DENSITY, EDGE_GREY = 0.35, 0.15
"""A cover slip's edge, air bubbles and dust are dark by refraction: dense and without colour."""
CLEAR_DENSITY, EDGE_AROUND_UM, EDGE_GLASS = 0.12, 400.0, 0.2
"""Such a place lies on glass: of a square of this side around it, a fifth is less dense than this. Clean glass has 0.00
to 0.05, mounting medium and dirt some more. Of the shares measured, those up to 0.3 leave less than a tenth of a masked
edge to the tissue, and none from 0.02 to 0.6 takes anything from a picture without edges; the lowest would take what is
dense beside any cleft."""
FOLD_DENSITY, FOLD_SIGMA_UM = 0.55, 12.0
"""Two layers of tissue take up twice the light of one. Smoothed with this sigma, more than a nucleus, tissue of one
layer has a mean OD of 0.15 to 0.45 and exceeds the limit on 2.0 % of its area at most (densely stained tumour); a
limit of 0.50 is exceeded on 6.2 %."""


@dataclass(frozen=True, eq=False)
class Colour:
    """A picture in hue-saturation-density space: (H, W) arrays of float32."""

    density: NDArray[np.float32]
    """Mean OD of the three channels: 0 is white (255)."""
    x: NDArray[np.float32]
    """OD of red over the density, less 1: from -1 (red light passes) to 2 (only red is taken up)."""
    y: NDArray[np.float32]
    """(OD of green - OD of blue) / (root of 3 * density)."""

    @classmethod
    def of(cls, pixels: Pixels) -> Colour:
        """Of (H, W, 3) RGB."""
        table = decadic_density().astype(np.float32)
        red, green, blue = (table[pixels[..., channel]] for channel in range(3))
        density: NDArray[np.float32] = (red + green + blue) / np.float32(3)
        scale: NDArray[np.float32] = np.maximum(density, np.float32(1e-3))
        return cls(density, red / scale - np.float32(1), (green - blue) / (scale * np.float32(3**0.5)))

    @property
    def greyness(self) -> NDArray[np.float32]:
        """Distance from grey in the plane of chromaticity."""
        found: NDArray[np.float32] = np.hypot(self.x, self.y)
        return found

    @property
    def red_excess(self) -> NDArray[np.float32]:
        """OD taken from green and blue light (their mean) beyond that taken from red."""
        return np.float32(-1.5) * self.density * self.x


@dataclass(frozen=True, eq=False)
class Artefacts:
    """Where a picture shows no tissue: (H, W) masks of its size."""

    pen: Mask
    """Ink, with its rim."""
    edge: Mask
    """Dark lines without colour, such as the edge of a cover slip."""
    inks: tuple[str, ...]
    """Colours of the ink found, of red, green, blue and black."""


def find_artefacts(pixels: Pixels, mpp: float) -> Artefacts:
    """Find pen ink and cover-slip edges in a picture.

    Args:
        pixels: (H, W, 3) RGB.
        mpp: um per pixel.
    """
    factor = look_factor(mpp)
    colour, coarse_mpp = Colour.of(averaged(pixels, factor)), mpp * factor
    pen, inks = find_pen(colour, coarse_mpp)
    edge = _edge_lines(colour, coarse_mpp) & ~pen
    size = pixels.shape[:2]
    return Artefacts(_enlarged(pen, factor, size), _enlarged(edge, factor, size), inks)


def find_pen(colour: Colour, mpp: float) -> tuple[Mask, tuple[str, ...]]:
    """Where there is ink, rim included, and of which colours: of red, green, blue and black.

    Args:
        colour: a picture at about ``LOOK_MPP``.
        mpp: um per pixel.
    """
    certain = _certain_ink(colour, mpp)
    inks = tuple(name for name, found in certain.items() if found.any())
    return _spread_ink(colour, np.any(list(certain.values()), axis=0), mpp), inks


def find_fold(colour: Colour, mpp: float) -> Mask:
    """Where tissue is as dense as two layers of it.

    Args:
        colour: a picture at about ``LOOK_MPP``.
        mpp: um per pixel.
    """
    from scipy import ndimage

    folded: Mask = ndimage.gaussian_filter(colour.density, FOLD_SIGMA_UM / mpp) > FOLD_DENSITY
    return folded


def _edge_lines(colour: Colour, mpp: float) -> Mask:
    """Dark places without colour on glass; the same in the midst of tissue are nuclei or pigment."""
    from scipy import ndimage

    dark = (colour.density > EDGE_DENSITY) & (colour.greyness < EDGE_GREY)
    clear = (colour.density < CLEAR_DENSITY).astype(np.float32)
    on_glass = ndimage.uniform_filter(clear, max(3, round(EDGE_AROUND_UM / mpp))) > EDGE_GLASS
    lines: Mask = ndimage.binary_dilation(dark & on_glass)
    return lines


def look_factor(mpp: float) -> int:
    """How many pixels a side make one of ``LOOK_MPP``; 1 where the picture is coarser."""
    return max(1, int(LOOK_MPP / mpp + 1e-6))


def averaged(pixels: Pixels, factor: int) -> Pixels:
    """(ceil(H / factor), ceil(W / factor), 3): means of squares of ``factor`` px, cut at the right and lower edge."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels


def _enlarged(mask: Mask, factor: int, size: tuple[int, int]) -> Mask:
    """The mask of an averaged picture at the size (H, W) of the picture itself."""
    return mask.repeat(factor, axis=0).repeat(factor, axis=1)[: size[0], : size[1]]


def _certain_ink(colour: Colour, mpp: float) -> dict[str, Mask]:
    """Colour of ink -> where it is so strong that it can be nothing else."""
    density, x, y = colour.density, colour.x, colour.y
    cold = (x > BLUE_GREEN) & (density > BLUE_GREEN_DENSITY) | (x > COVERED_X) & (density > COVERED_DENSITY)
    red = (x < RED_X) & (y < RED_Y) & (colour.red_excess > RED_EXCESS)
    dark = (density > DARK_DENSITY) & (y < DARK_Y) & (y > DAB_Y)
    black = _wide(dark, max(1, round(BLACK_WIDTH_UM / 2 / mpp)))
    smallest = min(INK_AREA_UM2 / mpp**2, INK_SHARE * density.size)
    spots = without_specks(cold | red | black, int(smallest))
    found = {"red": red, "green": cold & (y < GREEN), "blue": cold & (y >= GREEN), "black": black}
    return {name: mask & spots for name, mask in found.items()}


def _wide(mask: Mask, radius: int) -> Mask:
    """What a disc of this radius in px fits into; beyond the picture the mask goes on as it is at the border."""
    from scipy import ndimage

    if not mask.any() or mask.all():
        return mask
    # a square inside the disc is looked for first: that costs a tenth, and most slides have no black ink
    inner: Mask = ndimage.minimum_filter(mask, 2 * int(radius / 2**0.5) + 1, mode="nearest")
    if inner.any():
        inner = ndimage.distance_transform_edt(mask) > radius
    found: Mask = ndimage.distance_transform_edt(~inner) <= radius if inner.any() else inner
    return found


def without_specks(mask: Mask, largest: int) -> Mask:
    """The mask without its pieces, joined by their sides, of ``largest`` pixels and fewer."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask)
    keep = np.bincount(labels.ravel()) > largest
    keep[0] = False
    found: Mask = keep[labels]
    return found


def _spread_ink(colour: Colour, certain: Mask, mpp: float) -> Mask:
    """Ink with what is pale, mixed or blurred of it: it joins certain ink by colours that the tissue does not have."""
    from scipy import ndimage

    if not certain.any():
        return certain
    near = ndimage.distance_transform_edt(~certain) * mpp <= REACH_UM
    density, x, y = colour.density, colour.x, colour.y
    pale = (x > PALE_BLUE_GREEN) | (x < PALE_RED_X) & (y < RED_Y) & (colour.red_excess > PALE_RED_EXCESS)
    mixed = y < _stain_floor(colour, ~near, mpp)
    black = (density > PALE_BLACK_DENSITY) & (colour.greyness < BLACK_GREY) & (y > DAB_Y)
    joined = (pale | mixed | black) & (density > PALE_DENSITY) & near
    ink = ndimage.binary_propagation(certain, mask=joined | certain)
    reach: Mask = ndimage.distance_transform_edt(~ink) * mpp <= max(RIM_UM, mpp)
    return reach


def _stain_floor(colour: Colour, away: Mask, mpp: float) -> float:
    """Chromaticity y below which a colour near ink is none of the stains of this slide.

    H&E lies above 0.2, DAB does not: what the slide shows away from ink decides, where there is enough of it.
    """
    tissue = colour.y[away & (colour.density > 0.1)]
    enough = tissue.size * mpp**2 >= INK_AREA_UM2
    return min(HE_Y, float(np.percentile(tissue, 5))) if enough else HE_Y
