"""Targets of the detector: what is known around a point, what is ignored, and what propagation adds to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from wsikit.errors import ConfigError  # noqa: E402
from wsikit.methods.points.background import detect, merged_points, propagated_background  # noqa: E402
from wsikit.methods.points.distance import point_distance  # noqa: E402
from wsikit.methods.points.targets import gaussian_target, heat_loss, naive_target  # noqa: E402

NO_POINTS = np.zeros((0, 2))
SHAPE = (40, 52)


def brute_distance(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    apart = [np.hypot(x - u, y - v) for u, v in points]
    return np.min(apart, axis=0) if apart else np.full(shape, np.inf)


def some_points(seed: int, n: int = 5, margin: float = 0.0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-margin, [SHAPE[1] + margin, SHAPE[0] + margin], (n, 2))


places = st.floats(-30, 80).map(lambda v: round(4 * v) / 4)


@given(st.lists(st.tuples(places, places), max_size=6), st.sampled_from([0.0, 1.0, 2.5, 7.0, 20.0]))
@settings(deadline=None, max_examples=80)
def test_distances_within_reach_are_those_of_all_pairs(points: list[tuple[float, float]], reach: float) -> None:
    there = np.array(points).reshape(-1, 2)
    truth = brute_distance(there, (17, 23))
    found = point_distance(there, (17, 23), reach)
    np.testing.assert_allclose(found, np.where(truth <= reach, truth, np.inf), rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_target_and_weight_are_the_published_ones(seed: int) -> None:
    # the last one on the middle of a pixel: others are then exactly as far as the disc reaches
    points, radius = np.append(some_points(seed, 4), [[20.5, 19.5]], axis=0), 8.0
    target, weight = gaussian_target(points, SHAPE, radius_px=radius)
    distance = brute_distance(points, SHAPE)
    bell = np.exp(-(distance**2) / (2 * (radius / 4) ** 2))
    bell[bell < 0.05] = 0
    np.testing.assert_allclose(target, bell, atol=1e-6)
    np.testing.assert_array_equal(weight, np.where(bell > 0, 10, np.where(distance < 16, 1, 0)))
    assert target.dtype == weight.dtype == np.float32
    assert (weight == 0).any()


def test_without_points_nothing_is_known() -> None:
    target, weight = gaussian_target(NO_POINTS, SHAPE, radius_px=8)
    assert not target.any()
    assert not weight.any()


@pytest.mark.parametrize("seed", range(4))
def test_a_crop_of_points_is_the_crop_of_the_target(seed: int) -> None:
    points = some_points(seed, 12)
    whole = gaussian_target(points, SHAPE, radius_px=5)
    crop = gaussian_target(points - (13, 9), (20, 30), radius_px=5)
    for full, part in zip(whole, crop, strict=True):
        np.testing.assert_allclose(part, full[9:29, 13:43], atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_the_known_disc_may_be_smaller_than_a_gaussian(seed: int) -> None:
    points = some_points(seed)
    wide, _ = gaussian_target(points, SHAPE, radius_px=8)
    narrow, weight = gaussian_target(points, SHAPE, radius_px=8, known=0.3)
    np.testing.assert_array_equal(narrow, wide)
    np.testing.assert_array_equal(weight, np.where(wide > 0, 10, 0))


@pytest.mark.parametrize("seed", range(4))
def test_propagated_background_counts_once_and_never_against_a_point(seed: int) -> None:
    points = some_points(seed)
    background = np.random.default_rng(seed).random(SHAPE) < 0.5
    before_target, before = gaussian_target(points, SHAPE, radius_px=8)
    target, weight = gaussian_target(points, SHAPE, radius_px=8, background=background)
    np.testing.assert_array_equal(target, before_target)
    np.testing.assert_array_equal(weight, np.where(before > 0, before, background))


@pytest.mark.parametrize("seed", range(3))
def test_naive_targets_know_everything(seed: int) -> None:
    points = some_points(seed)
    target, weight = naive_target(points, SHAPE, radius_px=8)
    np.testing.assert_array_equal(target, gaussian_target(points, SHAPE, radius_px=8)[0])
    np.testing.assert_array_equal(weight, np.where(target > 0, 10, 1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"radius_px": 1.5}, "finer resolution"),
        ({"sigma": 0.0}, "sigma"),
        ({"known": -1.0}, "known"),
        ({"peak_weight": 0.0}, "peaks"),
        ({"background": np.zeros((3, 3), bool)}, "shape"),
    ],
)
def test_targets_that_make_no_sense_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gaussian_target(some_points(0), SHAPE, **({"radius_px": 8.0} | change))  # type: ignore[arg-type]
    assert said in f"{caught.value} {caught.value.remedy}"


@pytest.mark.parametrize(
    ("points", "said"), [(np.zeros((3, 3)), "shape"), (np.array([[1, 2], [np.nan, 3]]), "point 1")]
)
def test_points_that_are_none_are_refused(points: NDArray[np.float64], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        gaussian_target(points, SHAPE, radius_px=8)


def losses(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 9, 11, generator=rng)
    target = torch.rand(2, 9, 11, generator=rng)
    weight = torch.tensor([0.0, 1.0, 10.0])[torch.randint(3, (2, 9, 11), generator=rng)]
    return logits.requires_grad_(), target, weight


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_divided_by_known_pixels_not_by_weights(seed: int) -> None:
    logits, target, weight = losses(seed)
    z, t, w = (one.detach().double().numpy() for one in (logits, target, weight))
    truth = (w * (1 / (1 + np.exp(-z)) - t) ** 2).sum() / (w > 0).sum()
    assert float(heat_loss(logits, target, weight).detach()) == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_ignored_pixels_have_no_gradient(seed: int) -> None:
    logits, target, weight = losses(seed)
    heat_loss(logits, target, weight).backward()
    assert logits.grad is not None
    assert not logits.grad[weight == 0].any()
    assert (logits.grad[weight > 0] != 0).all()


def test_where_nothing_is_known_the_loss_is_nothing_and_so_is_its_gradient() -> None:
    logits, target, weight = losses(0)
    loss = heat_loss(logits, target, torch.zeros_like(weight))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_round_small_errors_away(kind: torch.dtype) -> None:
    logits = torch.full((1, 4, 4), 9, dtype=kind)
    loss = heat_loss(logits, torch.ones_like(logits), torch.ones_like(logits))
    assert float(loss) == pytest.approx((1 - 1 / (1 + np.exp(-9))) ** 2, rel=1e-2)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_overflow(kind: torch.dtype) -> None:
    # the sum of 10 * 1 over 512 x 512 pixels is 40 times the largest half
    logits = torch.full((1, 512, 512), -8, dtype=kind, requires_grad=True)
    weight = torch.full((1, 512, 512), 10, dtype=kind)
    loss = heat_loss(logits, torch.ones_like(weight), weight)
    assert float(loss.detach()) == pytest.approx(10, rel=1e-2)
    assert loss.dtype == torch.float32


# Background propagation


def blob(probability: NDArray[np.float32], box: tuple[slice, slice], value: float) -> NDArray[np.float32]:
    probability[box] = value
    return probability


def test_background_is_where_the_probability_is_low() -> None:
    probability = np.linspace(0, 1, 101, dtype=np.float32)[None].repeat(3, 0)
    background = propagated_background(probability, largest_px=1000)
    np.testing.assert_array_equal(background, probability < 0.1)


@pytest.mark.parametrize(("side", "gone"), [(4, False), (5, True), (6, True)])
def test_blobs_of_the_largest_area_and_more_are_background(side: int, gone: bool) -> None:
    probability = np.full((30, 30), 0.4, np.float32)
    inside = slice(10, 10 + side), slice(12, 12 + side)
    background = propagated_background(blob(probability, inside, 0.9), largest_px=25)
    assert background[inside].all() == background.any() == gone
    assert background.sum() == (side * side if gone else 0)


def test_what_is_likely_but_not_sure_does_not_make_a_blob_large() -> None:
    probability = np.full((30, 30), 0.7, np.float32)
    assert not propagated_background(blob(probability, (slice(3, 6), slice(3, 6)), 0.9), largest_px=25).any()


# Detection


def bells(points: NDArray[np.float64], sigma: float, shape: tuple[int, int] = SHAPE) -> NDArray[np.float32]:
    return np.exp(-(brute_distance(points, shape) ** 2) / (2 * sigma**2)).astype(np.float32)


def grid_points(seed: int) -> NDArray[np.float64]:
    """Places between pixels, 13 px apart, in the order of their rows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[7:36:13, 7:48:13]
    return np.stack([x.ravel(), y.ravel()], axis=1) + rng.uniform(-1, 1, (y.size, 2))


