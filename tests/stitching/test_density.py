"""Density maps: every cell once, in its place, whatever the slide was read in; what they add up to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import shapely
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.planted import BlobCounter, BlobPredictor, Box, PointCounter, RampPredictor, scene
from tests.stitching.test_objects import SEAMS, planted_boxes
from wsikit.errors import PredictionError
from wsikit.features import DensityBlock
from wsikit.pipeline.run import RunReport, run
from wsikit.predictions import Batch, Objects, Points
from wsikit.predictors.normalised import NormalisedPredictor
from wsikit.sinks import SinkContext
from wsikit.sinks.memory import ClassMap
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.slides import Slide
from wsikit.tissue import TissueMask

SIDES = (1, 128, 100_000)
MPP, CELL = 0.5, 8
CELL_MM2 = (MPP * CELL) ** 2 / 1e6


def truth(boxes: Sequence[Box], width: int, height: int, cell: int = CELL) -> NDArray[np.float64]:
    """Objects in each cell, from the boxes alone."""
    plane = np.zeros((-(-height // cell) * cell, -(-width // cell) * cell))
    for x, y, w, h in boxes:
        plane[y : y + h, x : x + w] += 1 / (w * h)
    return plane.reshape(plane.shape[0] // cell, cell, -1, cell).sum(axis=(1, 3))


class Kept(ClassMap):
    """A sink of masks that keeps density in memory."""

    block = 16

    def begin(self, context: SinkContext) -> None:
        super().begin(context)
        assert context.density is not None
        self.density = np.zeros((context.density.height, context.density.width))

    def write_density(self, block: DensityBlock) -> None:
        region = block.region
        self.density[region.y : region.y1, region.x : region.x1] += block.density


def density(
    slide: Slide, predictor: Any, mask: TissueMask | None = None, **options: Any
) -> tuple[NDArray[np.float64], RunReport]:
    """(H, W) objects per cell of a run, by what a sink was given."""
    sink = Kept()
    report = run(slide, predictor, sink, mask=mask or TissueMask.whole(slide), **options)
    return sink.density * (predictor.density_cell * MPP) ** 2 / 1e6, report


@pytest.mark.parametrize("name", SEAMS)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("kind", [BlobCounter, PointCounter])
def test_an_object_anywhere_at_a_seam_counts_one(name: str, side: int, kind: Any) -> None:
    found, report = density(scene(200, 200, [SEAMS[name]]), kind(), supertile=side)
    assert report.merged.density_count == pytest.approx(1, abs=1e-6)
    assert found == pytest.approx(truth([SEAMS[name]], 200, 200), abs=1e-6)


@settings(max_examples=25)
@given(
    boxes=planted_boxes(),
    phase=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    side=st.sampled_from([1, 128, 192, 1000]),
    batch_size=st.integers(1, 9),
    cell=st.sampled_from([1, 2, 4, 8]),
)
def test_every_cell_is_what_was_planted_there(
    boxes: list[Box], phase: tuple[int, int], side: int, batch_size: int, cell: int
) -> None:
    predictor = BlobCounter(phase=(8 * phase[0], 8 * phase[1]), density_cell=cell)
    found, report = density(scene(230, 150, boxes), predictor, supertile=side, batch_size=batch_size)
    assert found == pytest.approx(truth(boxes, 230, 150, cell), abs=1e-6)
    assert report.merged.density_count == pytest.approx(len(boxes), abs=1e-5)


MANY = [(x, y, 9, 7) for x in range(3, 230, 29) for y in range(1, 180, 23)]


def digest(folder: Path) -> str:
    """Of all files below a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_all_bytes_are_the_same_for_any_super_tile_and_workers(tmp_path: Path, ngff: Literal["0.4", "0.5"]) -> None:
    slide = scene(240, 190, MANY)
    seen = set()
    for side, workers in ((64, 1), (64, 3), (128, 2), (100_000, 1)):
        sink = OmeZarrSink(tmp_path / "masks.ome.zarr", ngff=ngff, block=64, chunk=32)
        table = tmp_path / "regions.csv"
        mask = TissueMask.whole(slide)
        report = run(slide, BlobCounter(), sink, mask=mask, supertile=side, workers=workers, regions=table)
        seen.add((digest(sink.path), table.read_bytes(), report.merged.density_count))
    assert len(seen) == 1


