"""Tissue from patch labels: its stages, one after another, on drawn textures. How well it learns is not asked here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from wsikit.config import load_config
from wsikit.errors import ConfigError

torch = pytest.importorskip("torch")

from tests.methods import planted_tissue as planted  # noqa: E402
from wsikit.methods.cam_onss import dataset, evaluate, load_predictor, train  # noqa: E402
from wsikit.methods.cam_onss.config import Classifier, Config, Segmenter, Voting  # noqa: E402
from wsikit.methods.cam_onss.model import TissueClassifier, TissueSegmenter, build_classifier, build_model  # noqa: E402
from wsikit.methods.cam_onss.pseudo import labels_at_scales, learnable  # noqa: E402
from wsikit.methods.cam_onss.train import PSEUDO, Training, _counted, zoomed  # noqa: E402
from wsikit.pipeline.run import run  # noqa: E402
from wsikit.sinks.memory import FeatureList  # noqa: E402
from wsikit.slides import Slide  # noqa: E402
from wsikit.slides.array import ArrayReader  # noqa: E402
from wsikit.tissue import TissueMask  # noqa: E402
from wsikit.training.fit import Progress  # noqa: E402
from wsikit.training.recipe import Recipe  # noqa: E402

MPP, CLASSES = 1.0, 3


def settings(data: Path, *, epochs: tuple[int, int]) -> Config:
    """A small network and few epochs."""
    first, second = (Recipe(epochs=count, batch_size=16, learning_rate=3e-3, threads=1) for count in epochs)
    return Config(
        data=data,
        tissue=planted.schema_of(CLASSES),
        mpp=MPP,
        stain="ihc",
        encoder="test_efficientnet",
        weights="none",
        classifier=Classifier(recipe=first),
        segmenter=Segmenter(width=32, recipe=second),
        least_um2=20,
    )


def write(folder: Path, train_patches: int, seed: int = 0) -> Path:
    parts = (("train", train_patches, 0), ("validation", 24, 1), ("test", 24, 2))
    patches = [
        replace(one, slide=f"slide{part}")
        for part, count, number in parts
        for one in planted.scenes(10 * seed + number, count, classes=CLASSES, split=part)  # type: ignore[arg-type]
    ]
    return planted.write_folder(folder, patches, planted.schema_of(CLASSES))


@dataclass(frozen=True)
class Trained:
    """A training that is done."""

    config: Config
    out: Path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("tissue")
    config = settings(write(folder / "data", 48), epochs=(5, 3))
    train(config, folder / "out")
    return Trained(config, folder / "out")


def test_the_card_has_the_metrics_of_the_chosen_epoch_and_of_the_last(small: Trained) -> None:
    metrics = json.loads((small.out / "cam_onss.json").read_text("utf-8"))["metrics"]
    assert metrics["images"] == metrics["last"]["images"] == 24
    assert {"miou", "fwiou", "mdice", "boundary_iou"} <= set(metrics["last"])


def test_pseudo_masks_hold_no_class_that_the_label_lacks(small: Trained) -> None:
    training = Training(small.config, small.out, None)
    for patch in [*training.images("train"), *training.images("validation")]:
        assert set(np.unique(training.mask(patch))) <= set(np.flatnonzero(patch.present))


def test_what_too_few_maps_agree_on_is_not_learned() -> None:
    schema, mask = planted.schema_of(CLASSES), np.array([[0, 1], [2, CLASSES]], np.uint8)
    agreement = np.array([[1.0, 0.5], [0.7, 1.0]], np.float32)
    for least, wanted in ((0.0, [[0, 1], [2, 255]]), (0.6, [[0, 255], [2, 255]]), (1.0, [[0, 255], [255, 255]])):
        found = learnable(mask, agreement, schema, Voting(least_agreement=least))
        assert found.tolist() == wanted


def test_what_mirror_images_say_is_mirrored_back(small: Trained) -> None:
    torch.manual_seed(0)
    model = build_classifier(small.config).eval()
    config = small.config.model_copy(update={"voting": Voting(scales=(1.0,), flips=True)})
    for seed in range(3):
        image = planted.scene(np.random.default_rng(seed), 3).image
        seen = labels_at_scales(model, image, (True,) * CLASSES, config)
        mirrored = labels_at_scales(model, np.ascontiguousarray(image[:, ::-1]), (True,) * CLASSES, config)
        assert (seen[0] == mirrored[1][:, ::-1]).mean() > 0.99
        assert (seen[0] == mirrored[1]).mean() < 0.95


def test_a_slide_becomes_areas_of_its_classes(small: Trained) -> None:
    image = np.concatenate([planted.scene(np.random.default_rng(i), 1, 192).image for i in (3, 4)], axis=1)
    slide, found = Slide(ArrayReader([image], MPP, path="planted.svs")), FeatureList()
    predictor = load_predictor(small.out / "cam_onss.safetensors", device="cpu")
    assert (predictor.tile.core, predictor.tile.halo) == (32, 16)
    run(slide, predictor, found, mask=TissueMask.whole(slide))
    names = {label.name for label in predictor.labels}
    area = sum(shape.area for part in found.features for shape in part.geometries)
    assert names == {"Texture A", "Texture B", "Texture C"}
    assert area >= 0.99 * image.shape[0] * image.shape[1]


def test_the_checkpoint_is_that_of_the_chosen_epoch(small: Trained) -> None:
    from wsikit.nn.weights import read_state

    best, packed = (read_state(small.out / name) for name in ("segmenter/best.safetensors", "cam_onss.safetensors"))
    assert all(torch.equal(best[name], packed[name]) for name in packed)


def test_test_patches_are_not_looked_at_before_the_end(small: Trained) -> None:
    names = {patch.name for patch in dataset(small.config, "test")}
    training = Training(small.config, small.out, None)
    assert names
    assert not any(training.mask_path(patch).exists() for patch in training.images("test"))


def test_a_resolution_that_it_was_not_trained_at_is_refused(small: Trained) -> None:
    with pytest.raises(ConfigError, match="trained at 1 um"):
        load_predictor(small.out / "cam_onss.safetensors", mpp=0.5)


class Ended(Exception):
    """Stands for whatever ends a training."""


def ending(stage: str, epoch: int) -> Callable[[Progress], None]:
    """A watch that ends a training after a step of that epoch."""

    def watch(progress: Progress) -> None:
        if (progress.stage, progress.epoch) == (stage, epoch):
            raise Ended

    return watch


def test_a_training_that_was_ended_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    config = settings(write(tmp_path / "data", 32), epochs=(5, 2))
    whole = train(config, tmp_path / "whole").read_bytes()
    for stage, epoch in (("classifier", 5), ("segmenter", 2)):
        with pytest.raises(Ended):
            train(config, tmp_path / "ended", ending(stage, epoch))
    assert train(config, tmp_path / "ended").read_bytes() == whole


@pytest.mark.parametrize("call", [1, 2])
def test_a_kill_while_it_is_measured_costs_no_figure(
    small: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """In the measuring of the last epoch, or of the chosen one."""
    from wsikit.methods.cam_onss import packing

    shutil.copytree(small.out, tmp_path / "out", ignore=shutil.ignore_patterns("cam_onss.*"))
    calls = iter(range(1, 9))

    def evaluated(*given: object) -> dict[str, float]:
        if next(calls) == call:
            raise Ended
        return evaluate(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(packing, "evaluate", evaluated)
    with pytest.raises(Ended):
        train(small.config, tmp_path / "out")
    assert not list((tmp_path / "out").glob("**/*cam_onss.*"))
    monkeypatch.setattr(packing, "evaluate", evaluate)
    again = train(small.config, tmp_path / "out")
    assert again.read_bytes() == (small.out / again.name).read_bytes()
    cards = (json.loads((out / "cam_onss.json").read_text("utf-8")) for out in (tmp_path / "out", small.out))
    assert len({json.dumps(card["metrics"]) for card in cards}) == 1


def test_what_only_the_card_shows_is_written_anew_without_learning(small: Trained, tmp_path: Path) -> None:
    shutil.copytree(small.out, tmp_path / "out")
    changed = small.config.model_copy(update={"palette": "dataset", "licence": "CC0-1.0"})
    path = train(changed, tmp_path / "out", ending("segmenter", 1))
    card = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert (card["config"]["palette"], card["licence"]) == ("dataset", "CC0-1.0")
    assert path.read_bytes() == (small.out / path.name).read_bytes()
    names = [label.name for label in small.config.tissue.labels("dataset")]
    assert [label["name"] for label in card["labels"]] == names
    assert names != [label.name for label in small.config.tissue.labels(small.config.palette)]


def test_pale_tissue_is_scored_by_what_the_network_says(small: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """White pixels are background on slides; where a mask calls them tissue that is no reason for the first class."""
    schema = small.config.tissue.model_copy(update={"background": True, "excluded": CLASSES})
    predictor = load_predictor(small.out / "cam_onss.safetensors", device="cpu")
    predictor = replace(predictor, config=predictor.config.model_copy(update={"tissue": schema}))
    patches = dataset(small.config, "test")
    plain = evaluate(predictor, patches)
    monkeypatch.setattr(
        "wsikit.methods.cam_onss.predict.white_pixels", lambda image, *_: np.ones(image.shape[:2], bool)
    )
    assert predictor.probabilities(patches[0].read()[None])[..., -1].min() == 1
    assert evaluate(predictor, patches) == plain


def test_the_first_epochs_weigh_all_pixels_alike(small: Trained, tmp_path: Path) -> None:
    found = []
    for loss, warmup in (("ce", 0), ("onss", 2), ("onss", 0)):
        part = small.config.segmenter.model_copy(
            update={"loss": loss, "warmup": warmup, "recipe": Recipe(epochs=2, batch_size=16, threads=1)}
        )
        out = tmp_path / f"{loss}{warmup}"
        shutil.copytree(small.out / PSEUDO, out / PSEUDO)
        torch.manual_seed(0)
        model = build_model(small.config.model_copy(update={"segmenter": part}))
        Training(small.config.model_copy(update={"segmenter": part}), out, None).segment(model)
        found.append(torch.cat([values.flatten() for values in model.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("decoder", ["pspnet", "deeplabv3plus", "upernet"])
@pytest.mark.parametrize("size", [(64, 64), (100, 75)])
def test_every_decoder_says_something_of_every_pixel(decoder: str, size: tuple[int, int], tmp_path: Path) -> None:
    config = settings(tmp_path, epochs=(1, 1))
    config = config.model_copy(update={"segmenter": Segmenter(decoder=decoder, width=16)})  # type: ignore[arg-type]
    logits, second = TissueSegmenter(config).both(torch.rand(2, 3, *size))
    assert logits.shape == (2, CLASSES, *size)
    assert second is not None
    assert second.shape == logits.shape


def test_dropout_attention_takes_away_what_is_most_active_and_only_from_its_epoch_on(tmp_path: Path) -> None:
    model = TissueClassifier(settings(tmp_path, epochs=(1, 1))).eval()
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        model.begin_epoch(3)
        plain = model.encoder(pixels)[-1].relu()
        assert torch.equal(model._dropped(plain), plain)  # a part that nothing shows from outside
        model.begin_epoch(40)
        assert float(model.gamma) == pytest.approx(0.65)
        attended = model._dropped(plain)
        top = torch.relu(model.layer(plain)).flatten(2).argmax(dim=2)
        # a place that is the most active of all classes that are active at all is gone
        for image in range(2):
            active = torch.relu(model.layer(plain))[image].flatten(1)
            alone = [int(top[image, k]) for k in range(CLASSES) if (active[:, top[image, k]] > 0).sum() == 1]
            for place in alone:
                assert bool((attended[image].flatten(1)[:, place] == 0).all())


@pytest.mark.parametrize(("name", "patches", "epochs"), [("luad_histoseg", 16678, 20), ("bcss_wsss", 23422, 14)])
def test_the_schedules_of_data_sets_come_to_their_iterations(name: str, patches: int, epochs: int) -> None:
    config = load_config(Config, Path(__file__).parents[2] / "configs" / f"{name}.yaml", [])
    assert config.tissue.name == name
    assert config.segmenter.loss == "onss"
    recipe = _counted(config.segmenter, patches)
    assert recipe.epochs == epochs
    assert 0 <= epochs * patches / recipe.batch_size - 20_000 < patches / recipe.batch_size


@pytest.mark.parametrize("seed", range(6))
def test_zoomed_pixels_keep_their_class(seed: int) -> None:
    """The mask is painted into the image, so that both can be compared after any factor."""
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.integers(0, 3, (4, 4)), np.ones((16, 16))).astype(np.uint8)
    image = np.repeat(mask[..., None] * 100, 3, axis=2)
    found, classes = zoomed(image, mask, (0.5, 2.0), rng)
    assert found.shape == image.shape
    seen = classes != 255
    assert seen.any()
    assert (np.abs(found[..., 0][seen].astype(int) - 100 * classes[seen].astype(int)) < 50).mean() > 0.9
