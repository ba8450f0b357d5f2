"""The points method end to end on planted nuclei: trained on full masks, held against what was planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from PIL import Image

from wsikit.errors import ConfigError, PredictionError

torch = pytest.importorskip("torch")

from tests.methods import planted_points as planted  # noqa: E402
from wsikit.geometry import Region  # noqa: E402
from wsikit.methods.points import Config, build_model, dataset, evaluate, load_predictor, train  # noqa: E402
from wsikit.methods.points.config import Segmenter  # noqa: E402
from wsikit.methods.points.detect import _heat, _write_maps  # noqa: E402
from wsikit.methods.points.evaluate import centres, look, mask_scores, painted  # noqa: E402
from wsikit.methods.points.model import CENTRE  # noqa: E402
from wsikit.methods.points.predict import NucleiOutlines  # noqa: E402
from wsikit.methods.points.shown import NuclearStain  # noqa: E402
from wsikit.methods.points.train import Training, nearest  # noqa: E402
from wsikit.outlines import pixels  # noqa: E402
from wsikit.pipeline.run import run  # noqa: E402
from wsikit.predictions import Batch, Objects  # noqa: E402
from wsikit.sinks.memory import FeatureList  # noqa: E402
from wsikit.slides.array import array_slide  # noqa: E402
from wsikit.stain.density import EOSIN, HAEMATOXYLIN, absorption, intensity  # noqa: E402
from wsikit.stain.macenko import basis  # noqa: E402
from wsikit.tissue import TissueMask  # noqa: E402
from wsikit.training.fit import Progress  # noqa: E402
from wsikit.training.recipe import Recipe  # noqa: E402

MPP = 0.5


def write(folder: Path, count: int, seed: int = 0) -> Path:
    """Tiles with instance labels beside them."""
    folder.mkdir(parents=True)
    for number in range(count):
        one = planted.scene((seed, number))
        Image.fromarray(one.image).save(folder / f"{number:03d}.png")
        Image.fromarray(one.labels.astype(np.uint16)).save(folder / f"{number:03d}_labels.png")
    return folder


def settings(data: Path, epochs: int) -> Config:
    """A small network and few epochs; one thread, since small networks are slower with more."""
    return Config(
        data=data,
        mpp=MPP,
        test_share=0.2,
        validation_share=0.2,
        encoder="test_efficientnet",
        weights="none",
        widths=(32, 16),
        at_mpp=MPP,
        seen_mpp=(0.4, 0.6),
        crop=96,
        segmenter=Segmenter(labels="masks", recipe=Recipe(epochs=epochs, batch_size=4, learning_rate=4e-3, threads=1)),
        core=128,
        halo=32,
    )


@dataclass(frozen=True)
class Trained:
    """A training that is done."""

    config: Config
    out: Path
    predictor: NucleiOutlines


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("points")
    config = settings(write(folder / "data", 24), 12)
    return Trained(config, folder / "out", load_predictor(train(config, folder / "out"), device="cpu"))


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The same training of a network that is shown the stain of nuclei only."""
    folder = tmp_path_factory.mktemp("grey")
    config = settings(write(folder / "data", 24), 12).model_copy(update={"sees": "stain"})
    return Trained(config, folder / "out", load_predictor(train(config, folder / "out"), device="cpu"))


@dataclass(frozen=True, eq=False)
class Sheet:
    """A planted slide, and the nuclei that were found on it."""

    truth: NDArray[np.int32]
    labels: NDArray[np.int64]
    objects: list[bytes]
    """Outlines, and all that was measured, in the order in which they came."""
    count: int


def found_on(predictor: NucleiOutlines, supertile: int, seed: int = 50) -> Sheet:
    """Run over a slide of 3 x 3 windows, whose nuclei lie on the seams too."""
    scene = planted.scene(seed, side=384, nuclei=320, discs=60, fibres=40)
    slide, said = array_slide(scene.image, MPP), FeatureList()
    run(slide, predictor, said, mask=TissueMask.whole(slide), supertile=supertile)
    shapes = np.concatenate([part.geometries for part in said.features])
    rows, columns, owner = pixels(shapes, Region(0, 0, 384, 384, MPP))
    labels = np.zeros((384, 384), np.int64)
    labels[rows, columns] = owner + 1
    measured = [values.tobytes() for part in said.features for values in part.measurements.values()]
    return Sheet(scene.labels, labels, [*shapely.to_wkb(shapes), b"".join(measured)], len(shapes))


