"""One slide from pixels to files: real slides, broken predictors, empty slides."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geojson
import numpy as np
import pytest
import shapely
import zarr

from tests.conformance.qupath import assert_qupath
from tests.planted import BlobPredictor, PointPredictor, RampPredictor, scene
from wsikit.errors import OutputError, PixelReadError, PredictionError, ResolutionError
from wsikit.features import Features
from wsikit.geometry import TileSpec
from wsikit.pipeline.run import RunReport, run
from wsikit.predictions import Batch, Objects, Points, ScoreMap
from wsikit.predictors import load_predictor
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.slides import Slide, open_slide
from wsikit.tissue import TissueMask


def nuclei_of(path: Path, out: Path, reader: str | None = None, **options: Any) -> tuple[bytes, RunReport]:
    sink = GeoJSONSink(out / "objects.geojson.gz")
    with open_slide(path, reader=reader) as slide:
        report = run(slide, load_predictor("nuclei-classical"), sink, **options)
    assert_qupath(sink.path)
    return gzip.decompress(sink.path.read_bytes()), report


@pytest.mark.parametrize("name", ["cmu", "pyramid"])
def test_nuclei_of_a_real_slide_are_the_same_bytes_however_it_is_read(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(name)
    first, report = nuclei_of(path, tmp_path, supertile=4096)
    assert report.merged.objects > 1000
    assert report.merged.seam_conflicts == 0
    assert nuclei_of(path, tmp_path, supertile=1024, batch_size=1)[0] == first
    assert nuclei_of(path, tmp_path, supertile=2048, workers=2)[0] == first
    assert nuclei_of(path, tmp_path, reader="openslide")[0] == first


def test_the_mask_holds_every_object_under_its_place_in_the_geojson(cmu: Path, tmp_path: Path) -> None:
    sinks = GeoJSONSink(tmp_path / "o.geojson.gz"), OmeZarrSink(tmp_path / "masks.ome.zarr")
    with open_slide(cmu) as slide:
        run(slide, load_predictor("nuclei-classical"), *sinks)
    found = geojson.loads(gzip.decompress(sinks[0].path.read_bytes()))["features"]
    root = zarr.open_group(sinks[1].path, mode="r")
    instances, classes = root["labels/instances/0"][:], root["labels/classes/0"][:]  # type: ignore[index]
    assert instances.shape == (2967, 2220)
    assert instances.max() == len(found)
    assert ((instances > 0) == (classes > 0)).all()
    hits = 0
    for number, feature in enumerate(found, 1):
        point = shapely.geometry.shape(feature["geometry"]).representative_point()
        hits += instances[int(point.y), int(point.x)] == number
    # outlines are simplified by up to half a pixel, so that neighbours may overlap by one
    assert hits >= 0.99 * len(found)


@dataclass(frozen=True)
class Broken(BlobPredictor):
    """Does to good predictions what the test wants."""

    spoil: Callable[[Sequence[Objects], Batch], Any] | None = None

    def predict(self, batch: Batch) -> Any:
        assert self.spoil is not None
        return self.spoil(super().predict(batch), batch)


def changed(item: Objects, **fields: Any) -> Objects:
    values = {name: getattr(item, name) for name in Objects.__slots__} | fields
    return Objects(**values)


def raise_key_error(found: Sequence[Objects], batch: Batch) -> Any:
    raise KeyError("layer3")


SPOILT: dict[str, tuple[Callable[[Sequence[Objects], Batch], Any], str]] = {
    "too few": (lambda found, _: found[:-1], "predictions for a batch"),
    "NaN score": (lambda found, _: [changed(f, scores=f.scores * np.nan) for f in found], "finite"),
    "wrong shape": (lambda found, _: [changed(f, scores=np.zeros(99)) for f in found], "shape"),
    "no such label": (lambda found, _: [changed(f, labels=f.labels + 7) for f in found], "below 2"),
    "another region": (lambda found, _: [changed(f, region=f.region.padded(1)) for f in found], "asked for"),
    "another kind": (lambda found, b: [ScoreMap(r, np.zeros((1, 1, 2), np.float32)) for r in b.regions], "produces"),
    "its own error": (raise_key_error, "raised KeyError"),
    "infinite measurement": (
        lambda found, _: [changed(f, measurements={"a": f.scores * np.inf}) for f in found],
        "infinity",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_predictor_that_breaks_its_contract_leaves_nothing_and_is_named(tmp_path: Path, name: str) -> None:
    spoil, message = SPOILT[name]
    sink = GeoJSONSink(tmp_path / "out" / "objects.geojson.gz")
    sink.path.parent.mkdir()
    slide = scene(200, 200, [(20, 20, 10, 10)])
    with pytest.raises(PredictionError, match=message) as caught:
        run(slide, Broken(spoil=spoil), sink, mask=TissueMask.whole(slide))
    assert caught.value.code in {"bad_predictions", "predictor_error"}
    assert list(sink.path.parent.iterdir()) == []


@dataclass(frozen=True)
class NanMap(RampPredictor):
    """One NaN among the scores."""

    def predict(self, batch: Batch) -> list[ScoreMap]:
        maps = super().predict(batch)
        maps[0].scores[3, 4, 0] = np.nan
        return maps


def test_nan_in_a_score_map_is_refused_with_the_patch_named(tmp_path: Path) -> None:
    slide = scene(200, 200, [])
    with pytest.raises(PredictionError, match=r"NaN.*patch at x="):
        run(slide, NanMap(), mask=TissueMask.whole(slide))


@pytest.mark.parametrize("predictor", [BlobPredictor(), PointPredictor(), RampPredictor(core=64, halo=8)])
def test_a_slide_without_tissue_ends_complete_with_valid_empty_outputs(tmp_path: Path, predictor: Any) -> None:
    sinks = GeoJSONSink(tmp_path / "objects.geojson.gz"), OmeZarrSink(tmp_path / "masks.ome.zarr")
    report = run(scene(500, 400, []), predictor, *sinks, overview=tmp_path / "overview.png")
    assert (report.status, report.patches, report.merged.objects) == ("complete", 0, 0)
    assert_qupath(sinks[0].path)
    assert geojson.loads(gzip.decompress(sinks[0].path.read_bytes()))["features"] == []
    assert zarr.open_group(sinks[1].path, mode="r").attrs["multiscales"]
    assert (tmp_path / "overview.png").stat().st_size > 0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (20, 20), (65, 63)])
@pytest.mark.parametrize("predictor", [BlobPredictor(), RampPredictor(core=64, halo=8)])
def test_a_slide_of_any_size_is_run(tmp_path: Path, size: tuple[int, int], predictor: Any) -> None:
    slide = scene(*size, [(0, 0, 1, 1)])
    sinks = GeoJSONSink(tmp_path / "objects.geojson.gz"), OmeZarrSink(tmp_path / "masks.ome.zarr")
    report = run(slide, predictor, *sinks, mask=TissueMask.whole(slide), overview=tmp_path / "overview.png")
    assert report.status == "complete"
    found = geojson.loads(gzip.decompress(sinks[0].path.read_bytes()))["features"]
    assert len(found) == 1  # the blob, or the annotation that carries the areas


def test_a_slide_of_which_nothing_can_be_read_fails(tmp_path: Path) -> None:
    slide = scene(100, 100, [], tile=(64, 64), bad=[(0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1)])
    with pytest.raises(PixelReadError, match="can be decoded"):
        run(slide, BlobPredictor(), GeoJSONSink(tmp_path / "o.geojson"), mask=TissueMask.whole(slide))
    with pytest.raises(PixelReadError, match="no pixel"):
        run(slide, BlobPredictor(), GeoJSONSink(tmp_path / "o.geojson"))


def test_a_slide_too_coarse_for_the_model_is_refused() -> None:
    with pytest.raises(ResolutionError, match=r"finer than 2 um.*0\.5 was asked for") as caught:
        run(scene(100, 100, [], mpp=2.0), BlobPredictor())
    assert caught.value.code == "resolution_unavailable"


class FullDisk(GeoJSONSink):
    """Runs out of space when it is to become visible."""

    def commit(self) -> None:
        raise OutputError("no space left", code="no_space")


def test_outputs_become_visible_together_or_not_at_all(tmp_path: Path) -> None:
    slide = scene(200, 200, [(20, 20, 10, 10)])
    with pytest.raises(OutputError):
        run(slide, BlobPredictor(), FullDisk(tmp_path / "a.geojson"), OmeZarrSink(tmp_path / "m.ome.zarr"))
    assert list(tmp_path.iterdir()) == []


def test_a_sink_that_cannot_commit_leaves_those_before_it_whole_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "b.geojson").write_text("of before")
    slide = scene(200, 200, [(20, 20, 10, 10)])
    with pytest.raises(OutputError):
        run(slide, BlobPredictor(), GeoJSONSink(tmp_path / "a.geojson"), FullDisk(tmp_path / "b.geojson"))
    assert {path.name for path in tmp_path.iterdir()} == {"a.geojson", "b.geojson"}
    assert len(json.loads((tmp_path / "a.geojson").read_text())["features"]) == 1
    assert (tmp_path / "b.geojson").read_text() == "of before"


def test_nothing_in_the_folder_of_the_spool_is_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    seen: list[list[str]] = []

    def look(*_: int) -> None:
        seen.append([path.name for path in (tmp_path / "mine").rglob("o*.npz")])

    slide = scene(200, 200, [(20, 20, 10, 10)])
    run(slide, BlobPredictor(), spool=tmp_path / "mine", progress=look)
    assert [path.name for path in (tmp_path / "mine").rglob("*")] == ["thesis.txt"]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert any(seen), "nothing was spooled there"
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        run(slide, BlobPredictor(), spool=tmp_path / "mine" / "thesis.txt")


class Counting(GeoJSONSink):
    """Remembers how many features came at a time."""

    def begin(self, context: Any) -> None:
        self.counts: list[int] = []
        super().begin(context)

    def write(self, features: Features) -> None:
        self.counts.append(len(features))
        super().write(features)


def test_objects_reach_the_sink_row_by_row_and_never_all_at_once(tmp_path: Path) -> None:
    boxes = [(x, y, 5, 5) for x in range(10, 600, 30) for y in range(10, 600, 30)]
    slide = scene(640, 640, boxes)
    sink = Counting(tmp_path / "o.geojson")
    run(slide, BlobPredictor(), sink, mask=TissueMask.whole(slide), supertile=10_000)
    assert sum(sink.counts) == len(boxes)
    assert max(sink.counts) <= len(boxes) / 5


def test_predictions_are_checked_for_points_too() -> None:
    class Nan(PointPredictor):
        def predict(self, batch: Batch) -> list[Points]:
            return [Points(r, np.full((1, 2), np.nan), np.zeros(1, np.int64), np.ones(1)) for r in batch.regions]

    slide: Slide = scene(100, 100, [])
    with pytest.raises(PredictionError, match="xy must be finite"):
        run(slide, Nan(), mask=TissueMask.whole(slide))


class Striding(BlobPredictor):
    @property
    def tile(self) -> TileSpec:
        return replace(super().tile, stride=self.core // 2)


def test_cores_that_overlap_are_refused() -> None:
    slide = scene(128, 128, [])
    with pytest.raises(PredictionError, match="32 px apart with cores of 64") as caught:
        run(slide, Striding(), mask=TissueMask.whole(slide))
    assert caught.value.code == "bad_predictions"
