"""Connected areas of a class map that comes block by block, and the clean-up of those that are too small.

Areas are 4-connected pixels of one class. Each is known by its pixels, by the sums of all classes' scores over them and
by its neighbours, so that the clean-up needs no pixels:

1. Of the areas below a size the smallest is taken, of equal ones the first by row.
2. It is given, as a whole, to that one of its neighbours' classes which has the highest score over it; of equal ones to
   the first label. Background receives nothing, and what was not analysed is no class. Where there is nobody to give
   it to, it stays.
3. It is then one area with all neighbours of that class. If that one is still too small it is taken in its turn; so
   are small neighbours that had nobody to go to.

What comes out has no area below the size that touches another class than background. Numbers are whole, and the order
is by size and place: the outcome is that of the map, however it was cut into blocks.

Memory: a block, and about 300 bytes for an area and 50 for a pair of neighbours of which one is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wsikit.geometry import Region


class Areas(NamedTuple):
    """N connected areas, in the order of their first pixels by row."""

    labels: NDArray[np.int64]
    """(N,) index of the label."""
    pixels: NDArray[np.int64]
    """(N,)."""
    sums: NDArray[np.int64]
    """(N, K) scores of all labels over the area's pixels, in steps of 1/255."""
    first: NDArray[np.int64]
    """(N,) y * width + x of the first pixel."""


