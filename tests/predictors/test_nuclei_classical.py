"""``nuclei``: the same in every window and at every resolution, right on planted scenes and on annotated images."""

from __future__ import annotations

import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import cKDTree

from wsikit.errors import ConfigError, PredictionError
from wsikit.geometry import Region
from wsikit.pipeline.evaluate import evaluate
from wsikit.predictions import Batch, Objects, Predictor
from wsikit.predictors import load_predictor
from wsikit.predictors.basins import basins, without_holes
from wsikit.predictors.nuclei_classical import AREA_UM2, ClassicalNuclei
from wsikit.predictors.sampling import OD_RANGE, WINDOWS, od_histogram, otsu, tissue_windows
from wsikit.slides import Slide, open_slide
from wsikit.slides.array import array_slide
from wsikit.stain.density import EOSIN, HAEMATOXYLIN
from wsikit.tissue import TissueMask

MPP = 0.25


def disc(
    shape: tuple[int, int], x: float, y: float, radius: float, aspect: float = 1.0, mpp: float = MPP
) -> NDArray[np.float64]:
    """Ellipse with a soft edge of about 0.5 um; all in um."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    dx, dy = (columns + 0.5) * mpp - x, (rows + 0.5) * mpp - y
    distance = radius - np.hypot(dx / aspect, dy * aspect)
    return np.clip(0.5 + distance / 0.5, 0, 1)


def he(haematoxylin: NDArray[np.float64], noise: float = 2.0, seed: int = 0) -> NDArray[np.uint8]:
    """An H&E picture by the forward stain model: nuclei of 0.9 OD in pink tissue."""
    vectors = [np.array(v) / np.linalg.norm(v) for v in (HAEMATOXYLIN, EOSIN)]
    od = (0.08 + 0.82 * haematoxylin)[..., None] * vectors[0] + 0.25 * vectors[1]
    light = 255 * 10.0**-od + np.random.default_rng(seed).normal(0, noise, od.shape)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8)


def scene(side: int = 1000, count: int = 260, seed: int = 5) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A field of nuclei at least 9 um apart and 12 um off the edge, and their (x, y, radius) in um."""
    rng = np.random.default_rng(seed)
    placed: list[tuple[float, float, float]] = []
    canvas = np.zeros((side, side))
    while len(placed) < count:
        x, y = rng.uniform(12, side * MPP - 12, 2)
        if all(np.hypot(x - a, y - b) > 9 for a, b, _ in placed):
            radius = rng.uniform(2.2, 3.8)
            placed.append((x, y, radius))
            left, top = int(x / MPP) - 24, int(y / MPP) - 24
            patch = canvas[top : top + 48, left : left + 48]
            blob = disc((48, 48), x - left * MPP, y - top * MPP, radius, rng.uniform(0.85, 1.18))
            np.maximum(patch, blob, out=patch)
    return he(canvas), np.array(placed)


def prepared(slide: Slide, mpp: float = 0.5) -> ClassicalNuclei:
    predictor = load_predictor("nuclei-classical", mpp=mpp).prepare(slide, TissueMask.whole(slide))
    assert isinstance(predictor, ClassicalNuclei)
    return predictor


def found_in(predictor: ClassicalNuclei, slide: Slide, region: Region) -> Objects:
    (found,) = predictor.predict(Batch(slide.read(region)[None], (region,)))
    found.check(len(predictor.labels))
    return found


def everything(slide: Slide, mpp: float = 0.5) -> Objects:
    """All objects of a slide, seen in one window that reaches over its edges."""
    predictor = prepared(slide, mpp)
    return found_in(predictor, slide, slide.plane(slide.resolve(mpp)).padded(predictor.tile.halo))


def centroids_um(found: Objects) -> NDArray[np.float64]:
    corner = np.array([found.region.x, found.region.y])
    centroids: NDArray[np.float64] = (found.moments[:, :2] / found.moments[:, 2:] + 0.5 + corner) * found.region.mpp
    return centroids


