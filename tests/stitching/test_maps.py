"""Blending of score maps against a slow reference, and its independence of how the slide was read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planted import RampPredictor, ramp_scores, scene
from wsikit.geometry import Region, TileSpec
from wsikit.pipeline.run import RunReport, run
from wsikit.sinks.omezarr import OmeZarrSink
from wsikit.slides import Slide
from wsikit.stitching.maps import ramp
from wsikit.tissue import TissueMask

BOXES = [(20, 20, 60, 40), (100, 90, 80, 30), (190, 10, 30, 120)]


def masks(
    slide: Slide, predictor: RampPredictor, out: Path, **options: object
) -> tuple[np.ndarray, np.ndarray, RunReport]:  # type: ignore[type-arg]
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
        line[i] = (2 * i + 1) / (2 * overlap)
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
    assert (inner == inner[0]).all()


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
