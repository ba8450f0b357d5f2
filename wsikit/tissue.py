"""Where the tissue is: a boolean mask of the slide at a coarse resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.annotations import Annotations
from wsikit.artefacts import find_artefacts, without_specks
from wsikit.errors import AnnotationError, ConfigError, PixelReadError, UnsuitableSlideError
from wsikit.geometry import Region
from wsikit.limits import Area, Limits
from wsikit.slides import BadTile, Pixels, Slide

COARSEST_MPP = 8.0
"""um per pixel of the mask of an ordinary slide: a few million pixels for the largest."""
FINEST_MPP = 2.0
"""um per pixel of the mask of a small field, so that its outline is not made of blocks."""
MASK_SIDE = 1024
"""Pixels that the longer side of a small slide's mask aims at, between the two resolutions above."""
SMOOTHING_UM = 8.0
"""Sigma of the Gaussian that the saturation is smoothed with: bridges the gaps between cells."""
SATURATION = (0.05, 0.10)
"""The Otsu threshold on HSV saturation is kept inside these. Below the floor a blank slide's noise turns to tissue;
above the cap a field that is all tissue is split into pale and strong (measured: glass has 0.00 to 0.04, pale stroma
0.10 and more)."""
PALE_SATURATION = 0.065
"""Paler than the threshold, and still tissue where it joins what is above it: pale stroma, fat. Measured: glass stays
below 0.035 on 99 % of its area in nine pictures. Of the worst almost-white tile 3.5 % become tissue, 5.1 % at 0.05; of
stained tissue 99.2 % are kept at anything from 0.05 to 0.1."""
MIN_AREA_UM2 = 5_000.0
"""Smaller specks are dust (a square of 70 um)."""
MAX_HOLE_UM2 = 20_000.0
"""Smaller holes are filled: fat cells and small lumina belong to the tissue."""

