"""The vote over scales, held against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from wsikit.methods.cam_onss.voting import gated, normalised, vote


def slow_vote(labels: NDArray[np.uint8], base: int) -> NDArray[np.uint8]:
    """Pixel by pixel: the class with most votes; of equal ones the base scale's, then the first."""
    out = np.zeros(labels.shape[1:], np.uint8)
    for row, column in np.ndindex(*out.shape):
        said = labels[:, row, column].tolist()
        most = max(said.count(one) for one in said)
        winners = sorted({one for one in said if said.count(one) == most})
        out[row, column] = said[base] if said[base] in winners else winners[0]
    return out


@given(
    st.integers(1, 6).flatmap(
        lambda scales: st.tuples(
            arrays(np.uint8, (scales, 4, 5), elements=st.integers(0, 4)), st.integers(0, scales - 1)
        )
    )
)
def test_it_is_what_a_loop_over_pixels_gives(drawn: tuple[NDArray[np.uint8], int]) -> None:
    labels, base = drawn
    won, agreement = vote(labels, 5, base)
    assert np.array_equal(won, slow_vote(labels, base))
    assert np.allclose(agreement, (labels == won).mean(axis=0))


@pytest.mark.parametrize(
    ("said", "wanted"),
    [((1, 1, 1), 1), ((2, 1, 2), 2), ((0, 3, 0), 0), ((0, 1, 2), 1), ((2, 0, 1), 0)],
    ids=["all agree", "two against the base", "likewise", "a tie is the base's", "likewise, of class 0"],
)
def test_three_scales_by_hand(said: tuple[int, int, int], wanted: int) -> None:
    labels = np.array(said, np.uint8)[:, None, None]
    assert vote(labels, 4, base=1)[0].item() == wanted


def test_a_class_that_the_label_lacks_never_wins() -> None:
    maps = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32)
    maps[2] = 0  # present, and nowhere active
    kept = gated(maps, [False, True, True, False])
    assert set(np.unique(kept.argmax(axis=0))) <= {1, 2}
    assert kept[1].tolist() == maps[1].tolist()


def test_joint_normalisation_keeps_which_class_is_stronger_and_that_by_class_does_not() -> None:
    maps = np.stack([np.linspace(0, 1, 12).reshape(3, 4), np.linspace(0, 9, 12).reshape(3, 4)]).astype(np.float32)
    together, alone = normalised(maps), normalised(maps, joint=False)
    assert np.allclose(together[1], 9 * together[0])
    assert np.allclose(alone[0], alone[1])
    assert (together.min(), together.max()) == (0, 1)
    assert not normalised(np.full((2, 3, 3), 7, np.float32)).any()
