"""``patches.zarr`` as zarr-python and an independent reader of the specification see it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec, ShardingCodec

from tests.patches.planted import SIDE, planted
from wsikit.errors import OutputError, PixelReadError
from wsikit.patches.codec import ImageCodec
from wsikit.patches.files import AT_ONCE
from wsikit.patches.images import encode
from wsikit.patches.zarr import ZarrPatches


@given(count=st.integers(0, 24), shard=st.integers(1, 30), seed=st.integers(0, 9))
@settings(max_examples=15)
def test_zarr_reads_the_same_images_as_the_way_past_it(
    count: int, shard: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wanted = planted(count, seed=seed, level=0)
    path = wanted.write(tmp_path_factory.mktemp("zarr"), "zarr", shard=shard)
    group: Any = zarr.open_group(path, mode="r")
    found, ours = group["images"][...], ZarrPatches(path)
    assert found.shape == (count, SIDE, SIDE, 3)
    for index, image in enumerate(wanted.images):
        np.testing.assert_array_equal(found[index], image)
        np.testing.assert_array_equal(ours.read(index), image)
    for name in ("corners", "xy", "tissue", "verbatim"):
        np.testing.assert_array_equal(group[name][...], getattr(wanted.rows, name))


def test_attributes_and_dimensions_say_what_is_there(tmp_path: Path) -> None:
    wanted = planted(3, label="Tumour", columns={"scanner": "X"})
    group: Any = zarr.open_group(wanted.write(tmp_path, "zarr"), mode="r")
    attributes = dict(group.attrs)
    assert attributes["wsikit_patches"] == 1
    assert (attributes["mpp"], attributes["label"], attributes["columns"]) == (0.5, "Tumour", {"scanner": "X"})
    dimensions = {name: array.metadata.dimension_names for name, array in group.arrays()}
    assert dimensions["images"] == ("patch", "y", "x", "channel")
    assert dimensions["xy"] == ("patch", "axis")
    assert dimensions["tissue"] == ("patch",)


def test_jpeg_patches_are_the_decoder_s_pixels_both_ways(tmp_path: Path) -> None:
    import imagecodecs

    wanted = planted(5, encoding="jpeg", quality=85)
    data = [encode(image, "jpeg", 85) for image in wanted.images]
    path = replace(wanted, rows=replace(wanted.rows, data=data)).write(tmp_path, "zarr")
    array: Any = zarr.open_array(path / "images", mode="r")
    for index, one in enumerate(data):
        right = imagecodecs.jpeg8_decode(one)
        np.testing.assert_array_equal(array[index], right)
        np.testing.assert_array_equal(ZarrPatches(path).read(index), right)


def test_a_shard_is_what_the_specification_says(tmp_path: Path) -> None:
    """Read by the letter: index of (offset, length) uint64 at the end, crc32c after it and after every chunk."""
    wanted = planted(7)
    path = wanted.write(tmp_path, "zarr", shard=3)
    files = [path / "images" / "c" / str(i) / "0" / "0" / "0" for i in range(3)]
    assert {p for p in (path / "images" / "c").rglob("*") if p.is_file()} == set(files)
    chunks = []
    for file in files:
        data = file.read_bytes()
        index, crc = data[-(3 * 16 + 4) : -4], data[-4:]
        assert google_crc32c.value(index) == int.from_bytes(crc, "little")
        for place in range(3):
            offset, length = (int.from_bytes(index[16 * place + at : 16 * place + at + 8], "little") for at in (0, 8))
            if offset == length == 2**64 - 1:
                continue
            chunk = data[offset : offset + length]
            assert google_crc32c.value(chunk[:-4]) == int.from_bytes(chunk[-4:], "little")
            chunks.append(chunk[:-4])
    assert chunks == list(wanted.rows.data)


def test_shards_are_on_disk_before_the_writer_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written is flushed as it grows and when its shard is full, each time by what is there."""
    sizes: list[tuple[str, int]] = []

    def sync(path: Path) -> None:
        sizes.append((path.parts[-4], path.stat().st_size))

    monkeypatch.setattr("wsikit.patches.shards.sync", sync)
    monkeypatch.setattr("wsikit.patches.shards.FLUSH", 1)
    monkeypatch.setattr("wsikit.patches.shards.WRITE", 0)
    writer = planted(20).writer(tmp_path, "zarr", shard=8)
    writer.begin(planted(20).patches)
    writer.write(planted(20).part(0, 5))
    writer.write(planted(20).part(5, 20))
    writer._images.close()
    writer._images.settle()
    whole = {str(i): path.stat().st_size for i in range(3) for path in writer.folder.glob(f"images/c/{i}/0/0/0")}
    assert dict(sizes) == whole
    assert len(whole) == 3 < len(sizes)
    writer.abort()


