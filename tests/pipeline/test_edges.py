"""What a run refuses, and what must not depend on how a slide was read or on which output failed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import shapely
from PIL import Image

from tests.pipeline.test_lost_workers import pictures
from tests.planted import INK, BlobPredictor, PointPredictor, RampPredictor, scene
from wsikit.config import RunConfig
from wsikit.errors import OutputError, PredictionError, SlideOpenError
from wsikit.geometry import Region, TileSpec
from wsikit.pipeline import batch as batch_module
from wsikit.pipeline.batch import Silent, run_many
from wsikit.pipeline.inputs import find_slides
from wsikit.pipeline.run import run
from wsikit.pipeline.stages import SlideTask, begin, predict
from wsikit.pipeline.state import describe
from wsikit.predictions import Batch, Label, Objects, Points, ScoreMap
from wsikit.predictors.files import dumps
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.sinks.memory import FeatureList
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.tissue import TissueMask

BOXES = [(x, y, 9, 9) for x in range(6, 270, 37) for y in range(6, 270, 41)]
SIDES = (64, 128, 4096)


def remade(item: Objects, **fields: Any) -> Objects:
    return Objects(**({name: getattr(item, name) for name in Objects.__slots__} | fields))


@dataclass(frozen=True)
class Odd(BlobPredictor):
    """Changes what it found in each window."""

    change: Callable[[Objects], Objects] = remade

    def predict(self, batch: Batch) -> list[Objects]:
        return [self.change(found) for found in super().predict(batch)]


def with_first(shape: Any) -> Callable[[Objects], Objects]:
    def change(found: Objects) -> Objects:
        outlines = found.outlines.copy()
        outlines[:1] = np.array([None, shape], object)[1:]
        return remade(found, outlines=outlines)

    return change


SQUARE = shapely.box(0, 0, 5, 5)
SHAPES = {
    "a MultiPolygon": shapely.MultiPolygon([SQUARE, shapely.box(7, 7, 9, 9)]),
    "a GeometryCollection": shapely.GeometryCollection([SQUARE, shapely.Point(7, 7)]),
    "a LineString": shapely.LineString([(0, 0), (5, 5)]),
    "an empty Polygon": shapely.Polygon(),
    "None": None,
    "Self-intersection": shapely.Polygon([(5, 5), (15, 15), (15, 5), (5, 15)]),
}


@pytest.mark.parametrize("name", SHAPES)
def test_an_outline_that_is_no_valid_polygon_is_refused_by_name(name: str) -> None:
    slide = scene(300, 300, BOXES)
    with pytest.raises(PredictionError, match=rf"{name}.*patch at x="):
        run(slide, Odd(change=with_first(SHAPES[name])), mask=TissueMask.whole(slide))


def named_by_place(found: Objects) -> Objects:
    return remade(found, measurements={"a" if found.region.y < 0 else "b": found.scores})


def nuclei_by_place(found: Objects) -> Objects:
    return remade(found, nuclei=found.outlines if found.region.y < 0 else None)


@pytest.mark.parametrize(("change", "message"), [(named_by_place, "measurements"), (nuclei_by_place, "nuclei")])
@pytest.mark.parametrize("side", SIDES)
def test_windows_that_disagree_on_what_objects_carry_are_refused_at_any_supertile(
    change: Callable[[Objects], Objects], message: str, side: int
) -> None:
    slide = scene(300, 300, BOXES)
    with pytest.raises(PredictionError, match=message):
        run(slide, Odd(change=change), mask=TissueMask.whole(slide), supertile=side)


def bare_where_empty(found: Objects) -> Objects:
    return found if len(found.outlines) else remade(found, measurements={})


@pytest.mark.parametrize("side", SIDES)
def test_a_window_without_objects_need_not_name_measurements(side: int) -> None:
    slide = scene(300, 300, [(20, 20, 9, 9)])
    report = run(slide, Odd(change=bare_where_empty), mask=TissueMask.whole(slide), supertile=side)
    assert report.merged.objects == 1


@dataclass(frozen=True)
class Widening(PointPredictor):
    """Points whose radius grows down the slide: 4.5 px, then 6."""

    def _one(self, image: Any, region: Region) -> Points:
        # two detections 5 px apart, on either side of the seam at x = 64; far below one more, with a wider radius
        top = region.y < 64
        xy = np.array([[60.5, 30.0], [65.5, 30.0]] if top else [[90.0, 200.0]]) - (region.x, region.y)
        xy = xy[((xy >= 0) & (xy < region.width)).all(axis=1)]
        radius = 4.5 if top else 6.0
        return Points(region, xy, np.zeros(len(xy), np.int64), np.full(len(xy), 0.7), {}, radius)


def test_the_largest_radius_counts_for_all_points_at_any_supertile() -> None:
    slide = scene(300, 300, [])
    reports = [run(slide, Widening(), mask=TissueMask.whole(slide), supertile=side) for side in SIDES]
    assert {report.merged.seam_conflicts for report in reports} == {1}


@dataclass(frozen=True)
class ManyLabels(BlobPredictor):
    labels: ClassVar[tuple[Label, ...]] = tuple(Label(f"Klasse {i} ä", (0, 0, 0)) for i in range(256))


def test_more_labels_than_a_mask_can_hold_are_refused() -> None:
    slide = scene(100, 100, [])
    with pytest.raises(PredictionError, match=r"256 labels.*1 to 255"):
        run(slide, ManyLabels(), mask=TissueMask.whole(slide))


@dataclass(frozen=True)
class Unprepared(BlobPredictor):
    def prepare(self, slide: Any, tissue: Any) -> Any:
        raise KeyError("threshold")


def test_an_error_of_the_predictor_in_prepare_is_named_as_its_own() -> None:
    slide = scene(100, 100, [])
    with pytest.raises(PredictionError, match=r"raised KeyError in prepare") as caught:
        run(slide, Unprepared(), mask=TissueMask.whole(slide))
    assert caught.value.code == "predictor_error"


@dataclass(frozen=True)
class Constant(RampPredictor):
    def _one(self, image: Any, region: Region) -> ScoreMap:
        high = np.full((region.height, region.width), 0.9, np.float32)
        return ScoreMap(region, np.stack([high, 1 - high], axis=2))


class Scores(OmeZarrSink):
    """Remembers the scores of the first label."""

    def begin(self, context: Any) -> None:
        self.found: set[int] = set()
        super().begin(context)

    def write(self, block: Any) -> None:
        self.found |= set(np.unique(block.scores[0]).tolist())
        super().write(block)


def test_a_halo_of_800_px_does_not_overflow_the_blend(tmp_path: Path) -> None:
    slide = scene(1700, 900, [])
    sink = Scores(tmp_path / "masks.ome.zarr")
    run(slide, Constant(core=1600, halo=800), sink, mask=TissueMask.whole(slide))
    assert sink.found == {230}  # 0.9 * 255, rounded half up


@pytest.mark.parametrize("side", SIDES)
def test_a_bad_tile_that_no_window_sees_does_not_matter_at_any_supertile(side: int, tmp_path: Path) -> None:
    # two islands of tissue, and between them a tile that cannot be read
    slide = scene(640, 64, [(20, 20, 9, 9), (600, 20, 9, 9)], tile=(32, 32), bad=[(0, 10, 1)])
    mask = np.zeros((64, 640), bool)
    mask[:, :64] = mask[:, -64:] = True
    report = run(slide, BlobPredictor(), mask=TissueMask(mask, 0.5), supertile=side)
    assert (report.status, report.merged.objects) == ("complete", 2)


def test_bad_tiles_are_listed_in_reading_order_at_any_supertile() -> None:
    bad = [(0, 7, 7), (0, 0, 3), (0, 3, 0), (0, 1, 7)]
    slides = [scene(256, 256, [], tile=(32, 32), bad=bad) for _ in SIDES]
    found = [
        run(slide, BlobPredictor(), mask=TissueMask.whole(slide), supertile=side).bad_tiles
        for slide, side in zip(slides, SIDES, strict=True)
    ]
    assert found[0] == found[1] == found[2]
    assert [tile.box[:2] for tile in found[0]] == [(96, 0), (0, 96), (32, 224), (224, 224)]


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.setattr(batch_module, "load_model", lambda *_, **__: BlobPredictor())
    return RunConfig(mpp_override=0.5, num_workers=1, cluster="threads")


def test_a_slide_whose_objects_are_split_is_kept_by_the_next_run(blobs: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pixels = np.full((300, 300, 3), 235, np.uint8)
    for x, y, w, h in BOXES:
        pixels[y : y + h, x : x + w] = INK
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    config = blobs.model_copy(update={"split": 20})
    entries = find_slides(tmp_path / "in")
    (first,) = run_many(entries, tmp_path / "out", config)
    assert {"objects-001.geojson.gz", "objects-002.geojson.gz"} <= set(first["outputs"])
    assert run_many(entries, tmp_path / "out", config) == [first]


def test_a_slide_that_failed_shows_no_output_that_was_finished_before(
    blobs: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: OmeZarrSink) -> None:
        raise OutputError("no space left", code="no_space")

    monkeypatch.setattr(OmeZarrSink, "commit", full)
    (record,) = run_many(find_slides(pictures(tmp_path / "in", ["a"])), tmp_path / "out", blobs)
    assert record["reason"] == "no_space"
    assert [path.name for path in (tmp_path / "out" / "a").iterdir()] == ["slide.json"]


def test_every_sink_is_aborted_even_where_one_cannot_be(tmp_path: Path) -> None:
    class Stuck(GeoJSONSink):
        def commit(self) -> None:
            raise OutputError("no space left", code="no_space")

        def abort(self) -> None:
            super().abort()
            raise OSError("busy")

    slide = scene(200, 200, [(20, 20, 10, 10)])
    sinks = Stuck(tmp_path / "a.geojson"), OmeZarrSink(tmp_path / "m.ome.zarr")
    # begin aborts first, too
    sinks[0].begin = lambda context: None  # type: ignore[method-assign]
    sinks[0].write = lambda features: None  # type: ignore[method-assign]
    with pytest.raises(OutputError, match="no space left"):
        run(slide, BlobPredictor(), *sinks)
    assert list(tmp_path.iterdir()) == []


CHANGES: Mapping[str, Callable[[Path], None]] = {
    "removed": Path.unlink,
    "replaced": lambda path: os.utime(path, (0, 0)),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_slide_that_changes_while_it_is_read_fails_and_is_tried_again(
    blobs: RunConfig, tmp_path: Path, how: str
) -> None:
    folder = pictures(tmp_path / "in", ["a"])
    entries, path = find_slides(folder), folder / "a.png"
    data, stamp = path.read_bytes(), path.stat().st_mtime_ns

    class Changing(Silent):
        def progress(self, entry: Any, done: int, total: int) -> None:
            if done == 0:
                CHANGES[how](path)

    (record,) = run_many(entries, tmp_path / "out", blobs, observer=Changing())
    assert (record["status"], record["reason"]) == ("failed", "slide_changed")
    path.write_bytes(data)
    os.utime(path, ns=(stamp, stamp))
    (again,) = run_many(entries, tmp_path / "out", blobs)
    assert again["status"] == "complete"


def test_a_worker_does_not_read_on_in_a_file_that_was_replaced(tmp_path: Path) -> None:
    (entry,) = find_slides(pictures(tmp_path / "in", ["a"]))
    task = SlideTask(entry, tmp_path / "out", RunConfig(mpp_override=0.5, supertile=64), "key", 1)
    begun = begin(task, dumps(BlobPredictor()))
    predict(task, begun.plan, [0])
    os.utime(entry.path, (0, 0))
    with pytest.raises(SlideOpenError) as caught:
        predict(task, begun.plan, [1])
    assert caught.value.code == "slide_changed"


def test_threads_share_a_slide_in_memory() -> None:
    slide = scene(300, 300, [(20, 20, 10, 10), (200, 100, 12, 12)])
    report = run(slide, BlobPredictor(), mask=TissueMask.whole(slide), workers=2)
    assert report.merged.objects == 2


@dataclass(frozen=True)
class Sparing(BlobPredictor):
    """Looks at windows with enough tissue only."""

    least: float = 0.25

    @property
    def tile(self) -> TileSpec:
        return TileSpec(self.mpp, self.core, self.halo, self.least, self.phase)


@pytest.mark.parametrize(("side", "core"), [(250, 1024), (300, 256)])
def test_what_lies_at_the_edge_is_found_whatever_share_of_tissue_is_asked_for(side: int, core: int) -> None:
    boxes = [(x, y, 10, 10) for x in range(5, side - 12, 40) for y in range(5, side - 12, 40)]
    slide = scene(side, side, boxes)
    for least in (0.0, 0.25, 1.0):
        report = run(slide, Sparing(core=core, least=least), FeatureList(), mask=TissueMask.whole(slide))
        assert report.merged.objects == len(boxes)


def test_a_slide_with_tissue_and_no_patch_says_so() -> None:
    slide = scene(250, 250, [])
    array = np.zeros((250, 250), bool)
    array[:100, :100] = True
    for core, tissue, said in (
        (64, array, ""),
        (256, array, "0.0025 mm2 of tissue, and no patch of 256 px at 0.5 um"),
        (256, array & False, ""),
    ):
        model = Sparing(core=core, least=0.5)
        record = describe(slide, model, run(slide, model, FeatureList(), mask=TissueMask(tissue, 0.5)))
        assert record["status"] == "complete"
        assert said in record["message"]
        assert bool(said) == bool(record["message"]) == ("--min-tissue" in record["remedy"])
