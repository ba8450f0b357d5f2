"""Models that see normalised slides: the same answers as on pixels normalised beforehand, however the slide is read."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.stain.mixtures import Pixels, image, section
from wsikit.errors import PredictionError
from wsikit.geometry import Region, TileSpec
from wsikit.pipeline.run import run
from wsikit.pipeline.state import digest, model_card
from wsikit.predictions import Bag, BagPredictor, BagScore, Batch, Encoder, Label, Objects, Predictor, ScoreMap
from wsikit.predictors import load_predictor
from wsikit.predictors.normalised import NormalisedSlide, normalised
from wsikit.predictors.sampling import tissue_pixels
from wsikit.sinks.geojson import GeoJSONSink
from wsikit.slides import Slide, open_slide
from wsikit.slides.array import array_slide
from wsikit.stain import STAINS
from wsikit.stain.macenko import Macenko
from wsikit.stain.reference import StainTarget
from wsikit.tissue import TissueMask

MACENKO = StainTarget(Macenko.standard(), "published")
TARGETS = [MACENKO, StainTarget(STAINS.load("reinhard").fit(section(3, 0.4)), "planted")]
methods = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.profile.method)


@pytest.fixture(scope="module")
def tissue(cmu: Path) -> Pixels:
    """700 x 600 px of tissue at 0.5 um per px."""
    with open_slide(cmu) as slide:
        return slide.reader.read(0, 700, 1500, 700, 600)


def beforehand(pixels: Pixels, target: StainTarget) -> Pixels:
    """A field with its pixels normalised by the profile of the sample that ``prepare`` looks at."""
    slide = array_slide(pixels, 0.5)
    sample = [part[inside] for part, inside in tissue_pixels(slide, TissueMask.whole(slide), 0.5)]
    profile = target.profile
    return profile.transform(pixels, type(profile).fit(np.concatenate(sample)))


def prepared(name: str, pixels: Pixels, target: StainTarget | None, **reader: Any) -> tuple[Predictor, Slide]:
    slide = array_slide(pixels, 0.5, **reader)
    model = load_predictor(name)
    seen = model if target is None else normalised(model, target)
    assert isinstance(seen, Predictor)
    return seen.prepare(slide, TissueMask.whole(slide)), slide


def window(slide: Slide, predictor: Predictor) -> Batch:
    region = slide.plane(0.5).padded(predictor.tile.halo)
    return Batch(slide.read(region)[None], (region,))


@methods
def test_nuclei_are_those_of_pixels_normalised_beforehand(tissue: Pixels, target: StainTarget) -> None:
    wrapped, slide = prepared("nuclei-classical", tissue, target)
    plain, other = prepared("nuclei-classical", beforehand(tissue, target), None)
    assert {key: wrapped.bound[key] for key in plain.bound} == dict(plain.bound)
    (found,), (expected,) = wrapped.predict(window(slide, wrapped)), plain.predict(window(other, plain))
    assert isinstance(found, Objects)
    assert isinstance(expected, Objects)
    assert len(found.outlines) > 100
    assert np.array_equal(found.outlines, expected.outlines)
    assert np.array_equal(found.scores, expected.scores)


@methods
def test_score_maps_are_those_of_pixels_normalised_beforehand(tissue: Pixels, target: StainTarget) -> None:
    wrapped, slide = prepared("stain-area", tissue, target)
    plain, other = prepared("stain-area", beforehand(tissue, target), None)
    (found,), (expected,) = wrapped.predict(window(slide, wrapped)), plain.predict(window(other, plain))
    assert isinstance(found, ScoreMap)
    assert isinstance(expected, ScoreMap)
    assert np.array_equal(found.scores, expected.scores)


def test_normalising_changes_what_is_found(tissue: Pixels) -> None:
    """Else the tests above would pass without any normalisation."""
    wrapped, _ = prepared("nuclei-classical", tissue, MACENKO)
    plain, _ = prepared("nuclei-classical", tissue, None)
    assert wrapped.bound["haematoxylin_threshold_od"] != plain.bound["haematoxylin_threshold_od"]


@pytest.mark.parametrize("name", ["nuclei-classical", "stain-area"])
@methods
def test_a_slide_gives_the_same_for_any_super_tile(
    tissue: Pixels, tmp_path: Path, name: str, target: StainTarget
) -> None:
    slide = array_slide(tissue, 0.5, bad=[(0, 2, 1)])
    model = normalised(replace(load_predictor(name), core=256), target)  # type: ignore[type-var]
    assert isinstance(model, Predictor)
    texts, tissue_mask = set(), TissueMask.whole(slide)
    for supertile, batch_size in ((256, 1), (512, None), (4096, 3)):
        path = tmp_path / f"{supertile}.geojson.gz"
        report = run(slide, model, GeoJSONSink(path), mask=tissue_mask, supertile=supertile, batch_size=batch_size)
        assert report.status == "partial"
        texts.add(gzip.decompress(path.read_bytes()))
    assert len(texts) == 1
    assert len(texts.pop()) > 400


@methods
def test_it_meets_the_contract_of_predictors(tissue: Pixels, target: StainTarget) -> None:
    wrapped, _ = prepared("nuclei-classical", tissue, target)
    assert wrapped.name == "nuclei-classical"
    assert wrapped.produces is Objects
    assert wrapped.labels == load_predictor("nuclei-classical").labels
    assert wrapped.tile == load_predictor("nuclei-classical").tile
    assert dict(wrapped.bound) == json.loads(json.dumps(dict(wrapped.bound)))
    assert pickle.loads(pickle.dumps(wrapped)) == wrapped
    fresh = normalised(load_predictor("nuclei-classical"), target)
    assert fresh.bound == {}
    assert pickle.loads(pickle.dumps(fresh)) == fresh
    assert prepared("nuclei-classical", tissue, target)[0] == wrapped


def test_the_profile_of_the_slide_is_recorded(tissue: Pixels) -> None:
    wrapped, _ = prepared("nuclei-classical", tissue, MACENKO)
    stain = wrapped.bound["stain"]
    assert stain["method"] == "macenko"
    assert stain["reference"] == "published"
    strong = Macenko.from_json(stain["profile"]).strong
    np.testing.assert_allclose(strong, Macenko.fit(tissue).strong, rtol=0.2)
    assert "warnings" not in wrapped.bound


def test_models_differ_by_target_and_by_the_model_inside() -> None:
    plain = load_predictor("nuclei-classical")
    other = StainTarget(Macenko.fit(section(0, 0.3)), "reference.png", "abc")
    models = [plain, *(normalised(plain, target) for target in (*TARGETS, other))]
    models += [normalised(plain, replace(other, sha256="abd")), normalised(load_predictor("stain-area"), other)]
    cards = [model_card(model) for model in models if isinstance(model, Predictor)]
    assert json.loads(json.dumps(cards)) == cards or len(cards) == 6
    assert len({digest(card) for card in cards}) == 6


BLANK = np.full((600, 600, 3), 244, np.uint8)


@methods
def test_a_blank_slide_is_seen_as_it_is_and_says_so(target: StainTarget) -> None:
    blank = BLANK.copy()
    blank[100:120, 100:140] = (120, 60, 130)
    wrapped, slide = prepared("stain-area", blank, target)
    plain, _ = prepared("stain-area", blank, None)
    (warning,) = wrapped.bound["warnings"]
    assert "not normalised" in warning
    assert wrapped.bound["stain"]["profile"] is None
    (found,), (expected,) = (model.predict(window(slide, model)) for model in (wrapped, plain))
    assert isinstance(found, ScoreMap)
    assert isinstance(expected, ScoreMap)
    assert np.array_equal(found.scores, expected.scores)


@methods
def test_a_slide_without_tissue_says_so(target: StainTarget) -> None:
    slide = array_slide(BLANK, 0.5)
    nowhere = TissueMask(np.zeros((150, 150), bool), 2.0)
    model = normalised(load_predictor("nuclei-classical"), target).prepare(slide, nowhere)
    assert "0 of 0 pixels hold stain" in model.bound["warnings"][0]


def test_immunohistochemistry_is_not_bent_into_eosin(data: Path) -> None:
    wrapped, _ = prepared("stain-area", image(data / "ihc" / "skimage_immunohistochemistry.png"), MACENKO)
    assert "not haematoxylin and eosin" in wrapped.bound["warnings"][0]


def test_before_prepare_it_refuses_to_predict(tissue: Pixels) -> None:
    model = normalised(load_predictor("nuclei-classical"), MACENKO)
    assert isinstance(model, Predictor)
    with pytest.raises(PredictionError, match="prepare"):
        model.predict(window(array_slide(tissue, 0.5), model))


def test_unreadable_tiles_stay_background(tissue: Pixels) -> None:
    slide = array_slide(tissue, 0.5, bad=[(0, 1, 1)])
    view = NormalisedSlide(slide, Macenko.fit(tissue), Macenko.standard())
    part = view.read_partial(slide.plane(0.5))
    assert [tile.box for tile in part.bad] == [(256, 256, 256, 256)]
    assert np.all(part.pixels[256:512, 256:512] == 255)
    assert np.all(view.read_partial(Region(-40, -40, 20, 20, 0.5)).pixels == 255)


def test_a_view_pickles_with_its_colours(cmu: Path) -> None:
    with open_slide(cmu) as slide:
        region = Region(900, 1700, 100, 100, slide.mpp)
        view = NormalisedSlide(slide, Macenko.fit(slide.read(slide.plane(2.0))), Macenko.standard())
        with pickle.loads(pickle.dumps(view)) as other:
            assert np.array_equal(other.read(region), view.read(region))
        assert not np.array_equal(view.read(region), slide.read(region))


@dataclass(frozen=True)
class MeanColour:
    """An encoder whose features are a patch's mean colour, and whose bag score is their mean."""

    prepared_on: float = -1.0

    name: ClassVar[str] = "mean-colour"
    tile: ClassVar[TileSpec] = TileSpec(0.5, 128, 0, 0.0)
    labels: ClassVar[tuple[Label, ...]] = ()
    width: ClassVar[int] = 3
    identity: ClassVar[Mapping[str, Any]] = {}

    @property
    def bound(self) -> Mapping[str, Any]:
        return {"prepared_on": self.prepared_on, "warnings": ["own"]}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        return replace(self, prepared_on=float(slide.read(slide.plane(0.5)).mean()))

    def embed(self, batch: Batch) -> NDArray[np.float32]:
        return batch.images.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)


