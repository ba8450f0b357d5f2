"""Dense CRF loss: values and gradients of the whole matrix of pairs, at full and at half resolution."""

from __future__ import annotations

import itertools
import math

import pytest

torch = pytest.importorskip("torch")

from wsikit.errors import ConfigError  # noqa: E402
from wsikit.methods.points.crf import crf_loss, kernel_sums  # noqa: E402

SEEDS = range(3)


def scene(
    seed: int, side: int = 24, images: int = 1, smooth: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities, images and valid pixels (nine in ten), double precision; squares of ``smooth`` px are constant."""
    rng = torch.Generator().manual_seed(seed)
    small = -(-side // smooth)

    def drawn(channels: int) -> torch.Tensor:
        values = torch.rand(images, channels, small, small, generator=rng, dtype=torch.float64)
        return values.repeat_interleave(smooth, 2).repeat_interleave(smooth, 3)[..., :side, :side]

    valid = torch.rand(images, side, side, generator=rng) < 0.9
    return drawn(1)[:, 0], 0.3 + 0.2 * drawn(3), valid


def matrix(images: torch.Tensor, valid: torch.Tensor, sxy: float, srgb: float, radius: float) -> torch.Tensor:
    """(N, P, P) kernel of all pairs of pixels, cut at the radius and without those that do not count."""
    height, width = valid.shape[1:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([y, x], dim=-1).reshape(1, -1, 2).double()
    colour = images.flatten(2).transpose(1, 2)
    apart = torch.cdist(place, place)
    kernel = torch.exp(-(apart**2) / (2 * sxy**2) - torch.cdist(colour, colour) ** 2 / (2 * srgb**2))
    counts = valid.flatten(1).double()
    return kernel * (apart <= radius + 1e-9) * counts[:, :, None] * counts[:, None, :]


def oracle(inside: torch.Tensor, kernel: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    s = inside.flatten(1)
    return torch.einsum("ni,nij,nj->", 1 - s, kernel, s) / valid.sum()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("sxy", "window"), [(4.0, 2.0), (9.0, 2.0), (2.5, 1.5), (9.0, 10.0)])
def test_the_value_is_that_of_the_matrix_cut_at_the_window(seed: int, sxy: float, window: float) -> None:
    inside, images, valid = scene(seed, images=2)
    truth = oracle(inside, matrix(images, valid, sxy, 0.1, window * sxy), valid)
    found = crf_loss(inside, images, sxy=sxy, srgb=0.1, valid=valid, scale=1, window=window)
    assert float(found) == pytest.approx(float(truth), rel=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gradient_is_that_of_the_matrix_by_autograd(seed: int) -> None:
    inside, images, valid = scene(seed, images=2)
    leaf, mine = inside.clone().requires_grad_(), inside.clone().requires_grad_()
    (3 * oracle(leaf, matrix(images, valid, 4, 0.1, 8), valid)).backward()
    (3 * crf_loss(mine, images, sxy=4, srgb=0.1, valid=valid, scale=1)).backward()
    assert leaf.grad is not None
    assert mine.grad is not None
    assert float((leaf.grad - mine.grad).abs().max()) < 1e-12
    assert not mine.grad[~valid].any()


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_gradient_is_that_of_small_steps(scale: int) -> None:
    inside, images, valid = scene(1, side=7)

    def loss(s: torch.Tensor) -> torch.Tensor:
        return crf_loss(s, images, sxy=3, srgb=0.2, valid=valid, scale=scale)

    assert torch.autograd.gradcheck(loss, (inside.requires_grad_(),))


def test_the_window_loses_little_of_the_whole() -> None:
    inside, images, valid = scene(0, smooth=6)
    whole = oracle(inside, matrix(images, valid, 4, 0.1, math.inf), valid)
    cut = crf_loss(inside, images, sxy=4, srgb=0.1, valid=valid, scale=1)
    assert 0.85 < float(cut / whole) < 1


def test_a_constant_image_with_one_half_probability_is_known_by_hand() -> None:
    # 3 x 3 px with a window of 1: 9 pairs with oneself, 12 neighbours both ways, each a quarter
    loss = crf_loss(torch.full((1, 3, 3), 0.5), torch.zeros(1, 3, 3, 3), sxy=1, window=1, scale=1)
    assert float(loss) == pytest.approx((9 + 24 * math.exp(-0.5)) / 4 / 9, rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_half_resolution_has_about_the_value_and_direction_of_the_full(seed: int) -> None:
    inside, images, _ = scene(seed, side=48, smooth=8)
    full, half = (inside.clone().requires_grad_() for _ in range(2))
    losses = [crf_loss(s, images, sxy=6, srgb=0.1, scale=k) for s, k in ((full, 1), (half, 2))]
    assert float((losses[1] / losses[0]).detach()) == pytest.approx(1, abs=0.06)
    for loss in losses:
        loss.backward()
    assert full.grad is not None
    assert half.grad is not None
    assert float(torch.cosine_similarity(full.grad.flatten(), half.grad.flatten(), dim=0)) > 0.98
    assert float(half.grad.norm() / full.grad.norm()) == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("side", [11, 12])
def test_half_resolution_is_the_loss_of_means_of_valid_pixels(seed: int, side: int) -> None:
    inside, images, valid = scene(seed, side=side)
    valid[:, :5, :5] = False
    rows = [slice(start, start + 2) for start in range(0, side, 2)]
    small = len(rows)
    means, colours, counts = torch.zeros(1, small, small), torch.zeros(1, 3, small, small), torch.zeros(1, small, small)
    means, colours, counts = means.double(), colours.double(), counts.bool()
    for (r, rr), (c, cc) in itertools.product(enumerate(rows), repeat=2):
        chosen = valid[0, rr, cc]
        if chosen.any():
            counts[0, r, c] = True
            means[0, r, c] = inside[0, rr, cc][chosen].mean()
            colours[0, :, r, c] = images[0, :, rr, cc][:, chosen].mean(dim=1)
    truth = 4 * oracle(means, matrix(colours, counts, 2, 0.1, 4), counts)
    assert float(crf_loss(inside, images, sxy=4, valid=valid)) == pytest.approx(float(truth), rel=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_four_tiles_with_a_halo_have_the_sums_of_the_whole(seed: int) -> None:
    inside, images, valid = scene(seed)
    options = {"sxy": 2.5, "srgb": 0.1, "radius": 5.0}
    whole = kernel_sums(inside, images, valid, **options)
    for y, x in itertools.product((0, 12), repeat=2):
        top, left = max(0, y - 5), max(0, x - 5)
        rows, columns = slice(top, y + 17), slice(left, x + 17)
        part = kernel_sums(inside[:, rows, columns], images[..., rows, columns], valid[:, rows, columns], **options)
        for full, tile in zip(whole, part, strict=True):
            core = tile[:, y - top : y - top + 12, x - left : x - left + 12]
            assert torch.allclose(core, full[:, y : y + 12, x : x + 12], rtol=1e-12)


@pytest.mark.parametrize("scale", [1, 2])
def test_what_does_not_count_may_hold_anything(scale: int) -> None:
    inside, images, valid = scene(2)
    changed, painted = inside.clone(), images.clone()
    changed[~valid] = 1
    painted.transpose(0, 1)[:, ~valid] = 0
    losses = [crf_loss(s, i, sxy=4, valid=valid, scale=scale) for s, i in ((inside, images), (changed, painted))]
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-12)


@pytest.mark.parametrize("scale", [1, 2])
def test_where_nothing_counts_the_loss_is_nothing_and_so_is_its_gradient(scale: int) -> None:
    inside, images, valid = scene(0)
    loss = crf_loss(inside.requires_grad_(), images, sxy=4, valid=torch.zeros_like(valid), scale=scale)
    loss.backward()
    assert float(loss.detach()) == 0
    assert inside.grad is not None
    assert not inside.grad.any()


def test_descent_moves_a_pixel_to_the_side_of_those_like_it() -> None:
    images = torch.zeros(1, 3, 9, 9)
    images[..., 5:] = 1
    inside = torch.full((1, 9, 9), 0.1)
    inside[..., 5:] = 0.9
    inside[0, 4, 7] = inside[0, 4, 1] = 0.5
    inside.requires_grad_()
    crf_loss(inside, images, sxy=3, scale=1).backward()
    assert inside.grad is not None
    assert inside.grad[0, 4, 7] < 0 < inside.grad[0, 4, 1]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(kind: torch.dtype) -> None:
    inside, images, _ = scene(0, side=64, smooth=4)
    leaf = inside.to(kind).requires_grad_()
    loss = crf_loss(leaf, images.to(kind), sxy=9, scale=1)
    loss.backward()
    truth = crf_loss(inside.to(kind).double(), images.to(kind).double(), sxy=9, scale=1)
    assert float(loss.detach()) == pytest.approx(float(truth), rel=1e-4)
    assert leaf.grad is not None
    assert leaf.grad.dtype == kind


@pytest.mark.parametrize(
    ("change", "said"),
    [({"sxy": 0.0}, "sxy"), ({"srgb": -1.0}, "srgb"), ({"scale": 0}, "scale"), ({"window": 0.0}, "window")],
)
def test_lengths_that_make_no_sense_are_refused(change: dict[str, float], said: str) -> None:
    inside, images, _ = scene(0, side=4)
    with pytest.raises(ConfigError, match=f"got .*{said}"):
        crf_loss(inside, images, **({"sxy": 4.0} | change))  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_refused() -> None:
    inside, images, valid = scene(0, side=4)
    for wrong in ((inside[0], images, None), (inside, images[:, :1], None), (inside, images, valid[:, :3])):
        with pytest.raises(ConfigError, match="takes probabilities"):
            crf_loss(*wrong[:2], sxy=4, valid=wrong[2])