def matched(found: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([found[np.argmin(np.hypot(*(found - one).T))] for one in truth])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.2, 0.35, 0.5])
def test_peaks_between_pixels_are_found_where_they_are(seed: int, threshold: float) -> None:
    truth = grid_points(seed)
    found = detect(bells(truth, 2.0), threshold=threshold, least_px=4, largest_px=60)
    assert len(found.points) == len(truth)
    assert np.abs(matched(found.points, truth) - truth).max() < 0.15


@pytest.mark.parametrize(("side", "found"), [(2, 0), (3, 1), (4, 1), (5, 0)])
def test_areas_are_at_least_the_least_and_below_the_largest(side: int, found: int) -> None:
    probability = blob(np.zeros((20, 20), np.float32), (slice(4, 4 + side), slice(6, 6 + side)), 0.8)
    result = detect(probability, threshold=0.35, least_px=9, largest_px=25)
    np.testing.assert_allclose(result.points, np.full((found, 2), (6 + side / 2, 4 + side / 2)))


def test_the_threshold_itself_is_not_above_it() -> None:
    probability = np.full((5, 5), 0.5, np.float32)
    assert not len(detect(probability, threshold=0.5, least_px=0, largest_px=100).points)


def test_pixels_that_touch_at_corners_are_one_blob() -> None:
    probability = np.eye(6, dtype=np.float32)
    found = detect(probability, threshold=0.5, least_px=0, largest_px=100)
    np.testing.assert_allclose(found.points, [[3, 3]])


