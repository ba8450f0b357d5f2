"""Patches of a slide as one Zarr 3 group, its images in shards of JPEG or PNG files.

::

    patches.zarr/          attributes: all of PatchSet
      images               (N, P, P, 3) uint8, chunks of one patch, shards of 1024
      xy                   (N, 2) float64, upper left corner in level-0 pixels of the full plane
      corners              (N, 2) int64, the same corner on the lattice of ``mpp``
      tissue               (N,) float32, share of the patch that is tissue
      verbatim             (N,) bool, whether the image is the slide's own compressed tile

Every chunk ends with its crc32c; one of ``images`` is an encoded patch as it stands. zarr-python reads it where wsikit
is installed (codec ``wsikit.image``); ``ZarrPatches`` reads it by offset, past zarr-python.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wsikit.errors import ConfigError
from wsikit.patches import PatchRows
from wsikit.patches.images import QUALITY
from wsikit.patches.record import REMEDY, described, patch_set, read_json
from wsikit.patches.shards import CHECKSUM, ShardReader, ShardWriter, checksum
from wsikit.patches.store import StoredPatches, StoreWriter

SHARD = 1024
"""Patches in a shard: about 35 MB of JPEG at 256 px."""
COLUMNS = {"corners": ("<i8", 2), "xy": ("<f8", 2), "tissue": ("<f4", 1), "verbatim": ("?", 1)}
"""Type of the arrays beside the images, and how many numbers a patch has in them. Each is one chunk, not compressed."""


class ZarrPatches(StoredPatches):
    """Patches of a ``patches.zarr``, read by offset.

    Raises ConfigError (code no_patches) where the path holds no such dataset, or not a whole one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.patches = patch_set(read_json(self.path / "zarr.json").get("attributes", {}), self.path)
        self._count, per_shard = _layout(self.path / "images", self.patches.patch)
        self._images = ShardReader(self.path / "images", per_shard)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def corners(self) -> NDArray[np.int64]:
        """(N, 2) on the lattice of ``patches.mpp``."""
        return self._column("corners")

    @cached_property
    def xy(self) -> NDArray[np.float64]:
        """(N, 2) in level-0 pixels of the full plane."""
        return self._column("xy")

    @cached_property
    def tissue(self) -> NDArray[np.float32]:
        """(N,) share of the patch that is tissue."""
        return self._column("tissue")

    @cached_property
    def verbatim(self) -> NDArray[np.bool_]:
        """(N,) whether the image is the slide's own compressed tile."""
        return self._column("verbatim")

    def data(self, index: int) -> memoryview:
        """The encoded patch. Raises as ``read``."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} patches, {index} was asked for")
        return self._images.read(index % len(self))

    def close(self) -> None:
        """Release the files. Closing twice is fine."""
        self._images.close()

    def _column(self, name: str) -> NDArray[Any]:
        kind, width = COLUMNS[name]
        path = self.path / name / "c" / "0" / ("0" if width > 1 else "")
        try:
            data = path.read_bytes() if len(self) else checksum(b"")
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error}", code="no_patches", remedy=REMEDY) from error
        values = data[:-CHECKSUM]
        if checksum(values) != data[-CHECKSUM:] or len(values) != len(self) * width * np.dtype(kind).itemsize:
            raise ConfigError(f"{path} is damaged or cut short", code="no_patches", remedy=REMEDY)
        return np.frombuffer(values, kind).reshape((-1, 2) if width > 1 else -1)


def _layout(folder: Path, side: int) -> tuple[int, int]:
    """Number of patches, and of patches in a shard."""
    found = read_json(folder / "zarr.json")
    try:
        shape, shard = found["shape"], found["chunk_grid"]["configuration"]["chunk_shape"]
        sharding = found["codecs"][0]
        inner = sharding["configuration"]["chunk_shape"]
        chain = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"{folder} is no sharded array: no {error}", code="no_patches", remedy=REMEDY) from error
    image = [side, side, 3]
    if shape[1:] != image or shard[1:] != image or inner != [1, *image] or chain != ["wsikit.image", "crc32c"]:
        raise ConfigError(f"{folder} is no array of {side} px patches as wsikit writes them", code="no_patches")
    return int(shape[0]), int(shard[0])


class ZarrPatchWriter(StoreWriter):
    """Writes ``patches.zarr``; encoded patches go to disk as they come.

    Args:
        path: the final folder. One that exists is replaced at commit.
        shard: patches in a shard.
    """

    filename: ClassVar[str] = "{slide_id}/patches.zarr"
    source = ZarrPatches

    def __init__(self, path: str | Path, *, shard: int = SHARD) -> None:
        super().__init__(path)
        self.shard = shard

    def start(self) -> None:
        """No shard yet."""
        self._images = ShardWriter(self.folder / "images", self.shard)

    def append(self, rows: PatchRows) -> None:
        """To the open shard."""
        self._images.append(rows.data)

    def stop(self) -> None:
        """Close the open shard as it is."""
        self._images.abandon()

    def finish(self) -> None:
        """Close the last shard and write everything else."""
        import zarr
        from zarr.codecs import BytesCodec, Crc32cCodec

        from wsikit.patches.codec import ImageCodec

        self._images.close()
        group = zarr.create_group(self.folder, zarr_format=3, attributes=described(self.patches))
        side, count = self.patches.patch, self._images.count
        codec = ImageCodec(self.patches.encoding, self.patches.quality or QUALITY)
        group.create_array(
            "images",
            shape=(count, side, side, 3),
            dtype="uint8",
            chunks=(1, side, side, 3),
            shards=(self.shard, side, side, 3),
            filters=None,
            serializer=codec,
            compressors=[Crc32cCodec()],
            fill_value=0,
            dimension_names=["patch", "y", "x", "channel"],
        )
        for name, values in self.rows.columns().items():
            # explicit, so that neither zarr's defaults nor a user's zarr configuration change the files
            array: Any = group.create_array(
                name,
                shape=values.shape,
                dtype=values.dtype,
                chunks=(max(count, 1), *values.shape[1:]),
                filters=None,
                serializer=BytesCodec(endian="little"),
                compressors=[Crc32cCodec()],
                fill_value=0,
                dimension_names=["patch", "axis"][: values.ndim],
                config={"write_empty_chunks": True},
            )
            array[...] = values
        self._images.settle()
