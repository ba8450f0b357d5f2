"""Instance segmentation: which found objects are which true ones, by the pixels that they share.

Everything starts from ``Overlaps``, the sparse table of how many pixels each true object shares with each found one;
nothing is ever as large as true times found objects. Objects are numbered by where they first appear, row by row, so
that no metric depends on how the labels were numbered.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.metrics.assignment import assign
from wsikit.metrics.ratio import Ratio

STRIP = 512
"""Rows of a label image counted at once: bounds the memory of sorting pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """The pixels that T true and F found objects share, pair by pair."""

    truth_sizes: NDArray[np.int64]
    """(T,) pixels of each true object."""
    found_sizes: NDArray[np.int64]
    """(F,) pixels of each found object."""
    truth: NDArray[np.int64]
    """(P,) the true object of each pair that shares a pixel."""
    found: NDArray[np.int64]
    """(P,) the found object of each pair."""
    pixels: NDArray[np.int64]
    """(P,) pixels that the pair shares, at least 1."""

    @property
    def unions(self) -> NDArray[np.int64]:
        """(P,) pixels that either of the pair has."""
        union: NDArray[np.int64] = self.truth_sizes[self.truth] + self.found_sizes[self.found] - self.pixels
        return union

    @property
    def iou(self) -> NDArray[np.float64]:
        """(P,) intersection over union of each pair."""
        iou: NDArray[np.float64] = self.pixels / self.unions
        return iou


def overlaps(truth: NDArray[np.integer], found: NDArray[np.integer]) -> Overlaps:
    """Compare two label images of one shape.

    Args:
        truth: (H, W) integers, 0 is background, every other value an object (connected or not).
        found: (H, W), the same.

    Raises:
        ConfigError: shapes differ, or labels that are not whole numbers from 0 to 2^32 - 1.
    """
    strips = range(0, len(truth), STRIP)
    if truth.shape != found.shape:
        raise ConfigError(f"label images must have one shape, got {truth.shape} (truth) and {found.shape} (found)")
    return overlaps_of_blocks((truth[y : y + STRIP], found[y : y + STRIP]) for y in strips)


def overlaps_of_blocks(blocks: Iterable[tuple[NDArray[np.integer], NDArray[np.integer]]]) -> Overlaps:
    """Compare label images that come block by block; a label means the same object in every block.

    Args:
        blocks: pairs of (h, w) truth and found labels, as in ``overlaps``; each pixel of the image once.
    """
    joint = [_joint(truth, found) for truth, found in blocks]
    codes = np.concatenate([np.zeros(0, np.uint64), *(code for code, _ in joint)])
    counts = np.concatenate([np.zeros(0, np.int64), *(count for _, count in joint)])
    names, pair = _by_appearance(codes)
    pixels = np.zeros(len(names), np.int64)
    np.add.at(pixels, pair, counts)
    truth, found = names >> np.uint64(32), names & np.uint64(0xFFFFFFFF)
    truth_sizes, truth_index = _sizes(truth, pixels)
    found_sizes, found_index = _sizes(found, pixels)
    both = (truth > 0) & (found > 0)
    return Overlaps(truth_sizes, found_sizes, truth_index[both], found_index[both], pixels[both])


