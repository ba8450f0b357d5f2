"""The counting method end to end on planted cells: trained on counts alone, held against what was planted.

Scenes are the hard ones: dark nuclei and brown streaks that the value channel cannot tell from cells.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import shapely
from shapely.affinity import scale
from typer.testing import CliRunner

from wsikit.errors import ConfigError, OutputError

torch = pytest.importorskip("torch")

from tests.methods import planted_counting as planted  # noqa: E402
from wsikit.cli.main import typer_app as app  # noqa: E402
from wsikit.methods.counting import build_model, dataset, evaluate, load_predictor, train  # noqa: E402
from wsikit.methods.counting.config import Config, Counter, Instances, Pseudo, Segmenter  # noqa: E402
from wsikit.methods.counting.evaluate import look  # noqa: E402
from wsikit.methods.counting.predict import CellOutlines, CellPoints  # noqa: E402
from wsikit.methods.counting.train import Training  # noqa: E402
from wsikit.metrics import match_points  # noqa: E402
from wsikit.nn.weights import read_state  # noqa: E402
from wsikit.pipeline.lease import Lease  # noqa: E402
from wsikit.pipeline.run import run  # noqa: E402
from wsikit.pipeline.stopping import Stop  # noqa: E402
from wsikit.sinks.memory import FeatureList  # noqa: E402
from wsikit.tissue import TissueMask  # noqa: E402
from wsikit.training.fit import Progress  # noqa: E402
from wsikit.training.recipe import Recipe  # noqa: E402

MPP = 0.5


def settings(data: Path, seed: int, *, epochs: tuple[int, int, int]) -> Config:
    """A small network and few epochs; one thread, since small networks are slower with more."""
    counter, instances, segmenter = (
        Recipe(epochs=count, batch_size=size, learning_rate=3e-3, threads=1)
        for count, size in zip(epochs, (16, 256, 16), strict=True)
    )
    return Config(
        data=data,
        mpp=MPP,
        stain="ihc",
        encoder="test_efficientnet",
        weights="none",
        depth=3,
        test_share=0.2,
        counter=Counter(recipe=counter, zoom=(1.0,)),  # planted cells are of one size
        instances=Instances(tile_um=4, interval_um=2, cell_radius_um=3, recipe=instances),
        pseudo=Pseudo(least_um2=8, hole_um2=4),
        segmenter=Segmenter(width=32, recipe=segmenter),
        core=128,
        halo=64,
        seed=seed,
    )


@dataclass(frozen=True)
class Trained:
    """A training that is done."""

    config: Config
    out: Path
    predictor: CellOutlines

    @cached_property
    def metrics(self) -> dict[str, float]:
        return evaluate(self.predictor, dataset(self.config, "test"))


def trained(folder: Path, seed: int, tiles: int, epochs: tuple[int, int, int]) -> Trained:
    data = planted.write_folder(folder / "data", planted.tiles(seed, tiles), labels=True)
    config = settings(data, seed, epochs=epochs)
    checkpoint = train(config, folder / "out")
    predictor = load_predictor(checkpoint, device="cpu")
    assert isinstance(predictor, CellOutlines)
    return Trained(config, folder / "out", predictor)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained(tmp_path_factory.mktemp("counting"), 0, 200, (20, 12, 4))


def test_counts_of_unseen_images_are_better_than_a_constant(small: Trained) -> None:
    metrics = small.metrics
    assert metrics["count_mae"] < metrics["count_mae_constant"] / 3
    assert metrics["count_kappa"] > 0.8


def test_masks_are_better_than_the_line_that_colour_draws(small: Trained) -> None:
    metrics = small.metrics
    assert metrics["dice"] > metrics["dice_colour"] + 0.2
    assert metrics["detection_f1"] > 0.85


def test_the_windows_that_are_learned_from_hold_cells(small: Trained) -> None:
    training = Training(small.config, small.out, build_model(small.config), None)
    training.model.load_state_dict(read_state(small.out / "instances" / "best.safetensors"))
    images = training.images("train")
    windows = training.windows_of(images)
    chosen = training.selected(windows, 99, np.random.default_rng(0))
    covered = np.concatenate([_covered(training, image) for image in images])
    assert (covered[chosen.positive] > 0.25).mean() > 0.8
    assert (covered[chosen.negative] > 0.25).mean() < 0.1


def _covered(training: Training, image: object) -> np.ndarray:
    """Share of cell in each training window, in the order of the table of windows."""
    cells = torch.from_numpy((image.labels() > 0).astype(np.float32))[None, None]  # type: ignore[attr-defined]
    coarse = torch.nn.functional.avg_pool2d(cells, 4)
    shares = torch.nn.functional.avg_pool2d(coarse, training.model.windows.tile, stride=1)[0, 0].numpy()
    return shares[np.ix_(*training.model.windows.grid(*coarse.shape[-2:]))].ravel()


def test_the_encoder_is_the_same_to_the_last_byte_after_stages_2_and_3(small: Trained) -> None:
    first = read_state(small.out / "counter" / "best.safetensors")
    last = read_state(small.out / "counting.safetensors")
    encoder = [name for name in first if name.startswith("encoder.")]
    assert any("running_var" in name for name in encoder)
    assert all(torch.equal(first[name], last[name]) for name in encoder)


def test_tiles_of_nothing_but_streaks_stay_nearly_empty(small: Trained) -> None:
    empty = planted.tiles(77, 12, empty_share=1.0)
    found = [look(small.predictor, one.image, MPP) for one in empty]
    assert np.mean([len(one.points) for one in found]) < 0.5
    assert np.mean([one.count for one in found]) < 1


def test_training_images_seen_as_on_slides_hold_as_many_cells_as_their_labels_say(small: Trained) -> None:
    training = Training(small.config, small.out, build_model(small.config), None)
    training.model.load_state_dict(read_state(small.out / "counting.safetensors"))
    images = training.images("train")
    found = training.counts_of(images, small.config.halo).sum()
    assert found == pytest.approx(sum(image.count for image in images), rel=1e-3)


def test_unseen_images_hold_neither_more_nor_fewer_cells_on_average(small: Trained) -> None:
    """Fields of a slide, with tissue around them, and not the tiles that training saw end."""
    scene = planted.mosaic(21, side=128, columns=3, rows=3)
    assert look(small.predictor, scene.image, MPP).count == pytest.approx(scene.count, rel=0.1)


@pytest.mark.parametrize("supertile", [128, 1024])
def test_a_slide_counts_every_cell_once_those_on_seams_included(small: Trained, supertile: int) -> None:
    scene = planted.mosaic(5, side=128, columns=3, rows=2)
    slide, found = planted.array_slide(scene), FeatureList()
    report = run(slide, small.predictor, found, mask=TissueMask.whole(slide), supertile=supertile)
    whole = look(small.predictor, scene.image, MPP)
    assert report.merged.density_count == pytest.approx(whole.count, abs=0.02 * whole.count + 0.05)
    assert report.merged.objects == pytest.approx(scene.count, abs=max(3, 0.15 * scene.count))


def test_twice_the_resolution_gives_the_same_cells(small: Trained) -> None:
    """At half the um per px the slide's own pixels are finer, and the model sees what it saw before."""
    coarse, fine = (planted.mosaic(3, side=128 if mpp == MPP else 256, mpp=mpp) for mpp in (MPP, MPP / 2))
    covered, counts = [], []
    for scene in (coarse, fine):
        slide, found = planted.array_slide(scene), FeatureList()
        run(slide, small.predictor, found, mask=TissueMask.whole(slide))
        shapes = [shape for part in found.features for shape in part.geometries]
        covered.append(scale(shapely.union_all(shapes), scene.mpp, scene.mpp, origin=(0, 0)))
        counts.append(len(shapes))
    assert counts[1] == pytest.approx(counts[0], abs=1)
    assert covered[0].intersection(covered[1]).area > 0.9 * covered[0].union(covered[1]).area


