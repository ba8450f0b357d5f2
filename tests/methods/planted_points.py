"""Planted sections for the method of partial points: nuclei with a truth, and what must not be taken for them.

A scene is a pale pink ground with purple ellipses (the nuclei), pink discs and thin dark fibres. *Crowded with decoys*
it also has, far from annotated points, purple smears much larger than a nucleus and dim purple specks: what a detector
that learned from few points has never been told about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.metrics.detection import match_points
from wsikit.slides import Pixels

RADIUS = 6.0
"""Of the nuclei, px: the mean of their half axes, and how near a detection must be."""
AXES = (4.5, 7.5)
"""Half axes of the ellipses, px."""
GROUND = (232, 205, 220)
PURPLE = (110, 70, 140)
PINK = (215, 130, 165)
DARK = (95, 60, 115)
NOISE = 8.0
"""Standard deviation of pixels, grey levels."""


@dataclass(frozen=True, eq=False)
class Planted:
    """A scene and what is true of it."""

    image: Pixels
    """(H, W, 3) uint8."""
    labels: NDArray[np.int32]
    """(H, W), the n-th nucleus has the number n."""
    points: NDArray[np.float64]
    """(N, 2) middles of the nuclei, x and y in px, pixel-corner convention; not on whole pixels."""


@dataclass(eq=False)
class Canvas:
    """A scene that is being drawn."""

    side: int
    rng: np.random.Generator
    nuclei: list[tuple[float, float, float]] = field(default_factory=list)
    """x, y, larger half axis."""

    def __post_init__(self) -> None:
        shape = self.side, self.side
        self.y, self.x = np.mgrid[: self.side, : self.side] + 0.5
        clouds = ndimage.gaussian_filter(self.rng.normal(size=shape), 6)
        self.image = np.array(GROUND, float) + (clouds / clouds.std() * 5)[..., None]
        self.labels = np.zeros(shape, np.int32)

    def nucleus(self, gap: float) -> None:
        """An ellipse whose outline is at least ``gap`` px from the others'; none where 200 places were taken."""
        a, b = self.rng.uniform(*AXES, 2)
        for _ in range(200):
            x, y = self.rng.uniform(5, self.side - 5, 2)
            if all(np.hypot(x - u, y - v) >= max(a, b) + axis + gap for u, v, axis in self.nuclei):
                break
        else:
            return
        self.nuclei.append((x, y, max(a, b)))
        inside = self._ellipse(x, y, a, b)
        self._paint(inside, PURPLE, self.rng.uniform(0.75, 1))
        self.labels[inside > 0.5] = len(self.nuclei)

    def disc(self) -> None:
        """Something pink, of a nucleus's size."""
        x, y = self.rng.uniform(0, self.side, 2)
        r = self.rng.uniform(*AXES)
        self._paint(self._ellipse(x, y, r, r) * (self.labels == 0), PINK, 1)

    def fibre(self) -> None:
        """Something dark, long and thin."""
        x, y = self.rng.uniform(0, self.side, 2)
        length, width = self.rng.uniform(14, 30), self.rng.uniform(0.6, 0.9)
        self._paint(self._ellipse(x, y, length, width) * (self.labels == 0), DARK, 1)

    def smear(self, keep_off: NDArray[np.float64], room: float) -> None:
        """Something as purple as a nucleus and several times larger, ``room`` px from points that are annotated."""
        self._decoy(keep_off, room, self.rng.uniform(11, 15, 2), PURPLE, self.rng.uniform(0.75, 1))

    def speck(self, keep_off: NDArray[np.float64], room: float) -> None:
        """Something of a nucleus's size and half as purple, ``room`` px from points that are annotated."""
        self._decoy(keep_off, room, self.rng.uniform(3, 5, 2), PURPLE, self.rng.uniform(0.4, 0.6))

    def _decoy(
        self, keep_off: NDArray[np.float64], room: float, axes: NDArray[np.float64], color: Sequence[int], amount: float
    ) -> None:
        for _ in range(50):
            x, y = self.rng.uniform(0, self.side, 2)
            inside = self._ellipse(x, y, *axes)
            far = (np.hypot(*(keep_off - (x, y)).T) > room + axes.max()).all()
            if far and not (self.labels[inside > 0] > 0).any():
                self._paint(inside, color, amount)
                return

    def _ellipse(self, x: float, y: float, a: float, b: float) -> NDArray[np.float64]:
        """How much of each pixel is inside, with a soft edge of a pixel, at a random angle."""
        angle = self.rng.uniform(0, np.pi)
        u = (self.x - x) * np.cos(angle) + (self.y - y) * np.sin(angle)
        v = (self.y - y) * np.cos(angle) - (self.x - x) * np.sin(angle)
        return np.clip((1 - np.hypot(u / a, v / b)) * min(a, b) + 0.5, 0, 1)

    def _paint(self, share: NDArray[np.float64], color: Sequence[int], amount: float) -> None:
        share = (amount * share)[..., None]
        self.image = self.image * (1 - share) + np.array(color, float) * share

    def rendered(self) -> Planted:
        """With the camera's noise."""
        light = ndimage.gaussian_filter(self.image, (0.6, 0.6, 0)) + self.rng.normal(0, NOISE, self.image.shape)
        points = np.array([(x, y) for x, y, _ in self.nuclei]).reshape(-1, 2)
        return Planted(np.clip(np.rint(light), 0, 255).astype(np.uint8), self.labels, points)