def test_unseen_nuclei_are_found_with_their_outlines(small: Trained) -> None:
    metrics = evaluate(small.predictor, dataset(small.config, "test"))
    assert metrics["object_f1"] > 0.85
    assert metrics["detection_f1"] > 0.85
    assert metrics["dice"] > 0.85


def test_an_untrained_network_finds_none_of_them(small: Trained) -> None:
    """What the training above is worth."""
    torch.manual_seed(0)
    training = Training(small.config, small.out, build_model(small.config), None)
    assert training.scored(training.images("test"))["object_f1"] < 0.2


def stained_otherwise(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Half of the haematoxylin, and three times the eosin with some more of it everywhere."""
    stains = basis(np.array([HAEMATOXYLIN, EOSIN]))
    amounts = absorption(image) @ np.linalg.inv(stains)
    changed = np.stack([0.5 * amounts[..., 0], 3 * amounts[..., 1] + 0.3, amounts[..., 2]], axis=-1)
    return np.clip(intensity(changed @ stains), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(3))
def test_a_network_that_sees_stain_says_nearly_the_same_of_other_stains(grey: Trained, seed: int) -> None:
    scene = planted.scene(seed, side=128, nuclei=40)
    plain, other = (
        painted(look(grey.predictor, image, MPP), (128, 128), MPP)
        for image in (scene.image, stained_otherwise(scene.image))
    )
    assert mask_scores(scene.labels, plain)["object_f1"].value > 0.85
    assert mask_scores(scene.labels, other)["object_f1"].value > 0.85
    assert ((plain > 0) == (other > 0)).mean() > 0.96


def test_the_slides_stain_is_bound_where_it_is_shown(small: Trained, grey: Trained) -> None:
    slide = array_slide(planted.scene(3, side=128, nuclei=40).image, MPP)
    tissue = TissueMask.whole(slide)
    assert small.predictor.prepare(slide, tissue).bound == {}
    assert grey.predictor.prepare(slide, tissue).bound == NuclearStain.of(slide, tissue, MPP).facts


def test_every_nucleus_says_how_much_stain_it_holds(grey: Trained) -> None:
    scene = planted.scene(4, side=128, nuclei=40)
    found = look(grey.predictor, scene.image, MPP)
    slide = array_slide(scene.image, MPP)
    density = NuclearStain.of(slide, TissueMask.whole(slide), MPP).density(scene.image)
    labels = painted(found, (128, 128), MPP)
    wanted = [density[labels == number].mean() for number in range(1, len(found.scores) + 1)]
    assert len(wanted) > 20
    inside = ~np.isin(np.arange(1, len(wanted) + 1), [*labels[[0, -1]].ravel(), *labels[:, [0, -1]].ravel()])
    assert np.allclose(found.measurements["Stain OD mean"][inside], np.array(wanted)[inside], atol=0.02)


@pytest.mark.parametrize(("which", "equal"), [("grey", True), ("small", False)])
def test_training_shows_the_network_what_slides_will(which: str, equal: bool, request: pytest.FixtureRequest) -> None:
    trained: Trained = request.getfixturevalue(which)
    training = Training(trained.config, trained.out, build_model(trained.config), None)
    images = training.images("train")[:2]
    lessons = training.masks_of(images, {})
    for batches in (training.pieces(images, lessons, 1, 2), training.plain_pieces(images, lessons)):
        pixels = next(iter(batches))[0]
        assert bool((pixels == pixels[:, :1]).all()) == equal
        assert float(pixels.std()) > 0.05


def test_what_is_pale_ragged_or_unlikely_for_a_nucleus_is_dropped(grey: Trained) -> None:
    scene = planted.scene(4, side=128, nuclei=40)

    def found(**rules: float) -> Objects:
        rule = grey.config.instances.model_copy(update={"circularity": 0.0, **rules})
        config = grey.predictor.config.model_copy(update={"instances": rule})
        return look(replace(grey.predictor, config=config), scene.image, MPP)

    everything = found()
    slide = array_slide(scene.image, MPP)
    amounts = everything.measurements["Stain OD mean"] / NuclearStain.of(slide, TissueMask.whole(slide), MPP).threshold
    roundness = everything.measurements["Circularity"]
    for values, name in (
        (amounts, "least_stain"),
        (roundness, "circularity"),
        (everything.scores, "least_score"),
    ):
        cut = float(np.median(values))
        kept = found(**{name: cut})
        assert 0 < len(kept.scores) < len(everything.scores)
        assert np.array_equal(kept.moments, everything.moments[values >= cut])


def test_objects_on_a_slide_lie_on_the_right_pixels(small: Trained) -> None:
    sheet = found_on(small.predictor, 1024)
    scores = mask_scores(sheet.truth, sheet.labels)
    assert scores["object_f1"].value > 0.85
    assert sheet.count == pytest.approx(sheet.truth.max(), rel=0.1)


def test_nuclei_at_seams_are_found_as_well_as_those_inside(small: Trained) -> None:
    sheet = found_on(small.predictor, 1024)
    band = np.zeros(sheet.truth.shape, bool)
    for seam in (128, 256):
        band[seam - 3 : seam + 3] = band[:, seam - 3 : seam + 3] = True
    truth, found = (np.where(np.isin(one, np.unique(one[band])), one, 0) for one in (sheet.truth, sheet.labels))
    assert len(np.unique(truth)) > 30
    assert mask_scores(truth, found)["object_f1"].value > 0.8


def test_super_tiles_of_any_size_give_the_same_bytes(small: Trained) -> None:
    first = found_on(small.predictor, 128).objects
    assert found_on(small.predictor, 256).objects == first
    assert found_on(small.predictor, 1024).objects == first


@pytest.mark.parametrize("seed", range(2))
def test_nuclei_on_the_slides_border_are_found_once_and_end_there(small: Trained, seed: int) -> None:
    scene = planted.scene(seed, side=128, nuclei=40)
    # a cut through the middle of the scene, so that nuclei lie across every border
    image, truth = scene.image[20:108, 20:108], scene.labels[20:108, 20:108]
    found = look(small.predictor, np.ascontiguousarray(image), MPP)
    labels = painted(found, truth.shape, MPP)
    places = centres(found) / MPP
    assert ((places >= 0) & (places <= 88)).all()
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    wanted = np.concatenate([truth[0], truth[-1], truth[:, 0], truth[:, -1]])
    assert (edge > 0).sum() == pytest.approx((wanted > 0).sum(), rel=0.35)


def test_what_a_window_holds_far_off_the_slide_changes_nothing(small: Trained) -> None:
    scene = planted.scene(5, side=128, nuclei=40)
    bound, halo = replace(small.predictor, size=(128, 128)), small.predictor.tile.halo
    wide, near = (
        Region(-left, -top, 128 + left + halo, 128 + top + halo, MPP) for left, top in ((200, 150), (halo, halo))
    )
    seen = [np.pad(scene.image, ((-one.y, halo), (-one.x, halo), (0, 0)), constant_values=255) for one in (wide, near)]
    far, close = (bound.predict(Batch(image[None], (one,)))[0] for image, one in zip(seen, (wide, near), strict=True))
    assert len(close.scores) > 10
    assert np.array_equal(far.scores, close.scores)
    moved = np.array([200 - halo, 150 - halo])
    assert np.array_equal(far.moments, close.moments + close.moments[:, 2:] * [*moved, 0])
    assert shapely.equals(far.outlines, shapely.transform(close.outlines, lambda xy: xy + moved)).all()


def test_a_finer_slide_is_read_at_the_models_resolution(small: Trained) -> None:
    """Every pixel four times: twice the resolution, and the same nuclei."""
    scene = planted.scene(7, side=128, nuclei=40)
    coarse = look(small.predictor, scene.image, MPP)
    fine = look(small.predictor, scene.image.repeat(2, axis=0).repeat(2, axis=1), MPP / 2)
    assert len(coarse.scores) > 10
    assert np.array_equal(coarse.moments, fine.moments)


def test_half_precision_says_nearly_the_same_and_is_another_predictor(small: Trained) -> None:
    whole, half = (replace(small.predictor, precision=precision) for precision in ("float32", "bfloat16"))
    assert whole.identity != half.identity
    pixels = planted.scene(7, side=128, nuclei=40).image[None]
    fine, coarse = whole.maps(pixels), half.maps(pixels)
    assert 0 < np.abs(fine - coarse).mean() < 0.01
    image, truth = pixels[0], planted.scene(7, side=128, nuclei=40).labels
    scores = [mask_scores(truth, painted(look(one, image, MPP), truth.shape, MPP)) for one in (whole, half)]
    assert scores[0]["object_f1"].value == pytest.approx(scores[1]["object_f1"].value, abs=0.05)


@pytest.mark.parametrize("mpp", [0.4, 0.6])
def test_it_works_at_the_ends_of_what_it_has_seen(small: Trained, mpp: float) -> None:
    predictor = load_predictor(small.out / "points.safetensors", mpp=mpp)
    scene = planted.scene(11, side=160, nuclei=60)
    image = Image.fromarray(scene.image).resize((320, 320), Image.Resampling.BILINEAR)
    found = painted(look(predictor, np.asarray(image), MPP / 2), (160, 160), MPP)
    assert mask_scores(scene.labels, found)["object_f1"].value > 0.75


def test_a_resolution_that_it_has_not_seen_is_refused(small: Trained) -> None:
    with pytest.raises(ConfigError, match=r"trained at 0\.4 to 0\.6") as refused:
        load_predictor(small.out / "points.safetensors", mpp=0.25)
    assert refused.value.code == "wrong_mpp"


def test_a_patch_gets_the_same_answer_whatever_else_is_in_the_batch(small: Trained) -> None:
    scene = planted.scene(3, side=192, nuclei=60)
    bound = replace(small.predictor, size=(192, 192))
    region = Region(0, 0, 192, 192, MPP)
    other = np.full_like(scene.image, 240)
    (alone,) = bound.predict(Batch(scene.image[None], (region,)))
    together = bound.predict(Batch(np.stack([other, scene.image]), (region, region)))[1]
    assert len(alone.scores)
    assert np.array_equal(alone.scores, together.scores)
    assert np.array_equal(alone.moments, together.moments)


def test_glass_has_no_nuclei(small: Trained) -> None:
    noise = np.random.default_rng(0).integers(240, 247, (200, 200, 3)).astype(np.uint8)
    assert not len(look(small.predictor, noise, MPP).scores)


def test_before_a_slide_is_bound_nothing_is_predicted(small: Trained) -> None:
    batch = Batch(np.zeros((1, 64, 64, 3), np.uint8), (Region(0, 0, 64, 64, MPP),))
    with pytest.raises(PredictionError, match="prepare"):
        small.predictor.predict(batch)


def test_a_finished_training_is_not_done_again(small: Trained) -> None:
    before = (small.out / "points.safetensors").read_bytes()
    stamp = (small.out / "points.safetensors").stat().st_mtime_ns
    assert train(small.config, small.out).read_bytes() == before
    assert (small.out / "points.safetensors").stat().st_mtime_ns == stamp


def test_another_training_in_the_same_folder_is_refused(small: Trained) -> None:
    with pytest.raises(ConfigError) as refused:
        train(small.config.model_copy(update={"seed": 1}), small.out)
    assert refused.value.code == "other_training"


def test_the_card_says_how_it_came_about(small: Trained) -> None:
    card = json.loads((small.out / "points.json").read_text("utf-8"))
    assert card["split"]["grouped_by"] == "image"
    assert card["metrics"]["images"] == 5
    assert card["metrics"]["stages"]["segmenter"]["object_f1"] > 0.5
    assert card["mpp"] == MPP


class Ended(Exception):
    """Stands for whatever ends a training."""


def ending(epoch: int) -> Callable[[Progress], None]:
    """A watch that ends a training after a step of that epoch."""

    def watch(progress: Progress) -> None:
        if progress.epoch == epoch:
            raise Ended

    return watch


def test_two_images_of_one_stem_have_maps_of_their_own(small: Trained, tmp_path: Path) -> None:
    training = Training(small.config, tmp_path, build_model(small.config), None)
    one, other = (
        replace(image, name=f"slide/a{suffix}") for image, suffix in zip(training.data, (".png", ".tif"), strict=False)
    )
    _write_maps(training, "detector-0", [one, other])
    found = [_heat(training, "detector-0", image) for image in (one, other)]
    for image, heat in zip((one, other), found, strict=True):
        assert np.allclose(heat, training.maps(image)[CENTRE], atol=0.003)
    assert not np.array_equal(*found)


def test_a_training_that_was_ended_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    config = settings(write(tmp_path / "data", 8, seed=1), 3)
    whole = train(config, tmp_path / "whole").read_bytes()
    for epoch in (2, 3):
        with pytest.raises(Ended):
            train(config, tmp_path / "ended", ending(epoch))
    assert train(config, tmp_path / "ended").read_bytes() == whole


def test_a_resolution_that_training_cannot_give_is_refused(tmp_path: Path) -> None:
    config = settings(write(tmp_path / "data", 6), 1)
    for update in ({"at_mpp": 0.45}, {"at_mpp": 0.7}):
        with pytest.raises(ConfigError, match="at_mpp"):
            train(config.model_copy(update=update), tmp_path / "out")


@pytest.mark.parametrize("seed", range(3))
def test_labels_at_a_coarser_size_are_those_under_the_middles(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 9, (12, 21))
    assert np.array_equal(nearest(labels, (12, 21)), labels)
    assert np.array_equal(nearest(labels, (4, 7)), labels[1::3, 1::3])
