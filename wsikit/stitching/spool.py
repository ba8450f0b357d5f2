"""Spool files: arrays of one super-tile, visible only when complete."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def save(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays to an .npz by temporary name and rename; a spool is lost or whole, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    temporary.replace(path)


def load(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of a spool file."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
