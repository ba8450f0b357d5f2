"""Pixel-adaptive refinement (PAR): soft masks drawn to the edges of the image, without training.

Ru, Zhan, Yu and Du, Learning Affinity from Attention: End-to-End Weakly-Supervised Semantic Segmentation with
Transformers, CVPR 2022, section 3.4; the idea is Araslanov and Roth's (Single-Stage Semantic Segmentation from Image
Labels, CVPR 2020). A pixel i takes, again and again, the affinity-weighted mean of its neighbours j:

    M_t(i)  = sum over j in N(i) of a(i, j) M_{t-1}(j)
    a(i, j) = (softmax_j(r(i, j)) + w softmax_j(p(i, j))) / (1 + w)
    r(i, j) = -mean over channels c of (|I_c(i) - I_c(j)| / (w_r s_c(i)))^2
    p(i, j) = -(|i - j| / (w_p s_p))^2

N(i) are the eight neighbours at each dilation d: (+-d, 0), (0, +-d), (+-d, +-d). w_r and w_p are the bandwidths of
colour and position, w the weight of position.

Where the paper leaves a choice, this is the reading:

* s_c(i) is the (sample) standard deviation of channel c over N(i), s_p that of the distances |i - j| over N. So the
  bandwidth follows the contrast of the place, and a faint edge counts as much as a strong one;
* the channels' terms are averaged; distance is Euclidean, in pixels;
* the paper's affinities sum to 1 + w. They are divided by that here, so that a constant mask stays what it is and no
  value leaves the range of the mask, however many iterations;
* beyond the border the image and the mask go on as their last row and column, at the nominal distance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from wsikit.errors import ConfigError

DILATIONS = (1, 2, 4, 6, 8, 10, 12, 24)
"""In pixels; with the bandwidths and the weight below those of the counting-label method."""
COLOUR = 0.45
POSITION = 0.45
"""Not told apart from the colour's by the method, nor by the paper, where both are 0.3."""
WEIGHT = 0.005
STILL = 1e-8
"""Added to standard deviations: a neighbourhood of one colour has none, and then all its pixels are alike."""


@torch.no_grad()
def refine(
    masks: Tensor,
    images: Tensor,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = DILATIONS,
    colour: float = COLOUR,
    position: float = POSITION,
    weight: float = WEIGHT,
) -> Tensor:
    """Draw masks to the edges of their images (the formula is in the module's docstring).

    Images are done one after another. Each holds one float32 plane for every neighbour: with the eight default
    dilations 64 planes and a few more, 80 MB at 512 x 512 pixels and 330 MB at 1024 x 1024. No gradient flows through.
    All distances are in pixels, so the images must be at the resolution that the dilations are meant for.

    Args:
        masks: (N, K, H, W) floating point, finite; K soft masks of each image, usually in [0, 1].
        images: (N, 3, H, W) floating point, RGB in [0, 1], on the same device.
        iterations: times that masks are spread, 0 or more.
        dilations: distances of the neighbours in pixels, at least one, each 1 or more.
        colour, position: bandwidths in standard deviations of the neighbourhood, above 0.
        weight: of position beside colour, 0 or more.

    Returns:
        (N, K, H, W) float32, within the range of each mask.

    Raises:
        ConfigError: shapes that do not go together, or settings out of range.
    """
    _check(masks, images, iterations, dilations, (colour, position), weight)
    refined = masks.to(torch.float32, copy=True)
    offsets = [(y * d, x * d) for d in dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x]
    near = _position_affinities(offsets, position).to(images.device)
    for mask, image in zip(refined, images.float(), strict=True):
        affinities = _colour_affinities(image, offsets, colour)
        affinities.add_(near[:, None, None], alpha=weight).div_(1 + weight)
        for _ in range(iterations):
            mask.copy_(_spread(mask, affinities, offsets))
    return refined


def _check(
    masks: Tensor,
    images: Tensor,
    iterations: int,
    dilations: Sequence[int],
    bandwidths: tuple[float, float],
    weight: float,
) -> None:
    alike = masks.ndim == images.ndim == 4 and masks.shape[::2] == images.shape[::2]
    if not alike or masks.shape[3] != images.shape[3] or images.shape[1] != 3:
        raise ConfigError(
            "refinement takes masks of shape (N, K, H, W) and images of shape (N, 3, H, W), "
            f"got {tuple(masks.shape)} and {tuple(images.shape)}"
        )
    if not (masks.is_floating_point() and images.is_floating_point()):
        raise ConfigError(f"refinement takes floating-point numbers in [0, 1], got {masks.dtype} and {images.dtype}")
    if not dilations or min(dilations) < 1:
        raise ConfigError(f"dilations are at least one distance of 1 px or more, got {tuple(dilations)}")
    if not (iterations >= 0 and all(width > 0 for width in bandwidths) and 0 <= weight < math.inf):
        raise ConfigError(
            "refinement takes 0 or more iterations, bandwidths above 0 and a weight of 0 or more, "
            f"got {iterations} iterations, bandwidths of {bandwidths} and a weight of {weight:g}"
        )


def _neighbours(planes: Tensor, offsets: Sequence[tuple[int, int]]) -> Iterator[Tensor]:
    """(C, H, W) views on the planes, shifted by each offset (y, x) in turn; the border goes on outside."""
    height, width = planes.shape[-2:]
    reach = max(max(offset) for offset in offsets)
    padded = functional.pad(planes, [reach] * 4, mode="replicate")
    for y, x in offsets:
        yield padded[:, reach + y : reach + y + height, reach + x : reach + x + width]


def _colour_affinities(image: Tensor, offsets: Sequence[tuple[int, int]], bandwidth: float) -> Tensor:
    """(J, H, W), the softmax of r over the J neighbours, for one (3, H, W) image."""
    mean = torch.zeros_like(image)
    for neighbour in _neighbours(image, offsets):
        mean += neighbour
    mean /= len(offsets)
    # around the mean: the difference of two mean squares would lose a faint texture on a bright ground
    squares = torch.zeros_like(image)
    for neighbour in _neighbours(image, offsets):
        squares += (neighbour - mean).square_()
    scale = squares.div_(len(offsets) - 1).sqrt_().add_(STILL).mul_(bandwidth).reciprocal_()
    logits = image.new_empty((len(offsets), *image.shape[1:]))
    for logit, neighbour in zip(logits, _neighbours(image, offsets), strict=True):
        torch.mean((neighbour - image).mul_(scale).square_(), dim=0, out=logit)
    # softmax of the negative, in place: the planes are most of the memory
    logits.sub_(logits.amin(dim=0)).neg_().exp_()
    return logits.div_(logits.sum(dim=0))


def _position_affinities(offsets: Sequence[tuple[int, int]], bandwidth: float) -> Tensor:
    """(J,), the softmax of p over the J neighbours; the same for every pixel."""
    distance = torch.tensor([math.hypot(y, x) for y, x in offsets], dtype=torch.float64)
    return torch.softmax(-(distance / (bandwidth * (distance.std() + STILL))).square(), dim=0).float()


def _spread(masks: Tensor, affinities: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """One iteration on the (K, H, W) masks of an image."""
    spread = torch.zeros_like(masks)
    for affinity, neighbour in zip(affinities, _neighbours(masks, offsets), strict=True):
        spread.addcmul_(neighbour, affinity)
    return spread
