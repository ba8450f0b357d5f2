"""Tissue alone: detected, written and drawn, no model run."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from PIL import Image

from wsikit.atomic import replace_file
from wsikit.errors import OutputError
from wsikit.features import Features
from wsikit.pipeline.each import refuse_other_slide
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.merge import overview_picture
from wsikit.pipeline.overview import Scene, draw_overview
from wsikit.pipeline.state import Record, failure
from wsikit.predictions import Label
from wsikit.sinks import SinkContext
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.slides import open_slide
from wsikit.tissue import TissueMask, find_tissue

TISSUE = Label("Tissue", (0, 128, 128))
OVERVIEW, BESIDE_A_RUN = "overview.png", "tissue-overview.png"
"""The picture; its name where a run has put its own overview.png into the folder, which shows that run's results."""


@dataclass(frozen=True, slots=True)
class TissueOutcome:
    """What became of one slide."""

    slide_id: str
    mask: TissueMask | None
    """None where it failed."""
    failed: Record
    """Why: reason, message, remedy; empty where it did not fail."""


def find_tissues(
    entries: Sequence[SlideEntry], out: Path, mpp_override: float | None = None, *, isolate: bool = False
) -> Iterator[TissueOutcome]:
    """Find and write the tissue of slide after slide; one that fails costs only itself.

    Files that are part of another entry's slide are passed over. See ``write_tissue``.
    """
    for entry in entries:
        if entry.part_of is not None:
            continue
        try:
            mask = write_tissue(entry, out / entry.slide_id, mpp_override, isolate=isolate)
            yield TissueOutcome(entry.slide_id, mask, {})
        except Exception as error:  # noqa: BLE001  # one slide must not hurt another; the outcome says what happened
            yield TissueOutcome(entry.slide_id, None, failure(error))


def write_tissue(
    entry: SlideEntry, folder: Path, mpp_override: float | None = None, *, isolate: bool = False
) -> TissueMask:
    """Detect the tissue of a slide, plain image or not, and write it into ``folder``.

    ``tissue.geojson`` holds its outlines; ``tissue.png`` the mask, 255 where there is tissue and 0 elsewhere, which a
    manifest's column mask_path takes back; ``overview.png`` (``tissue-overview.png`` where a run has its own) shows it.

    Args:
        entry: the slide.
        folder: made if it is not there.
        mpp_override: um per level-0 pixel where the manifest has none.
        isolate: read in a child process with limits of time and memory.

    Returns:
        The mask.

    Raises:
        SlideOpenError, ResolutionError, PixelReadError: the slide cannot be used.
        OutputError: the folder cannot be written, or holds a run's results of another slide (code id_taken).
    """
    refuse_other_slide(folder, entry)
    with open_slide(entry.path, entry.mpp or mpp_override, isolate=isolate) as slide:
        mask = find_tissue(slide)
        polygons = mask.polygons(slide)
        picture, mpp = overview_picture(slide)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder} cannot be made: {error.strerror}") from error
        sink = GeoJSONSink(folder / "tissue.geojson")
        context = SinkContext(
            slide_id=entry.slide_id,
            slide_mpp=slide.mpp,
            bounds_offset=slide.bounds_offset,
            mpp=mask.mpp,
            size=(mask.array.shape[1], mask.array.shape[0]),
            labels=(TISSUE,),
            model="tissue",
            layers=(),
            has_scores=False,
            overview=picture,
            overview_mpp=mpp,
        )
        sink.begin(context)
        try:
            sink.write(_annotations(polygons, slide.mpp))
            scene = Scene(
                slide_id=entry.slide_id,
                slide_mpp=slide.mpp,
                size=(slide.width, slide.height),
                picture=picture,
                picture_mpp=mpp,
                model="tissue",
                mpp=mask.mpp,
                labels=(TISSUE,),
                tissue=polygons,
                bad=[tile.level0() for tile in mask.bad],
            )
            draw_overview(scene, folder / (BESIDE_A_RUN if (folder / "slide.json").exists() else OVERVIEW))
            replace_file(folder / "tissue.png", _png(mask))
            sink.commit()
        except BaseException:
            sink.abort()
            raise
    return mask


def _png(mask: TissueMask) -> bytes:
    """8-bit grey: 255 where there is tissue, 0 elsewhere."""
    file = io.BytesIO()
    Image.fromarray(mask.array.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()


def _annotations(polygons: list[shapely.Polygon], slide_mpp: float) -> Features:
    """One annotation per piece of tissue, with its area."""
    shapes = np.array([None, *polygons], object)[1:]
    area = np.asarray(shapely.area(shapes), np.float64).reshape(-1) * slide_mpp**2
    return Features("annotation", shapes, np.zeros(len(shapes), np.int64), {"Area um^2": area})
