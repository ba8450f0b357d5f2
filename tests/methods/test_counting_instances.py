"""Which windows the instance classifier learns from."""

import numpy as np
import pytest

from wsikit.errors import ConfigError
from wsikit.methods.counting.config import Instances
from wsikit.methods.counting.instances import Windows, count_threshold, k_p, select, windows_per_cell

ALL = Instances(ratio=None)


@pytest.mark.parametrize(
    ("radius", "tile", "interval", "wanted"),
    [
        # 2 a = n t - (n - 1)(t - interval), by hand
        (16, 32, 20, 1.0),
        (16, 32, 16, 1.0),
        (26, 32, 20, 4.0),
        (24, 32, 16, 4.0),
        (8, 8, 4, 9.0),
        (6, 8, 4, 4.0),
        (21, 32, 20, 2.25),
        # smaller than a window: one window holds it all
        (5, 32, 20, 1.0),
    ],
)
def test_windows_per_cell_follow_from_the_geometry(radius: float, tile: float, interval: float, wanted: float) -> None:
    assert k_p(radius, tile, interval) == pytest.approx(wanted)
    if wanted > 1:
        n = wanted**0.5
        assert n * tile - (n - 1) * (tile - interval) == pytest.approx(2 * radius)


def test_the_same_sizes_in_um_give_the_same_windows_per_cell_at_any_resolution() -> None:
    config = Instances(tile_um=8, interval_um=4, cell_radius_um=6)
    assert windows_per_cell(config, 0.25) == windows_per_cell(config, 0.5) == 4.0


def test_a_given_number_of_windows_per_cell_wins() -> None:
    assert windows_per_cell(Instances(k_p=3), 0.25) == 3


def test_windows_reach_the_edge_of_the_map() -> None:
    rows, columns = Windows(tile=3, interval=2).grid(8, 9)
    assert rows.tolist() == [0, 2, 4, 5]
    assert columns.tolist() == [0, 2, 4, 6]


def test_a_map_smaller_than_a_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="12 x 8 px is smaller than a window of 12 px"):
        Windows(tile=3, interval=1).grid(2, 3)


def test_windows_that_leave_gaps_are_refused() -> None:
    with pytest.raises(ConfigError, match="gaps"):
        Windows.of(Instances(tile_um=4, interval_um=8), 0.25)


def _table(seed: int, *, images: int = 12, windows: int = 40) -> tuple[np.ndarray, np.ndarray, list[int]]:
    rng = np.random.default_rng(seed)
    counts = [int(n) for n in rng.integers(0, 6, images)]
    counts[:2] = [0, 3]
    return rng.random(images * windows), np.repeat(np.arange(images), windows), counts


@pytest.mark.parametrize("seed", range(5))
def test_the_best_windows_of_each_image_are_positive_and_the_hardest_of_empty_ones_negative(seed: int) -> None:
    scores, images, counts = _table(seed)
    chosen = select(scores, images, counts, per_cell=2.0, config=ALL, rng=np.random.default_rng(0))
    for image, count in enumerate(counts):
        own = np.flatnonzero(images == image)
        best = own[np.argsort(-scores[own])]
        assert set(best[: 2 * count]) == set(chosen.positive) & set(own)
        assert (set() if count else set(best[:30])) == set(chosen.negative) & set(own)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_images_does_not_change_what_is_selected(seed: int) -> None:
    scores, images, counts = _table(seed)
    chosen = select(scores, images, counts, per_cell=2.0, config=ALL, rng=np.random.default_rng(0))
    order = np.random.default_rng(seed + 99).permutation(len(counts))
    rows = np.concatenate([np.flatnonzero(images == image) for image in order])
    other = select(
        scores[rows],
        np.repeat(np.arange(len(counts)), 40),
        [counts[i] for i in order],
        per_cell=2.0,
        config=ALL,
        rng=np.random.default_rng(0),
    )
    assert set(rows[other.positive]) == set(chosen.positive)
    assert set(rows[other.negative]) == set(chosen.negative)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0, 3.0])
def test_positives_and_negatives_stand_in_the_ratio(ratio: float) -> None:
    scores, images, counts = _table(3)
    config = Instances(ratio=ratio)
    chosen = select(scores, images, counts, per_cell=2.0, config=config, rng=np.random.default_rng(0))
    assert len(chosen.positive) / len(chosen.negative) == pytest.approx(ratio, rel=0.1)


def test_without_empty_images_negatives_are_the_lowest_windows() -> None:
    scores, images, _ = _table(1)
    counts = [3] * 12
    chosen = select(scores, images, counts, per_cell=2.0, config=ALL, rng=np.random.default_rng(0))
    assert all(
        scores[chosen.negative[images[chosen.negative] == i]].max()
        < scores[chosen.positive[images[chosen.positive] == i]].min()
        for i in range(12)
    )
    config = Instances(negatives="zero")
    with pytest.raises(ConfigError, match="without cells"):
        select(scores, images, counts, per_cell=2.0, config=config, rng=np.random.default_rng(0))


@pytest.mark.parametrize("seed", range(5))
def test_as_many_windows_exceed_the_threshold_as_the_counts_ask_for(seed: int) -> None:
    scores, _, counts = _table(seed)
    threshold = count_threshold(scores, counts, 2.0)
    assert (scores >= threshold).sum() == 2 * sum(counts)


def test_no_cells_at_all_leave_no_window_above_the_threshold() -> None:
    scores = np.array([0.1, 0.9, 0.5])
    assert (scores >= count_threshold(scores, [0, 0], 2.0)).sum() == 0