@pytest.mark.parametrize("block", [7, 16, 2048])
def test_neither_map_nor_count_depends_on_the_blocks_of_a_sink(block: int) -> None:
    slide = scene(240, 190, MANY)
    sink = Kept()
    sink.block = block
    whole = run(slide, BlobCounter(), mask=TissueMask.whole(slide)).merged.density_count
    assert run(slide, BlobCounter(), sink, mask=TissueMask.whole(slide)).merged.density_count == whole
    assert sink.density * CELL_MM2 == pytest.approx(truth(MANY, 240, 190), abs=1e-6)


def test_the_sum_of_the_file_times_the_area_of_a_pixel_is_the_count(tmp_path: Path) -> None:
    slide = scene(237, 187, MANY)
    sink = OmeZarrSink(tmp_path / "masks.ome.zarr")
    report = run(slide, BlobCounter(), sink, mask=TissueMask.whole(slide))
    values: Any = zarr.open_group(sink.path, mode="r")["density/0"]
    assert (values.dtype, values.shape) == (np.float32, (1, 24, 30))
    assert values[:].sum(dtype=np.float64) * CELL_MM2 == pytest.approx(report.merged.density_count, rel=1e-6)
    assert np.asarray(values[0]) * CELL_MM2 == pytest.approx(truth(MANY, 237, 187), abs=1e-6)
    assert report.merged.density_count == pytest.approx(report.merged.objects, abs=1e-4)


@dataclass(frozen=True)
class One(BlobCounter):
    """Says that one object is in every cell, those beyond the slide included."""

    def predict(self, batch: Batch) -> list[Objects]:
        found = super().predict(batch)
        return [replace(f, density=np.ones_like(f.density)) for f in found]  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(200, 200), (201, 199), (208, 192), (1, 300), (65, 63)])
