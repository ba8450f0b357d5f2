"""``overview.png``: one picture in which a pathologist sees at a glance whether a run went well.

The whole slide with its tissue outline and objects; next to it (below it, for wide slides) one or two fields at the
resolution of the prediction with every outline on its nucleus. Where a field lies is marked in the slide. Score maps
show as a tint of the class colours instead of outlines.

Everything comes in as plain data (``Scene``), in (x, y) level-0 pixels of the full plane unless said otherwise, so that
nothing here opens a slide. Memory is bounded by the picture: objects are counted into it, not drawn one by one, where
they are too small to be seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from wsikit.atomic import replace_file
from wsikit.errors import ConfigError
from wsikit.geometry import Box, Region
from wsikit.patches.images import encode
from wsikit.pipeline.heat import Patches, color_bar, draw_patches
from wsikit.pipeline.lettering import INK, MUTED, PAPER, Color, elided, plate, printable, scale_bar, text_width, write
from wsikit.predictions import Label

LONG_SIDE = 1400
"""Longest side of the slide in the picture, px."""
SHORT_SLIDE = 640
"""A slide smaller than this is magnified to this long side, px, so that a 16 x 16 px file can be looked at."""
FIELD_SIDE = (520, 760)
"""Smallest and largest side of a field in the picture, px."""
FIELD_UM = 200.0
"""Default side of a field: about 25 nuclei of 8 um side by side, 28 px each in the picture."""
DENSITY_QUANTILES = {1: (0.6,), 2: (0.85, 0.4)}
"""For one or two fields: the share of all objects that live in a place at most as dense as the field."""
OUTLINE_MIN_PX = 4.0
"""Median object width in the picture from which outlines can be told apart; smaller objects show as density."""
MAX_OUTLINES = 100_000
"""Outlines of ``OUTLINE_MIN_PX`` that fit side by side into the picture; more of them overlap and show as density."""
DOT_SIGMA_PX = 1.1
TINT = 0.4
"""Opacity of the class colours over a score map's slide."""
SUPERSAMPLING = 3
"""Lines are drawn this many times larger and averaged down. Odd, with odd widths, keeps them centred."""

