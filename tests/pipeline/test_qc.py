"""Quality control in a run: what is recorded, what is left out, and that it is the same however a slide is read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image
from scipy import ndimage

from tests.planted import BlobPredictor, InkEncoder, RampPredictor
from tests.test_artefacts import BENCH
from wsikit.config import RunConfig
from wsikit.errors import ConfigError
from wsikit.pipeline.batch import run_many
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.run import RunReport, run
from wsikit.pipeline.state import describe
from wsikit.predictors import load_predictor
from wsikit.quality import Quality, QualityFilter
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.slides import Pixels, Slide, open_slide
from wsikit.slides.array import array_slide
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

QC = QualityFilter.parse("pen<=0.1,sharpness>=7")
SIDE = 640
CORE = 64


@pytest.fixture(scope="module")
def planted(cmu: Path) -> Pixels:
    """640 px of tissue: the upper left quarter out of focus, a green stroke of 100 um down the right."""
    with open_slide(cmu) as slide:
        pixels = slide.reader.read(0, 800, 2250, SIDE, SIDE).copy()
    quarter = SIDE // 2
    pixels[:quarter, :quarter] = ndimage.gaussian_filter(pixels[:quarter, :quarter], (5, 5, 0))
    strength = np.zeros(pixels.shape[:2])
    strength[:, 440:] = 1.0
    return BENCH.inked(pixels, strength, "green")


@pytest.fixture(scope="module")
def path(planted: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("qc") / "planted.png"
    Image.fromarray(planted).save(file)
    return file


def opened(path: Path) -> Slide:
    return open_slide(path, 0.5)


def dropped_cores(slide: Slide, spec: Any) -> Any:
    """The union of the cores that fail, each read and measured by itself; lattice pixels."""
    grid = TileGrid.cover(slide, spec)
    cores = [c for i in range(len(grid)) if (c := grid.core(i).intersection(slide.plane(spec.mpp))) is not None]
    bad = [c for c in cores if not QC.passes(Quality.of([slide.read(c)], spec.mpp))[0]]
    assert 0 < len(bad) < len(cores)
    return shapely.union_all([shapely.box(c.x, c.y, c.x1, c.y1) for c in bad])


def objects_of(path: Path, out: Path, predictor: Any, **options: Any) -> tuple[bytes, RunReport]:
    sink = GeoJSONSink(out / "objects.geojson.gz")
    with opened(path) as slide:
        report = run(slide, predictor, sink, mask=TissueMask.whole(slide), **options)
    return gzip.decompress(sink.path.read_bytes()), report


def same(report: RunReport) -> Any:
    return report.patches, report.quality.summary()


@pytest.mark.parametrize("phase", [(0, 0), (13, -9)])
def test_what_is_kept_is_the_same_however_the_slide_is_read(path: Path, tmp_path: Path, phase: tuple[int, int]) -> None:
    predictor = BlobPredictor(phase=phase)
    first, report = objects_of(path, tmp_path, predictor, qc=QC, supertile=4096)
    assert 0 < report.patches < len(report.quality)
    for options in ({"supertile": 64}, {"supertile": 200, "batch_size": 1}, {"supertile": 128, "workers": 2}):
        again, other = objects_of(path, tmp_path, predictor, qc=QC, **options)
        assert again == first
        assert same(other) == same(report)


def test_threads_keep_the_same(path: Path, tmp_path: Path) -> None:
    first, report = objects_of(path, tmp_path, BlobPredictor(), qc=QC)
    again, other = objects_of(path, tmp_path, BlobPredictor(), qc=QC, supertile=320, workers=2)
    assert again == first
    assert same(other) == same(report)


def test_objects_of_dropped_cores_vanish_and_the_others_stay(path: Path, tmp_path: Path) -> None:
    def centroids(text: bytes) -> set[tuple[float, float]]:
        shapes = [shapely.geometry.shape(f["geometry"]) for f in json.loads(text)["features"]]
        return {(round(s.centroid.x, 3), round(s.centroid.y, 3)) for s in shapes}

    predictor = load_predictor("nuclei-classical")
    everything, report = objects_of(path, tmp_path, predictor)
    kept, filtered = objects_of(path, tmp_path, predictor, qc=QC)
    assert report.patches == len(report.quality)
    assert filtered.patches == 0  # one window of 1024 px holds ink and blur
    assert centroids(kept) == set()
    small = BlobPredictor()
    everything, _ = objects_of(path, tmp_path, small)
    kept, _ = objects_of(path, tmp_path, small, qc=QC)
    with opened(path) as slide:
        gone = dropped_cores(slide, small.tile)
    left = {xy for xy in centroids(everything) if not gone.contains(shapely.Point(xy))}
    assert 0 < len(left) < len(centroids(everything))
    # outlines are simplified and centroids of pixels are not: at the very border of a core they may disagree
    border = {xy for xy in centroids(kept) ^ left if gone.boundary.distance(shapely.Point(xy)) > 2}
    assert not border


def test_a_map_is_empty_in_dropped_cores_and_whole_windows_blend_as_if_alone(path: Path, tmp_path: Path) -> None:
    import zarr

    predictor = RampPredictor(core=CORE, halo=16)
    layers = []
    for supertile in (4096, 64):
        sink = OmeZarrSink(tmp_path / f"{supertile}.ome.zarr")
        with opened(path) as slide:
            report = run(slide, predictor, sink, mask=TissueMask.whole(slide), qc=QC, supertile=supertile)
        layers.append(zarr.open_group(sink.path, mode="r")["labels/classes/0"][:])  # type: ignore[index]
    assert np.array_equal(*layers)
    with opened(path) as slide:
        gone = dropped_cores(slide, predictor.tile)
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    assert np.array_equal(layers[0] == 0, shapely.contains_xy(gone, x, y))
    assert report.patches * CORE**2 == (layers[0] > 0).sum()


def test_an_encoders_bag_is_without_the_dropped_patches(path: Path, tmp_path: Path) -> None:
    predictor = InkEncoder(core=CORE)
    with opened(path) as slide:
        gone = dropped_cores(slide, predictor.tile)
        report = run(slide, predictor, mask=TissueMask.whole(slide), qc=QC, supertile=128)
    assert report.merged.features is not None
    assert report.merged.features[0] == report.patches == round((SIDE**2 - gone.area) / CORE**2)


def test_the_record_says_how_good_the_patches_were_with_and_without_a_filter(path: Path, tmp_path: Path) -> None:
    predictor = BlobPredictor()
    with opened(path) as slide:
        _, free = objects_of(path, tmp_path, predictor)
        _, strict = objects_of(path, tmp_path, predictor, qc=QC)
        records = [describe(slide, predictor, report)["quality"] for report in (free, strict)]
    assert [r["filter"] for r in records] == ["", "pen<=0.1,sharpness>=7"]
    assert records[0]["patches"] == records[1]["patches"] == (SIDE // CORE) ** 2
    assert (records[0]["dropped"], strict.patches) == (0, records[1]["patches"] - records[1]["dropped"])
    assert records[0]["flags"] == records[1]["flags"]
    assert records[0]["measures"] == records[1]["measures"]
    # a quarter is blurred, and 200 of 640 columns are inked: 3 or 4 of 10 windows a row
    assert 24 <= records[0]["flags"]["blur"] <= 28
    assert 30 <= records[0]["flags"]["pen"] <= 40
    for values in records[0]["measures"].values():
        assert values == sorted(values)
        assert len(values) == 5
    json.dumps(records)


CONFIG = RunConfig(model="nuclei-classical", mpp_override=0.5, num_workers=1, cluster="threads", format=("geojson.gz",))


def test_a_slide_without_a_good_patch_ends_complete_and_says_why(path: Path, tmp_path: Path) -> None:
    (record,) = run_many([SlideEntry("a", path)], tmp_path, replace_qc("sharpness>=99"))
    assert record["status"] == "complete"
    assert (record["patches"], record["objects"]) == (0, 0)
    assert record["quality"]["dropped"] == record["quality"]["patches"] == 1
    assert "none of its 1 patches passes the quality filter sharpness>=99" in record["message"]
    assert "--qc" in record["remedy"]
    assert gzip.decompress((tmp_path / "a" / "objects.geojson.gz").read_bytes())


def replace_qc(qc: str | None) -> RunConfig:
    return CONFIG.model_copy(update={"qc": qc})


def test_another_filter_is_another_result_and_the_same_is_kept(path: Path, tmp_path: Path) -> None:
    entries = [SlideEntry("a", path)]
    first, again, other = (run_many(entries, tmp_path, replace_qc(qc))[0] for qc in (None, None, "pen<=0.9"))
    assert first["finished"] == again["finished"]
    assert other["key"] != first["key"]
    assert other["objects"] == first["objects"] > 0


def test_a_filter_that_is_none_stops_the_run_before_anything_is_written(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no quality measure 'ink'"):
        run_many([SlideEntry("a", path)], tmp_path / "out", replace_qc("ink<=0.1"))
    assert not (tmp_path / "out").exists()


def test_a_slide_without_tissue_has_a_record_of_no_patches(tmp_path: Path) -> None:
    slide = array_slide(np.full((200, 200, 3), 240, np.uint8), 0.5)
    predictor = BlobPredictor()
    nowhere = TissueMask(np.zeros((100, 100), np.bool_), 1.0)
    record = describe(slide, predictor, run(slide, predictor, mask=nowhere, qc=QC))
    assert (record["quality"]["patches"], record["quality"]["dropped"], record["message"]) == (0, 0, "")
