"""Models that embed patches and score bags, from slide to table, tiles and heat map."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import zarr

from tests.planted import BlobPredictor, InkBag, InkEncoder, scene
from wsikit.errors import ConfigError, PredictionError
from wsikit.features import Instances
from wsikit.pipeline.run import run
from wsikit.predictions import Bag, BagScore, Batch, Encoder
from wsikit.sinks import SinkContext
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.slides import Slide
from wsikit.tissue import TissueMask

BOXES = [(64, 0, 64, 64), (192, 128, 32, 64)]
"""One whole patch of ink, and half of one."""


@dataclass
class Table:
    """A sink that keeps what it gets."""

    path: Path = Path("table")
    parts: list[Instances] = field(default_factory=list)
    context: SinkContext | None = None

    takes: ClassVar[str] = "instances"
    filename: ClassVar[str] = "table"

    def begin(self, context: SinkContext) -> None:
        self.context = context

    def write(self, instances: Instances) -> None:
        self.parts.append(instances)

    def commit(self) -> None:
        self.path.write_bytes(b"")

    def abort(self) -> None:
        self.parts.clear()


def embedded(slide: Slide, tmp_path: Path, **options: Any) -> tuple[Table, np.ndarray[Any, Any]]:
    table = Table(tmp_path / "table")
    run(slide, InkEncoder(), table, mask=TissueMask.whole(slide), **options)
    corners = np.concatenate([part.corners for part in table.parts])
    features = np.concatenate([part.features for part in table.parts])
    return table, np.hstack([corners, features])


def test_the_table_is_in_reading_order_and_vectors_stand_beside_their_patches(tmp_path: Path) -> None:
    table, rows = embedded(scene(300, 200, BOXES), tmp_path)
    assert table.context is not None
    assert table.context.instances is not None
    assert (table.context.instances.count, table.context.instances.width, table.context.instances.patch) == (20, 3, 64)
    assert rows[:, :2].tolist() == [[x, y] for y in range(0, 200, 64) for x in range(0, 300, 64)]
    assert np.array_equal(rows[:, :2], rows[:, 3:])
    assert rows[1, 2] == 40


@pytest.mark.parametrize("options", [{"supertile": 64}, {"supertile": 128, "batch_size": 1}, {"supertile": 100}])
def test_the_table_does_not_depend_on_how_the_slide_is_read(tmp_path: Path, options: dict[str, int]) -> None:
    slide = scene(300, 200, BOXES)
    assert np.array_equal(embedded(slide, tmp_path)[1], embedded(slide, tmp_path, **options)[1])


@pytest.mark.parametrize("supertile", [64, 4096])
def test_patches_that_cannot_be_read_are_left_out(tmp_path: Path, supertile: int) -> None:
    slide = scene(256, 128, [], tile=(64, 64), bad=[(0, 1, 0)])
    _, rows = embedded(slide, tmp_path, supertile=supertile)
    assert [64, 0] not in rows[:, :2].tolist()
    assert len(rows) == 7


def scored(slide: Slide, tmp_path: Path) -> tuple[list[dict[str, Any]], Any]:
    geojson, masks = GeoJSONSink(tmp_path / "o.geojson.gz"), OmeZarrSink(tmp_path / "m.ome.zarr")
    run(slide, InkBag(), geojson, masks, mask=TissueMask.whole(slide))
    features = json.loads(gzip.decompress(geojson.path.read_bytes()))["features"]
    return features, zarr.open_group(masks.path, mode="r")


def test_attention_comes_back_as_tiles_on_the_right_pixels(tmp_path: Path) -> None:
    tiles, _ = scored(scene(256, 192, BOXES), tmp_path)
    found = {}
    for tile in tiles:
        assert tile["properties"]["objectType"] == "tile"
        found[tuple(np.min(tile["geometry"]["coordinates"][0], axis=0))] = tile["properties"]
    assert len(found) == 12
    whole, half = found[(64, 0)], found[(192, 128)]
    assert whole["classification"]["name"] == "Ink"
    assert whole["measurements"] == {"Attention": 1, "Ink score": 1, "Paper score": 0}
    assert half["measurements"]["Attention"] == pytest.approx(0.5)
    assert sum(p["measurements"]["Attention"] for p in found.values()) == pytest.approx(1.5)


def test_the_heat_map_has_a_pixel_per_patch_where_the_patch_is(tmp_path: Path) -> None:
    _, group = scored(scene(256, 192, BOXES), tmp_path)
    classes = group["labels/classes/0"][:]
    assert classes.tolist() == [[2, 1, 2, 2], [2, 2, 2, 2], [2, 2, 2, 1]]
    scores = group["scores/0"][:]
    assert scores.shape == (3, 3, 4)
    assert scores[1, 0, 1] == 255
    assert scores[0].argmax() == 1, "the most attended patch has the highest rank"
    (multiscale,) = group["scores"].attrs["multiscales"]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [1, 32.0, 32.0]


def test_a_slide_without_tissue_has_no_score_and_no_instances(tmp_path: Path) -> None:
    slide = scene(256, 192, [])
    mask = TissueMask(np.zeros((192, 256), bool), 0.5)
    report = run(slide, InkBag(), GeoJSONSink(tmp_path / "o.geojson.gz"), OmeZarrSink(tmp_path / "m.zarr"), mask=mask)
    assert report.merged.features == (0, 3), "the length of a vector is known without one"
    assert report.merged.scores == {}


def test_a_sink_that_would_stay_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="GeoJSONSink takes features"):
        run(scene(64, 64, []), InkEncoder(), GeoJSONSink(tmp_path / "o.geojson.gz"))


class TooWide(InkEncoder):
    def embed(self, batch: Batch) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.zeros((len(batch), 4), np.float32)


class Nan(InkEncoder):
    def embed(self, batch: Batch) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.full((len(batch), 3), np.nan, np.float32)


@pytest.mark.parametrize(("encoder", "message"), [(TooWide(), r"\(1, 4\).*promised"), (Nan(), "NaN")])
def test_an_encoder_is_held_to_its_contract(tmp_path: Path, encoder: InkEncoder, message: str) -> None:
    slide = scene(64, 64, [])
    with pytest.raises(PredictionError, match=message):
        run(slide, encoder, Table(tmp_path / "t"), mask=TissueMask.whole(slide))


class Raising(InkBag):
    def score(self, bag: Bag) -> BagScore:
        raise ValueError("no head")


class Silent(InkBag):
    def score(self, bag: Bag) -> BagScore:
        return None  # type: ignore[return-value]


class Backwards(InkBag):
    def score(self, bag: Bag) -> BagScore:
        score = super().score(bag)
        assert score.attention is not None
        return BagScore(score.regions[::-1], score.scores, score.attention[::-1])


class Short(InkBag):
    def score(self, bag: Bag) -> BagScore:
        score = super().score(bag)
        assert score.attention is not None
        return BagScore(score.regions[:1], score.scores, score.attention[:1])


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        (Raising(), "predictor_error", "'planted' raised ValueError: no head"),
        (Silent(), "bad_predictions", "gave a NoneType"),
        (Backwards(), "bad_predictions", "regions are not the bag's"),
        (Short(), "bad_predictions", "regions are not the bag's"),
        (InkBag(phase=(32, 32)), "bad_predictions", "phase"),
    ],
)
def test_a_model_of_bags_is_held_to_its_contract(tmp_path: Path, model: InkBag, code: str, message: str) -> None:
    slide = scene(128, 128, BOXES)
    with pytest.raises(PredictionError, match=message) as caught:
        run(slide, model, Table(tmp_path / "t"), mask=TissueMask.whole(slide), overview=tmp_path / "o.png")
    assert caught.value.code == code


class OnlyTheSlide(InkBag):
    def score(self, bag: Bag) -> BagScore:
        return BagScore(bag.regions, super().score(bag).scores)


def test_a_model_that_says_nothing_of_patches_gives_no_scores_of_them(tmp_path: Path) -> None:
    slide, masks = scene(128, 128, BOXES), OmeZarrSink(tmp_path / "m.ome.zarr")
    report = run(slide, OnlyTheSlide(), masks, mask=TissueMask.whole(slide))
    assert report.merged.scores["Ink"] == pytest.approx(0.25)
    assert list(zarr.open_group(masks.path, mode="r")) == ["0"]


class FindsWithFeatures(BlobPredictor):
    """Finds objects, and has what an encoder has besides."""

    width: ClassVar[int] = 3

    def embed(self, batch: Batch) -> np.ndarray[Any, np.dtype[np.float32]]:
        raise AssertionError("nobody asked for features")


def test_what_predicts_is_a_predictor_whatever_else_it_has(tmp_path: Path) -> None:
    model, slide = FindsWithFeatures(), scene(128, 128, [(20, 20, 10, 10)])
    assert isinstance(model, Encoder)
    report = run(slide, model, GeoJSONSink(tmp_path / "o.geojson.gz"), mask=TissueMask.whole(slide))
    assert report.merged.objects == 1
