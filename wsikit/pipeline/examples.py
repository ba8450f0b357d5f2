"""``examples.png``: the best and the worst images of an evaluation, truth and prediction drawn over one another."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsikit.atomic import replace_file
from wsikit.geometry import Box, Region
from wsikit.outlines import outlines
from wsikit.pipeline.lettering import INK, MUTED, PAPER, elided, printable, scale_bar, text_width, write
from wsikit.pipeline.overview import GAP, SMALL, TEXT, Frame, Pixels, choose_fields, stroke, zoomed
from wsikit.pipeline.scores import Found
from wsikit.pipeline.truth import Areas, Truth
from wsikit.slides import Slide

FIELD_UM = 100.0
"""Side of the part of an image that is shown, um: about a dozen nuclei side by side."""
SIDE = 420
"""Longer side of a panel, px."""
COLUMNS = 4
TRUTH, FOUND = (0, 200, 90), (255, 200, 0)
"""Green and amber: they differ in lightness too, and neither is a colour of H&E or DAB."""
CASING = (20, 20, 30)
DOT_PX = 5


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """One place of an image, with what is true and what was found there."""

    box: Box
    """x0, y0, x1, y1 in level-0 pixels."""
    pixels: Pixels
    """(H, W, 3) RGB of the box at level 0."""
    mpp: float
    """Micrometres per level-0 pixel."""
    truth: NDArray[np.object_]
    """Polygons or Points in level-0 pixels."""
    found: NDArray[np.object_]
    """The same."""


def example_of(slide: Slide, truth: Truth, found: Found) -> Example:
    """The place of an image where objects are as dense as most of them have it; all of a small image."""
    centers = np.concatenate([side.get("", np.zeros((0, 2))) for side in (truth.centers, found.centers)])
    size = slide.width, slide.height
    (region,) = choose_fields(centers, size=size, slide_mpp=slide.mpp, mpp=slide.mpp, side_um=FIELD_UM, count=1)
    region = region.intersection(slide.plane(slide.mpp)) or region
    drawn = [_shapes(side.instances or side.classes, side.centers.get(""), region) for side in (truth, found)]
    return Example(region.level0(slide), slide.read_partial(region).pixels, slide.mpp, *drawn)


def _shapes(areas: Areas | None, centers: NDArray[np.float64] | None, region: Region) -> NDArray[np.object_]:
    """Outlines as they were compared, pixel by pixel; or points."""
    if areas is None:
        points = np.zeros((0, 2)) if centers is None else centers
        inside = ((points >= (region.x, region.y)) & (points < (region.x1, region.y1))).all(axis=1)
        dots: NDArray[np.object_] = shapely.points(points[inside])
        return dots
    from skimage.measure import label

    _, shapes = outlines(label(areas.paint(region), background=0, connectivity=1))
    moved: NDArray[np.object_] = shapely.transform(shapes, lambda xy: xy + np.array([region.x, region.y]))
    return moved


def draw_examples(examples: Sequence[tuple[str, str, Example]], model: str, metric: str, path: Path) -> None:
    """Draw a sheet of the best images above the worst ones, and put it at ``path`` (PNG), whole or not at all.

    Args:
        examples: name, caption and picture of each image, the best one first.
        model: name of the model.
        metric: what best and worst are decided by.
        path: where.

    Raises:
        OutputError: it cannot be written.
    """
    best = examples[: min(COLUMNS, -(-len(examples) // 2))]
    worst = examples[len(best) :][-COLUMNS:][::-1]
    rows = [("Best", best), ("Worst", worst)] if worst else [("", best)]
    bands = [_band(f"{title} by {metric}".strip().capitalize(), row) for title, row in rows]
    width = max(band.width for band in bands)
    foot = _legend(model, width)
    sheet = Image.new("RGB", (width + 2 * GAP, sum(b.height for b in bands) + foot.height + 2 * GAP), PAPER)
    y = GAP
    for band in [*bands, foot]:
        sheet.paste(band, (GAP, y))
        y += band.height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=6)
    replace_file(path, buffer.getvalue())


def _band(title: str, row: Sequence[tuple[str, str, Example]]) -> Image.Image:
    panels = [_panel(example) for _, _, example in row]
    height = max(panel.height for panel in panels)
    band = Image.new("RGB", (len(row) * (SIDE + GAP) - GAP, height + 96), PAPER)
    draw = ImageDraw.Draw(band)
    write(draw, (0, 0), title, TEXT)
    for k, (name, caption, _) in enumerate(row):
        x = k * (SIDE + GAP)
        band.paste(panels[k], (x, 32))
        write(draw, (x, 32 + height + 5), elided(printable(name), SMALL, SIDE), SMALL)
        write(draw, (x, 32 + height + 25), caption, SMALL, MUTED)
    return band


def _panel(example: Example) -> Image.Image:
    image = Image.fromarray(example.pixels)
    zoom = SIDE / max(image.size)
    image = zoomed(image, zoom)
    frame = Frame(example.box[0], example.box[1], zoom, example.mpp / zoom)
    for shapes, color, width in ((example.truth, TRUTH, 9), (example.found, FOUND, 5)):
        points = shapely.get_type_id(shapes) == shapely.GeometryType.POINT
        drawn = shapes.copy()
        drawn[points] = shapely.buffer(shapes[points], DOT_PX / zoom, quad_segs=4)
        stroke(image, frame, drawn, CASING, width + 2)
        stroke(image, frame, drawn, color, width)
    scale_bar(image, frame.mpp, SMALL)
    return image


def _legend(model: str, width: int) -> Image.Image:
    foot = Image.new("RGB", (width, 28), PAPER)
    draw, x = ImageDraw.Draw(foot), 0
    for text, color in (("truth", TRUTH), (f"found by {printable(model)}", FOUND)):
        draw.rectangle((x, 6, x + 14, 20), fill=color, outline=INK)
        write(draw, (x + 22, 4), text, SMALL)
        x += 22 + text_width(text, SMALL) + 28
    note = f"at most {FIELD_UM:g} µm of each image is shown; figures are of all of it"
    if x + text_width(note, SMALL) <= width:
        write(draw, (x, 4), note, SMALL, MUTED)
    return foot