def identities(found: Objects, core: Region | None = None) -> set[tuple[object, ...]]:
    """Outline in the slide frame, score and all measurements, bit by bit, of the objects that a core owns."""
    shift = (found.region.x, found.region.y)
    total = found.moments[:, :2] + found.moments[:, 2:] * shift
    owned = np.ones(len(total), bool)
    if core is not None:
        n = found.moments[:, 2]
        owned &= (core.x * n <= total[:, 0]) & (total[:, 0] < core.x1 * n)
        owned &= (core.y * n <= total[:, 1]) & (total[:, 1] < core.y1 * n)
    moved = shapely.transform(found.outlines[owned], lambda xy: xy + shift)
    values = [found.scores, *(found.measurements[name] for name in sorted(found.measurements))]
    return set(zip(shapely.to_wkb(moved), *(value[owned].tolist() for value in values), strict=True))


def tiled(predictor: ClassicalNuclei, slide: Slide, mpp: float) -> set[tuple[object, ...]]:
    spec = predictor.tile.at(mpp)
    width, height = slide.size_at(mpp)
    cells = [(c, r) for r in range(-(-height // spec.core)) for c in range(-(-width // spec.core))]
    parts = [
        identities(found_in(predictor, slide, spec.patch_region(*cell)), spec.core_region(*cell)) for cell in cells
    ]
    assert sum(map(len, parts)) == len(set().union(*parts)), "an object has two owners"
    return set().union(*parts)


def matched_share(first: Objects, second: Objects, within_um: float = 1.0) -> float:
    """Share of the objects, of both together, that are each other's nearest and within a distance."""
    a, b = centroids_um(first), centroids_um(second)
    to_b, index_b = cKDTree(b).query(a)
    _, index_a = cKDTree(a).query(b)
    mutual = (index_a[index_b] == np.arange(len(a))) & (to_b <= within_um)
    return 2 * float(mutual.sum()) / (len(a) + len(b))


@pytest.fixture(scope="module")
def data() -> Path:
    if "WSIKIT_DATA" not in os.environ:
        pytest.skip("WSIKIT_DATA is not set: no real images here")
    return Path(os.environ["WSIKIT_DATA"])


@pytest.fixture(scope="module")
def planted() -> tuple[Slide, NDArray[np.float64]]:
    image, nuclei = scene()
    return array_slide(image, MPP), nuclei


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_planted_nuclei_are_found(planted: tuple[Slide, NDArray[np.float64]], mpp: float) -> None:
    slide, nuclei = planted
    found = everything(slide, mpp)
    distance, index = cKDTree(centroids_um(found)).query(nuclei[:, :2])
    assert len(found.outlines) == len(nuclei)
    assert distance.max() < 0.5
    area = found.measurements["Area um^2"][index]
    assert np.median(area / (np.pi * nuclei[:, 2] ** 2)) == pytest.approx(1, abs=0.15)


def test_measurements_are_those_of_the_planted_nucleus() -> None:
    slide = array_slide(he(disc((160, 160), 20, 20, 3.5), noise=0), MPP)
    found = everything(slide)
    values = {name: float(value[0]) for name, value in found.measurements.items()}
    assert len(found.outlines) == 1
    assert values["Area um^2"] == pytest.approx(np.pi * 3.5**2, rel=0.08)
    assert values["Circularity"] > 0.85
    assert values["Haematoxylin OD mean"] == pytest.approx(0.88, abs=0.06)
    assert 0 < found.scores[0] < 1


def test_touching_nuclei_are_parted() -> None:
    shape = (200, 200)
    pair = np.maximum(disc(shape, 22, 25, 3.2), disc(shape, 28, 25, 3.2))
    found = everything(array_slide(he(pair), MPP))
    assert sorted(centroids_um(found)[:, 0].round()) == [22, 28]


def test_an_elongated_nucleus_stays_whole() -> None:
    found = everything(array_slide(he(disc((200, 200), 25, 25, 3.5, aspect=1.35)), MPP))
    assert len(found.outlines) == 1


def test_specks_and_giants_are_no_nuclei() -> None:
    shape = (400, 400)
    marks = np.maximum(disc(shape, 25, 25, 0.8), disc(shape, 65, 65, 14))
    found = everything(array_slide(he(np.maximum(marks, disc(shape, 25, 70, 3))), MPP))
    assert centroids_um(found).round().tolist() == [[25, 70]]


@pytest.mark.parametrize("core", [200, 256])
def test_planted_objects_do_not_depend_on_the_window(planted: tuple[Slide, NDArray[np.float64]], core: int) -> None:
    slide, _ = planted
    predictor = replace(prepared(slide), core=core)
    assert tiled(predictor, slide, 0.5) == identities(everything(slide))


def test_real_objects_do_not_depend_on_the_window(data: Path) -> None:
    with open_slide(data / "slides" / "cmu-1-small-region.svs") as slide:
        whole = identities(everything(slide))
        small, large = (tiled(replace(prepared(slide), core=core), slide, slide.mpp) for core in (512, 1024))
    assert len(whole) > 1000
    assert small == large
    assert len(whole ^ large) <= 0.001 * len(whole)


def test_a_nucleus_cut_by_the_border_is_left_to_another_window() -> None:
    slide = array_slide(he(disc((200, 200), 25, 25, 3.5)), MPP)
    predictor = prepared(slide)
    assert len(found_in(predictor, slide, Region(0, 0, 100, 100, 0.5)).outlines) == 1
    for x, y in [(50, 0), (-50, 0), (0, 50), (0, -50)]:
        assert len(found_in(predictor, slide, Region(x, y, 100, 100, 0.5)).outlines) == 0


def test_the_rest_of_a_batch_changes_nothing(planted: tuple[Slide, NDArray[np.float64]]) -> None:
    slide, _ = planted
    predictor = prepared(slide)
    regions = tuple(Region(x, 0, 240, 240, 0.5) for x in (0, 100, 200))
    images = np.stack([slide.read(region) for region in regions])
    together = predictor.predict(Batch(images, regions))
    alone = [found_in(predictor, slide, region) for region in regions]
    assert [identities(found) for found in together] == [identities(found) for found in alone]


def test_planted_objects_agree_between_resolutions(planted: tuple[Slide, NDArray[np.float64]]) -> None:
    slide, _ = planted
    assert matched_share(everything(slide, 0.25), everything(slide, 0.5)) >= 0.99


def test_real_objects_agree_between_resolutions(data: Path) -> None:
    shares, counts = [], []
    for path in sorted((data / "nuclei" / "monuseg_test_NC").glob("*.tif"))[::2]:
        slide = array_slide(np.asarray(Image.open(path).convert("RGB")), MPP)
        fine, coarse = everything(slide, 0.25), everything(slide, 0.5)
        shares.append(matched_share(fine, coarse))
        counts.append((len(fine.outlines), len(coarse.outlines)))
    total = np.sum(counts, axis=0)
    assert np.average(shares, weights=np.sum(counts, axis=1)) >= 0.95
    assert abs(total[0] - total[1]) <= 0.05 * total.min()


@pytest.mark.parametrize("mpp", [0.25, 0.5])
def test_annotated_nuclei_that_gave_no_constant_are_found(data: Path, tmp_path: Path, mpp: float) -> None:
    labels = sorted((data / "nuclei" / "dsb2018_he").glob("*_labels.png"))[1::4]
    rows = [f"{path.with_name(path.name.replace('_labels', ''))},0.25" for path in labels]
    (tmp_path / "some.csv").write_text("\n".join(["path,mpp", *rows]))
    found = evaluate(load_predictor("nuclei-classical", mpp=mpp), tmp_path / "some.csv")
    assert len(found.scored) == len(rows) > 10
    assert found.metrics()["object_f1"].pooled > 0.58


@pytest.mark.parametrize("value", [255, 243, 128, 0])
def test_an_even_slide_holds_no_nuclei(value: int) -> None:
    noise = np.random.default_rng(0).normal(value, 2, (300, 300, 3))
    found = everything(array_slide(np.clip(np.rint(noise), 0, 255).astype(np.uint8), 0.5))
    assert len(found.outlines) == 0


def test_the_edge_of_the_slide_makes_no_nuclei_of_even_tissue() -> None:
    noise = np.random.default_rng(0).normal(128, 2, (300, 300, 3))
    slide = array_slide(np.clip(np.rint(noise), 0, 255).astype(np.uint8), 0.5)
    predictor = replace(prepared(slide), threshold=0.5)  # a little below the density of the tissue
    assert len(found_in(predictor, slide, slide.plane(0.5).padded(64)).outlines) == 0


def test_a_slide_without_tissue_still_binds() -> None:
    slide = array_slide(np.full((40, 50, 3), 255, np.uint8), 0.5)
    predictor = load_predictor("nuclei-classical").prepare(slide, TissueMask(np.zeros((5, 7), np.bool_), 4.0))
    region = slide.plane(0.5).padded(10)
    (found,) = predictor.predict(Batch(slide.read(region)[None], (region,)))
    assert predictor.bound["haematoxylin_otsu_od"] is None
    assert isinstance(found, Objects)
    assert len(found.outlines) == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_tiny_slides_work(size: tuple[int, int]) -> None:
    assert len(everything(array_slide(np.full((*size, 3), 90, np.uint8), 0.5)).outlines) == 0


def test_prepare_returns_a_bound_copy_that_pickles(planted: tuple[Slide, NDArray[np.float64]]) -> None:
    unbound = load_predictor("nuclei-classical")
    bound = unbound.prepare(planted[0], TissueMask.whole(planted[0]))
    assert isinstance(unbound, Predictor)
    assert unbound.bound == {}
    assert 0.2 < bound.bound["haematoxylin_threshold_od"] < 0.8
    assert pickle.loads(pickle.dumps(bound)) == bound


def test_predicting_before_prepare_is_refused() -> None:
    with pytest.raises(PredictionError, match="call prepare"):
        load_predictor("nuclei-classical").predict(Batch(np.zeros((1, 4, 4, 3), np.uint8), (Region(0, 0, 4, 4, 0.5),)))


def test_a_halo_too_small_is_refused_naming_both() -> None:
    with pytest.raises(ConfigError, match=r"20 um is too small.*at least 32 um"):
        ClassicalNuclei(halo_um=20)


@pytest.mark.parametrize("mpp", [0.0, -1.0, 4.0, float("nan")])
def test_a_resolution_out_of_range_is_refused(mpp: float) -> None:
    with pytest.raises(ConfigError, match="mpp"):
        load_predictor("nuclei-classical", mpp=mpp)


def test_the_halo_is_the_same_length_at_every_resolution() -> None:
    halos = {mpp: load_predictor("nuclei-classical", mpp=mpp).tile.halo for mpp in (0.25, 0.5, 1.0)}
    assert halos == {0.25: 128, 0.5: 64, 1.0: 32}


def test_a_full_window_takes_less_than_a_second() -> None:
    image, _ = scene(side=1088, count=350)
    slide = array_slide(image, 0.5)  # twice the size: 1088 px of large nuclei
    predictor = prepared(slide)
    region = slide.plane(0.5)
    batch = Batch(slide.read(region)[None], (region,))
    started = time.process_time()
    predictor.predict(batch)
    assert time.process_time() - started < 1.0


def walk(height: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Flat index of the summit above each pixel of a mask, by walking; -1 outside."""
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1] = mask[1:-1, 1:-1]
    summits = np.full(mask.shape, -1)
    for start in zip(*np.nonzero(inner), strict=True):
        here = start
        while True:
            around = [(here[0] + r, here[1] + c) for r in (-1, 0, 1) for c in (-1, 0, 1)]
            best = max((p for p in around if inner[p]), key=lambda p: height[p])
            if height[best] == height[here]:
                break
            here = best
        summits[start] = here[0] * mask.shape[1] + here[1]
    return summits


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, (9, 11), elements=st.integers(0, 6).map(np.float32), fill=st.nothing()),
    hnp.arrays(np.bool_, (9, 11), elements=st.booleans(), fill=st.nothing()),
)
def test_without_merging_basins_are_where_a_walk_uphill_ends(
    height: NDArray[np.float32], mask: NDArray[np.bool_]
) -> None:
    summits = walk(height, mask)
    _, expected = np.unique(summits, return_inverse=True)
    outside = 0 if (summits >= 0).all() else 1
    np.testing.assert_array_equal(basins(height, mask, depth=0.0), expected.reshape(mask.shape) + 1 - outside)


@pytest.mark.parametrize(("depth", "count"), [(0.5, 2), (1.5, 1)])
def test_a_summit_over_a_shallow_pass_joins_its_neighbour(depth: float, count: int) -> None:
    ridge = np.array([0, 1, 3, 2, 4, 1, 0], np.float32)
    height = np.tile(ridge, (3, 1)) - np.array([[0.1], [0], [0.1]], np.float32)
    assert basins(height, np.ones((3, 7), bool), depth).max() == count


def test_a_plateau_is_one_object() -> None:
    mask = np.pad(np.ones((6, 20), bool), 2)
    assert basins(np.where(mask, np.float32(2), np.float32(0)), mask, 0.1).max() == 1


def test_holes_are_filled_up_to_their_limit_and_not_at_the_border() -> None:
    mask = np.ones((12, 12), bool)
    mask[2:4, 2:4] = mask[6:9, 6:9] = mask[0, 5] = False
    filled = without_holes(mask, 4)
    assert filled[2:4, 2:4].all()
    assert not filled[6:9, 6:9].any()
    assert not filled[0, 5]


def test_sampled_windows_cover_a_small_slide_once() -> None:
    slide = array_slide(np.zeros((300, 700, 3), np.uint8), 0.5)
    windows = tissue_windows(slide, TissueMask.whole(slide), 0.5)
    assert sum(w.width * w.height for w in windows if w.width == w.height == 256) == 2 * 256 * 256
    assert all(w.x1 <= 700 and w.y1 <= 300 for w in windows)


def test_sampled_windows_are_bounded_and_lie_on_tissue() -> None:
    slide = array_slide(np.zeros((2600, 2600, 3), np.uint8), 0.5)
    mask = np.zeros((325, 325), bool)
    mask[:, 160:] = True
    tissue = TissueMask(mask, 4.0)
    windows = tissue_windows(slide, tissue, 0.5)
    assert len(windows) == WINDOWS
    assert all(tissue.coverage(w) >= 0.5 for w in windows)


@given(st.lists(st.floats(-0.45, 2.45), min_size=2, max_size=60))
def test_otsu_equals_trying_every_threshold(values: list[float]) -> None:
    array = np.array(values, np.float32)
    found = otsu(od_histogram(array))
    step = (OD_RANGE[1] - OD_RANGE[0]) / 768
    binned = np.floor((array - OD_RANGE[0]) / np.float32(step))

    def spread(threshold: float) -> float:
        low, high = binned[binned < threshold], binned[binned >= threshold]
        return len(low) * len(high) * float(low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0

    best = max(spread(threshold) for threshold in np.unique(binned))
    assert found is not None
    if best == 0:
        assert binned.max() < (found - OD_RANGE[0]) / step < binned.max() + 1.01
    else:
        assert spread((found - OD_RANGE[0]) / step) == pytest.approx(best, rel=1e-3)


def test_areas_lie_inside_the_limits(planted: tuple[Slide, NDArray[np.float64]]) -> None:
    area = everything(planted[0]).measurements["Area um^2"]
    assert (area >= AREA_UM2[0]).all()
    assert (area <= AREA_UM2[1]).all()
