"""Pieces of training images: the right pixels, and what is learned from them in the same place."""

from __future__ import annotations

import numpy as np
import pytest

from wsikit.methods.points.crops import cut, draw_box


def disc(size: int, x: float, y: float, radius: float) -> np.ndarray:  # type: ignore[type-arg]
    rows, columns = np.indices((size, size)) + 0.5
    return np.hypot(columns - x, rows - y) < radius


def test_a_box_of_whole_pixels_at_its_own_size_is_the_piece() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (50, 60, 3)).astype(np.uint8)
    plane, labels = rng.random((50, 60)).astype(np.float32), rng.integers(0, 9, (50, 60)).astype(np.uint8)
    found = cut([image, plane, labels], (7.0, 11.0, 39.0, 43.0), 32)
    for one, whole in zip(found, (image, plane, labels), strict=True):
        assert np.array_equal(one, whole[11:43, 7:39])


@pytest.mark.parametrize("zoom", [0.4, 0.8, 1.0, 1.7, 2.6])
@pytest.mark.parametrize("seed", range(3))
def test_planes_stay_where_the_pixels_are(zoom: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = disc(400, *rng.uniform(180, 220, 2), 10)
    image = np.where(mask[..., None], 40, 220).astype(np.uint8).repeat(3, axis=2)
    side = 96
    place = centre(mask.astype(float))
    left, top = place - rng.uniform(0.4, 0.6, 2) * side / zoom
    box = (left, top, left + side / zoom, top + side / zoom)
    pixels, share, label = cut([image, mask.astype(np.float32), mask.astype(np.uint8)], box, side)
    # of labels the nearest is taken: a small disc gains or loses a pixel or two
    found = ((220 - pixels[..., 0].astype(float), 0.1, 0.03), (share.astype(float), 0.1, 0.03), (label, 0.5, 0.08))
    for weight, off, larger in found:
        assert np.abs(centre(weight) - (place - (left, top)) * zoom).max() < off
        assert weight.sum() / weight.max() == pytest.approx(mask.sum() * zoom**2, rel=larger)


def centre(weight: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """(2,) x, y of the centre of mass, pixel-corner convention."""
    rows, columns = np.indices(weight.shape) + 0.5
    return np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum()


def test_what_an_image_lacks_is_mirrored() -> None:
    image = np.arange(20 * 30, dtype=np.float32).reshape(20, 30)
    (found,) = cut([image], (0.0, 0.0, 32.0, 32.0), 32)
    assert np.array_equal(found[:20, :30], image)
    assert np.array_equal(found[20:32, :30], image[:7:-1])
    assert np.array_equal(found[:20, 30:], image[:, :-3:-1])


@pytest.mark.parametrize("seed", range(5))
def test_boxes_lie_inside_where_there_is_room_and_reach_every_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.array([draw_box((100, 40), 30.0, rng) for _ in range(400)])
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= (100, 40)).all()
    assert (boxes[:, :2].min(axis=0) < (2, 1)).all()
    assert (boxes[:, 2:].max(axis=0) > (98, 39)).all()
    assert draw_box((20, 40), 30.0, rng)[0] == 0
