"""Memory for pixels that is used again.

A fresh array of a patch's size is handed out by the system page by page, and touching new pages costs more than
decoding a JPEG into them (measured: 89 megapixels a second into fresh arrays, 360 into used ones, on one core).
"""

from __future__ import annotations

import math
import weakref

import numpy as np
from numpy.typing import NDArray


class BufferPool:
    """Arrays whose memory comes back when the last view of them is gone.

    Nobody has to give anything back, and nobody can be surprised: an array that is still held, or any slice of it, is
    never written to again by the pool. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[bytearray]] = {}

    def take(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """A C-contiguous uint8 array of ``shape``; its content is whatever was there before."""
        size = math.prod(shape)
        free = self._free.setdefault(size, [])
        try:
            memory = free.pop()
        except IndexError:
            memory = bytearray(size)
        # numpy keeps views' ``base`` at the first array over foreign memory, so this one lives as long as any view
        array = np.frombuffer(memory, np.uint8)
        weakref.finalize(array, free.append, memory).atexit = False
        return array.reshape(shape)