@dataclass(frozen=True)
class MeanBag(MeanColour):
    labels: ClassVar[tuple[Label, ...]] = (Label("Bright", (1, 2, 3)),)

    def score(self, bag: Bag) -> BagScore:
        share = np.full(len(bag.regions), 1 / len(bag.regions))
        return BagScore(bag.regions, bag.features.mean(axis=1)[:1].astype(np.float64), share)


@pytest.mark.parametrize("model", [MeanColour(), MeanBag()])
def test_encoders_and_bag_models_see_normalised_pixels(tissue: Pixels, model: MeanColour) -> None:
    slide, expected = array_slide(tissue, 0.5), beforehand(tissue, MACENKO)
    wrapped = normalised(model, MACENKO)
    assert isinstance(wrapped, Encoder)
    assert not isinstance(wrapped, Predictor)
    assert isinstance(wrapped, BagPredictor) == isinstance(model, MeanBag)
    ready = wrapped.prepare(slide, TissueMask.whole(slide))
    assert ready.width == 3
    assert ready.bound["prepared_on"] == expected.mean()
    assert ready.bound["warnings"] == ["own"]
    batch = Batch(tissue[None, :128, :128], (Region(0, 0, 128, 128, 0.5),))
    features = ready.embed(batch)
    np.testing.assert_allclose(features[0], expected[:128, :128].mean(axis=(0, 1)), rtol=1e-5)
    assert pickle.loads(pickle.dumps(ready)) == ready
    if isinstance(ready, BagPredictor):
        assert ready.labels == MeanBag.labels
        assert ready.score(Bag("a", features, batch.regions)).attention.tolist() == [1.0]