def test_a_disk_that_cannot_keep_what_it_took_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system tells it once, to the first flush; the one before the rename would hear nothing."""

    def broken(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("wsikit.patches.shards.sync", broken)
    dataset = planted(5)
    writer = dataset.writer(tmp_path, "zarr")
    writer.begin(dataset.patches)
    writer.write(dataset.rows)
    with pytest.raises(OutputError) as raised:
        writer.commit()
    writer.abort()
    assert raised.value.code == "io_error"
    assert [path for path in tmp_path.rglob("*") if path.is_file() or path.name.endswith((".zarr", ".tmp"))] == []


def test_others_read_it_in_a_process_that_never_imported_wsikit(tmp_path: Path) -> None:
    wanted = planted(3)
    path = wanted.write(tmp_path, "zarr")
    code = f"import zarr; print(int(zarr.open_group({str(path)!r}, mode='r')['images'][1].sum()))"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(answer.stdout) == int(wanted.images[1].sum())


@pytest.mark.parametrize("encoding", ["png", "jpeg"])
def test_zarr_writes_with_the_codec_too(encoding: Any, tmp_path: Path) -> None:
    images = np.stack(planted(5).images)
    inner = [ImageCodec(encoding, 95), Crc32cCodec()]
    array: Any = zarr.create_array(
        tmp_path / "a.zarr",
        shape=images.shape,
        dtype="uint8",
        chunks=(4, *images.shape[1:]),
        serializer=ShardingCodec(chunk_shape=(1, *images.shape[1:]), codecs=inner),
        compressors=None,
        filters=None,
    )
    array[...] = images
    found: Any = zarr.open_array(tmp_path / "a.zarr", mode="r")
    if encoding == "png":
        np.testing.assert_array_equal(found[...], images)
    else:
        assert np.abs(found[...].astype(int) - images).mean() < 25


def test_a_missing_chunk_is_an_error_and_never_black(tmp_path: Path) -> None:
    wanted = planted(4)
    path = wanted.write(tmp_path, "zarr")
    metadata = path / "images" / "zarr.json"
    found = json.loads(metadata.read_text())
    found["shape"][0] = 6  # two more than the shard holds
    metadata.write_text(json.dumps(found))
    with pytest.raises(PixelReadError, match="lacks chunk 4"):
        ZarrPatches(path).read(4)


def test_an_index_that_points_outside_is_an_error(tmp_path: Path) -> None:
    """With a right checksum, as a hostile file would have."""
    path = planted(2).write(tmp_path, "zarr", shard=2)
    shard = path / "images" / "c" / "0" / "0" / "0" / "0"
    data = shard.read_bytes()
    for offset, length in ((0, 2**63), (2**64 - 2, 10), (len(data), 8), (0, 1), (8, 2**64 - 4)):
        index = np.array([[offset, length], [0, 8]], "<u8").tobytes()
        crc = int(google_crc32c.value(index)).to_bytes(4, "little")
        shard.write_bytes(data[: -2 * 16 - 4] + index + crc)
        with pytest.raises(PixelReadError, match="outside"):
            ZarrPatches(path).read(0)


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    wanted = planted(60, level=0)
    source = ZarrPatches(wanted.write(tmp_path, "zarr", shard=1))
    for index in np.random.default_rng(0).permutation(60).tolist():
        np.testing.assert_array_equal(source.read(index), wanted.images[index])
    links = [link.resolve() for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert sum(tmp_path in link.parents for link in links) == AT_ONCE
    source.close()
    links = [link.resolve() for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert not [link for link in links if tmp_path in link.parents]


def test_a_forked_process_opens_its_own_files(tmp_path: Path) -> None:
    """Though a thread of the parent holds the lock, which nobody gives back in the child."""
    wanted = planted(2)
    source = ZarrPatches(wanted.write(tmp_path, "zarr"))
    source.read(0)
    files = source._images._shards
    mine = files.get(next(iter(files._files)))
    reading, writing = os.pipe()
    with files._lock:
        if os.fork() == 0:
            signal.alarm(10)
            theirs = files.get(mine.path)
            os.write(writing, b"1" if theirs is not mine and source.read(1).any() else b"0")
            os._exit(0)
    os.close(writing)
    os.wait()
    assert os.read(reading, 1) == b"1"
