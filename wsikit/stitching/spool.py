"""Spool files: arrays of one super-tile, visible only when complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsikit.atomic import temporary


def save(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays to an .npz by temporary name and rename; a spool is lost or whole, never half."""
    hidden = temporary(path)
    with hidden.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    hidden.replace(path)


def load(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of a spool file."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def array(path: Path, name: str) -> NDArray[Any]:
    """Read one array of a spool file, without the rest."""
    with np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays[name])


def value(path: Path, name: str) -> float:
    """Read one number of a spool file, without the rest."""
    return float(array(path, name))
