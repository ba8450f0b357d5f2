"""Readers that can hand out a file's own tiles one at a time: what decoding once and passing tiles through stand on."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wsikit.slides.slide import Pixels


@runtime_checkable
class TileReader(Protocol):
    """A ``Reader`` whose levels are grids of tiles that do not overlap, each compressed for itself.

    Tiles are named by level, column and row; tile (column, row) covers ``tile_size(level)`` px of the level from
    (column * width, row * height). Tiles of the last column and row may reach past the level's edge: what they hold
    there is the encoder's filling and is never shown by ``read``. Safe to call from several threads; decoding holds
    no lock and releases Python's.
    """

    def codec(self, level: int) -> str:
        """How the tiles of a level are compressed: "jpeg", "jpeg2000", "deflate", "lzw" or "none"."""
        ...

    def tile_bytes(self, level: int) -> NDArray[np.int64]:
        """(rows, columns) compressed size of every tile as the file's table says; 0 where the file leaves one out."""
        ...

    def read_tile(self, level: int, column: int, row: int, out: Pixels) -> None:
        """Decode one whole tile into ``out``; a tile that the file legally leaves out is background.

        Args:
            out: (tile height, tile width, 3) uint8, C-contiguous and writable; its content is undefined after an error.

        Raises:
            PixelReadError: the tile is damaged, cut short, or not of the size and kind that the file promises.
            SlideOpenError: the reader was closed, or the file is gone.
        """
        ...

    def tile_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """One tile as a JPEG of its own, its compressed data bit for bit as in the file; None where it is left out.

        Shared tables are put back in and a marker says whether it is RGB or YCbCr, so that every decoder shows the
        colours of ``read_tile``. Only where ``codec(level)`` is "jpeg" and the level is stored as such (not scaled).

        Raises:
            PixelReadError: as in ``read_tile``, as far as the header tells.
        """
        ...
