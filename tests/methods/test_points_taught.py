"""What a network learns from others on images without labels, and from nuclei that training made paler."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsikit.errors import ConfigError

torch = pytest.importorskip("torch")

from tests.methods.test_points import Ended, ending, settings, write  # noqa: E402
from wsikit.methods.points import Config, build_model, evaluate, load_predictor, train  # noqa: E402
from wsikit.methods.points.data import read_points  # noqa: E402
from wsikit.methods.points.inner import inner_distance  # noqa: E402
from wsikit.methods.points.model import CENTRE, FOREGROUND, OFFSETS  # noqa: E402
from wsikit.methods.points.paler import paler  # noqa: E402
from wsikit.methods.points.taught import Teachers, begin_with, load_network, taught_loss  # noqa: E402


def elsewhere(folder: Path, count: int, seed: int, *, labels: bool) -> Path:
    """Tiles of another laboratory, light nuclei on dark ground, with masks or without."""
    write(folder, count, seed)
    for path in folder.glob("*.png"):
        if not path.stem.endswith("_labels"):
            Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
        elif not labels:
            path.unlink()
    return folder


class Laboratories:
    """A network of one laboratory, and a teacher that knows another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.own = settings(write(folder / "data", 24), 12)
        self.start = train(self.own, folder / "start")
        self.teacher = train(settings(elsewhere(folder / "other", 24, 5, labels=True), 12), folder / "teacher")
        self.unlabelled = elsewhere(folder / "unlabelled", 16, 6, labels=False)
        self.unseen = read_points(elsewhere(folder / "unseen", 6, 7, labels=True)).images
        self.at_home = read_points(write(folder / "home", 6, 8)).images

    def config(self, epochs: int = 6) -> Config:
        return settings(self.folder / "data", epochs).model_copy(
            update={"start": self.start, "unlabelled": self.unlabelled, "teachers": (self.teacher,)}
        )


@pytest.fixture(scope="module")
def laboratories(tmp_path_factory: pytest.TempPathFactory) -> Laboratories:
    return Laboratories(tmp_path_factory.mktemp("laboratories"))


def score(path: Path, images: object) -> float:
    return float(evaluate(load_predictor(path, device="cpu"), images)["object_f1"])  # type: ignore[arg-type]


def test_another_laboratory_is_learned_without_a_label_of_it_and_ones_own_is_kept(
    laboratories: Laboratories, tmp_path: Path
) -> None:
    found = train(laboratories.config(), tmp_path / "taught")
    alone = train(laboratories.config().model_copy(update={"unlabelled": None, "teachers": ()}), tmp_path / "alone")
    assert score(found, laboratories.unseen) > score(alone, laboratories.unseen) + 0.5
    assert score(found, laboratories.at_home) > score(alone, laboratories.at_home) - 0.1


def test_a_training_begins_with_the_weights_that_it_is_given(laboratories: Laboratories) -> None:
    model, network = build_model(laboratories.own), load_network(laboratories.start, laboratories.own)
    random = {key: value.clone() for key, value in model.state_dict().items()}
    begin_with(model, network)
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(x)[:, : OFFSETS.start], network.eval()(x))
    kept = model.state_dict()["decoder.head.weight"]
    own = len(network.state_dict()["decoder.head.weight"])
    assert torch.equal(kept[own:], random["decoder.head.weight"][own:])


def test_weights_of_another_network_are_refused(laboratories: Laboratories) -> None:
    other = build_model(laboratories.own.model_copy(update={"widths": (32, 24)}))
    with pytest.raises(ConfigError, match="another network"):
        begin_with(other, load_network(laboratories.start, laboratories.own))


def test_a_network_that_sees_something_else_is_refused(laboratories: Laboratories) -> None:
    with pytest.raises(ConfigError, match="sees colours, this training stain"):
        load_network(laboratories.teacher, laboratories.own.model_copy(update={"sees": "stain"}))
    coarser = laboratories.own.model_copy(update={"seen_mpp": (0.4, 0.8)})
    with pytest.raises(ConfigError, match=r"trained at 0\.4 to 0\.6 um per px, this training sees 0\.4 to 0\.8"):
        load_network(laboratories.teacher, coarser, teaches=True)
    load_network(laboratories.teacher, coarser)


def test_an_ended_training_with_teachers_goes_on_to_the_same_weights_from_copies_of_its_files(
    laboratories: Laboratories, tmp_path: Path
) -> None:
    config = laboratories.config(2)
    whole = train(config, tmp_path / "whole").read_bytes()
    with pytest.raises(Ended):
        train(config, tmp_path / "ended", ending(2))
    moved = shutil.copytree(laboratories.folder, tmp_path / "moved")
    copied = {"start": moved / "start/points.safetensors", "teachers": (moved / "teacher/points.safetensors",)}
    copied |= {"unlabelled": moved / "unlabelled"}
    assert train(config.model_copy(update=copied), tmp_path / "ended").read_bytes() == whole


