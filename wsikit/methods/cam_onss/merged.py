"""Probabilities of windows as OEEM keeps them, and their mean over an image.

Each window of an image is an array (K, h, w) of probabilities in ``NAME_H_W_Y1_Y2_X1_X2.npy``: H and W are the image's
size, rows Y1 to Y2 and columns X1 to X2 (half-open) the window's place, all in px. The mean of the windows over a pixel
is its probability. NAME may hold underscores, so the numbers are read from the right.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsikit.atomic import replace_file
from wsikit.errors import ConfigError

SIDE = 256
STRIDE = 192
"""Of the crop tool, px."""
CODE = "bad_window"
NUMBERS = re.compile(r"(?P<name>.+)_(\d+)_(\d+)_(\d+)_(\d+)_(\d+)_(\d+)")


@dataclass(frozen=True, slots=True)
class Window:
    """Where a window lies in its image; rows and columns half-open, px."""

    name: str
    """Of the image, without a suffix."""
    height: int
    width: int
    """Of the image."""
    y1: int
    y2: int
    x1: int
    x2: int

    @property
    def filename(self) -> str:
        """Of its probabilities."""
        return f"{self.name}_{self.height}_{self.width}_{self.y1}_{self.y2}_{self.x1}_{self.x2}.npy"

    @classmethod
    def parse(cls, path: Path) -> Window:
        """From the name of a file. Raises ConfigError (code bad_window) for other names, and places outside."""
        match = NUMBERS.fullmatch(path.name.removesuffix(".npy"))
        if match is None or path.suffix != ".npy":
            raise ConfigError(
                f"{path} is not named NAME_H_W_Y1_Y2_X1_X2.npy",
                code=CODE,
                remedy="give the folder that holds the windows and nothing else of that suffix",
            )
        name, *numbers = match.groups()
        height, width, y1, y2, x1, x2 = map(int, numbers)
        if not (0 <= y1 < y2 <= height and 0 <= x1 < x2 <= width):
            raise ConfigError(
                f"{path}: rows {y1} to {y2} and columns {x1} to {x2} do not lie in an image of {height} rows and "
                f"{width} columns",
                code=CODE,
                remedy="cut the image again: the numbers are H, W, Y1, Y2, X1, X2",
            )
        return cls(name, height, width, y1, y2, x1, x2)


def crop_windows(name: str, size: tuple[int, int], side: int = SIDE, stride: int = STRIDE) -> list[Window]:
    """The windows of the crop tool over an image of this (width, height), row by row.

    They begin every ``stride`` px; the last of a row or column is shifted back to the image's edge. A side shorter than
    ``side`` is one window. Raises ValueError unless 0 < stride <= side, since else pixels would lie between windows.
    """
    if not 0 < stride <= side:
        raise ValueError(f"the stride must be from 1 to the side {side}, got {stride}")
    width, height = size
    rows, columns = (_spans(length, side, stride) for length in (height, width))
    return [Window(name, height, width, y1, y2, x1, x2) for y1, y2 in rows for x1, x2 in columns]


def _spans(length: int, side: int, stride: int) -> list[tuple[int, int]]:
    last = max(length - side, 0)
    starts = [*range(0, last, stride), last]
    return [(start, min(start + side, length)) for start in starts]


def write_window(folder: Path, window: Window, probabilities: NDArray[np.floating]) -> Path:
    """Write the (K, h, w) probabilities of a window, whole or not at all.

    Raises ConfigError (code bad_window) for another shape, OutputError where it cannot be written.
    """
    _check_shape(probabilities, window, window.filename)
    out = io.BytesIO()
    np.save(out, probabilities)
    path = folder / window.filename
    replace_file(path, out.getvalue())
    return path


def windows_by_image(folder: Path) -> dict[str, list[Path]]:
    """Name of image -> the files of its windows, by name.

    Raises ConfigError (code bad_window) for a file of another name, or a folder without any.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.npy")):
        if not path.name.startswith("."):
            found.setdefault(Window.parse(path).name, []).append(path)
    if not found:
        raise ConfigError(
            f"{folder} holds no windows, NAME_H_W_Y1_Y2_X1_X2.npy", code=CODE, remedy="give the folder they lie in"
        )
    return found


def merge_windows(paths: Iterable[Path]) -> NDArray[np.float64]:
    """(K, H, W) mean probabilities of an image from the files of its windows.

    Raises ConfigError (code bad_window): files that cannot be read, of several images, sizes or numbers of classes, of
    another shape than their names say, or that leave pixels out.
    """
    windows = {path: Window.parse(path) for path in paths}
    wholes = {(window.name, window.height, window.width) for window in windows.values()}
    if len(wholes) != 1:
        raise ConfigError(
            f"the windows of one image are needed, got those of {len(wholes)}: {sorted(wholes)[:3]}",
            code=CODE,
            remedy="merge image by image; an image has one size",
        )
    ((name, height, width),) = wholes
    total, count = np.zeros((0, height, width)), np.zeros((height, width), np.int64)
    for path, window in windows.items():
        values = _loaded(path)
        _check_shape(values, window, str(path))
        total = total if len(total) else np.zeros((len(values), height, width))
        if len(values) != len(total):
            raise ConfigError(
                f"{path} has {len(values)} classes, other windows of {name} have {len(total)}",
                code=CODE,
                remedy="merge windows of one model",
            )
        place = slice(window.y1, window.y2), slice(window.x1, window.x2)
        total[:, *place] += values
        count[place] += 1
    if not count.all():
        raise ConfigError(
            f"{int((count == 0).sum())} of {count.size} px of {name} lie in no window",
            code=CODE,
            remedy="copy the windows that are missing",
        )
    return np.asarray(total / count)


def _loaded(path: Path) -> NDArray[np.floating]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(
            f"the window {path} cannot be read: {error}", code=CODE, remedy="copy or write the file again"
        ) from error


def _check_shape(values: NDArray[np.floating], window: Window, where: str) -> None:
    wanted = (window.y2 - window.y1, window.x2 - window.x1)
    if (
        values.ndim != 3
        or values.shape[1:] != wanted
        or not len(values)
        or not np.issubdtype(values.dtype, np.floating)
    ):
        raise ConfigError(
            f"{where} is {values.dtype} {values.shape}; by its name it is (K, {wanted[0]}, {wanted[1]}) of floats",
            code=CODE,
            remedy="write probabilities with the classes first",
        )
