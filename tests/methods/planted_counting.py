"""Planted immunohistochemistry for the counting method: brown cells that count, and what must not be taken for them.

Scenes are drawn in um as amounts of haematoxylin and DAB, and become light by Beer and Lambert's law. *Easy* ones hold
brown cells and pale blue nuclei: darkness alone (the value of HSV) tells the cells. *Hard* ones hold as dark blue
nuclei and brown streaks as well, so that darkness says little, and colour lets the streaks pass.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tests.planted import write_pyramid
from wsikit.slides import Pixels, Slide
from wsikit.slides.array import ArrayReader
from wsikit.stain.density import DAB, HAEMATOXYLIN

RADIUS_UM = (2.5, 3.5)
"""Of the cells: 5 to 7 px at 0.5 um per px."""
STAIN = (0.9, 1.35)
"""OD of what is dark, cells and confounders alike; the value (V of HSV) is then 100 to 140 of 255."""
PALE = (0.12, 0.3)
"""OD of the nuclei of easy scenes; V is 185 to 210."""
EDGE_UM = 0.2
"""How soft edges are."""
NOISE = 3.0
"""Of the camera, standard deviation in grey levels."""
GLASS = 245


@dataclass(frozen=True, eq=False)
class Planted:
    """A scene and what is true of it."""

    image: Pixels
    """(H, W, 3) uint8."""
    labels: NDArray[np.int32]
    """(H, W), the n-th cell has the number n."""
    centres: NDArray[np.float64]
    """(N, 2) x, y in px, pixel-corner convention."""
    mpp: float

    @property
    def count(self) -> int:
        """Number of cells."""
        return len(self.centres)


@dataclass(eq=False)
class Canvas:
    """A scene that is being drawn; all places and lengths in um."""

    width: float
    height: float
    mpp: float
    texture: np.random.Generator
    """Of its own, so that what lies where is the same at every mpp."""
    cells: list[tuple[float, float, float]] = field(default_factory=list)
    """x, y, radius."""

    def __post_init__(self) -> None:
        shape = round(self.height / self.mpp), round(self.width / self.mpp)
        self.blue, self.brown = np.zeros(shape), np.zeros(shape)
        self.labels = np.zeros(shape, np.int32)
        rows, columns = np.indices(shape)
        self.x, self.y = (columns + 0.5) * self.mpp, (rows + 0.5) * self.mpp
        self.grain = 1 + 0.08 * _clouds(self.texture, shape, 0.6 / self.mpp)

    def cell(self, rng: np.random.Generator, x: float, y: float, radius: float) -> None:
        """A brown disc with a number."""
        self.cells.append((x, y, radius))
        box = self._box(np.array([[x, y]]), radius)
        inside = radius - np.hypot(self.x[box] - x, self.y[box] - y)
        self._lay(self.brown[box], box, inside, rng.uniform(*STAIN))
        # where two touch, a pixel is the later one's
        self.labels[box][inside > 0] = len(self.cells)

    def nucleus(self, rng: np.random.Generator, amounts: tuple[float, float]) -> None:
        """A blue ellipse beside the cells."""
        long, short, angle = rng.uniform(2.8, 4.0), rng.uniform(2.0, 2.8), rng.uniform(0, np.pi)
        x, y = self._free(rng, long)
        box = self._box(np.array([[x, y]]), long)
        dx, dy = self.x[box] - x, self.y[box] - y
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        inside = (1 - np.hypot(along / long, across / short)) * short
        self._lay(self.blue[box], box, inside, rng.uniform(*amounts))

    def streak(self, rng: np.random.Generator) -> None:
        """A bent brown smear beside the cells."""
        half = rng.uniform(0.9, 1.8)
        for _ in range(50):
            length, angle, bend = rng.uniform(12, 26), rng.uniform(0, 2 * np.pi), rng.uniform(-1.2, 1.2)
            along = angle + bend * np.linspace(-0.5, 0.5, 40)
            path = np.cumsum(np.stack([np.cos(along), np.sin(along)], axis=1), axis=0) * length / 40
            path += rng.uniform(0, [self.width, self.height]) - path.mean(axis=0)
            if all(np.hypot(*(path - (x, y)).T).min() > radius + half for x, y, radius in self.cells):
                break
        else:
            return
        box = self._box(path, half)
        distance = np.min([np.hypot(self.x[box] - x, self.y[box] - y) for x, y in path], axis=0)
        self._lay(self.brown[box], box, half - distance, rng.uniform(*STAIN))

    def place(self, rng: np.random.Generator) -> None:
        """A cell that lies inside as a whole and at most touches the others."""
        radius = rng.uniform(*RADIUS_UM)
        self.cell(rng, *self._free(rng, radius, margin=radius), radius)

    def rendered(self) -> Planted:
        """The light that comes through."""
        shape, rng = self.labels.shape, self.texture
        blue = self.blue + 0.1 + 0.025 * _clouds(rng, shape, 4 / self.mpp)
        brown = self.brown + 0.04 + 0.015 * _clouds(rng, shape, 4 / self.mpp)
        density = blue[..., None] * _unit(HAEMATOXYLIN) + brown[..., None] * _unit(DAB)
        light = GLASS * 10**-density + rng.normal(0, NOISE, (*shape, 3))
        centres = np.array([(x, y) for x, y, _ in self.cells]).reshape(-1, 2) / self.mpp
        return Planted(np.clip(np.rint(light), 0, 255).astype(np.uint8), self.labels, centres, self.mpp)

    def _box(self, places: NDArray[np.float64], reach: float) -> tuple[slice, slice]:
        """Rows and columns within reach of (N, 2) places x, y."""
        low = np.maximum(places.min(axis=0) - reach - 1, 0) / self.mpp
        high = (places.max(axis=0) + reach + 1) / self.mpp
        return slice(int(low[1]), max(int(high[1]), int(low[1]))), slice(int(low[0]), max(int(high[0]), int(low[0])))

    def _lay(self, stain: NDArray[np.float64], box: tuple[slice, slice], inside: Any, amount: float) -> None:
        """Something of a stain, ``inside`` um within its edge, onto the stain's part of a box."""
        share = 1 / (1 + np.exp(np.clip(-2 * inside / EDGE_UM, -50, 50)))
        np.maximum(stain, amount * share * self.grain[box], out=stain)

    def _free(self, rng: np.random.Generator, radius: float, margin: float = 0.0) -> tuple[float, float]:
        """A place beside the cells; the widest of many where there is little room."""
        places = rng.uniform(margin, [self.width - margin, self.height - margin], (200, 2))
        if not self.cells:
            return tuple(places[0])
        known = np.array(self.cells)
        gaps = np.linalg.norm(places[:, None] - known[:, :2], axis=2) - 0.95 * (known[:, 2] + radius)
        room = gaps.min(axis=1)
        return tuple(places[np.argmax(room > 0) if (room > 0).any() else np.argmax(room)])


