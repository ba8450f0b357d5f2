"""Cluster label: nuclei where points and colours agree, background where neither is, and nothing invented."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

pytest.importorskip("torch")

from tests.methods.planted_points import GROUND, PURPLE, RADIUS, Planted, scene
from wsikit.errors import ConfigError
from wsikit.methods.points import clusters
from wsikit.methods.points.clusters import cluster_label, refined_nuclei
from wsikit.methods.points.distance import point_distance
from wsikit.methods.points.voronoi import BACKGROUND, IGNORED, NUCLEUS

SEEDS = range(5)
KINDS = ("rgb", "haematoxylin")


def separated(seed: int) -> Planted:
    return scene(seed, nuclei=14, gap=3)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_label_says_is_mostly_right(seed: int, kind: clusters.Features) -> None:
    planted = separated(seed)
    label, nucleus = cluster_label(planted.image, planted.points, radius_px=RADIUS, features=kind), planted.labels > 0
    assert label.dtype == np.uint8
    assert nucleus[label == NUCLEUS].mean() > 0.9
    assert nucleus[label == BACKGROUND].mean() < 0.01
    # and it says much: the rim of nuclei and their surroundings are all that is left out
    assert (label == NUCLEUS)[nucleus].mean() > 0.45
    assert (label == BACKGROUND)[~nucleus].mean() > 0.6


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_nucleus_has_one_part_of_the_label(seed: int, kind: clusters.Features) -> None:
    planted = separated(seed)
    label = cluster_label(planted.image, planted.points, radius_px=RADIUS, features=kind)
    _, parts = ndimage.label(label == NUCLEUS)
    marked = {int(one) for one in np.unique(planted.labels[label == NUCLEUS]) if one}
    assert len(marked) >= len(planted.points) - 1
    assert abs(parts - len(planted.points)) <= 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_nuclei_without_a_point_are_not_labelled_as_nuclei(seed: int, kind: clusters.Features) -> None:
    planted = separated(seed)
    kept = planted.points[:, 0] < 48
    label = cluster_label(planted.image, planted.points[kept], radius_px=RADIUS, features=kind)
    others = np.isin(planted.labels, 1 + np.flatnonzero(~kept))
    assert not (label == NUCLEUS)[others].any()
    assert (label == NUCLEUS).any()


@pytest.mark.parametrize("kind", KINDS)
def test_without_points_nothing_is_said(kind: clusters.Features) -> None:
    planted = separated(0)
    for points in (np.zeros((0, 2)), np.array([[-40.0, 20.0]])):
        assert (cluster_label(planted.image, points, radius_px=RADIUS, features=kind) == IGNORED).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_points_on_an_empty_ground_make_no_nuclei(seed: int, kind: clusters.Features) -> None:
    rng = np.random.default_rng(seed)
    image = np.clip(np.array(GROUND) + rng.normal(0, 6, (96, 96, 3)), 0, 255).astype(np.uint8)
    label = cluster_label(image, rng.uniform(0, 96, (8, 2)), radius_px=RADIUS, features=kind)
    assert (label == IGNORED).all()


@pytest.mark.parametrize("colors", [1, 2])
def test_an_image_of_so_few_colours_is_no_error(colors: int) -> None:
    image = np.full((40, 40, 3), GROUND, np.uint8)
    if colors == 2:
        image[15:25, 15:25] = PURPLE
    label = cluster_label(image, np.array([[20.0, 20.0]]), radius_px=RADIUS)
    assert (label == NUCLEUS).any() == (colors == 2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_a_stray_point_between_nuclei_makes_none(seed: int, kind: clusters.Features) -> None:
    planted = separated(seed)
    room = ndimage.distance_transform_edt(planted.labels == 0)
    y, x = np.unravel_index(np.argmax(room), room.shape)
    stray = np.array([[x + 0.5, y + 0.5]])
    label = cluster_label(planted.image, np.concatenate([planted.points, stray]), radius_px=RADIUS, features=kind)
    near = point_distance(stray, label.shape, RADIUS) <= 0.4 * RADIUS
    assert not (label == NUCLEUS)[near & (planted.labels == 0)].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_label_whatever_the_blocks(
    kind: clusters.Features, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = separated(0)
    first = cluster_label(planted.image, planted.points, radius_px=RADIUS, features=kind, seed=3)
    monkeypatch.setattr(clusters, "BLOCK", 1000)
    again = cluster_label(planted.image, planted.points, radius_px=RADIUS, features=kind, seed=3)
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_says_nearly_what_all_pixels_say(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = separated(seed)
    whole = cluster_label(planted.image, planted.points, radius_px=RADIUS)
    monkeypatch.setattr(clusters, "SAMPLE", 2000)
    sampled = cluster_label(planted.image, planted.points, radius_px=RADIUS, seed=seed)
    assert ((whole == NUCLEUS) == (sampled == NUCLEUS)).mean() > 0.97
    assert not ((whole == NUCLEUS) & (sampled == BACKGROUND)).any()


@pytest.mark.parametrize("seed", range(3))
def test_lengths_follow_the_radius(seed: int) -> None:
    planted = separated(seed)
    single = cluster_label(planted.image, planted.points, radius_px=RADIUS)
    image = planted.image.repeat(2, 0).repeat(2, 1)
    double = cluster_label(image, 2 * planted.points, radius_px=2 * RADIUS)
    assert ((double[::2, ::2] == NUCLEUS) == (single == NUCLEUS)).mean() > 0.97
    assert (single == NUCLEUS).mean() > 0.05


# Refinement, on masks drawn by hand; a radius of 11 px, where the authors' lengths hold


def disc(x: float, y: float, radius: float, side: int = 80) -> NDArray[np.bool_]:
    rows, columns = np.mgrid[:side, :side] + 0.5
    return np.asarray(np.hypot(columns - x, rows - y) <= radius)


def refined(mask: NDArray[np.bool_], *points: tuple[float, float]) -> NDArray[np.bool_]:
    there = np.array(points)
    return refined_nuclei(mask, there, point_distance(there, mask.shape, 22), 11)


def radius_of(mask: NDArray[np.bool_]) -> float:
    return float(np.sqrt(mask.sum() / np.pi))


def test_a_nucleus_loses_its_rim_of_two_pixels() -> None:
    found = refined(disc(40.5, 40.5, 11), (40.5, 40.5))
    assert radius_of(found) == pytest.approx(9, abs=0.5)
    assert disc(40.5, 40.5, 10)[found].all()


@pytest.mark.parametrize("hole", [disc(45, 40, 3), disc(40.5, 40.5, 7)])
def test_holes_are_filled_even_where_the_point_is_in_one(hole: NDArray[np.bool_]) -> None:
    whole = disc(40.5, 40.5, 12)
    np.testing.assert_array_equal(refined(whole & ~hole, (40.5, 40.5)), refined(whole, (40.5, 40.5)))


def test_a_narrow_notch_closes() -> None:
    whole, gap = disc(40.5, 40.5, 12), np.zeros((80, 80), bool)
    gap[:37, 38:41] = True
    found = refined(whole & ~gap, (40.5, 40.5))
    assert not found[~refined(whole, (40.5, 40.5))].any()
    assert (refined(whole, (40.5, 40.5)) & ~found).sum() < 10
    assert (whole & gap)[found].sum() > 10


def test_parts_below_the_least_area_go() -> None:
    assert not refined(disc(40.5, 40.5, 2.9), (40.5, 40.5)).any()
    assert refined(disc(40.5, 40.5, 5.5), (40.5, 40.5)).any()


def test_parts_away_from_the_point_go() -> None:
    mask = disc(40.5, 40.5, 8) | disc(57.5, 40.5, 4)
    np.testing.assert_array_equal(refined(mask, (40.5, 40.5)), refined(disc(40.5, 40.5, 8), (40.5, 40.5)))


def test_a_mask_over_two_cells_is_not_lost_and_stays_in_the_cells() -> None:
    mask = disc(30.5, 40.5, 11) | disc(48.5, 40.5, 11)
    both = refined(mask, (30.5, 40.5), (48.5, 40.5))
    alone = refined(mask[:, :40], (30.5, 40.5)), refined(mask[:, 39:], (9.5, 40.5))
    assert both[:, :39].sum() > 0.8 * alone[0].sum()
    assert both[:, 40:].sum() > 0.8 * alone[1].sum()


def test_a_nucleus_at_the_border_is_not_eroded_there() -> None:
    mask = disc(0.5, 40.5, 11)
    found = refined(mask, (0.5, 40.5))
    assert found[40, 0]
    assert found[:, 0].sum() >= 17


def test_a_nucleus_ends_within_reach_of_its_point() -> None:
    found = refined(np.ones((80, 80), bool), (40.5, 40.5))
    assert found[disc(40.5, 40.5, 15)].all()
    assert not found[~disc(40.5, 40.5, 22)].any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"radius_px": 0.0}, "radius"),
        ({"features": "dab"}, "haematoxylin"),
        ({"image": np.zeros((4, 4), np.uint8)}, "RGB"),
        ({"image": np.zeros((4, 4, 3))}, "uint8"),
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, object], said: str) -> None:
    given = {"image": np.zeros((4, 4, 3), np.uint8), "points": np.zeros((0, 2)), "radius_px": RADIUS} | change
    with pytest.raises(ConfigError, match=said):
        cluster_label(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(3))
def test_what_lies_near_a_point_is_never_called_background(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where only colours count, and some points were clicked on the ground."""
    monkeypatch.setattr(clusters, "FAR_VALUE", 0.0)
    planted = separated(seed)
    points = np.concatenate([planted.points, np.random.default_rng(seed).uniform(5, 91, (6, 2))])
    label = cluster_label(planted.image, points, radius_px=RADIUS)
    assert (label == BACKGROUND).any()
    near = point_distance(points, label.shape, 2 * RADIUS) <= clusters.MARGIN * RADIUS
    assert not (label == BACKGROUND)[near].any()


def test_background_is_what_points_stay_clear_of_and_of_two_such_the_larger() -> None:
    around, marked = np.zeros((2, 10, 10), bool)
    marked[:2] = around[:4] = True
    ring = np.full((10, 10), 2)
    ring[:2], ring[2:5] = 0, 1
    assert clusters._roles(ring.astype(np.int32), marked, around) == (0, 2)
    clear = np.full((10, 10), 1)
    clear[:4], clear[8:] = 0, 2
    assert clusters._roles(clear.astype(np.int32), marked, around) == (0, 1)
