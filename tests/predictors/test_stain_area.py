"""``stain-area`` on mixtures made by the forward stain model, and on real sections."""

from __future__ import annotations

import os
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsikit.errors import ConfigError, PredictionError, UnknownNameError
from wsikit.geometry import Region
from wsikit.predictions import Batch, Predictor, ScoreMap
from wsikit.predictors import PREDICTORS, load_predictor
from wsikit.predictors.stain import Deconvolution
from wsikit.predictors.stain_area import DAB_OD, StainAreaPredictor
from wsikit.slides.array import array_slide
from wsikit.stain.density import DAB, EOSIN, HAEMATOXYLIN, StainVector
from wsikit.tissue import TissueMask


def unit(vector: StainVector) -> NDArray[np.float64]:
    return np.array(vector) / np.linalg.norm(vector)


def stained(
    densities: list[tuple[NDArray[np.float64], StainVector]], noise: float = 2.0, seed: int = 0
) -> NDArray[np.uint8]:
    """The forward model: light through stains of known density, with camera noise."""
    od = sum(density[..., None] * unit(vector) for density, vector in densities)
    light = 255 * 10.0**-od + np.random.default_rng(seed).normal(0, noise, (*densities[0][0].shape, 3))
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def predicted(image: NDArray[np.uint8], mpp: float = 0.5) -> tuple[Predictor, NDArray[np.float32]]:
    slide = array_slide(image, mpp)
    predictor = load_predictor("stain-area", mpp=mpp).prepare(slide, TissueMask.whole(slide))
    (found,) = predictor.predict(Batch(image[None], (slide.plane(mpp),)))
    assert isinstance(found, ScoreMap)
    found.check(len(predictor.labels))
    return predictor, found.scores


def stripes(shares: list[float], side: int = 300) -> list[NDArray[np.float64]]:
    """Masks of vertical stripes with the given shares of the width."""
    edges = np.rint(np.cumsum([0, *shares]) * side).astype(int)
    masks = []
    for left, right in pairwise(edges):
        masks.append(np.zeros((side, side)))
        masks[-1][:, left:right] = 1
    return masks


@pytest.mark.parametrize("shares", [[0.3, 0.2], [0.02, 0.4], [0.6, 0.1]])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_planted_areas_are_found_within_two_percent(shares: list[float], strength: float) -> None:
    dab, haematoxylin = stripes(shares)
    image = stained([(0.03 + strength * dab, DAB), (0.03 + 0.35 * haematoxylin, HAEMATOXYLIN)])
    _, scores = predicted(image)
    expected = [shares[0], shares[1], 1 - sum(shares)]
    np.testing.assert_allclose(scores.mean(axis=(0, 1)), expected, atol=0.02)


def test_dab_over_haematoxylin_is_positive() -> None:
    (both,) = stripes([0.4])
    _, scores = predicted(stained([(0.02 + 0.6 * both, DAB), (0.02 + 0.4 * both, HAEMATOXYLIN)]))
    assert scores[..., 0].mean() == pytest.approx(0.4, abs=0.02)


def test_haematoxylin_and_eosin_hold_no_dab() -> None:
    nuclei, stroma = stripes([0.3, 0.5])
    predictor, scores = predicted(stained([(0.05 + 0.8 * nuclei, HAEMATOXYLIN), (0.05 + 0.5 * stroma, EOSIN)]))
    assert scores[..., 0].mean() < 0.001
    assert predictor.bound["dab_threshold_od"] == DAB_OD[0]


def test_a_blank_slide_is_all_background() -> None:
    _, scores = predicted(stained([(np.zeros((200, 200)), DAB)], noise=3))
    assert scores[..., 2].mean() > 0.999


def test_scores_are_one_hot() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    _, scores = predicted(noise)
    assert scores.dtype == np.float32
    assert set(np.unique(scores)) == {0.0, 1.0}
    assert (scores.sum(axis=2) == 1).all()