GAP, TEXT, SMALL = 16, 20, 15
"""px: between panels, and the two sizes of text."""
TISSUE, BAD, MARK = (0, 128, 128), (214, 40, 40), INK
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Outlines:
    """Objects to draw."""

    geometries: NDArray[np.object_]
    """(N,) shapely Points, Polygons or MultiPolygons in level-0 pixels."""
    labels: NDArray[np.int64]
    """(N,) index into the scene's labels; -1 for no class."""

    def __post_init__(self) -> None:
        if self.geometries.shape != self.labels.shape or self.geometries.ndim != 1:
            raise ConfigError(
                f"Outlines need (N,) geometries and (N,) labels, got {self.geometries.shape} and {self.labels.shape}"
            )

    @classmethod
    def none(cls) -> Self:
        """No objects."""
        return cls(np.empty(0, object), np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.geometries)

    def inside(self, box: Box) -> Outlines:
        """Those whose bounding box meets ``box`` (x0, y0, x1, y1 in level-0 pixels)."""
        x0, y0, x1, y1 = shapely.bounds(self.geometries).reshape(-1, 4).T
        keep = (x0 <= box[2]) & (x1 >= box[0]) & (y0 <= box[3]) & (y1 >= box[1])
        return Outlines(self.geometries[keep], self.labels[keep])


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One place shown at the resolution of the prediction."""

    region: Region
    """Where, on the lattice of the prediction."""
    pixels: Pixels
    """(region.height, region.width, 3) RGB."""
    objects: Outlines = field(default_factory=Outlines.none)
    """All objects that meet the region; ``Outlines.inside(region.level0(slide))`` picks them."""
    classes: Pixels | None = None
    """(region.height, region.width) for score maps: 0 is nothing, k is the label of index k - 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What the picture shows."""

    slide_id: str
    slide_mpp: float
    """Micrometres per level-0 pixel."""
    size: tuple[int, int]
    """(width, height) of the slide in level-0 pixels."""
    picture: Pixels
    """(H, W, 3) RGB of the whole slide from its (0, 0)."""
    picture_mpp: float
    """Micrometres per pixel of the picture."""
    model: str
    mpp: float
    """Micrometres per pixel that the model saw."""
    labels: tuple[Label, ...]
    tissue: Sequence[shapely.Polygon] = ()
    """Tissue outlines in level-0 pixels."""
    objects: Outlines = field(default_factory=Outlines.none)
    """All objects, or an even sample of them, for the slide."""
    classes: Pixels | None = None
    """(h, w) for score maps and classified patches, covering the whole slide at any resolution: 0 is nothing, k the
    label of index k - 1."""
    fields: tuple[Field, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    """label name -> objects found on the slide (all of them, not the sample), or patches, for the caption."""
    fractions: Mapping[str, float] = field(default_factory=dict)
    """label name -> share of the tissue area, for the caption of score maps."""
    patches: Patches | None = None
    """For models that embed patches."""
    features: tuple[int, int] | None = None
    """(N, D) patches embedded and features of each, for the caption."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """label name -> score of the whole slide, for the caption of models of bags."""
    bad: Sequence[Box] = ()
    """Level-0 boxes (x0, y0, x1, y1) that could not be read."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Level-0 pixels to the pixels of one panel."""

    x: float
    y: float
    scale: float
    """Panel pixels per level-0 pixel."""
    mpp: float
    """Micrometres per panel pixel."""

    def __call__(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return (np.asarray(xy, np.float64) - (self.x, self.y)) * self.scale


def choose_fields(
    centroids: NDArray[np.float64],
    *,
    size: tuple[int, int],
    slide_mpp: float,
    mpp: float,
    side_um: float = FIELD_UM,
    count: int = 2,
) -> tuple[Region, ...]:
    """Squares worth looking at: where objects are as dense as most objects have it, neither empty nor freakish.

    The slide is cut into squares of ``side_um``; the squares are sorted by their number of objects, and the ones picked
    are those in which the objects at ``DENSITY_QUANTILES`` live. Same input, same answer.

    Args:
        centroids: (N, 2) x, y in level-0 pixels; for score maps, the centres of the pixels of a class; with none of
            them, the middle of the slide is taken.
        size: (width, height) of the slide in level-0 pixels.
        slide_mpp: micrometres per level-0 pixel.
        mpp: of the lattice of the regions.
        side_um: side of the squares; a smaller slide gives one region as large as itself.
        count: how many at most, 1 or 2.

    Raises:
        ConfigError: ``count`` is not 1 or 2.
    """
    if count not in DENSITY_QUANTILES:
        raise ConfigError(f"choose_fields picks 1 or 2 fields, got count={count}")
    side = side_um / slide_mpp
    columns, rows = (max(1, math.floor(length / side)) for length in size)
    # what the whole squares leave over is shared by both edges
    x0, y0 = (max(0.0, (length - n * side) / 2) for length, n in zip(size, (columns, rows), strict=True))
    cells = np.floor((np.asarray(centroids, np.float64).reshape(-1, 2) - (x0, y0)) / side).astype(np.int64)
    cells = cells[((cells >= 0) & (cells < (columns, rows))).all(axis=1)]
    if not len(cells):
        picked = [rows // 2 * columns + columns // 2]
    else:
        names, counts = np.unique(cells[:, 1] * columns + cells[:, 0], return_counts=True)
        order = np.argsort(counts, kind="stable")
        share = np.cumsum(counts[order]) / counts.sum()
        picked = list(dict.fromkeys(int(names[order[np.searchsorted(share, q)]]) for q in DENSITY_QUANTILES[count]))
    scale = slide_mpp / mpp
    width, height = (max(1, math.floor(min(side, length) * scale)) for length in size)
    corners = [(x0 + cell % columns * side, y0 + cell // columns * side) for cell in picked]
    return tuple(Region(math.floor(x * scale), math.floor(y * scale), width, height, mpp) for x, y in corners)


def draw_overview(scene: Scene, path: Path) -> None:
    """Draw the picture and put it at ``path`` (PNG), whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    slide = _slide_panel(scene)
    sides = _field_side(slide.size, len(scene.fields))
    panels = [_field_panel(scene, item, index, sides) for index, item in enumerate(scene.fields)]
    image = _captioned(scene, _arranged(slide, panels))
    replace_file(path, encode(np.asarray(image), "png"))


def _slide_panel(scene: Scene) -> Image.Image:
    image, frame = _slide_frame(scene)
    if scene.classes is not None:
        _tint(image, scene.classes, scene.labels)
    if scene.patches is not None:
        draw_patches(image, frame, scene.patches)
    _bad_boxes(image, frame, scene.bad)
    tissue = np.array(list(scene.tissue), object)
    stroke(image, frame, tissue, PAPER, width=11)
    stroke(image, frame, tissue, TISSUE, width=7)
    if _outlines_show(scene.objects, frame):
        _draw_objects(image, frame, scene.objects, scene.labels, width=3)
    else:
        _density(image, frame, scene.objects, scene.labels)
    for index, item in enumerate(scene.fields):
        _mark(image, frame, item.region.level0(_Resolution(scene.slide_mpp)), _letter(index, len(scene.fields)))
    scale_bar(image, frame.mpp, SMALL)
    return image


@dataclass(frozen=True, slots=True)
class _Resolution:
    """What ``Region.level0`` needs of a slide."""

    mpp: float


def _slide_frame(scene: Scene) -> tuple[Image.Image, Frame]:
    image = Image.fromarray(scene.picture)
    longest = max(image.size)
    zoom = min(max(longest, SHORT_SLIDE), LONG_SIDE) / longest
    image = zoomed(image, zoom)
    mpp = scene.picture_mpp / zoom
    return image, Frame(0.0, 0.0, scene.slide_mpp / mpp, mpp)


def zoomed(image: Image.Image, zoom: float) -> Image.Image:
    """Resized, and a copy in any case. Pixels magnified a lot stay pixels: smoothing shows what is not there."""
    width, height = (max(1, round(length * zoom)) for length in image.size)
    return image.resize((width, height), Image.Resampling.NEAREST if zoom > 4 else Image.Resampling.LANCZOS)


def _field_panel(scene: Scene, item: Field, index: int, side: int) -> Image.Image:
    zoom = side / max(item.region.width, item.region.height)
    image = zoomed(Image.fromarray(item.pixels), zoom)
    box = item.region.level0(_Resolution(scene.slide_mpp))
    mpp = item.region.mpp / zoom
    frame = Frame(box[0], box[1], scene.slide_mpp / mpp, mpp)
    if item.classes is not None:
        _tint(image, item.classes, scene.labels)
    _draw_objects(image, frame, item.objects, scene.labels, width=5)
    scale_bar(image, mpp, SMALL)
    plate(image, (8, 8), _letter(index, len(scene.fields)), TEXT)
    return image


def _letter(index: int, count: int) -> str:
    return "AB"[index] if count > 1 else ""


def _outlines_show(objects: Outlines, frame: Frame) -> bool:
    if not 0 < len(objects) <= MAX_OUTLINES:
        return False
    x0, _, x1, _ = shapely.bounds(objects.geometries).T
    return bool(np.median(x1 - x0) * frame.scale >= OUTLINE_MIN_PX)


def _draw_objects(image: Image.Image, frame: Frame, objects: Outlines, labels: Sequence[Label], width: int) -> None:
    points = shapely.get_type_id(objects.geometries) == shapely.GeometryType.POINT
    geometries = objects.geometries.copy()
    geometries[points] = shapely.buffer(geometries[points], 5 / frame.scale, quad_segs=4)
    for index in np.unique(objects.labels):
        stroke(image, frame, geometries[objects.labels == index], _color(labels, int(index)), width)


def _color(labels: Sequence[Label], index: int) -> Color:
    return labels[index].color if index >= 0 else MARK


def stroke(image: Image.Image, frame: Frame, geometries: NDArray[np.object_], color: Color, width: int) -> None:
    """Draw all rings of polygons with lines of ``width`` / ``SUPERSAMPLING`` px. ``width`` is odd."""
    rings = shapely.get_rings(shapely.get_parts(geometries))
    if not len(rings):
        return
    size = (image.width * SUPERSAMPLING, image.height * SUPERSAMPLING)
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    # Pillow centres an odd line on the middle of the pixel that it is given, so the pixel that holds the point is it
    pixels = np.floor(frame(xy) * SUPERSAMPLING).astype(np.int64)
    for part in np.split(pixels, np.flatnonzero(np.diff(ring)) + 1):
        draw.line(part.ravel().tolist(), fill=255, width=width)
    image.paste(color, mask=mask.reduce(SUPERSAMPLING))


def _density(image: Image.Image, frame: Frame, objects: Outlines, labels: Sequence[Label]) -> None:
    """Count centroids into the picture's pixels and lay the class colours over it, the denser the more opaque."""
    if not len(objects):
        return
    xy = np.floor(frame(shapely.get_coordinates(shapely.centroid(objects.geometries)))).astype(np.int64)
    x, y = np.clip(xy[:, 0], 0, image.width - 1), np.clip(xy[:, 1], 0, image.height - 1)
    total = np.zeros((image.height, image.width), np.float32)
    color = np.zeros((image.height, image.width, 3), np.float32)
    for index in np.unique(objects.labels):
        mine = objects.labels == index
        counts = np.bincount(y[mine] * image.width + x[mine], minlength=total.size).reshape(total.shape)
        smooth = ndimage.gaussian_filter(counts.astype(np.float32), DOT_SIGMA_PX, mode="constant")
        total += smooth
        color += smooth[..., None] * np.asarray(_color(labels, int(index)), np.float32)
    seen = total > 1e-3
    # graded against the densest places: dots that stand alone are as strong as those, and crowds do not saturate
    full = np.quantile(total[seen], 0.98)
    alpha = np.where(seen, 0.8 * np.minimum(1, total / full) ** 0.7, 0)[..., None]
    picture = np.asarray(image, np.float32)
    mixed = picture * (1 - alpha) + alpha * color / np.maximum(total, 1e-9)[..., None]
    image.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)))


def _tint(image: Image.Image, classes: Pixels, labels: Sequence[Label]) -> None:
    """Lay the class colours over what a score map says is that class."""
    if int(classes.max(initial=0)) > len(labels):
        raise ConfigError(f"class values go up to the number of labels, {len(labels)}; got {int(classes.max())}")
    palette = np.array([(0, 0, 0), *(label.color for label in labels)], np.uint8)
    fitted = np.asarray(Image.fromarray(classes).resize(image.size, Image.Resampling.NEAREST))
    mask = Image.fromarray(np.where(fitted > 0, round(255 * TINT), 0).astype(np.uint8))
    image.paste(Image.fromarray(palette[fitted]), mask=mask)


def _bad_boxes(image: Image.Image, frame: Frame, boxes: Sequence[Box]) -> None:
    """Shade what could not be read, and outline it so that a single tile shows."""
    if not boxes:
        return
    corners = frame(np.array(boxes, np.float64).reshape(-1, 2)).reshape(-1, 4)
    mask = Image.new("L", image.size)
    draw = ImageDraw.Draw(mask)
    for x0, y0, x1, y1 in corners:
        draw.rectangle((x0, y0, max(x0 + 2, x1 - 1), max(y0 + 2, y1 - 1)), fill=110, outline=255)
    image.paste(BAD, mask=mask)


def _mark(image: Image.Image, frame: Frame, box: Box, letter: str) -> None:
    """A rectangle where a field lies, at least 8 px wide, dark in a white casing to show on any tissue."""
    (x0, y0), (x1, y1) = frame(np.array([box[:2], box[2:]]))
    grow_x, grow_y = max(0.0, 4 - (x1 - x0) / 2), max(0.0, 4 - (y1 - y0) / 2)
    rectangle = (x0 - grow_x - 1, y0 - grow_y - 1, x1 + grow_x, y1 + grow_y)
    draw = ImageDraw.Draw(image)
    draw.rectangle(rectangle, outline=PAPER, width=4)
    draw.rectangle((rectangle[0] + 1, rectangle[1] + 1, rectangle[2] - 1, rectangle[3] - 1), outline=MARK, width=2)
    if letter:
        plate(image, (min(int(x1) + 8, image.width - 30), max(int(y0) - 4, 0)), letter, SMALL)


def _field_side(slide: tuple[int, int], count: int) -> int:
    """Fields fill the height of a tall slide, or share the width of a wide one."""
    room = max(slide) if _stacked_below(slide) else slide[1]
    return min(max((room - (count - 1) * GAP) // max(count, 1), FIELD_SIDE[0]), FIELD_SIDE[1])


def _stacked_below(slide: tuple[int, int]) -> bool:
    return slide[0] > 1.6 * slide[1]


def _arranged(slide: Image.Image, panels: Sequence[Image.Image]) -> Image.Image:
    """The slide, and the fields in a column to its right, or in a row below a wide slide."""
    below = _stacked_below(slide.size)
    places, x, y = [(0, 0)], 0, slide.height + GAP
    if not below:
        x, y = slide.width + GAP, 0
    for panel in panels:
        places.append((x, y))
        x, y = (x + panel.width + GAP, y) if below else (x, y + panel.height + GAP)
    images = [slide, *panels]
    width = max(px + image.width for (px, _), image in zip(places, images, strict=True))
    height = max(py + image.height for (_, py), image in zip(places, images, strict=True))
    canvas = Image.new("RGB", (width, height), PAPER)
    for place, image in zip(places, images, strict=True):
        canvas.paste(image, place)
    return canvas


def _captioned(scene: Scene, panels: Image.Image) -> Image.Image:
    """A margin around the panels, and below them the slide's name, the facts and the classes."""
    width = max(panels.width, SHORT_SLIDE)
    top = GAP + panels.height + 12
    canvas = Image.new("RGB", (width + 2 * GAP, top + 84), PAPER)
    canvas.paste(panels, (GAP, GAP))
    draw = ImageDraw.Draw(canvas)
    write(draw, (GAP, top), elided(printable(scene.slide_id), TEXT, width), TEXT)
    write(draw, (GAP, top + 28), elided(_facts(scene), SMALL, width), SMALL, MUTED)
    x = GAP
    for label in scene.labels:
        text = elided(_legend(scene, label), SMALL, width // 2)
        draw.rectangle((x, top + 57, x + 12, top + 69), fill=label.color, outline=MUTED)
        write(draw, (x + 19, top + 53), text, SMALL)
        x += 19 + text_width(text, SMALL) + 22
    if scene.patches is not None and scene.patches.heat is not None:
        color_bar(canvas, (x, top + 57), SMALL)
    return canvas


def _facts(scene: Scene) -> str:
    facts = [f"{scene.size[0]:,} × {scene.size[1]:,} px", f"{scene.slide_mpp:.4g} µm/px"]
    if scene.features is not None:
        facts.append("{:,} patches × {:,} features".format(*scene.features))
    elif scene.patches is not None and not scene.counts:
        facts.append(f"{len(scene.patches):,} patches")
    elif scene.classes is None or scene.counts:
        facts.append(f"{sum(scene.counts.values()):,} {'objects' if scene.classes is None else 'patches'}")
    facts.append(f"{printable(scene.model)} at {scene.mpp:.4g} µm/px")
    if not scene.tissue:
        facts.append("no tissue found")
    if scene.bad:
        facts.append(f"{len(scene.bad):,} unreadable {'tile' if len(scene.bad) == 1 else 'tiles'} (red)")
    return "  ·  ".join(facts)


def _legend(scene: Scene, label: Label) -> str:
    name = printable(label.name)
    if label.name in scene.fractions:
        return f"{name} {100 * scene.fractions[label.name]:.1f} %"
    if label.name in scene.scores:
        return f"{name} {scene.scores[label.name]:.3f}"
    return f"{name} {scene.counts[label.name]:,}" if label.name in scene.counts else name
