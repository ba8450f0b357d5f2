"""What every registered predictor must keep, whatever it predicts."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from wsikit.geometry import TileSpec
from wsikit.predictions import Batch, Label, Objects, Points, Prediction, Predictor, ScoreMap
from wsikit.predictors import PREDICTORS, load_predictor
from wsikit.slides import Slide, open_slide
from wsikit.slides.array import array_slide
from wsikit.streaming import batches
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"


@pytest.fixture(params=[*PREDICTORS, "predictor.py"])
def name(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What -m takes: every name, and CONTRIBUTING's predictor in a file of its own."""
    if request.param in PREDICTORS:
        return str(request.param)
    (code,) = re.findall(r"^```python\n(# predictor\.py\n.*?)^```", CONTRIBUTING.read_text("utf-8"), re.M | re.S)
    path = tmp_path_factory.mktemp("plugin") / "predictor.py"
    path.write_text(code, encoding="utf-8")
    return f"{path}:DarkArea"


@pytest.fixture
def field(cmu: Path) -> Slide:
    """700 x 600 px of tissue at 0.5 um per px."""
    with open_slide(cmu) as slide:
        return array_slide(slide.reader.read(0, 700, 1500, 700, 600), 0.5)


def bound(name: str, slide: Slide) -> Predictor:
    return load_predictor(name).prepare(slide, TissueMask.whole(slide))


def arrays(prediction: Prediction) -> list[np.ndarray]:  # type: ignore[type-arg]
    """Everything that a prediction says."""
    if isinstance(prediction, ScoreMap):
        return [prediction.scores]
    assert isinstance(prediction, Objects | Points)
    shapes = [prediction.outlines] if isinstance(prediction, Objects) else [prediction.xy]
    return [*shapes, prediction.labels, prediction.scores, *prediction.measurements.values()]


def same(one: Prediction, two: Prediction) -> bool:
    return type(one) is type(two) and all(
        np.array_equal(a, b) if a.dtype == object else np.array_equal(a, b, equal_nan=True)
        for a, b in zip(arrays(one), arrays(two), strict=True)
    )


def test_it_meets_the_protocol_and_describes_itself(name: str) -> None:
    predictor = load_predictor(name)
    assert isinstance(predictor, Predictor)
    assert predictor.name == name or name not in PREDICTORS
    assert isinstance(predictor.tile, TileSpec)
    assert all(isinstance(label, Label) for label in predictor.labels)
    assert len({label.name for label in predictor.labels}) == len(predictor.labels) > 0
    if name in PREDICTORS:
        assert "\n" not in PREDICTORS.load(name).description


def test_preparing_binds_a_copy_whose_facts_are_json(name: str, field: Slide) -> None:
    predictor = load_predictor(name)
    ready = predictor.prepare(field, TissueMask.whole(field))
    assert predictor.bound == {}
    assert dict(ready.bound) == json.loads(json.dumps(dict(ready.bound)))


def test_preparing_twice_binds_the_same(name: str, field: Slide) -> None:
    assert bound(name, field) == bound(name, field)


def test_it_pickles_before_and_after_preparing(name: str, field: Slide) -> None:
    for predictor in (load_predictor(name), bound(name, field)):
        assert pickle.loads(pickle.dumps(predictor)) == predictor


def test_predictions_hold_their_contract(name: str, field: Slide) -> None:
    predictor = bound(name, field)
    batch = next(batches(field, TileGrid.cover(field, predictor.tile)))
    for prediction, region in zip(predictor.predict(batch), batch.regions, strict=True):
        assert isinstance(prediction, predictor.produces)
        assert prediction.region == region
        prediction.check(len(predictor.labels))
        assert any(values.size for values in arrays(prediction))


def test_a_patch_gets_the_same_answer_whatever_else_is_in_the_batch(name: str, field: Slide) -> None:
    predictor = bound(name, field)
    batch = next(batches(field, TileGrid.cover(field, predictor.tile)))
    blank = np.full_like(batch.images[0], 245)
    mixed = Batch(np.stack([blank, batch.images[0], blank]), (batch.regions[0],) * 3)
    alone = predictor.predict(Batch(batch.images[:1], batch.regions[:1]))
    assert same(predictor.predict(mixed)[1], alone[0])


def test_it_leaves_its_input_as_it_was(name: str, field: Slide) -> None:
    predictor = bound(name, field)
    batch = next(batches(field, TileGrid.cover(field, predictor.tile)))
    before = batch.images.copy()
    predictor.predict(batch)
    assert np.array_equal(batch.images, before)


def test_glass_has_no_objects(name: str) -> None:
    noise = np.random.default_rng(0).integers(240, 247, (200, 200, 3)).astype(np.uint8)
    slide = array_slide(noise, 0.5)
    predictor = bound(name, slide)
    batch = next(batches(slide, TileGrid.cover(slide, predictor.tile)))
    prediction = predictor.predict(batch)[0]
    if isinstance(prediction, ScoreMap):
        assert predictor.labels[int(prediction.scores.mean(axis=(0, 1)).argmax())].background
    else:
        assert len(prediction.scores) == 0


def test_another_resolution_is_taken_over(name: str) -> None:
    assert load_predictor(name, mpp=0.25).tile.mpp == 0.25
    assert load_predictor(name, min_tissue=0.4).tile.min_tissue == 0.4
