"""Noise-suppressed loss: the algebra of its weights, and who pays no heed to whom."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from wsikit.methods.cam_onss.losses import noise_suppressed_loss, noise_weights, presence_loss  # noqa: E402

SEEDS = range(5)


def scene(seed: int, images: int = 3, classes: int = 4, side: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in double precision, and masks of several classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, side, side, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (images, side, side), generator=generator)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("mode", ["oeem", "onss"])
def test_weights_are_the_published_softmax_of_losses_times_the_margin(seed: int, mode: str) -> None:
    logits, target = scene(seed)
    losses = functional.cross_entropy(logits, target, reduction="none").flatten(1)
    published = torch.softmax(-losses, dim=1)
    published = (published / published.mean(dim=1, keepdim=True)).reshape(target.shape)
    if mode == "onss":
        p = torch.softmax(logits, dim=1)
        published = published * (p.amax(dim=1) - p.amin(dim=1))
    found = noise_weights(logits, target, mode)  # type: ignore[arg-type]
    assert torch.allclose(found.double(), published, atol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_oeem_has_the_gradient_of_the_normalised_absolute_error(seed: int) -> None:
    """(1 - p(y)) / mean p(y) with the mean held: robust to noisy labels, unlike cross entropy."""
    logits, target = scene(seed)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    noise_suppressed_loss(ours, target, "oeem").backward()
    p = torch.softmax(theirs, dim=1).gather(1, target[:, None])[:, 0]
    ((1 - p) / p.mean(dim=(1, 2), keepdim=True).detach()).mean().backward()
    assert ours.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


@pytest.mark.parametrize("mode", ["oeem", "onss"])
def test_no_gradient_flows_through_the_weights(mode: str) -> None:
    logits, target = scene(0)
    ours, fixed = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    noise_suppressed_loss(ours, target, mode).backward()  # type: ignore[arg-type]
    weights = noise_weights(logits, target, mode).double()  # type: ignore[arg-type]
    (weights * functional.cross_entropy(fixed, target, reduction="none")).mean().backward()
    assert torch.allclose(ours.grad, fixed.grad, atol=1e-6)


@pytest.mark.parametrize("mode", ["oeem", "onss"])
def test_an_image_of_one_class_weighs_one_everywhere(mode: str) -> None:
    logits, target = scene(1)
    target[0] = 2
    target[1] = 3
    target[1, :4] = 255
    weights = noise_weights(logits, target, mode)  # type: ignore[arg-type]
    assert bool((weights[0] == 1).all())
    assert bool((weights[1, 4:] == 1).all())
    assert bool((weights[1, :4] == 0).all())
    assert weights[2].std() > 0.1


@pytest.mark.parametrize("mode", ["ce", "oeem", "onss"])
def test_ignored_pixels_change_nothing_for_the_others(mode: str) -> None:
    """The original gave them the weight of a pixel without loss, which the others lacked."""
    logits, target = scene(2, images=1)
    wide = torch.cat([logits, 9 * torch.randn_like(logits)], dim=3)
    ignored = torch.cat([target, torch.full_like(target, 255)], dim=2)
    alone, beside = (noise_weights(a, b, mode) for a, b in ((logits, target), (wide, ignored)))  # type: ignore[arg-type]
    assert torch.allclose(beside[:, :, :9], alone)
    assert bool((beside[:, :, 9:] == 0).all())
    assert noise_suppressed_loss(wide, ignored, mode).item() == pytest.approx(  # type: ignore[arg-type]
        noise_suppressed_loss(logits, target, mode).item()  # type: ignore[arg-type]
    )


def test_ce_is_the_mean_cross_entropy_of_valid_pixels() -> None:
    logits, target = scene(3)
    target[:, 0] = 255
    wanted = functional.cross_entropy(logits, target, ignore_index=255)
    assert noise_suppressed_loss(logits, target, "ce").item() == pytest.approx(wanted.item(), rel=1e-6)


@pytest.mark.parametrize("mode", ["ce", "oeem", "onss"])
def test_all_ignored_is_no_loss_and_no_nan(mode: str) -> None:
    logits, target = scene(0)
    logits.requires_grad_()
    loss = noise_suppressed_loss(logits, torch.full_like(target, 255), mode)  # type: ignore[arg-type]
    loss.backward()
    assert loss.item() == 0
    assert bool((logits.grad == 0).all())


@pytest.mark.parametrize("mode", ["oeem", "onss"])
def test_half_precision_stays_finite_where_the_label_has_no_probability(mode: str) -> None:
    logits = torch.full((1, 3, 4, 4), -60.0, dtype=torch.float16)
    logits[:, 0] = 60
    target = torch.ones(1, 4, 4, dtype=torch.int64)
    target[0, 0] = 2  # two classes, and neither has a probability
    weights = noise_weights(logits, target, mode)  # type: ignore[arg-type]
    assert bool(torch.isfinite(weights).all())
    assert np.isfinite(noise_suppressed_loss(logits, target, mode).item())  # type: ignore[arg-type]


def test_a_uniform_prediction_teaches_onss_nothing_of_images_with_several_classes() -> None:
    _, target = scene(4)
    target[0] = 1
    logits = torch.zeros(3, 4, 9, 9)
    weights = noise_weights(logits, target, "onss")
    assert bool((weights[0] == 1).all())
    assert bool((weights[1:] == 0).all())


def test_renormalised_weights_have_the_mean_one() -> None:
    logits, target = scene(5)
    target[:, :2] = 255
    weights = noise_weights(logits, target, "onss", renormalise=True)
    valid = target != 255
    means = (weights * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2))
    assert torch.allclose(means, torch.ones(3), atol=1e-5)


def test_the_floor_lifts_a_class_that_would_not_be_learned_and_no_other() -> None:
    logits, target = scene(6, images=1)
    logits[:, 3] -= 20  # the network denies this class
    plain = noise_weights(logits, target, "onss")
    lifted = noise_weights(logits, target, "onss", class_floor=0.3)
    rare = target == 3
    assert plain[rare].mean() < 1e-3
    assert lifted[rare].mean().item() == pytest.approx(0.3, rel=1e-3)
    kept = [index for index in range(3) if plain[target == index].mean() >= 0.3]
    assert kept
    for index in kept:
        assert torch.allclose(lifted[target == index], plain[target == index])


def test_presence_is_the_binary_cross_entropy_of_each_class() -> None:
    logits, present = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([[1, 0, 1]])
    p = torch.sigmoid(logits)
    wanted = -(torch.log(p) * present + torch.log(1 - p) * (1 - present)).mean()
    assert presence_loss(logits, present).item() == pytest.approx(wanted.item(), rel=1e-5)