def test_a_finished_training_is_not_done_again(small: Trained) -> None:
    before = (small.out / "counting.safetensors").read_bytes()
    assert train(small.config, small.out).read_bytes() == before


def test_its_own_metrics_on_a_split_are_those_of_the_card(small: Trained, tmp_path: Path) -> None:
    checkpoint = small.out / "counting.safetensors"
    done = CliRunner().invoke(app, ["evaluate", f"counting:{checkpoint}", "--split", "test", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "metrics.json").read_text("utf-8"))["metrics"]
    card = json.loads(checkpoint.with_suffix(".json").read_text("utf-8"))["metrics"]
    assert told == {name: pytest.approx(card[name]) for name in told}
    assert "count_mae" in done.output


def test_a_folder_that_another_training_works_in_is_refused(tmp_path: Path) -> None:
    with Lease(tmp_path, "another", Stop()):
        done = CliRunner().invoke(app, ["train", "counting", "-o", str(tmp_path), "--data", str(tmp_path)])
    assert isinstance(done.exception, OutputError)
    assert done.exception.code == "busy"


def test_another_training_in_the_same_folder_is_refused(small: Trained) -> None:
    with pytest.raises(ConfigError) as refused:
        train(small.config.model_copy(update={"seed": 1}), small.out)
    assert refused.value.code == "other_training"