def tile(
    rng: np.random.Generator,
    *,
    side: int = 96,
    mpp: float = 0.5,
    count: int,
    hard: bool = True,
    streaks: int | None = None,
) -> Planted:
    """A square of tissue, ``side`` px at ``mpp``; ``streaks`` brown smears, 3 to 5 where not given, none if easy."""
    canvas = Canvas(side * mpp, side * mpp, mpp, rng.spawn(1)[0])
    _populate(canvas, rng, count, hard, streaks)
    return canvas.rendered()


def tiles(
    seed: int, n: int, *, most: int = 12, empty_share: float = 0.2, hard: bool = True, **options: Any
) -> list[Planted]:
    """``n`` tiles of up to ``most`` cells; those of ``empty_share`` have none and, where hard, are full of streaks."""
    rng = np.random.default_rng(seed)
    empty = rng.permutation(n) < round(empty_share * n)
    return [
        tile(rng, count=0, hard=hard, streaks=9 if hard else 0, **options)
        if none
        else tile(rng, count=int(rng.integers(1, most + 1)), hard=hard, **options)
        for none in empty
    ]


def mosaic(
    seed: int, *, side: int = 96, mpp: float = 0.5, columns: int = 2, rows: int = 2, most: int = 12, hard: bool = True
) -> Planted:
    """Tiles side by side, with a cell on the middle of every edge between two and one where four meet."""
    rng = np.random.default_rng(seed)
    step = side * mpp
    canvas = Canvas(columns * step, rows * step, mpp, rng.spawn(1)[0])
    edges = [(x * step, (y + 0.5) * step) for x in range(1, columns) for y in range(rows)]
    edges += [((x + 0.5) * step, y * step) for x in range(columns) for y in range(1, rows)]
    corners = [(x * step, y * step) for x in range(1, columns) for y in range(1, rows)]
    for x, y in edges + corners:
        canvas.cell(rng, x, y, rng.uniform(*RADIUS_UM))
    count = int(rng.integers(0, most + 1, columns * rows).sum())
    _populate(canvas, rng, count, hard, None if not hard else 4 * columns * rows)
    return canvas.rendered()