@pytest.mark.parametrize("seed", range(3))
def test_a_score_is_the_peak_of_its_own_blob(seed: int) -> None:
    truth = grid_points(seed)
    heights = np.random.default_rng(seed).uniform(0.5, 1, len(truth))
    probability = np.max([h * bells(one[None], 1.5) for h, one in zip(heights, truth, strict=True)], axis=0)
    found = detect(probability, threshold=0.3, least_px=3, largest_px=60)
    assert len(found.points) == len(truth)
    near = [probability[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].max() for x, y in found.points]
    np.testing.assert_allclose(found.scores, near, rtol=1e-6)


def test_nothing_is_found_in_an_empty_map() -> None:
    found = detect(np.zeros(SHAPE, np.float32), threshold=0.35, least_px=1, largest_px=60)
    assert found.points.shape == (0, 2)
    assert found.scores.shape == (0,)


@pytest.mark.parametrize("seed", range(4))
def test_given_points_stay_and_detections_near_them_go(seed: int) -> None:
    given_points, detected = some_points(seed, 6), some_points(seed + 100, 40)
    merged = merged_points(given_points, detected, 8.0)
    far = [one for one in detected if np.hypot(*(given_points - one).T).min() > 8]
    np.testing.assert_array_equal(merged, np.concatenate([given_points, far]))
    assert 0 < len(far) < 40


def test_a_detection_at_the_radius_is_the_given_point() -> None:
    merged = merged_points(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [3.0, 4.001]]), 5.0)
    np.testing.assert_array_equal(merged, [[0, 0], [3, 4.001]])


@pytest.mark.parametrize("empty", ["given", "detected"])
def test_without_one_of_them_the_others_are_all(empty: str) -> None:
    some = some_points(0)
    merged = merged_points(*((NO_POINTS, some) if empty == "given" else (some, NO_POINTS)), radius=3.0)
    np.testing.assert_array_equal(merged, some)


def test_limits_out_of_order_are_refused() -> None:
    probability = np.zeros((4, 4), np.float32)
    with pytest.raises(ConfigError, match="least"):
        detect(probability, threshold=0.5, least_px=9, largest_px=9)
    with pytest.raises(ConfigError, match="free"):
        propagated_background(probability, largest_px=9, sure=0.1, free=0.7)
    with pytest.raises(ConfigError, match="positive"):
        merged_points(NO_POINTS, NO_POINTS, 0)
    with pytest.raises(ConfigError, match="shape"):
        detect(probability[None], threshold=0.5, least_px=1, largest_px=9)