def test_the_card_says_how_it_came_about(small: Trained) -> None:
    card = json.loads((small.out / "counting.json").read_text("utf-8"))
    assert card["split"]["grouped_by"] == "image"
    assert any("patient" in warning for warning in card["split"]["warnings"])
    assert card["metrics"]["images"] == 40


def test_a_resolution_that_it_was_not_trained_at_is_refused(small: Trained) -> None:
    with pytest.raises(ConfigError, match=r"trained at 0\.5"):
        load_predictor(small.out / "counting.safetensors", mpp=0.25)


def test_an_answer_depends_on_no_window_further_than_the_halo(small: Trained) -> None:
    scene = planted.mosaic(9, side=128)
    whole = look(small.predictor, scene.image, MPP)
    wider = replace(small.predictor, tile=replace(small.predictor.tile, core=256, halo=96))
    assert look(wider, scene.image, MPP).count == pytest.approx(whole.count, rel=1e-3)


def test_without_a_segmenter_cells_are_points(tmp_path: Path) -> None:
    data = planted.write_folder(tmp_path / "data", planted.tiles(2, 150))
    config = settings(data, 0, epochs=(16, 12, 1))
    config = config.model_copy(update={"segmenter": config.segmenter.model_copy(update={"enabled": False})})
    predictor = load_predictor(train(config, tmp_path / "out"), device="cpu")
    assert isinstance(predictor, CellPoints)
    scene = planted.mosaic(6, side=128, columns=3, rows=2)
    slide, found = planted.array_slide(scene), FeatureList()
    run(slide, predictor, found, mask=TissueMask.whole(slide))
    points = np.concatenate([shapely.get_coordinates(part.geometries) for part in found.features])
    score = match_points(scene.centres * MPP, points * scene.mpp, radius=3.0)
    assert score.f1.value > 0.75
    # counts do not tell where in a window a cell lies: all points lay 6 px to one side
    pairs = score.pairs
    assert np.abs((points[pairs[:, 1]] - scene.centres[pairs[:, 0]]).mean(axis=0)).max() < 1
    assert not (tmp_path / "out" / "segmenter").exists()


def test_bins_beside_a_density_learn_from_a_number_of_images_that_leaves_one_over(tmp_path: Path) -> None:
    data = planted.write_folder(tmp_path / "data", planted.tiles(3, 12))
    config = settings(data, 0, epochs=(1, 1, 1))
    counter = config.counter.model_copy(update={"bins": True})
    for size in range(2, 9):
        recipe = counter.recipe.model_copy(update={"batch_size": size})
        part = config.model_copy(update={"counter": counter.model_copy(update={"recipe": recipe})})
        Training(part, tmp_path / str(size), build_model(part), None).count()


