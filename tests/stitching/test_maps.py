"""Blending of score maps against a slow reference, and its independence of how the slide was read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.planted import Planted, RampPredictor, ramp_scores, scene
from wsikit.geometry import Region, TileSpec
from wsikit.pipeline.run import RunReport, run
from wsikit.predictions import Batch, ScoreMap
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.slides import Slide
from wsikit.stitching.maps import WEIGHT, margin, ramp
from wsikit.tissue import TissueMask

BOXES = [(20, 20, 60, 40), (100, 90, 80, 30), (190, 10, 30, 120)]


def masks(slide: Slide, predictor: Any, out: Path, **options: object) -> tuple[np.ndarray, np.ndarray, RunReport]:  # type: ignore[type-arg]
    """Scores (K, H, W) and classes (H, W) of a run, as written."""
    sink = OmeZarrSink(out / "masks.ome.zarr")
    options.setdefault("mask", TissueMask.whole(slide))
    report = run(slide, predictor, sink, **options)  # type: ignore[arg-type]
    root = zarr.open_group(sink.path, mode="r")
    return root["scores/0"][:], root["labels/classes/0"][:], report  # type: ignore[index,return-value]


def reference(slide: Slide, predictor: RampPredictor) -> np.ndarray:  # type: ignore[type-arg]
    """Sum of weight * score over sum of weights in float64, window by window over the whole plane."""
    spec, (width, height) = predictor.tile, slide.size_at(predictor.mpp)
    sums, weights = np.zeros((2, height, width)), np.zeros((height, width))
    overlap = 2 * spec.halo
    line = np.full(spec.patch, 1.0)
    for i in range(overlap):
        line[i] = (1 - math.cos(math.pi * (i + 0.5) / overlap)) / 2
        line[spec.patch - 1 - i] = line[i]
    for row in range(-(-height // spec.core)):
        for column in range(-(-width // spec.core)):
            patch = spec.patch_region(column, row)
            scores = ramp_scores(slide.read(patch), patch)
            for j in range(patch.height):
                for i in range(patch.width):
                    x, y = patch.x + i, patch.y + j
                    if 0 <= x < width and 0 <= y < height:
                        sums[:, y, x] += line[i] * line[j] * scores[j, i]
                        weights[y, x] += line[i] * line[j]
    return sums / weights


@pytest.mark.parametrize("halo", [0, 5, 16])
def test_blended_scores_equal_a_slow_reference_within_a_step(tmp_path: Path, halo: int) -> None:
    slide = scene(90, 70, [(20, 20, 30, 25)])
    predictor = RampPredictor(core=32, halo=halo)
    scores, _, _ = masks(slide, predictor, tmp_path)
    assert np.abs(scores / 255 - reference(slide, predictor)).max() <= 1.01 / 255


@settings(max_examples=12, deadline=None)
@given(core=st.integers(8, 80), share=st.floats(0, 0.5), side=st.sampled_from([1, 64, 150]))
def test_scores_do_not_depend_on_the_supertile(
    tmp_path_factory: pytest.TempPathFactory, core: int, share: float, side: int
) -> None:
    slide = scene(230, 150, BOXES)
    predictor = RampPredictor(core=core, halo=int(core * share))
    out = tmp_path_factory.mktemp("maps")
    one, one_classes, _ = masks(slide, predictor, out, supertile=side)
    two, two_classes, _ = masks(slide, predictor, out, supertile=10_000)
    assert np.array_equal(one, two)
    assert np.array_equal(one_classes, two_classes)


@given(core=st.integers(1, 400), share=st.floats(0, 0.5))
def test_weights_of_neighbouring_patches_sum_to_a_constant(core: int, share: float) -> None:
    spec = TileSpec(0.5, core, int(core * share))
    weights = ramp(spec.patch, spec.halo)
    line = np.zeros(core * 4 + 2 * spec.halo, np.int64)
    for k in range(4):
        line[k * core : k * core + spec.patch] += weights
    inner = line[2 * spec.halo : len(line) - 2 * spec.halo]
    assert (inner == (WEIGHT if spec.halo else 1)).all()


@given(halo=st.integers(1, 300))
def test_weights_are_hanns_window_in_whole_numbers(halo: int) -> None:
    weights = ramp(4 * halo, halo)
    window = WEIGHT / 2 * (1 - np.cos(np.pi * (np.arange(4 * halo) + 0.5) / (2 * halo)))
    assert np.abs(weights - window).max() <= 1
    assert weights.min() >= 1
    assert np.array_equal(weights, weights[::-1])


@dataclass(frozen=True)
class OffsetPredictor(Planted):
    """A score that is the window's own."""

    halo: int = 16
    produces: ClassVar[type[ScoreMap]] = ScoreMap

    def predict(self, batch: Batch) -> list[ScoreMap]:
        return [self._one(region) for region in batch.regions]

    def _one(self, region: Region) -> ScoreMap:
        first = np.full((region.height, region.width), self.offset(region), np.float32)
        return ScoreMap(region, np.stack([first, 1 - first], axis=2))

    @staticmethod
    def offset(region: Region) -> float:
        return float(np.random.default_rng((region.x + 1000, region.y + 1000)).uniform())


