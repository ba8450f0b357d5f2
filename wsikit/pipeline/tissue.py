"""Tissue alone: detected, written and drawn, no model run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import shapely

from wsikit.errors import OutputError
from wsikit.features import Features
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.merge import overview_picture
from wsikit.pipeline.overview import Scene, draw_overview
from wsikit.predictions import Label
from wsikit.sinks import SinkContext
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.slides import open_slide
from wsikit.tissue import find_tissue

TISSUE = Label("Tissue", (0, 128, 128))


def write_tissue(entry: SlideEntry, folder: Path, mpp_override: float | None = None) -> float:
    """Detect the tissue of a slide and write ``tissue.geojson`` and ``overview.png`` into ``folder``.

    Args:
        entry: the slide.
        folder: made if it is not there.
        mpp_override: um per level-0 pixel where the manifest has none.

    Returns:
        Tissue area in um^2.

    Raises:
        SlideOpenError, ResolutionError, PixelReadError: the slide cannot be used.
        OutputError: the folder cannot be written.
    """
    with open_slide(entry.path, entry.mpp or mpp_override) as slide:
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
            draw_overview(scene, folder / "overview.png")
            sink.commit()
        except BaseException:
            sink.abort()
            raise
    return mask.area_um2


def _annotations(polygons: list[shapely.Polygon], slide_mpp: float) -> Features:
    """One annotation per piece of tissue, with its area."""
    shapes = np.array([None, *polygons], object)[1:]
    area = np.asarray(shapely.area(shapes), np.float64).reshape(-1) * slide_mpp**2
    return Features("annotation", shapes, np.zeros(len(shapes), np.int64), {"Area um^2": area})
