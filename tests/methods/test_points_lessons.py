"""What is learned of a piece lies on the piece's pixels; and labels from points, rounds and all, end to end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tests.methods import planted_points as planted

torch = pytest.importorskip("torch")

from tests.methods.test_points import MPP, Ended, settings, write  # noqa: E402
from wsikit.methods.points import Config, build_model, dataset, evaluate, load_predictor, train  # noqa: E402
from wsikit.methods.points.config import Detector, Segmenter  # noqa: E402
from wsikit.methods.points.crops import cut  # noqa: E402
from wsikit.methods.points.detect import Round, best_threshold, completed, found_in  # noqa: E402
from wsikit.methods.points.inner import offsets  # noqa: E402
from wsikit.methods.points.lessons import Heat, Labels, Masks, placed  # noqa: E402
from wsikit.methods.points.losses import foreground_loss, inner_loss, label_loss, offset_loss  # noqa: E402
from wsikit.methods.points.model import NucleiNet  # noqa: E402
from wsikit.methods.points.train import Training  # noqa: E402
from wsikit.methods.points.voronoi import IGNORED  # noqa: E402
from wsikit.metrics import match_points  # noqa: E402
from wsikit.training.fit import Progress  # noqa: E402
from wsikit.training.recipe import Recipe  # noqa: E402

SIDE = 96
BOXES = [(0.0, 0.0, 96.0, 96.0), (10.5, 3.25, 90.5, 83.25), (-0.0, 0.0, 150.0, 150.0)]
"""The whole of a scene, a part of it, and one that it is too small for."""


def scene() -> planted.Planted:
    return planted.scene(5, nuclei=14, gap=4)


@pytest.mark.parametrize("box", BOXES)
def test_points_lie_in_their_nuclei_whatever_the_piece(box: tuple[float, float, float, float]) -> None:
    one = scene()
    inside = Masks(lambda: one.labels.astype(np.int64), planted.RADIUS, SIDE)(box)[..., 0]
    points = placed(one.points, (96, 96), box, SIDE)
    within = points[((points >= 1) & (points < SIDE - 1)).all(axis=1)].astype(int)
    assert len(within) > 8
    assert inside[within[:, 1], within[:, 0]].min() > 0.9
    # and every nucleus of the piece, mirrored ones included, has one
    parts, count = ndimage.label(inside > 0.5)
    whole = [k for k, s in enumerate(ndimage.find_objects(parts), 1) if min(s[0].start, s[1].start) > 3]
    whole = [k for k in whole if max(s.stop for s in ndimage.find_objects(parts)[k - 1]) < SIDE - 3]
    assert set(whole) <= set(parts[within[:, 1], within[:, 0]].tolist())
    assert count >= len(whole) > 3


@pytest.mark.parametrize("side", [20, 45, 90, 130])
def test_points_of_mirrored_copies_lie_where_their_pixels_do(side: int) -> None:
    """However often a piece holds an image that is smaller than it."""
    points = np.array([(3.5, 7.5), (30.5, 2.5), (12.5, 19.5)])
    plane = np.zeros((24, 32), np.uint8)
    plane[points[:, 1].astype(int), points[:, 0].astype(int)] = 1
    box = (0.0, 0.0, float(side), float(side))
    (copied,) = cut([plane], box, side)
    said = placed(points, (32, 24), box, side)
    within = said[(said < side).all(axis=1)]
    assert sorted(map(tuple, within[:, ::-1] - 0.5)) == [tuple(place) for place in np.argwhere(copied)]


@pytest.mark.parametrize("box", BOXES)
def test_heat_is_highest_on_the_points(box: tuple[float, float, float, float]) -> None:
    one = scene()
    target, weight = np.moveaxis(Heat(one.points, (96, 96), planted.RADIUS, SIDE)(box), 2, 0)
    points = placed(one.points, (96, 96), box, SIDE)
    within = points[((points >= 0) & (points < SIDE)).all(axis=1)].astype(int)
    assert target[within[:, 1], within[:, 0]].min() > 0.75
    assert weight[target > 0].min() == weight.max()
    assert (weight == 0).any()


def test_background_that_is_known_is_learned_where_it_lies() -> None:
    one = scene()
    known = np.zeros((96, 96), bool)
    known[:20] = True
    box = (0.0, 0.0, 48.0, 48.0)
    none = Heat(one.points[:1], (96, 96), planted.RADIUS, SIDE)(box)
    weight = Heat(one.points[:1], (96, 96), planted.RADIUS, SIDE, background=known)(box)[..., 1]
    assert (weight[:40] > 0).all()
    assert np.array_equal(weight[40:], none[40:, :, 1])


def test_labels_of_points_mark_nuclei_and_what_is_between() -> None:
    one = scene()
    lesson = Labels(one.points, (96, 96), lambda: one.image, planted.RADIUS, SIDE, ("voronoi", "cluster"))
    centre, weight, voronoi, cluster = np.moveaxis(lesson(BOXES[0]), 2, 0)
    for label in (voronoi, cluster):
        assert (one.labels[label == 1] > 0).mean() > 0.9
        assert (one.labels[label == 0] == 0).mean() > 0.9
        assert (label == IGNORED).any()
    assert (weight > 0).all()
    assert centre[one.labels == 0].mean() < 0.2 < centre[one.labels > 0].mean()


def test_pixels_that_a_label_does_not_know_have_no_say() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.5, 3.0]]], requires_grad=True)
    labels = torch.tensor([[[1.0, 0.0], [IGNORED, IGNORED]]])
    loss = label_loss(logits, labels)
    assert float(loss.detach()) == pytest.approx((np.log1p(np.exp(-2)) + np.log1p(np.exp(-1))) / 2)
    loss.backward()
    assert (logits.grad[labels == IGNORED] == 0).all()
    assert float(label_loss(logits.detach(), torch.full_like(labels, IGNORED))) == 0


def test_the_foregrounds_loss_falls_to_nothing_where_it_is_right() -> None:
    target = torch.zeros(2, 16, 16)
    target[0, 4:10, 4:10] = 1
    nowhere = torch.zeros_like(target)
    right, wrong = (foreground_loss(sign * 20 * (2 * target - 1), target, nowhere) for sign in (1, -1))
    assert float(right) == pytest.approx(0, abs=1e-4)
    assert float(wrong) > 10


@pytest.mark.parametrize("loss", [foreground_loss, inner_loss])
def test_a_pixel_between_two_nuclei_counts_more(loss: Callable[..., torch.Tensor]) -> None:
    target, logits = torch.zeros(1, 8, 8), torch.full((1, 8, 8), -3.0)
    logits[0, 2, 3] = 3
    here, elsewhere = torch.zeros(2, 1, 8, 8)
    here[0, 2, 3] = elsewhere[0, 6, 6] = 1
    plain, there, other = (float(loss(logits, target, where)) for where in (torch.zeros(1, 8, 8), here, elsewhere))
    assert there - plain > 10 * (other - plain) > 0


def test_what_is_learned_of_masks_counts_more_between_nuclei() -> None:
    labels = np.zeros((SIDE, SIDE), np.int64)
    labels[20:40, 20:40], labels[20:40, 40:60], labels[70:80, 70:80] = 1, 2, 3
    meeting = Masks(lambda: labels, 8.0, SIDE)((0.0, 0.0, float(SIDE), float(SIDE)))[..., 2]
    assert meeting[30, 39:41].min() > 0.8
    assert meeting[30, [25, 55]].max() == meeting[60:, 60:].max() == 0


def two_nuclei() -> tuple[torch.Tensor, torch.Tensor]:
    """(1, 2, H, W) offsets of two squares that touch, and (1, H, W) where they are."""
    labels = np.zeros((24, 24), np.int64)
    labels[6:16, 4:12], labels[6:16, 12:20] = 1, 2
    return torch.from_numpy(offsets(labels))[None], torch.from_numpy((labels > 0).astype(np.float32))[None]


def test_the_offsets_loss_is_nothing_where_they_are_right_whatever_lies_outside() -> None:
    away, inside = two_nuclei()
    noise = torch.randn(away.shape, generator=torch.Generator().manual_seed(0))
    found = torch.where(inside[:, None] > 0, away, noise).requires_grad_()
    loss = offset_loss(found, away, inside, torch.zeros_like(inside))
    assert float(loss.detach()) == 0
    offset_loss(found + 0.1, away, inside, torch.zeros_like(inside)).backward()
    assert (found.grad[:, :, inside[0] == 0] == 0).all()
    assert float(offset_loss(torch.zeros_like(away), torch.zeros_like(away), inside * 0, inside)) == 0


def test_offsets_that_do_not_jump_between_nuclei_cost_more_than_the_same_error_elsewhere() -> None:
    """As those of one nucleus that holds both would be; against the same squared error, spread."""
    away, inside = two_nuclei()
    one = torch.from_numpy(offsets((inside[0] > 0).numpy().astype(np.int64)))[None]
    spread = away + inside[:, None] * ((one - away) ** 2).sum(dim=(2, 3), keepdim=True).div(inside.sum()).sqrt()
    merged, shifted = (float(offset_loss(found, away, inside, torch.zeros_like(inside))) for found in (one, spread))
    assert merged > 1.2 * shifted > 0


def test_slopes_of_offsets_are_those_along_their_own_axis() -> None:
    """A wrong slope of 0.3 per px: squared, twice. The error of the offsets themselves is taken away."""
    inside, ramp = torch.ones(1, 12, 12), 0.3 * torch.arange(12.0).expand(1, 12, 12)
    level = torch.zeros_like(ramp)

    def cost(x: torch.Tensor, y: torch.Tensor) -> float:
        found = torch.stack([x, y], dim=1)
        wrong = (found**2).sum(dim=1).mean()
        return float(offset_loss(found, torch.zeros_like(found), inside, torch.zeros_like(inside)) - wrong)

    assert cost(ramp, level) == pytest.approx(2 * 0.3**2, rel=1e-4)
    assert cost(level, ramp.transpose(1, 2)) == pytest.approx(2 * 0.3**2, rel=1e-4)
    assert cost(ramp.transpose(1, 2), ramp) == pytest.approx(0, abs=1e-5)


def test_what_is_learned_beside_changes_nothing_on_slides() -> None:
    """The checkpoint's network is the trained one's first two channels."""
    torch.manual_seed(0)
    trained = NucleiNet("resnet18", (16, 8), beside=2).eval()
    asked = NucleiNet("resnet18", (16, 8)).eval()
    asked.load_state_dict(trained.state_on_slides())
    pixels = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(asked(pixels), trained(pixels)[:, :2])


@pytest.mark.parametrize(("other", "near"), [((0.52, 101), True), ((0.6, 101), False), ((0.52, 120), False)])
def test_rounds_are_near_where_background_and_points_hardly_change(other: tuple[float, int], near: bool) -> None:
    assert Round(0.5, 100).near(Round(*other), 0.05) == near


def partly(data: Path, epochs: tuple[int, int, int], **segmenter: object) -> Config:
    """A training from a part of the points."""
    recipes = [Recipe(epochs=count, batch_size=4, learning_rate=4e-3, threads=1) for count in epochs]
    return settings(data, 1).model_copy(
        update={
            "ratio": 0.5,
            "radius_um": planted.RADIUS * MPP,
            "detector": Detector(rounds=1, change=0, recipe=recipes[0], again=recipes[1]),
            "segmenter": Segmenter(recipe=recipes[2], **segmenter),
        }
    )


@pytest.fixture(scope="module")
def partial_training(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    folder = tmp_path_factory.mktemp("partial")
    config = partly(write(folder / "data", 24), (14, 6, 14))
    train(config, folder / "out")
    return config, folder / "out"


def test_half_the_points_find_the_other_half(partial_training: tuple[Config, Path]) -> None:
    config, out = partial_training
    training = Training(config, out, build_model(config), None)
    images = training.images("train")
    threshold = best_threshold(training, "detector-1", training.images("validation"))
    truth = [planted.scene((0, int(image.name[:3]))).points for image in images]
    found = [found_in(training, "detector-1", image, threshold) for image in images]
    scores = planted.detection_scores(truth, found)
    assert scores.precision > 0.85
    assert scores.recall > 0.85
    for image, points in zip(images, truth, strict=True):
        assert len(image.points) <= 0.55 * len(points)
        # given points stay as they are, and none is there twice
        said = completed(training, "detector-1", image, threshold)
        assert np.array_equal(said[: len(image.points)], image.points)
        assert len(match_points(points, said, radius=planted.RADIUS).pairs) > 0.8 * len(said)


def test_outlines_learned_from_points_fit_unseen_nuclei(partial_training: tuple[Config, Path]) -> None:
    config, out = partial_training
    metrics = evaluate(load_predictor(out / "points.safetensors"), dataset(config, "test"))
    assert metrics["detection_f1"] > 0.85
    assert metrics["object_f1"] > 0.75
    assert metrics["dice"] > 0.65


@pytest.mark.parametrize("segmenter", [{"labels": "voronoi", "crf": 0.002}, {"labels": "cluster"}])
def test_a_training_from_points_that_was_ended_goes_on_to_the_same_weights(
    tmp_path: Path, segmenter: dict[str, object]
) -> None:
    config = partly(write(tmp_path / "data", 8, seed=1), (2, 2, 2), **segmenter)
    crf = config.segmenter.crf_recipe.model_copy(update={"epochs": 2, "threads": 1})
    config = config.model_copy(update={"segmenter": config.segmenter.model_copy(update={"crf_recipe": crf})})
    whole = train(config, tmp_path / "whole").read_bytes()
    stages = ["detector-0", "detector-1", "segmenter", *(["crf"] if config.segmenter.crf else [])]
    for stage in stages:
        with pytest.raises(Ended):
            train(config, tmp_path / "ended", partial(end, stage))
    assert train(config, tmp_path / "ended").read_bytes() == whole


def untrained(folder: Path, **segmenter: object) -> Training:
    """Pieces at 0.25 to 1 um per px, of images with 0.5; whether a pixel is foreground, its red alone says."""
    config = partly(write(folder / "data", 8), (1, 1, 1), **segmenter).model_copy(update={"seen_mpp": (0.25, 1.0)})
    training = Training(config, folder / "out", build_model(config), None)
    training.model.forward = lambda pixels: 8 * pixels[:, [0, 0]] - 4
    return training


def test_pieces_come_with_their_own_nuclear_radius(tmp_path: Path) -> None:
    training, told = untrained(tmp_path), []

    def lesson(box: tuple[float, float, float, float]) -> np.ndarray:
        told.append(planted.RADIUS * SIDE / (box[2] - box[0]))
        return np.zeros((SIDE, SIDE, 1), np.float32)

    images = training.images("train")
    found = [radius for batch in training.pieces(images, [lesson] * len(images), 1, 3) for radius in batch[2]]
    assert found == pytest.approx(told)
    assert max(found) > 1.5 * min(found)


@pytest.mark.parametrize("seed", range(3))
def test_the_crf_loss_of_a_piece_is_that_of_the_piece_at_twice_the_resolution(tmp_path: Path, seed: int) -> None:
    """Of a batch with both: each has the kernel that its own nuclei ask for."""
    training = untrained(tmp_path, labels="voronoi", crf=1.0)
    blocks = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    wide, near = (blocks.repeat_interleave(k, 2).repeat_interleave(k, 3) for k in (16, 8))

    def loss(pixels: torch.Tensor, *radii: float) -> float:
        planes = torch.zeros(len(pixels), 3, *pixels.shape[2:])
        return float(training._crf_step((pixels, planes, radii))["crf"])  # a step of the training

    both = torch.cat([wide, torch.nn.functional.pad(near, (0, 96, 0, 96))])
    alone = loss(near, 9.0)
    assert loss(wide, 18.0) == pytest.approx(alone, rel=0.03)
    assert loss(both, 18.0, 9.0) == pytest.approx((loss(both[:1], 18.0) + loss(both[1:], 9.0)) / 2)


def end(stage: str, progress: Progress) -> None:
    """A watch that ends a training in the second epoch of a stage."""
    if (progress.stage, progress.epoch) == (stage, 2):
        raise Ended