def blended(slide: Slide, predictor: OffsetPredictor, line: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """The first score in steps, with other weights along an axis."""
    spec, (width, height) = predictor.tile, slide.size_at(predictor.mpp)
    sums, weights = np.zeros((2, height + 2 * spec.patch, width + 2 * spec.patch))
    for row in range(-(-height // spec.core)):
        for column in range(-(-width // spec.core)):
            patch = spec.patch_region(column, row)
            y, x = patch.y + spec.patch, patch.x + spec.patch
            inside = slice(y, y + spec.patch), slice(x, x + spec.patch)
            sums[inside] += np.outer(line, line) * predictor.offset(patch)
            weights[inside] += np.outer(line, line)
    inner = slice(spec.patch, spec.patch + height), slice(spec.patch, spec.patch + width)
    return np.rint(sums[inner] / weights[inner] * 255)


def seam_energy(scores: np.ndarray, core: int, halo: int) -> float:  # type: ignore[type-arg]
    """Mean squared jump across the borders of windows, in parts of that between all neighbours."""
    jumps = np.diff(scores.astype(float), axis=1)[:, core:-core] ** 2
    right = np.arange(core + 1, core + 1 + jumps.shape[1])  # the pixel after the jump
    border = (right % core == halo) | (right % core == core - halo)
    return float(jumps[:, border].mean() / jumps.mean())


@pytest.mark.parametrize("core", [64, 96])
def test_windows_that_disagree_leave_less_of_a_seam_than_plain_or_linear_averaging(tmp_path: Path, core: int) -> None:
    slide, predictor = scene(640, 480, []), OffsetPredictor(core=core)
    overlap, patch = 2 * predictor.halo, core + 2 * predictor.halo
    scores, _, _ = masks(slide, predictor, tmp_path)
    rising = np.minimum((np.arange(patch) + 0.5) / overlap, 1)
    energy = seam_energy(scores[0], core, predictor.halo)
    linear = seam_energy(blended(slide, predictor, np.minimum(rising, rising[::-1])), core, predictor.halo)
    plain = seam_energy(blended(slide, predictor, np.ones(patch)), core, predictor.halo)
    assert energy < 0.2 < plain
    assert energy < linear


def test_scores_of_one_stay_one_wherever_patches_overlap(tmp_path: Path) -> None:
    """The largest sums of all."""

    @dataclass(frozen=True)
    class Sure(OffsetPredictor):
        @staticmethod
        def offset(region: Region) -> float:
            return 1.0

    scores, classes, _ = masks(scene(90, 70, []), Sure(core=32, halo=16), tmp_path)
    assert (scores[0] == 255).all()
    assert (classes == 1).all()


@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4))))
def test_confidence_is_the_best_score_less_the_second_best(scores: np.ndarray) -> None:  # type: ignore[type-arg]
    last = np.sort(np.concatenate([np.zeros_like(scores[:1]), scores]).astype(int), axis=0)
    assert np.array_equal(margin(scores), last[-1] - last[-2])


def test_confidence_is_written_beside_the_classes_and_summed_over_what_was_analysed(tmp_path: Path) -> None:
    slide = scene(230, 150, BOXES)
    tissue = np.zeros((75, 115), np.bool_)
    tissue[:40, :60] = True
    mask = TissueMask(tissue, 1.0)
    scores, classes, report = masks(slide, RampPredictor(core=64, halo=8), tmp_path, mask=mask)
    confidence = zarr.open_group(tmp_path / "masks.ome.zarr", mode="r")["confidence/0"][0]  # type: ignore[index]
    on = classes > 0
    assert np.array_equal(confidence[on], np.abs(scores[0].astype(int) - scores[1])[on])
    assert (confidence[~on] == 0).all()
    facts = report.merged.class_map
    assert facts is not None
    assert facts.confidence == pytest.approx(confidence[on].mean() / 255)
    assert facts.low_confidence == pytest.approx((confidence[on] < 51).mean())


def test_classes_are_the_best_score_and_zero_off_the_tissue(tmp_path: Path) -> None:
    slide = scene(230, 150, BOXES)
    tissue = np.zeros((75, 115), np.bool_)
    tissue[:40, :60] = True
    mask = TissueMask(tissue, 1.0)
    scores, classes, report = masks(slide, RampPredictor(core=64, halo=8), tmp_path, mask=mask)
    on = mask.sample(Region(0, 0, 230, 150, 0.5))
    assert (classes[on] == scores.argmax(axis=0)[on] + 1).all()
    assert (classes[~on] == 0).all()
    assert (scores[:, ~on] == 0).all()
    shares = [(classes == k).sum() / on.sum() for k in (1, 2)]
    assert list(report.merged.area_fractions.values()) == pytest.approx(shares)


def test_an_unreadable_tile_is_no_class(tmp_path: Path) -> None:
    slide = scene(200, 200, BOXES[:1], tile=(64, 64), bad=[(0, 1, 1)])
    _, classes, report = masks(slide, RampPredictor(core=64, halo=8), tmp_path)
    assert (classes[64:128, 64:128] == 0).all()
    assert (classes > 0).sum() == 200 * 200 - 64 * 64
    assert report.status == "partial"


def test_the_mask_of_a_large_map_is_written_block_by_block(tmp_path: Path) -> None:
    slide = scene(2500, 2300, [(2000, 1900, 400, 300)])
    scores, classes, _ = masks(slide, RampPredictor(core=512, halo=64), tmp_path, supertile=700)
    assert scores.shape == (2, 2300, 2500)
    assert (classes > 0).all()
