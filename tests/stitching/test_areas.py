"""Class maps as areas, through whole runs: planted maps, an oracle, and what is written of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import shapely
import tifffile
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from shapely.geometry import shape

from tests.planted import BlobPredictor, RampPredictor
from tests.planted_areas import LABELS, Oracle, painted, planted_classes
from wsikit.errors import ConfigError, PredictionError
from wsikit.geometry import Region
from wsikit.outlines import pixels
from wsikit.pipeline.run import RunReport, plan_run, run
from wsikit.pipeline.state import model_card
from wsikit.pipeline.supertile import Job, predict_supertiles
from wsikit.predictions import AreaSpec, Label
from wsikit.predictors import load_predictor
from wsikit.quality import ANY_QUALITY
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.slides import Slide, open_slide
from wsikit.slides.array import array_slide
from wsikit.stitching.areas import AREA_ERROR, AreaMerge, simplified
from wsikit.stitching.maps import MapMerge
from wsikit.tissue import TissueMask

MPP = 0.5
NAMES = [label.name for label in LABELS]


@dataclass(frozen=True, eq=False)
class Written:
    """What a run left."""

    features: list[dict[str, Any]]
    """Areas only."""
    text: bytes
    classes: NDArray[np.uint8]
    report: RunReport

    @property
    def polygons(self) -> NDArray[np.object_]:
        return np.array([shape(feature["geometry"]) for feature in self.features], object)

    @property
    def labels(self) -> NDArray[np.int64]:
        names = [feature["properties"]["classification"]["name"] for feature in self.features]
        return np.array([NAMES.index(name) for name in names], np.int64)

    def measured(self, name: str) -> NDArray[np.float64]:
        return np.array([feature["properties"]["measurements"][name] for feature in self.features])


def write(slide: Slide, predictor: Any, out: Path, *, block: int = 2048, chunk: int = 64, **options: Any) -> Written:
    vectors, masks = GeoJSONSink(out / "areas.geojson"), OmeZarrSink(out / "masks.ome.zarr", block=block, chunk=chunk)
    options.setdefault("mask", TissueMask.whole(slide))
    report = run(slide, predictor, vectors, masks, slide_id="planted", **options)
    text = vectors.path.read_bytes()
    features = [f for f in json.loads(text)["features"] if "classification" in f["properties"]]
    return Written(features, text, zarr.open_group(masks.path, mode="r")["labels/classes/0"][:], report)  # type: ignore


def painted_back(written: Written, width: int, height: int, mpp: float = MPP) -> NDArray[np.uint8]:
    """(height, width) label + 1 of the polygon that holds the centre of each pixel of ``mpp``, 0 for none."""
    found = np.zeros((height, width), np.uint8)
    scale = MPP / mpp
    shapes = shapely.transform(written.polygons, lambda xy: xy * scale)
    rows, columns, owner = pixels(shapes, Region(0, 0, width, height, mpp))
    found[rows, columns] = written.labels[owner] + 1
    return found


def mean_iou(one: NDArray[np.integer[Any]], two: NDArray[np.integer[Any]]) -> float:
    kinds = [value for value in np.unique(two) if value]
    return float(np.mean([((one == k) & (two == k)).sum() / ((one == k) | (two == k)).sum() for k in kinds]))


PREDICTOR = Oracle(core=64, halo=32)


@pytest.fixture(scope="module")
def planted() -> NDArray[np.uint8]:
    classes = planted_classes(500, 420, grain=40, seed=3)
    classes[100:180, 300:390] = 3
    return classes


@pytest.fixture(scope="module")
def written(planted: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(array_slide(painted(planted), MPP), PREDICTOR, tmp_path_factory.mktemp("areas"))


def test_there_is_a_feature_for_each_connected_area_of_the_mask_but_background(written: Written) -> None:
    counts = [ndimage.label(written.classes == k + 1)[1] for k in range(4)]
    assert np.bincount(written.labels, minlength=4).tolist() == [*counts[:3], 0]
    assert counts[3] > 0
    properties = written.features[0]["properties"]
    label = LABELS[written.labels[0]]
    assert properties["objectType"] == "annotation"
    assert properties["classification"] == {"name": label.name, "color": list(label.color)}


def test_measured_areas_are_those_of_the_pixels(written: Written) -> None:
    measured = np.bincount(written.labels, written.measured("Area mm^2"), minlength=4)
    counted = np.bincount(written.classes.ravel(), minlength=5)[1:] * MPP**2 / 1e6
    assert measured[:3] == pytest.approx(counted[:3])
    assert list(written.report.merged.class_map.areas_mm2.values()) == pytest.approx(counted)  # type: ignore[union-attr]


def test_polygons_of_a_class_have_the_area_of_its_pixels_within_a_hundredth(written: Written) -> None:
    drawn = np.bincount(written.labels, shapely.area(written.polygons))
    counted = np.bincount(written.classes.ravel(), minlength=5)[1:4]
    assert drawn == pytest.approx(counted, rel=AREA_ERROR)


def test_polygons_say_what_the_mask_says(written: Written) -> None:
    mask = np.where(written.classes == 4, 0, written.classes)
    assert mean_iou(painted_back(written, 500, 420), mask) > 0.985


def test_classes_that_touch_share_their_edges(written: Written) -> None:
    polygons = written.polygons
    assert shapely.is_valid(polygons).all()
    assert shapely.coverage_is_valid(polygons)
    # nothing lies between them: together they are the slide less the background
    rest = 500 * 420 - (written.classes == 4).sum()
    assert shapely.union_all(polygons).area == pytest.approx(rest, rel=0.001)


def test_polygons_have_far_fewer_corners_than_the_pixels_edges(written: Written) -> None:
    steps = [(np.diff(written.classes == k + 1, axis=axis) != 0).sum() for k in range(3) for axis in (0, 1)]
    assert shapely.get_num_coordinates(written.polygons).sum() < 0.5 * sum(steps)


def test_the_mean_score_is_of_the_areas_class(planted: NDArray[np.uint8], tmp_path: Path) -> None:
    found = write(array_slide(painted(planted), MPP), replace(PREDICTOR, halo=0, sure=0.8), tmp_path)
    assert found.measured("Mean score") == pytest.approx(0.8)


CLEANING = replace(PREDICTOR, areas=AreaSpec(least_um2=60.0))


@pytest.fixture(scope="module")
def cleaned(planted: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(array_slide(painted(planted), MPP), CLEANING, tmp_path_factory.mktemp("cleaned"))


@pytest.mark.parametrize(("block", "supertile", "workers"), [(64, 192, 1), (192, 300, 2)])
def test_the_bytes_do_not_depend_on_blocks_supertiles_and_workers(
    planted: NDArray[np.uint8], cleaned: Written, tmp_path: Path, block: int, supertile: int, workers: int
) -> None:
    options = {"block": block, "supertile": supertile, "workers": workers}
    other = write(array_slide(painted(planted), MPP), CLEANING, tmp_path, **options)
    assert other.text == cleaned.text
    assert np.array_equal(other.classes, cleaned.classes)


@pytest.mark.parametrize("box", [(0, 0, 500, 420), (130, 70, 33, 200), (-20, 400, 100, 60)])
def test_the_cleaned_classes_of_any_region_are_those_of_the_mask(
    planted: NDArray[np.uint8], cleaned: Written, tmp_path: Path, box: tuple[int, int, int, int]
) -> None:
    slide = array_slide(painted(planted), MPP)
    mask = TissueMask.whole(slide)
    plan = plan_run(slide, CLEANING, mask)
    job = Job(slide, plan.model, tmp_path, None, ANY_QUALITY)
    assert all(result.readable for result in predict_supertiles(job, enumerate(plan.grid.supertiles())))
    region = Region(*box, plan.grid.spec.mpp)
    found = AreaMerge(MapMerge(tmp_path, plan.grid, 4, mask, []), LABELS, CLEANING.areas, 128).classes(region)
    x, y, width, height = box
    around = np.pad(cleaned.classes, 100)
    assert np.array_equal(found, around[y + 100 : y + 100 + height, x + 100 : x + 100 + width])


def specked(background: int) -> NDArray[np.uint8]:
    """Tumour, with a speck of stroma of 6 x 6 px (9 um^2), one of 12 x 12 px, and a field of ``background``."""
    classes = np.zeros((200, 240), np.uint8)
    classes[40:46, 40:46] = 1
    classes[40:52, 100:112] = 1
    classes[:, 180:] = background
    classes[100:106, 200:206] = 1
    return classes


@pytest.mark.parametrize("mpp", [0.5, 1.0])
def test_sizes_are_in_um_whatever_the_resolution(tmp_path: Path, mpp: float) -> None:
    slide = array_slide(painted(specked(2)), MPP)
    found = write(slide, Oracle(mpp, core=64, halo=0, areas=AreaSpec(least_um2=10.0)), tmp_path)
    assert np.bincount(found.labels, minlength=4).tolist() == [1, 1, 1, 0]
    assert found.measured("Area mm^2")[found.labels == 1] == pytest.approx(36e-6)


def test_specks_in_background_stay(tmp_path: Path) -> None:
    slide = array_slide(painted(specked(3)), MPP)
    found = write(slide, Oracle(core=64, halo=0, areas=AreaSpec(least_um2=10.0)), tmp_path)
    assert np.bincount(found.labels, minlength=4).tolist() == [1, 2, 0, 0]


def test_the_map_is_left_as_it_is_where_nothing_is_too_small(tmp_path: Path) -> None:
    classes = specked(3)
    found = write(array_slide(painted(classes), MPP), Oracle(core=64, halo=0), tmp_path)
    assert np.array_equal(found.classes, classes + 1)


def test_what_was_not_analysed_is_no_class_and_no_polygon(tmp_path: Path) -> None:
    slide = array_slide(painted(specked(2)), MPP)
    tissue = np.ones((100, 120), np.bool_)
    tissue[50, 50] = tissue[:10] = False
    mask = TissueMask(tissue, 1.0)
    found = write(slide, Oracle(core=64, halo=0, areas=AreaSpec(least_um2=1000.0)), tmp_path, mask=mask)
    on = mask.sample(Region(0, 0, 240, 200, MPP))
    assert np.array_equal(found.classes > 0, on)
    assert not painted_back(found, 240, 200)[~on].any()


def test_a_slide_without_tissue_has_no_areas(tmp_path: Path) -> None:
    slide = array_slide(painted(specked(2)), MPP)
    found = write(slide, PREDICTOR, tmp_path, mask=TissueMask(np.zeros((10, 12), np.bool_), 10.0))
    assert found.features == []
    assert found.report.merged.class_map is None


def test_predictors_that_say_nothing_of_areas_have_none(tmp_path: Path) -> None:
    found = write(array_slide(painted(specked(2)), MPP), RampPredictor(core=64, halo=8), tmp_path)
    assert [f["properties"]["name"] for f in json.loads(found.text)["features"]] == ["Tissue"]
    assert (found.classes > 0).all()


def test_settings_of_areas_are_part_of_the_resume_key() -> None:
    cards = [model_card(Oracle(areas=spec)) for spec in (None, AreaSpec(1.0), AreaSpec(2.0))]
    assert "areas" not in cards[0]
    assert cards[1]["areas"] != cards[2]["areas"]


@pytest.mark.parametrize("size", [-1.0, float("nan"), float("inf"), "5", True, None])
def test_sizes_that_are_none_are_refused(size: Any) -> None:
    with pytest.raises(ConfigError, match="least_um2"):
        AreaSpec(least_um2=size)


@dataclass(frozen=True)
class OutlinedBlobs(BlobPredictor):
    areas: ClassVar[AreaSpec] = AreaSpec()


@pytest.mark.parametrize(
    ("predictor", "message"),
    [(OutlinedBlobs(), "go with ScoreMap"), (Oracle(areas={"least_um2": 5.0}), "AreaSpec is needed")],  # type: ignore
)
def test_areas_that_do_not_fit_the_predictor_are_refused(predictor: Any, message: str, tmp_path: Path) -> None:
    slide = array_slide(painted(specked(2)), MPP)
    with pytest.raises(PredictionError, match=message):
        run(slide, predictor, GeoJSONSink(tmp_path / "a.geojson"), mask=TissueMask.whole(slide))


def test_a_file_whose_areas_are_none_is_refused_before_any_slide(tmp_path: Path) -> None:
    text = (
        "from wsikit.predictions import Label, ScoreMap, Stateless\nfrom wsikit.geometry import TileSpec\n"
        "class P(Stateless):\n    name, produces, areas = 'p', ScoreMap, 5.0\n    tile = TileSpec(0.5, 64)\n"
        "    labels = (Label('A', (1, 2, 3)),)\n    def predict(self, batch): ...\n"
    )
    (tmp_path / "p.py").write_text(text)
    with pytest.raises(Exception, match="areas must be a"):
        load_predictor(f"{tmp_path / 'p.py'}:P")


def test_small_areas_are_simplified_less_where_their_class_would_shrink() -> None:
    squares = np.array([shapely.box(x, 0, x + 1, 1) for x in range(0, 40, 2)], object)
    polygons = simplified(squares, np.zeros(20, np.int64), np.ones(20, np.int64))
    assert shapely.area(polygons).sum() == pytest.approx(20, rel=AREA_ERROR)


# ratios


@pytest.mark.parametrize(
    ("kinds", "ratio"), [([0, 0, 0, 1], 3.0), ([1, 1, 2, 2], 0.0), ([0, 2, 2, 2], None), ([3, 3, 3, 3], None)]
)
def test_the_ratio_is_of_tumour_to_stroma(kinds: list[int], ratio: float | None, tmp_path: Path) -> None:
    classes = np.repeat(np.array(kinds, np.uint8), 50)[None].repeat(60, axis=0)
    facts = write(array_slide(painted(classes), MPP), Oracle(core=64, halo=0), tmp_path).report.merged.class_map
    assert facts is not None
    assert facts.tumor_stroma_ratio == (None if ratio is None else pytest.approx(ratio))


def test_models_without_tumour_or_stroma_have_no_ratio(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Others(Oracle):
        labels: ClassVar[tuple[Label, ...]] = tuple(replace(label, name=f"My {label.name}") for label in LABELS)

    slide = array_slide(painted(specked(1)), MPP)
    facts = run(slide, Others(areas=None), mask=TissueMask.whole(slide)).merged.class_map
    assert facts is not None
    assert facts.tumor_stroma_ratio is None


# from a slide on disk, and back


def pyramidal(path: Path, picture: NDArray[np.uint8]) -> Path:
    """A tiled JPEG TIFF of three levels."""
    height, width = picture.shape[:2]
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "compressionargs": {"level": 90}}
    with tifffile.TiffWriter(path) as writer:
        for d in (1, 4, 16):
            level = picture.reshape(height // d, d, width // d, d, 3).mean(axis=(1, 3)).astype(np.uint8)
            resolution = {"resolution": (1e4 / (MPP * d),) * 2, "resolutionunit": "CENTIMETER"}
            writer.write(level, subfiletype=int(d > 1), metadata=None, **options, **resolution)
    return path


@pytest.mark.parametrize(
    ("width", "height", "mpp"),
    [(3072, 2048, 1.0), pytest.param(8192, 6144, 1.0, marks=pytest.mark.slow)],
)
def test_a_planted_map_comes_back_from_the_geojson_of_a_pyramidal_slide(
    tmp_path: Path, width: int, height: int, mpp: float
) -> None:
    planted = planted_classes(width, height, grain=160)
    with open_slide(pyramidal(tmp_path / "planted.tif", painted(planted))) as slide:
        predictor = Oracle(mpp, core=112, halo=56, areas=AreaSpec(least_um2=100.0))
        found = write(slide, predictor, tmp_path, chunk=512)
    assert mean_iou(painted_back(found, width, height), planted + 1) >= 0.95