DARK = 100.0
"""A slide whose brightest twentieth is darker than this (mean of R, G and B, 0 to 255) shows no glass and no tissue in
transmitted light: it is fluorescence."""


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Boolean array over the whole slide, on the lattice of its mpp."""

    array: NDArray[np.bool_]
    """(H, W), True where there is tissue; pixel (0, 0) at the slide's (0, 0)."""
    mpp: float
    """Micrometres per mask pixel."""
    bad: tuple[BadTile, ...] = ()
    """Unreadable tiles met while looking for tissue; they count as no tissue."""
    info: Mapping[str, float | str] = field(default_factory=dict)
    """How the mask came about: method and threshold, files and their hashes. JSON-ready."""
    limits: Limits | None = None
    """Region of interest: what lies outside counts as no tissue, to the precision of its outline, not of the mask."""

    @cached_property
    def area_um2(self) -> float:
        """Tissue area in um^2, inside the limits."""
        if self.limits is None:
            return float(self.array.sum()) * self.mpp**2
        height, width = self.array.shape
        return float(self.limits.shares(Region(0, 0, width, height, self.mpp))[self.array].sum()) * self.mpp**2

    def unlimited(self) -> TissueMask:
        """The same without limits: what thresholds are bound on, so that a region's results are those of the slide."""
        return self if self.limits is None else replace(self, limits=None)

    def limited(
        self,
        polygons: NDArray[np.object_],
        slide: Slide,
        info: Mapping[str, str] | None = None,
        drawn: Sequence[Area] = (),
    ) -> TissueMask:
        """The same inside a region of interest only.

        Args:
            polygons: (N,) valid shapely Polygons; (x, y) in level-0 pixels of the full plane.
            slide: the slide of the mask.
            info: added to ``info``.
            drawn: the areas that the polygons are parts of, with their names; by default each is one.

        Raises AnnotationError: no_annotations where there are none, outside_slide where one lies beside the slide.
        """
        check_on_slide(polygons, slide)
        limits = Limits(polygons, slide.mpp, tuple(drawn))
        return replace(self, limits=limits, info={**self.info, **(info or {})})

    @cached_property
    def _integral(self) -> NDArray[np.integer]:
        """(H + 1, W + 1) tissue pixels above and to the left of each corner of a pixel."""
        height, width = self.array.shape
        total = np.zeros((height + 1, width + 1), np.int32 if self.array.size < 2**31 else np.int64)
        self.array.cumsum(axis=1, out=total[1:, 1:])
        # row by row: numpy takes five times as long to sum along the first axis
        for above, row in pairwise(total):
            row += above
        return total

    def _corner(self, j: NDArray[np.int64], i: NDArray[np.int64]) -> NDArray[np.integer]:
        """Tissue pixels above row ``j`` and left of column ``i``; of a whole slide they need not be added up."""
        return j * i if self._everywhere else self._integral[j, i]

    @cached_property
    def _everywhere(self) -> bool:
        return bool(self.array.all())

    def _integral_at(self, x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.float64]:
        """Tissue area (mask px^2) of [0, x) x [0, y): the integral image is bilinear between its nodes, exactly."""
        height, width = self.array.shape
        x, y = np.clip(x, 0, width), np.clip(y, 0, height)
        i, j = np.minimum(x.astype(np.int64), width - 1), np.minimum(y.astype(np.int64), height - 1)
        fx, fy = x - i, y - j
        at = self._corner
        top = at(j, i) * (1 - fx) + at(j, i + 1) * fx
        low = at(j + 1, i) * (1 - fx) + at(j + 1, i + 1) * fx
        area: NDArray[np.float64] = top * (1 - fy) + low * fy
        return area

    def coverages(
        self,
        x: NDArray[np.int64],
        y: NDArray[np.int64],
        side: int,
        mpp: float,
        inside: tuple[int, int] | None = None,
    ) -> NDArray[np.float64]:
        """Share in [0, 1] of N squares that is tissue; 0 for those that do not touch the limits.

        Limits do not make the share of those that they cut smaller: a small region of interest is no thin tissue. Nor
        does the slide's edge where ``inside`` is given: beyond it there is no glass, there is nothing.

        Args:
            x, y: (N,) corners on the lattice of ``mpp``.
            side: side of the squares in pixels of that lattice.
            mpp: um per lattice pixel.
            inside: (width, height) of the slide on that lattice: shares are of what of a square lies on it, and 0 for
                those that lie beside it. By default what lies beside it counts as no tissue.
        """
        scale = mpp / self.mpp
        width, height = inside if inside is not None else (None, None)
        x0, x1 = (end * scale for end in _ends(x, side, width))
        y0, y1 = (end * scale for end in _ends(y, side, height))
        at = self._integral_at
        area: NDArray[np.float64] = at(x1, y1) - at(x0, y1) - at(x1, y0) + at(x0, y0)
        whole = (x1 - x0) * (y1 - y0)
        share: NDArray[np.float64] = np.divide(area, whole, out=np.zeros(len(area)), where=whole > 0)
        return (
            share if self.limits is None else self._touching(share, np.stack([x, y, x + side, y + side], axis=1), mpp)
        )

    def _touching(self, share: NDArray[np.float64], boxes: NDArray[np.int64], mpp: float) -> NDArray[np.float64]:
        """Shares of boxes, 0 where these do not touch the limits."""
        if self.limits is None:
            return share
        some = np.flatnonzero(share > 0)
        touched = np.zeros(len(share))
        touched[some] = self.limits.touches(boxes[some].astype(np.float64), mpp)
        return share * touched

    def coverage(self, region: Region) -> float:
        """Share of a region that is tissue, as in ``coverages``; what lies outside the slide is not."""
        scale = region.mpp / self.mpp
        x = np.array([region.x, region.x1, region.x, region.x1]) * scale
        y = np.array([region.y, region.y, region.y1, region.y1]) * scale
        corners = self._integral_at(x, y)
        area = corners[3] - corners[2] - corners[1] + corners[0]
        share = np.array([area / (region.width * region.height * scale**2)])
        return float(self._touching(share, np.array([[region.x, region.y, region.x1, region.y1]]), region.mpp)[0])

    def contains(self, x: NDArray[np.float64], y: NDArray[np.float64], mpp: float) -> NDArray[np.bool_]:
        """(N,) whether points, in pixels of the lattice of ``mpp``, lie on tissue and inside the limits."""
        height, width = self.array.shape
        i, j = np.floor(x * (mpp / self.mpp)).astype(np.int64), np.floor(y * (mpp / self.mpp)).astype(np.int64)
        inside = (i >= 0) & (j >= 0) & (i < width) & (j < height)
        found: NDArray[np.bool_] = inside & self.array[np.clip(j, 0, height - 1), np.clip(i, 0, width - 1)]
        return found if self.limits is None else found & self.limits.contains(x, y, mpp)

    def sample(self, region: Region) -> NDArray[np.bool_]:
        """(region.height, region.width) whether the centre of each pixel of a region is tissue, inside the limits."""
        height, width = self.array.shape
        scale = region.mpp / self.mpp
        i = np.floor((np.arange(region.x, region.x1) + 0.5) * scale).astype(np.int64)
        j = np.floor((np.arange(region.y, region.y1) + 0.5) * scale).astype(np.int64)
        columns, rows = (i >= 0) & (i < width), (j >= 0) & (j < height)
        values = self.array[np.clip(j, 0, height - 1)[:, None], np.clip(i, 0, width - 1)[None, :]]
        found: NDArray[np.bool_] = values & rows[:, None] & columns[None, :]
        return found if self.limits is None else found & self.limits.sample(region)

    def polygons(self, slide: Slide) -> list[shapely.Polygon]:
        """Outlines, holes kept, clipped to slide and limits; (x, y) in level-0 pixels of the full plane."""
        from scipy import ndimage

        from wsikit.outlines import outlines

        # one more pixel all round, so that tissue at the slide's edge is cut straight by the edge
        pieces, _ = ndimage.label(np.pad(self.array, 1, mode="edge"))
        _, shapes = outlines(pieces)
        scale = self.mpp / slide.mpp
        plane = shapely.box(0, 0, slide.width, slide.height)
        clipped = shapely.intersection(shapely.transform(shapes, lambda xy: (xy - 1) * scale), plane)
        if self.limits is not None:
            clipped = shapely.get_parts(shapely.intersection(clipped, self.limits.area))
        return [part for part in shapely.get_parts(clipped) if isinstance(part, shapely.Polygon) and part.area > 0]

    @classmethod
    def whole(cls, slide: Slide) -> TissueMask:
        """Everything is tissue: what a microscope field or a dataset tile is."""
        mpp = mask_mpp(slide)
        width, height = slide.size_at(mpp)
        return cls(np.ones((height, width), np.bool_), mpp, info={"method": "whole"})

    @classmethod
    def from_polygons(
        cls, polygons: NDArray[np.object_], slide: Slide, info: Mapping[str, float | str] | None = None
    ) -> TissueMask:
        """Tissue drawn elsewhere: mask pixels at least half inside, holes left out.

        Args:
            polygons: (N,) valid shapely Polygons; (x, y) in level-0 pixels of the full plane.
            slide: the slide that they are of.
            info: what to say of where they come from.

        Raises AnnotationError: no_annotations where there are none or all are too small for the mask, outside_slide.
        """
        check_on_slide(polygons, slide)
        mpp = mask_mpp(slide)
        width, height = slide.size_at(mpp)
        array = Limits(polygons, slide.mpp).shares(Region(0, 0, width, height, mpp)) >= 0.5
        if not array.any():
            raise AnnotationError(
                f"the areas drawn are too small for a tissue mask at {mpp:.3g} um per pixel", code="no_annotations"
            )
        return cls(array, mpp, info={"method": "polygons", **(info or {})})

    @classmethod
    def from_annotations(cls, annotations: Annotations, slide: Slide, classes: Sequence[str] = ()) -> TissueMask:
        """Tissue from an annotation file, of some classes or of all.

        Raises AnnotationError: unknown_class, invalid_geometry (an outline that crosses itself), and those of
        ``from_polygons``.
        """
        return cls.from_polygons(annotations.polygons(classes), slide)

    @classmethod
    def from_image(cls, path: str | Path, slide: Slide) -> TissueMask:
        """A mask image of the whole slide made elsewhere; any value but 0 is tissue (alpha aside).

        Raises ConfigError where it is no image or its shape is not the slide's.
        """
        from PIL import Image

        mpp = mask_mpp(slide)
        size = slide.size_at(mpp)
        try:
            with Image.open(path) as image:
                found = image.size
                values = np.asarray(image)
                if image.mode in {"LA", "PA", "RGBA"}:
                    values = values[..., :-1]
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ConfigError(f"the tissue mask {path} is not a readable image: {error}", code="bad_mask") from error
        # 2 %, or one pixel of a small mask
        allowed = max(0.02 * found[0] * slide.height, slide.width, slide.height)
        if abs(found[0] * slide.height - found[1] * slide.width) > allowed:
            raise ConfigError(
                f"the tissue mask {path} is {found[0]}x{found[1]}, not the shape of a {slide.width}x{slide.height} "
                "slide; a mask must cover the whole slide",
                code="bad_mask",
            )
        tissue = Image.fromarray(values.any(axis=2) if values.ndim == 3 else values != 0)
        array = np.asarray(tissue.resize(size, Image.Resampling.NEAREST))
        return cls(array, mpp, info={"method": "image", "path": str(path)})


