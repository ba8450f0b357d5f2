"""Activation maps in closed form, held against what autograd gives."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from wsikit.methods.cam_onss.cam import EPSILON, activation_maps, channel_weights  # noqa: E402


def scene(seed: int, shape: tuple[int, int] = (7, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    """Features behind a ReLU, and a linear layer."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.relu(torch.randn(2, 6, *shape, generator=generator, dtype=torch.float64))
    return features, torch.randn(3, 6, generator=generator, dtype=torch.float64)


def by_autograd(features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Grad-CAM++ as published: a pass backward for each class."""
    found = []
    for row in weight:
        leaf = features.clone().requires_grad_()
        (leaf.mean(dim=(2, 3)) @ row).sum().backward()
        g = leaf.grad
        assert g is not None
        alpha = g**2 / (2 * g**2 + features.sum(dim=(2, 3), keepdim=True) * g**3 + EPSILON)
        channels = (torch.relu(g) * alpha).sum(dim=(2, 3), keepdim=True)
        found.append(torch.relu((channels * features).sum(dim=1)))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(7, 5), (28, 28)])
def test_plus_is_what_a_pass_backward_for_each_class_gives(seed: int, shape: tuple[int, int]) -> None:
    features, weight = scene(seed, shape)
    wanted = by_autograd(features, weight)
    assert torch.allclose(activation_maps(features, weight, "plus"), wanted, rtol=1e-6, atol=1e-12)


def test_in_single_precision_it_is_the_same() -> None:
    features, weight = scene(9, (28, 28))
    wanted = activation_maps(features, weight, "plus")
    found = activation_maps(features.float(), weight.float(), "plus").double()
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-9)


def test_linear_maps_have_the_logit_for_their_mean() -> None:
    features, weight = scene(1)
    weight = weight.abs()  # so that nothing is cut off below 0
    maps = activation_maps(features, weight, "linear")
    assert torch.allclose(maps.mean(dim=(2, 3)), features.mean(dim=(2, 3)) @ weight.T)


def test_channels_that_speak_against_a_class_are_no_part_of_its_plus_map() -> None:
    features, weight = scene(2)
    found = channel_weights(features, weight, "plus")
    assert bool((found[:, weight < 0] == 0).all())
    assert bool((found[:, weight > 0.1] > 0).all())