def test_a_pixel_is_scored_by_itself() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    predictor, whole = predicted(noise)
    part = np.ascontiguousarray(noise[11:60, 7:50])
    (found,) = predictor.predict(Batch(part[None], (Region(7, 11, 43, 49, 0.5),)))
    assert isinstance(found, ScoreMap)
    np.testing.assert_array_equal(found.scores, whole[11:60, 7:50])


def test_no_tissue_still_binds_thresholds() -> None:
    slide = array_slide(np.full((40, 50, 3), 255, np.uint8), 0.5)
    predictor = load_predictor("stain-area").prepare(slide, TissueMask(np.zeros((5, 7), np.bool_), 4.0))
    assert all(value is not None for value in predictor.bound.values())


def test_prepare_leaves_the_original_unbound_and_results_pickle() -> None:
    unbound = load_predictor("stain-area")
    bound, _ = predicted(np.full((40, 50, 3), 200, np.uint8))
    assert (unbound.bound, isinstance(unbound, Predictor)) == ({}, True)
    assert pickle.loads(pickle.dumps(bound)) == bound


def test_predicting_before_prepare_is_refused() -> None:
    with pytest.raises(PredictionError, match="call prepare"):
        load_predictor("stain-area").predict(Batch(np.zeros((1, 4, 4, 3), np.uint8), (Region(0, 0, 4, 4, 0.5),)))


def test_one_threshold_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="both thresholds"):
        StainAreaPredictor(dab_threshold=0.2)


def test_an_unknown_predictor_is_refused_with_the_choices() -> None:
    with pytest.raises(UnknownNameError, match="nuclei, nuclei-classical, stain-area"):
        load_predictor("nucleus")


@pytest.mark.parametrize("name", list(PREDICTORS))
def test_every_predictor_describes_itself(name: str) -> None:
    kind = PREDICTORS.load(name)
    assert load_predictor(name).name == name
    assert kind.description
    assert "\n" not in kind.description


def test_deconvolution_undoes_the_forward_model() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.uniform(0, 0.8, (2, 64, 64))
    image = stained([(first, HAEMATOXYLIN), (second, EOSIN)], noise=0)
    tables = Deconvolution.of(HAEMATOXYLIN, EOSIN)
    # dark pixels have few grey levels: rounding to 8 bits moves their density by some hundredths
    assert np.abs(tables.density(image, 0) - first).max() < 0.04
    assert np.abs(tables.density(image, 1) - second).max() < 0.06


@pytest.fixture(scope="module")
def data() -> Path:
    if "WSIKIT_DATA" not in os.environ:
        pytest.skip("WSIKIT_DATA is not set: no real images here")
    return Path(os.environ["WSIKIT_DATA"])


def rgb(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def test_real_he_has_next_to_no_dab(data: Path) -> None:
    _, scores = predicted(rgb(data / "nuclei" / "stardist_histo.jpg"))
    assert scores[..., 0].mean() < 0.01


def test_real_ihc_shows_stained_glands_and_blue_nuclei(data: Path) -> None:
    _, scores = predicted(rgb(data / "ihc" / "skimage_immunohistochemistry.png"))
    # the glands fill the left half, the stroma with blue nuclei the right edge
    assert scores[60:160, 30:110, 0].mean() > 0.8
    assert scores[:, 470:, 0].mean() < 0.05
    assert 0.1 < scores[300:, 400:, 1].mean() < 0.6


def test_positive_nuclei_follow_the_annotation(data: Path) -> None:
    folder = data / "ihc" / "deepliif_NC"
    image, truth = rgb(folder / "22_2.png"), rgb(folder / "22_2_groundtruth.png").astype(int)
    positive = (truth[..., 0] > 150) & (truth[..., 1:].max(axis=2) < 100)
    _, scores = predicted(image)
    assert np.corrcoef(scores[..., 0].ravel(), positive.ravel())[0, 1] > 0.8
