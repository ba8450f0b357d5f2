"""From patch labels alone to masks: what voting and the segmenter are worth, on planted textures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.methods import planted_chain as chains  # noqa: E402

SEEDS = range(6)
LOOKED_AT = 120
"""Training patches whose masks are scored: labels are all that was known of them."""


@dataclass(frozen=True)
class Found:
    """mIoU of one seed."""

    constant: float
    single: float
    voted: float
    segmented: float
    unseen_voted: float
    unseen_segmented: float
    flips_single: float
    flips_voted: float


def measured(folder: Path, seed: int) -> Found:
    """Train on a seed's patches and score everything."""
    torch.set_num_threads(1)
    chain = chains.Chain.of(folder, seed, chains.patches(seed))
    classifier, voting, single = chain.classified(), chain.training.config.voting, chain.single
    seen, unseen = ([one for one in chain.patches if one.split == split] for split in ("train", "test"))
    seen = seen[:LOOKED_AT]
    segmenter = chain.segmented(classifier)
    return Found(
        constant=chains.constant(seen, seed),
        single=chains.miou(seen, [chain.voted(classifier, one, single) for one in seen]),
        voted=chains.miou(seen, [chain.voted(classifier, one) for one in seen]),
        unseen_voted=chains.miou(unseen, [chain.voted(classifier, one) for one in unseen]),
        flips_single=chains.flips(chain, classifier, seen[:40], single),
        flips_voted=chains.flips(chain, classifier, seen[:40], voting),
        segmented=chains.miou(seen, chains.found(segmenter, seen)),
        unseen_segmented=chains.miou(unseen, chains.found(segmenter, unseen)),
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    return [measured(tmp_path_factory.mktemp(f"seed{seed}"), seed) for seed in SEEDS]


@pytest.mark.slow
def test_labels_of_patches_teach_where_classes_are(rows: list[Found]) -> None:
    assert min(row.voted for row in rows) >= 0.6, rows
    assert min(row.voted - row.constant for row in rows) >= 0.2, rows


@pytest.mark.slow
def test_voting_beats_a_single_scale_and_changes_less_with_the_scale(rows: list[Found]) -> None:
    assert np.mean([row.voted - row.single for row in rows]) > 0, rows
    assert np.mean([row.flips_voted - row.flips_single for row in rows]) < 0, rows


@pytest.mark.slow
def test_the_segmenter_beats_the_masks_that_it_learned_from(rows: list[Found]) -> None:
    """The masks are gated by the patches' labels, the segmenter does not know them."""
    assert min(row.segmented - row.voted for row in rows) > 0, rows


@pytest.mark.slow
def test_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    """On average; how a network begins may lie right or wrong by luck. True labels are worth 0.4."""
    gains = []
    for seed in SEEDS:
        patches = chains.patches(seed)
        chain = chains.Chain.of(tmp_path / str(seed), seed, chains.shuffled(patches, seed))
        model = chain.classified()
        seen = [one for one in patches if one.split == "train"][:LOOKED_AT]
        chance = np.mean([chains.constant(seen, draw) for draw in range(5)])
        gains.append(chains.miou(seen, [chain.voted(model, one) for one in seen]) - chance)
    assert np.mean(gains) <= 0.05, gains
    assert max(gains) <= 0.12, gains