def test_cells_that_begin_outside_the_slide_are_dropped_and_those_that_a_border_cuts_are_kept(
    size: tuple[int, int],
) -> None:
    columns, rows = (-(-n // CELL) for n in size)
    for phase in ((0, 0), (24, 40)):
        found, report = density(scene(*size, []), One(phase=phase))
        assert found == pytest.approx(np.ones((rows, columns)))
        assert report.merged.density_count == columns * rows


def test_cells_count_where_their_centre_is_on_tissue() -> None:
    slide = scene(200, 160, [])
    array = np.zeros((80, 100), np.bool_)
    array[3:50, 2:71] = True
    found, report = density(slide, One(), TissueMask(array, 2 * MPP))
    y, x = np.mgrid[:20, :25] * CELL + CELL // 2
    wanted = array[y // 2, x // 2]
    assert np.array_equal(found > 0, wanted)
    assert report.merged.density_count == wanted.sum()


def test_cells_count_where_their_centre_is_inside_the_region_of_interest() -> None:
    slide = scene(200, 160, [])
    shape = shapely.Polygon([(11, 8), (181, 31), (90, 150)], [[(80, 40), (100, 50), (90, 70)]])
    mask = TissueMask.whole(slide).limited(np.array([shape], object), slide)
    found, _ = density(slide, One(), mask)
    x, y = np.meshgrid(np.arange(25) * CELL + CELL / 2, np.arange(20) * CELL + CELL / 2)
    assert np.array_equal(found > 0, shapely.intersects_xy(shape, x, y))


@pytest.mark.parametrize("side", SIDES)
def test_nothing_counts_in_cells_that_touch_an_unreadable_tile(side: int) -> None:
    slide = scene(256, 200, [], tile=(50, 50), bad=[(0, 1, 2)])
    found, report = density(slide, One(), supertile=side)
    wanted = np.ones((25, 32))
    wanted[100 // 8 : -(-150 // 8), 50 // 8 : -(-100 // 8)] = 0
    assert np.array_equal(found.round(6), wanted)
    assert (report.status, report.merged.density_count) == ("partial", wanted.sum())


def changed(**fields: Any) -> Callable[[Objects], Objects]:
    return lambda found: replace(found, **fields)


def density_of(change: Callable[[NDArray[np.float32]], Any]) -> Callable[[Objects], Objects]:
    return lambda found: replace(found, density=change(found.density))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Broken(BlobCounter):
    """Does to good predictions what the test wants."""

    spoil: Callable[[Objects], Objects] | None = None

    def predict(self, batch: Batch) -> list[Objects]:
        assert self.spoil is not None
        return [self.spoil(found) for found in super().predict(batch)]


SPOILT: dict[str, tuple[Callable[[Objects], Objects], str]] = {
    "none": (changed(density=None), "without density"),
    "other cells": (density_of(lambda d: d.repeat(2, 0).repeat(2, 1)), "cells of 4 px"),
    "cells that do not fill the patch": (density_of(lambda d: d[:-1]), "fill the patch"),
    "no cells": (density_of(lambda d: d[:, :0]), "fill the patch"),
    "one dimension": (density_of(np.ravel), "fill the patch"),
    "negative": (density_of(lambda d: d - 1), ">= 0"),
    "NaN": (density_of(lambda d: d * np.nan), "finite"),
    "infinite": (density_of(lambda d: d + np.inf), "finite"),
    "no floats": (density_of(lambda d: d.astype(np.int64)), "floats"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_density_that_breaks_its_contract_is_refused(name: str) -> None:
    spoil, message = SPOILT[name]
    slide = scene(100, 100, [(20, 20, 10, 10)])
    with pytest.raises(PredictionError, match=message) as caught:
        run(slide, Broken(spoil=spoil), mask=TissueMask.whole(slide))
    assert caught.value.code == "bad_predictions"


def test_density_that_was_not_announced_is_refused() -> None:
    class Silent(BlobPredictor):
        def predict(self, batch: Batch) -> list[Objects]:
            return [replace(found, density=np.zeros((14, 14), np.float32)) for found in super().predict(batch)]

    slide = scene(100, 100, [])
    with pytest.raises(PredictionError, match=r"density_cell is 0 px.*cells of 8 px"):
        run(slide, Silent(), mask=TissueMask.whole(slide))


@pytest.mark.parametrize(
    ("predictor", "message"),
    [
        (BlobCounter(core=60), "core of 60 px"),
        (BlobCounter(halo=20), "halo of 20 px"),
        (BlobCounter(phase=(8, 3)), r"phase \(8, 3\)"),
        (BlobCounter(density_cell=-8), "whole number"),
        (BlobCounter(density_cell=1.5), "whole number"),  # type: ignore[arg-type]
    ],
)
def test_cells_that_do_not_fit_the_windows_are_refused_before_anything_is_read(predictor: Any, message: str) -> None:
    slide = scene(100, 100, [])
    with pytest.raises(PredictionError, match=message):
        run(slide, predictor, mask=TissueMask.whole(slide))


def test_score_maps_have_no_density() -> None:
    class Both(RampPredictor):
        density_cell = 8

    slide = scene(100, 100, [])
    with pytest.raises(PredictionError, match="Objects or Points"):
        run(slide, Both(), mask=TissueMask.whole(slide))


def test_a_normalised_model_gives_the_density_of_the_model() -> None:
    assert NormalisedPredictor(PointCounter(density_cell=4), None).density_cell == 4  # type: ignore[arg-type]
    assert NormalisedPredictor(BlobPredictor(), None).density_cell == 0  # type: ignore[arg-type]


def test_points_are_held_to_the_contract_too() -> None:
    class Negative(PointCounter):
        def predict(self, batch: Batch) -> list[Points]:
            return [replace(found, density=found.density - 1) for found in super().predict(batch)]  # type: ignore[operator]

    slide = scene(100, 100, [])
    with pytest.raises(PredictionError, match=">= 0"):
        run(slide, Negative(), mask=TissueMask.whole(slide))


def test_models_without_density_say_nothing_of_it(tmp_path: Path) -> None:
    slide = scene(200, 200, MANY[:5])
    sink = OmeZarrSink(tmp_path / "masks.ome.zarr")
    report = run(slide, BlobPredictor(), sink, mask=TissueMask.whole(slide))
    assert report.merged.density_count is None
    assert "density" not in zarr.open_group(sink.path, mode="r")


def test_windows_that_are_not_good_enough_count_nothing() -> None:
    from wsikit.quality import QualityFilter

    slide = scene(128, 64, [(70, 10, 40, 40)])
    found, report = density(slide, One(halo=0), qc=QualityFilter.parse("sharpness>=1e9"))
    assert (report.patches, report.merged.density_count, found.any()) == (0, 0, False)