def _joint(truth: NDArray[np.integer], found: NDArray[np.integer]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Both labels of a pixel in one number, 0 left out: the different ones in order of appearance, and their pixels."""
    if truth.shape != found.shape:
        raise ConfigError(f"label images must have one shape, got {truth.shape} (truth) and {found.shape} (found)")
    for labels in (truth, found):
        whole = np.issubdtype(labels.dtype, np.integer)
        if not whole or (labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < 1 << 32):
            raise ConfigError(f"labels must be whole numbers from 0 to 2^32 - 1, got {labels.dtype}")
    code = truth.astype(np.uint64) << np.uint64(32) | found.astype(np.uint64)
    names, index = _by_appearance(code[code > 0])
    return names, np.bincount(index, minlength=len(names))


def _by_appearance(values: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """The different values, in order of first appearance, and the place of each value among them."""
    names, first, index = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(order), np.intp)
    place[order] = np.arange(len(order))
    return names[order], place[index]


def _sizes(labels: NDArray[np.uint64], pixels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Pixels of each object, and the number of the object of each entry (-1 for the background)."""
    index = np.full(len(labels), -1, np.intp)
    names, index[labels > 0] = _by_appearance(labels[labels > 0])
    sizes = np.zeros(len(names), np.int64)
    np.add.at(sizes, index[labels > 0], pixels[labels > 0])
    return sizes, index


def object_scores(found: Overlaps, threshold: float = 0.5) -> dict[str, Ratio]:
    """Object F1, precision and recall, and detection, segmentation and panoptic quality at an IoU threshold.

    Pairs with IoU > threshold match; from one half on no object can be in two of them. TP are matches, FP found
    objects without one, FN true objects without one.

    * ``object_f1`` = ``dq`` = 2 TP / (2 TP + FP + FN) (detection quality is object F1 by another name);
    * ``sq`` = sum of the matches' IoU / TP, NaN where nothing matches;
    * ``pq`` = dq * sq = sum of IoU / (TP + FP / 2 + FN / 2).

    Kirillov et al., Panoptic segmentation, CVPR 2019; for nuclei Graham et al., HoVer-Net, Medical Image Analysis 2019.
    All are 0 where only one side has objects; F1, dq and pq are 1 where neither has, where precision, recall and sq
    are NaN.

    Raises:
        ConfigError: a threshold outside [0.5, 1).
    """
    if not 0.5 <= threshold < 1:
        raise ConfigError(f"an IoU threshold is 0.5 to below 1 (matches are unique from one half on), got {threshold}")
    iou = found.iou
    matched = int((iou > threshold).sum())
    quality = float(iou[iou > threshold].sum())
    n_truth, n_found = len(found.truth_sizes), len(found.found_sizes)
    f1 = Ratio.f1(matched, n_truth, n_found)
    return {
        "object_f1": f1,
        "object_precision": Ratio(matched, n_found, np.nan),
        "object_recall": Ratio(matched, n_truth, np.nan),
        "dq": f1,
        "sq": Ratio(quality, matched, np.nan),
        "pq": Ratio(2 * quality, n_truth + n_found),
    }


def aji(found: Overlaps) -> Ratio:
    """Aggregated Jaccard index: Kumar et al., IEEE Transactions on Medical Imaging 36 (2017) 1550.

    Every true object G takes the found object S with the largest IoU; found objects may be taken more than once.

        AJI = sum |G & S| / (sum |G | S| + sum of |S| of those never taken)

    where a true object that nothing overlaps adds its own pixels to the denominator. Of equal IoU the larger overlap,
    then the one that appears first, is taken. 1 where both sides are empty, 0 where one is.
    """
    # last of each true object in ascending order of IoU and overlap
    order = np.lexsort((-found.found, found.pixels, found.iou, found.truth))
    last = np.append(np.diff(found.truth[order]) > 0, True)[: len(order)]
    best = order[last]
    return _aggregated(found, best)


def aji_plus(found: Overlaps) -> Ratio:
    """AJI+: Graham et al., HoVer-Net, Medical Image Analysis 58 (2019) 101563.

    As ``aji``, but true and found objects are paired one to one so that the sum of IoU is largest: no found object is
    counted twice. 1 where both sides are empty, 0 where one is.
    """
    return _aggregated(found, assign(found.truth, found.found, 1 - found.iou, unmatched=1.0))


def _aggregated(found: Overlaps, pairs: NDArray[np.integer]) -> Ratio:
    alone = np.ones(len(found.truth_sizes), np.bool_)
    alone[found.truth[pairs]] = False
    spare = np.ones(len(found.found_sizes), np.bool_)
    spare[found.found[pairs]] = False
    missed = found.truth_sizes[alone].sum() + found.found_sizes[spare].sum()
    return Ratio(float(found.pixels[pairs].sum()), float(found.unions[pairs].sum() + missed))


def dice(found: Overlaps) -> Ratio:
    """Dice of the foregrounds, objects not told apart ("DICE1"): 2 |A & B| / (|A| + |B|); 1 where both are empty."""
    return Ratio(2.0 * int(found.pixels.sum()), float(found.truth_sizes.sum() + found.found_sizes.sum()))


def ensemble_dice(found: Overlaps) -> Ratio:
    """Ensemble Dice ("DICE2"): Vu et al., Frontiers in Bioengineering and Biotechnology 7 (2019) 53.

        2 * sum |G & S| / sum (|G| + |S|)    over all pairs of true G and found S that share a pixel

    It falls where objects are split or merged, and, as published, takes no notice of objects that overlap nothing.
    0 where objects are there and no pair overlaps, 1 where both sides are empty.
    """
    sizes = found.truth_sizes[found.truth] + found.found_sizes[found.found]
    nothing = not (len(found.truth_sizes) or len(found.found_sizes))
    return Ratio(2.0 * int(found.pixels.sum()), float(sizes.sum()), 1.0 if nothing else 0.0)