def _populate(canvas: Canvas, rng: np.random.Generator, count: int, hard: bool, streaks: int | None) -> None:
    area = canvas.width * canvas.height / 48**2
    for _ in range(count):
        canvas.place(rng)
    for _ in range(round(area * rng.integers(3, 5))):
        canvas.nucleus(rng, STAIN if hard else PALE)
    smears = (rng.integers(3, 6) if hard else 0) if streaks is None else streaks
    for _ in range(smears):
        canvas.streak(rng)


def _clouds(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> NDArray[np.float64]:
    """Smooth noise of standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    return noise / noise.std()


def _unit(stain: Sequence[float]) -> NDArray[np.float64]:
    return np.array(stain) / np.linalg.norm(stain)


def dice(truth: Sequence[NDArray[np.bool_]], found: Sequence[NDArray[np.bool_]]) -> float:
    """2 |A and B| / (|A| + |B|) over all pixels of all images; 1 where both are empty."""
    both = sum(int((a & b).sum()) for a, b in zip(truth, found, strict=True))
    total = sum(int(a.sum() + b.sum()) for a, b in zip(truth, found, strict=True))
    return 2 * both / total if total else 1.0


def value_dice(planted: Sequence[Planted]) -> float:
    """Dice of the best threshold on the value of HSV: what darkness alone can tell."""
    value = np.concatenate([one.image.max(axis=2).ravel() for one in planted])
    truth = np.concatenate([one.labels.ravel() > 0 for one in planted])
    # pixels, and those of cells, at or below each value
    found, both = np.bincount(value, minlength=256).cumsum(), np.bincount(value[truth], minlength=256).cumsum()
    return float((2 * both / (found + truth.sum())).max())


def write_lysto(
    path: Path, planted: Sequence[Planted], *, organs: Sequence[str] | None = None, counted: bool = True
) -> Path:
    """An HDF5 file of LYSTO's layout."""
    with h5py.File(path, "w") as file:
        pixels = np.stack([one.image for one in planted])
        file.create_dataset("x", data=pixels, chunks=(1, *pixels.shape[1:]), compression="gzip", compression_opts=1)
        if counted:
            file["y"] = np.array([one.count for one in planted], np.int64)
        file["organ"] = np.array([f"{organ}_CD3" for organ in organs or ["colon"] * len(planted)], "S16")
    return path


def write_folder(folder: Path, planted: Sequence[Planted], *, labels: bool = False, **columns: Sequence[str]) -> Path:
    """PNGs ``000.png``, ... with ``counts.csv`` and the further columns, or with ``000_labels.png``, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, one in enumerate(planted):
        Image.fromarray(one.image).save(folder / f"{index:03d}.png", compress_level=1)
        if labels:
            Image.fromarray(one.labels.astype(np.uint16)).save(folder / f"{index:03d}_labels.png")
    if not labels:
        rows = [
            [f"{index:03d}.png", one.count, *(values[index] for values in columns.values())]
            for index, one in enumerate(planted)
        ]
        write_table(folder / "counts.csv", [["image", "count", *columns], *rows])
    return folder


def write_table(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    """A CSV of these rows, the header among them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def array_slide(planted: Planted, *, glass: int = 0) -> Slide:
    """The scene as a slide in memory, with so many px of empty glass around it."""
    return Slide(ArrayReader([framed(planted, glass)], planted.mpp, path="planted.svs"))


def write_slide(path: Path, planted: Planted, *, glass: int = 0, levels: int = 2) -> Path:
    """The scene as a tiled, lossless, pyramidal TIFF with downsamples 1, 2, ...; as much glass around it."""
    return write_pyramid(path, framed(planted, glass), planted.mpp, levels=levels)


def framed(planted: Planted, glass: int) -> Pixels:
    """(H + 2 glass, W + 2 glass, 3) the scene on glass."""
    return np.pad(planted.image, ((glass, glass), (glass, glass), (0, 0)), constant_values=GLASS)