def connected(classes: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(H, W) number of the 4-connected area of each pixel of a block, from 1 in row order; 0 where nothing is."""
    from skimage.measure import label

    numbers: NDArray[np.int32] = label(classes, background=0, connectivity=1).astype(np.int32, copy=False)
    return numbers


@dataclass(slots=True)
class AreaGraph:
    """Takes a class map block by block, then says which pixels are one area, and what becomes of it.

    Args:
        width: of the map, px.
        labels: K.
        least: size in px below which areas are small; larger neighbours need not be remembered.
    """

    width: int
    labels: int
    least: float
    _parts: list[Areas] = field(default_factory=list)
    """Of each block that has any: what of an area lies in it."""
    _pairs: list[NDArray[np.int64]] = field(default_factory=list)
    """(M, 2) numbers of parts that touch."""
    _offsets: dict[tuple[int, int], int] = field(default_factory=dict)
    """(x, y) of a block -> number of the first of its parts."""
    _count: int = 0
    _above: NDArray[np.int64] = field(init=False)
    """(width,) parts in the row above the blocks of this row, from 1; 0 for none."""
    _below: NDArray[np.int64] = field(init=False)
    _left: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self._above, self._below = np.zeros((2, self.width), np.int64)
        self._left = np.zeros(0, np.int64)

    def add(self, region: Region, classes: NDArray[np.uint8] | None, scores: NDArray[np.uint8] | None) -> None:
        """Take the next block. They come row by row from (0, 0), each row of one height, none left out.

        Args:
            region: where, within the map.
            classes: (H, W) label + 1, 0 where nothing was analysed; None where all of the block is 0.
            scores: (K, H, W) in steps of 1/255.
        """
        if region.x == 0:
            self._above, self._below = self._below, np.zeros_like(self._below)
            self._left = np.zeros(region.height, np.int64)
        if classes is None or scores is None or not classes.any():
            self._left = np.zeros(region.height, np.int64)
            return
        numbers = connected(classes)
        part = self._measured(region, numbers, classes, scores)
        offset = self._offsets[region.x, region.y] = self._count
        self._pairs.append(_touching(numbers, part.pixels, self.least) + offset)
        self._parts.append(part)
        self._count += len(part.pixels)
        top, side, bottom, end = (
            np.where(line > 0, line + offset, 0).astype(np.int64)
            for line in (numbers[0], numbers[:, 0], numbers[-1], numbers[:, -1])
        )
        self._pairs += [_facing(self._above[region.x : region.x1], top), _facing(self._left, side)]
        self._below[region.x : region.x1], self._left = bottom, end

    def _measured(
        self, region: Region, numbers: NDArray[np.int32], classes: NDArray[np.uint8], scores: NDArray[np.uint8]
    ) -> Areas:
        flat = numbers.ravel()
        count = int(flat.max())
        first = np.zeros(count + 1, np.int64)
        # numpy assigns in order: of an area's pixels the first one comes last
        first[flat[::-1]] = np.arange(len(flat) - 1, -1, -1)
        first = first[1:]
        rows, columns = np.divmod(first, region.width)
        sums = [np.bincount(flat, plane.ravel(), count + 1)[1:] for plane in scores]
        return Areas(
            labels=classes.ravel()[first].astype(np.int64) - 1,
            pixels=np.bincount(flat, minlength=count + 1)[1:],
            # float64 adds whole numbers exactly up to 2^53
            sums=np.stack(sums, axis=1).astype(np.int64),
            first=(rows + region.y) * self.width + columns + region.x,
        )

    def settled(self, receives: Sequence[bool]) -> SettledAreas:
        """Put the parts together and clean up; no block may come after it.

        Args:
            receives: whether small areas may be given to each of the K labels.
        """
        whole, parts, pairs = self._joined()
        owner, labels = _settle(whole, pairs, self.least, receives)
        areas, numbers = _fused(whole, owner, labels)
        return SettledAreas(areas, numbers[parts], dict(self._offsets))

    def _joined(self) -> tuple[Areas, NDArray[np.int64], NDArray[np.int64]]:
        """Whole areas, the one that each part is of, and pairs that touch."""
        empty = np.zeros(0, np.int64)
        blank = Areas(empty, empty, np.zeros((0, self.labels), np.int64), empty)
        found = Areas(*(np.concatenate(column) for column in zip(blank, *self._parts, strict=True)))
        pairs = np.concatenate([np.zeros((0, 2), np.int64), *self._pairs])
        same = found.labels[pairs[:, 0]] == found.labels[pairs[:, 1]]
        areas, numbers = _fused(found, _components(pairs[same], self._count), found.labels)
        return areas, numbers, np.unique(np.sort(numbers[pairs[~same]], axis=1), axis=0)


@dataclass(frozen=True, slots=True, eq=False)
class SettledAreas:
    """The areas of a cleaned map, and how to find them in its blocks."""

    areas: Areas
    _numbers: NDArray[np.int64]
    """Index of the area that each part of a block is of."""
    _offsets: dict[tuple[int, int], int]

    def places(self, region: Region, classes: NDArray[np.uint8]) -> NDArray[np.int64]:
        """(H, W) index of the area of each pixel of a block, -1 where nothing was analysed.

        Args:
            region: a block that the graph was given.
            classes: its classes, as they were given.
        """
        offset = self._offsets.get((region.x, region.y), 0)
        numbers = connected(classes)
        table = np.append(-1, self._numbers[offset : offset + int(numbers.max(initial=0))])
        found: NDArray[np.int64] = table[numbers]
        return found


def _touching(numbers: NDArray[np.int32], pixels: NDArray[np.int64], least: float) -> NDArray[np.int64]:
    """(M, 2) pairs of areas, from 0, that share an edge in a block, where one of them may be small."""
    keys = []
    stride = len(pixels) + 1
    for one, two in ((numbers[:, :-1], numbers[:, 1:]), (numbers[:-1], numbers[1:])):
        meet = (one != two) & (one > 0) & (two > 0)
        keys.append(np.unique(one[meet].astype(np.int64) * stride + two[meet]))
    pairs = np.stack(np.divmod(np.unique(np.concatenate(keys)), stride), axis=1) - 1
    # what is large in this block is so on the slide
    small: NDArray[np.bool_] = (pixels[pairs] < least).any(axis=1)
    return pairs[small]


def _facing(one: NDArray[np.int64], two: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M, 2) pairs of parts, from 0, that face each other across the border of two blocks."""
    meet = (one > 0) & (two > 0)
    return np.unique(np.stack([one[meet], two[meet]], axis=1), axis=0) - 1


def _components(pairs: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """(count,) a number for each, the same for all that pairs connect."""
    if not count:
        return np.zeros(0, np.int64)
    from scipy import sparse

    links = sparse.coo_array((np.ones(len(pairs), np.bool_), (pairs[:, 0], pairs[:, 1])), (count, count))
    numbers: NDArray[np.int64] = sparse.csgraph.connected_components(links, directed=False)[1].astype(np.int64)
    return numbers


def _fused(areas: Areas, owner: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[Areas, NDArray[np.int64]]:
    """Areas of one owner as one, and the place of each of them; ``labels`` is of each area, the same for an owner's."""
    order = np.argsort(areas.first)
    _, begin, numbers = np.unique(owner[order], return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(begin))  # by the first pixel of each owner
    place = np.empty(len(owner), np.int64)
    place[order] = rank[numbers]
    leader = order[np.sort(begin)]
    pixels = np.zeros(len(leader), np.int64)
    sums = np.zeros((len(leader), areas.sums.shape[1]), np.int64)
    np.add.at(pixels, place, areas.pixels)
    np.add.at(sums, place, areas.sums)
    return Areas(labels[leader], pixels, sums, areas.first[leader]), place


def _settle(
    areas: Areas, pairs: NDArray[np.int64], least: float, receives: Sequence[bool]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(N,) the area that each becomes a part of, and (N,) its label then."""
    settling = _Settling(areas, pairs, least, receives)
    settling.run()
    owner = np.array([settling.root(k) for k in range(len(areas.labels))], np.int64)
    return owner, np.array(settling.labels, np.int64)[owner]


class _Settling:
    """The clean-up on its way; areas are known by one of theirs, the root."""

    def __init__(self, areas: Areas, pairs: NDArray[np.int64], least: float, receives: Sequence[bool]) -> None:
        self.labels: list[int] = areas.labels.tolist()
        self.pixels: list[int] = areas.pixels.tolist()
        self.first: list[int] = areas.first.tolist()
        self.sums = areas.sums.copy()
        self.least, self.receives = least, receives
        self.owner = list(range(len(self.labels)))
        self.parts: dict[int, list[int]] = {}
        """Root -> the areas that it is made of, while it is small and of several."""
        both = np.concatenate([pairs, pairs[:, ::-1]])
        both = both[np.argsort(both[:, 0], kind="stable")]
        self._near = both[:, 1]
        self._from = np.searchsorted(both[:, 0], np.arange(len(self.labels) + 1))
        self.queue = [self._entry(int(k)) for k in np.flatnonzero(areas.pixels < least)]

    def _entry(self, area: int) -> tuple[int, int, int]:
        return self.pixels[area], self.first[area], area

    def root(self, area: int) -> int:
        """The area that this one is part of."""
        while (above := self.owner[area]) != area:
            self.owner[area] = self.owner[above]
            area = above
        return area

    def run(self) -> None:
        """Give all small areas away that somebody takes."""
        heapify(self.queue)
        while self.queue:
            size, _, area = heappop(self.queue)
            if self.owner[area] == area and self.pixels[area] == size:  # else it has grown since
                self._give(area)

    def _around(self, area: int) -> set[int]:
        parts = self.parts.get(area, [area])
        near = (n for part in parts for n in self._near[self._from[part] : self._from[part + 1]].tolist())
        return {self.root(n) for n in near} - {area}

    def _give(self, area: int) -> None:
        around = self._around(area)
        offered = sorted({self.labels[n] for n in around if self.receives[self.labels[n]]})
        if not offered:
            return
        # of equal ones max takes the first
        self.labels[area] = label = max(offered, key=self.sums[area].__getitem__)
        joined = {n for n in around if self.labels[n] == label}
        self._fuse(area, joined)
        for near in around - joined:
            if self.pixels[near] < self.least:
                heappush(self.queue, self._entry(near))

    def _fuse(self, area: int, others: set[int]) -> None:
        parts = [part for one in (area, *others) for part in self.parts.pop(one, [one])]
        for other in others:
            self.owner[other] = area
            self.pixels[area] += self.pixels[other]
            self.first[area] = min(self.first[area], self.first[other])
            self.sums[area] += self.sums[other]
        if self.pixels[area] < self.least:
            self.parts[area] = parts
            heappush(self.queue, self._entry(area))