def scene(
    seed: int | tuple[int, ...],
    *,
    side: int = 96,
    nuclei: int = 20,
    gap: float = 1.0,
    discs: int = 5,
    fibres: int = 3,
) -> Planted:
    """A tile with up to ``nuclei`` nuclei whose outlines are ``gap`` px apart or more."""
    canvas = Canvas(side, np.random.default_rng(seed))
    _populate(canvas, nuclei, gap, discs, fibres)
    return canvas.rendered()


def _populate(canvas: Canvas, nuclei: int, gap: float, discs: int, fibres: int) -> None:
    for _ in range(nuclei):
        canvas.nucleus(gap)
    for _ in range(discs):
        canvas.disc()
    for _ in range(fibres):
        canvas.fibre()


def decoyed(
    seed: int | tuple[int, ...], share: float, *, side: int = 96, nuclei: int = 15, smears: int = 2, specks: int = 10
) -> tuple[Planted, NDArray[np.float64]]:
    """A tile with decoys, two radii or more from the points that are annotated, and those points.

    Without any annotated point (share 0, as for testing) decoys are everywhere.
    """
    canvas = Canvas(side, np.random.default_rng(seed))
    _populate(canvas, nuclei, 1.0, 4, 2)
    points = np.array([(x, y) for x, y, _ in canvas.nuclei]).reshape(-1, 2)
    given = annotated(points, share, canvas.rng)
    for _ in range(smears):
        canvas.smear(given, 2 * RADIUS)
    for _ in range(specks):
        canvas.speck(given, 2 * RADIUS)
    return canvas.rendered(), given


def annotated(points: NDArray[np.float64], share: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A share of the points, rounded, drawn without replacement."""
    return points[np.sort(rng.permutation(len(points))[: round(share * len(points))])]


@dataclass(frozen=True, slots=True)
class Scores:
    """Detection over several images."""

    precision: float
    recall: float
    f1: float


def detection_scores(truth: Sequence[NDArray[np.float64]], found: Sequence[NDArray[np.float64]]) -> Scores:
    """One-to-one matching within ``RADIUS``; a precision of nothing found is 0."""
    matches = [match_points(a, b, radius=RADIUS) for a, b in zip(truth, found, strict=True)]
    hits = sum(len(one.pairs) for one in matches)
    n_truth, n_found = sum(one.truth for one in matches), sum(one.found for one in matches)
    return Scores(hits / n_found if n_found else 0.0, hits / n_truth, 2 * hits / (n_truth + n_found))
