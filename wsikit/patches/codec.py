"""The Zarr 3 codec ``wsikit.image``: a chunk of (1, H, W, 3) or (H, W, 3) uint8 RGB is one JPEG or PNG.

It is named in the entry-point group ``zarr.codecs``: where wsikit is installed, zarr-python reads patch datasets.
Which of the two a chunk is, its bytes say; the configuration only matters for writing through Zarr.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.common import JSON, parse_named_configuration
from zarr.registry import register_codec

from wsikit.errors import ConfigError
from wsikit.patches import Encoding
from wsikit.patches.images import QUALITY, SUFFIXES, decode, encode

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

NAME = "wsikit.image"


@dataclass(frozen=True)
class ImageCodec(ArrayBytesCodec):
    """One image per chunk."""

    encoding: Encoding = "png"
    """What chunks are encoded as when they are written through Zarr."""
    quality: int = QUALITY
    """Of JPEG."""

    is_fixed_size = False

    def __post_init__(self) -> None:
        if self.encoding not in SUFFIXES:
            raise ConfigError(f"the codec {NAME} encodes as {' or '.join(SUFFIXES)}, got {self.encoding!r}")

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """From zarr.json."""
        _, found = parse_named_configuration(data, NAME, require_configuration=False)
        return cls(**cast(dict[str, Any], found or {}))

    def to_dict(self) -> dict[str, JSON]:
        """For zarr.json."""
        configuration: dict[str, JSON] = {"encoding": self.encoding}
        if self.encoding == "jpeg":
            configuration["quality"] = self.quality
        return {"name": NAME, "configuration": configuration}

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        out = np.empty(chunk_spec.shape, np.uint8)
        data = chunk_data.to_bytes()
        await asyncio.to_thread(decode, data, out.reshape(out.shape[-3:]))
        return chunk_spec.prototype.nd_buffer.from_numpy_array(out)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        pixels = chunk_data.as_numpy_array()
        data = await asyncio.to_thread(encode, pixels.reshape(pixels.shape[-3:]), self.encoding, self.quality)
        return chunk_spec.prototype.buffer.from_bytes(data)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not to be known before."""
        raise NotImplementedError(f"the size of a chunk of {NAME} depends on its pixels")


register_codec(NAME, ImageCodec)