def test_a_pooled_counter_with_bins_learns_to_count(tmp_path: Path) -> None:
    """As published: one number of an image. It knows no place, so its checkpoint is no model for slides."""
    data = planted.write_folder(tmp_path / "data", planted.tiles(3, 150))
    config = settings(data, 0, epochs=(30, 1, 1))
    counter = config.counter.model_copy(update={"head": "pooled", "bins": True})
    segmenter = config.segmenter.model_copy(update={"enabled": False})
    config = config.model_copy(update={"counter": counter, "segmenter": segmenter})
    checkpoint = train(config, tmp_path / "out")
    card = json.loads(checkpoint.with_suffix(".json").read_text("utf-8"))
    assert card["metrics"]["images"] == 30
    assert card["metrics"]["count_mae_ratio"] < 0.7
    with pytest.raises(ConfigError, match="no place"):
        load_predictor(checkpoint)


class Ended(Exception):
    """Stands for whatever ends a training."""


def ending(stage: str, epoch: int) -> Callable[[Progress], None]:
    """A watch that ends a training after a step of that epoch."""

    def watch(progress: Progress) -> None:
        if (progress.stage, progress.epoch) == (stage, epoch):
            raise Ended

    return watch


def test_a_training_that_was_ended_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    data = planted.write_folder(tmp_path / "data", planted.tiles(4, 32))
    config = settings(data, 0, epochs=(3, 2, 2))
    whole = train(config, tmp_path / "whole").read_bytes()
    for stage, epoch in (("counter", 2), ("instances", 2), ("segmenter", 1)):
        with pytest.raises(Ended):
            train(config, tmp_path / "ended", ending(stage, epoch))
    assert train(config, tmp_path / "ended").read_bytes() == whole


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.0, 1.25])
def test_a_resized_image_has_its_margin_in_whole_cells(factor: float, tmp_path: Path) -> None:
    """So that what is summed is the image and all of it."""
    config = settings(planted.write_folder(tmp_path, planted.tiles(1, 8), labels=True), 0, epochs=(1, 1, 1))
    config = config.model_copy(update={"counter": config.counter.model_copy(update={"zoom": (factor,)})})
    training = Training(config, tmp_path, build_model(config), None)
    framed = torch.zeros(1, 3, 96 + 32, 96 + 32)
    framed[:, :, 16:-16, 16:-16] = 1
    seen, margin = training._zoomed(framed, np.random.default_rng(0))  # a step of the training
    assert margin == 16 * factor
    assert margin % 4 == 0
    inside = seen[0, 0, margin : seen.shape[2] - margin, margin : seen.shape[3] - margin]
    assert inside.shape == (96 * factor, 96 * factor)
    assert inside[2:-2, 2:-2].min() > 0.999
    assert seen[0, 0, : margin - 2].max() < 0.001


@pytest.mark.slow
def test_gates_over_seeds(tmp_path: Path) -> None:
    """Mean and worst of three seeds, longer training."""
    found = [trained(tmp_path / str(seed), seed, 300, (24, 20, 8)).metrics for seed in range(3)]
    ratios = [one["count_mae_ratio"] for one in found]
    gains = [one["dice"] - one["dice_colour"] for one in found]
    kappas = [one["count_kappa"] for one in found]
    assert np.mean(ratios) < 0.2
    assert max(ratios) < 1 / 3
    assert np.mean(kappas) > 0.9
    assert min(gains) > 0.3


@pytest.mark.slow
def test_permuted_counts_destroy_the_masks(tmp_path: Path) -> None:
    scenes = planted.tiles(0, 200)
    order = np.random.default_rng(1).permutation(len(scenes))
    data = planted.write_folder(tmp_path / "data", scenes)
    rows = [["image", "count"], *([f"{i:03d}.png", scenes[j].count] for i, j in enumerate(order))]
    planted.write_table(data / "counts.csv", rows)
    labelled = planted.write_folder(tmp_path / "labelled", scenes, labels=True)
    config = settings(data, 0, epochs=(20, 12, 4))
    predictor = load_predictor(train(config, tmp_path / "out"), device="cpu")
    metrics = evaluate(predictor, dataset(config.model_copy(update={"data": labelled}), "test"))
    assert metrics["dice"] < 0.5
    assert metrics["count_mae"] > 0.6 * metrics["count_mae_constant"]