@pytest.mark.parametrize("changed", ["teachers", "unlabelled", "start"])
def test_other_teachers_images_or_weights_are_another_training(
    laboratories: Laboratories, tmp_path: Path, changed: str
) -> None:
    config = laboratories.config(2)
    with pytest.raises(Ended):
        train(config, tmp_path, ending(2))
    others = {
        "teachers": (laboratories.teacher, laboratories.start),
        "unlabelled": elsewhere(tmp_path / "others", 2, 9, labels=False),
        "start": laboratories.teacher,
    }
    with pytest.raises(ConfigError) as refused:
        train(config.model_copy(update={changed: others[changed]}), tmp_path)
    assert refused.value.code == "other_training"


def test_what_cannot_be_taught_is_refused(laboratories: Laboratories, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for update, why in (
        ({"unlabelled": None}, "belong together"),
        ({"teachers": ()}, "belong together"),
        ({"unlabelled": tmp_path / "empty"}, "no folder with images"),
        ({"paler": 0.5}, "sees colours"),
    ):
        with pytest.raises(ConfigError, match=why):
            train(laboratories.config(1).model_copy(update=update), tmp_path / "out")


def test_teachers_say_the_mean_whatever_else_is_in_the_batch(laboratories: Laboratories) -> None:
    networks = [load_network(path, laboratories.own) for path in (laboratories.start, laboratories.teacher)]
    x = torch.rand(3, 3, 64, 64)
    both = Teachers(networks)(x)
    each = torch.stack([Teachers([one])(x) for one in networks])
    assert torch.allclose(both, each.mean(dim=0), atol=1e-6)
    # a network in training normalises by its batch, and learns from it
    assert torch.allclose(Teachers([one.train() for one in networks])(x[:1]), both[:1], atol=1e-5)
    assert not both.requires_grad


def test_the_loss_is_least_where_the_network_says_what_its_teachers_say() -> None:
    said = torch.rand(2, 2, 8, 8) * 0.9 + 0.05
    logits = torch.logit(said).requires_grad_()
    least = taught_loss(logits, said)
    least.backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6
    for channel in (FOREGROUND, CENTRE):
        changed = torch.logit(said)
        changed[:, channel] += 0.5
        assert taught_loss(changed, said) > least + 0.005


def piece(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float32]]:
    """A grey picture of nuclei, their numbers and how deep each pixel lies."""
    y, x = np.mgrid[:96, :96]
    labels = np.zeros((96, 96), np.int32)
    for number, (row, column) in enumerate(((20, 22), (24, 70), (70, 30), (72, 76)), start=1):
        labels[(y - row) ** 2 + (x - column) ** 2 < 15**2] = number
    stain = np.where(labels > 0, 180.0, 40.0) + np.random.default_rng(seed).normal(0, 5, labels.shape)
    grey = np.repeat(np.clip(255 - stain, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return grey, labels, inner_distance(labels)


@pytest.mark.parametrize("most", [0.3, 0.8])
def test_nuclei_become_paler_and_never_as_pale_as_the_ground(most: float) -> None:
    changed = 0
    for seed in range(20):
        grey, labels, depth = piece(seed)
        found = paler(grey, labels, depth, np.random.default_rng(seed), most)
        assert np.all(found >= grey)
        ground, before = np.median(grey[labels == 0]), grey[labels > 0].mean()
        assert ground - found[labels > 0].mean() >= (1 - most) * (ground - before) - 3
        assert np.median(found[labels == 0]) == pytest.approx(ground, abs=2)
        changed += not np.array_equal(found, grey)
    # half of them
    assert 4 <= changed <= 16


def test_some_nuclei_lose_more_in_the_middle_than_at_the_rim() -> None:
    lost = []
    for seed in range(40):
        grey, labels, depth = piece(seed)
        gone = paler(grey, labels, depth, np.random.default_rng(seed), 0.8).astype(float) - grey
        middle, rim = gone[depth > 0.8].mean(), gone[(labels > 0) & (depth < 0.3)].mean()
        lost.append(middle - rim)
    assert max(lost) > 20
    assert np.mean(np.array(lost) > 10) > 0.1


def test_a_piece_without_ground_or_without_nuclei_stays_as_it_is() -> None:
    grey, labels, depth = piece(0)
    for number in (np.zeros_like(labels), np.ones_like(labels)):
        for seed in range(4):
            assert paler(grey, number, depth, np.random.default_rng(seed), 0.8) is grey