def _ends(start: NDArray[np.int64], side: int, limit: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) first and last coordinate of intervals, cut to [0, limit] where there is one."""
    if limit is None:
        return start, start + side
    return np.clip(start, 0, limit), np.clip(start + side, 0, limit)


def check_on_slide(polygons: NDArray[np.object_], slide: Slide) -> None:
    """Raise AnnotationError where there are no polygons, or where one lies wholly beside the slide."""
    if not len(polygons):
        raise AnnotationError("there is no area among the annotations", code="no_annotations")
    outside = ~shapely.intersects(shapely.box(0, 0, slide.width, slide.height), polygons)
    if outside.any():
        x0, y0, x1, y1 = polygons[outside][0].bounds
        raise AnnotationError(
            f"{int(outside.sum())} of {len(polygons)} areas lie beside the slide, the first at x {x0:.0f} to {x1:.0f}, "
            f"y {y0:.0f} to {y1:.0f}; the slide is {slide.width}x{slide.height} px",
            code="outside_slide",
            remedy="give the annotations of this slide, drawn at its full resolution",
        )


def mask_mpp(slide: Slide) -> float:
    """um per pixel of a slide's mask."""
    longest_um = max(slide.width, slide.height) * slide.mpp
    return slide.resolve(max(slide.mpp, min(COARSEST_MPP, max(FINEST_MPP, longest_um / MASK_SIDE))))


def find_tissue(slide: Slide) -> TissueMask:
    """Find tissue by its colour: Otsu on saturation inside fixed limits, with what is paler and joins it; pen ink and
    cover-slip edges left out, small holes filled, specks removed.

    Reads the slide once at 2 to 8 um per pixel, strip by strip where the file has only its finest level.

    Raises:
        PixelReadError: no pixel of the slide can be decoded.
        UnsuitableSlideError: code not_brightfield, for a dark slide such as fluorescence.
    """
    mpp = mask_mpp(slide)
    part = slide.read_partial(slide.plane(mpp))
    readable = np.ones(part.pixels.shape[:2], np.bool_)
    for tile in part.bad:
        x0, y0, x1, y1 = (v * slide.mpp / mpp for v in tile.level0())
        readable[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = False
    if not readable.any():
        raise PixelReadError(f"{slide.path.name}: no pixel of the slide can be decoded")
    red, green, blue = np.moveaxis(part.pixels, 2, 0)
    light = np.add(red, green, dtype=np.uint16) + blue
    brightness = float(np.percentile(light[readable] if part.bad else light, 95)) / 3
    if brightness < DARK:
        raise UnsuitableSlideError(
            f"{slide.path.name} is not a brightfield slide: 95 % of it is darker than {brightness:.0f} of 255",
            remedy="fluorescence is not supported; for a dark brightfield slide give --tissue whole",
        )
    array, info = detect(part.pixels, mpp)
    return TissueMask(array & readable, mpp, part.bad, info)


def detect(pixels: Pixels, mpp: float) -> tuple[NDArray[np.bool_], dict[str, float | str]]:
    """Tissue of a picture: (H, W) mask, and how it came about.

    What is told: the saturation ``threshold``; the shares of the picture that are ``pen`` and cover-slip ``edge``; the
    colours of ink (``inks``), where there is any.

    Args:
        pixels: (H, W, 3) RGB.
        mpp: um per pixel, for the smoothing and the area limits.
    """
    from scipy import ndimage

    # numpy and scipy let go of the interpreter, so the second core is not left idle
    with ThreadPoolExecutor(2) as pool:
        looking = pool.submit(find_artefacts, pixels, mpp)
        smooth = partial(ndimage.gaussian_filter, _saturation(pixels))
        saturation, fine = pool.map(smooth, (SMOOTHING_UM / mpp, SMOOTHING_UM / 4 / mpp))
        artefacts = looking.result()
    stray = artefacts.pen | artefacts.edge
    threshold = _threshold(saturation[~stray])
    # a dark line or nucleus inside tissue is a small hole; ink on tissue is none to be filled
    # what is pale must be so itself: the smoothing alone puts a pale rim round strong tissue
    joined = np.where(saturation > threshold, saturation, np.minimum(saturation, fine))
    stained = _joining(np.where(stray, 0, joined), min(PALE_SATURATION, threshold), threshold)
    mask = ~without_specks(~stained, int(MAX_HOLE_UM2 / mpp**2)) & ~artefacts.pen
    mask = without_specks(mask, int(MIN_AREA_UM2 / mpp**2))
    info: dict[str, float | str] = {"method": "saturation", "threshold": round(threshold, 4)}
    shares = {"pen": float(artefacts.pen.mean()), "edge": float(artefacts.edge.mean())}
    info |= {name: round(share, 4) for name, share in shares.items()}
    return mask, info | ({"inks": ", ".join(artefacts.inks)} if artefacts.inks else {})


def _saturation(pixels: Pixels) -> NDArray[np.float32]:
    # channel by channel: numpy takes eight times as long over an axis of three
    red, green, blue = np.moveaxis(pixels, 2, 0)
    brightest = np.maximum(np.maximum(red, green), blue).astype(np.float32)
    saturation: NDArray[np.float32] = brightest - np.minimum(np.minimum(red, green), blue)
    saturation /= np.maximum(brightest, 1)
    return saturation


def _joining(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.bool_]:
    """What exceeds ``high``, with what exceeds ``low`` and joins it by its sides."""
    from scipy import ndimage

    labels, count = ndimage.label(values > low)
    strong = np.zeros(count + 1, np.bool_)
    strong[labels[values > high]] = True
    found: NDArray[np.bool_] = strong[labels]
    return found


def _threshold(saturation: NDArray[np.float32]) -> float:
    """Otsu's threshold in steps of 1/255, kept inside ``SATURATION``."""
    from skimage.filters import threshold_otsu

    low, high = SATURATION
    steps = np.rint(saturation * 255).astype(np.uint8)
    varied = steps.size > 0 and steps.min() < steps.max()
    return float(np.clip(threshold_otsu(steps) / 255 if varied else high, low, high))
