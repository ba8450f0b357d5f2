"""One contract for every patch format: what was written comes back, unseen before commit, no trace after abort."""

from __future__ import annotations

import errno
import os
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patches.planted import SIDE, Planted, assert_same, planted
from wsikit.errors import ConfigError, OutputError, PixelReadError
from wsikit.patches import FORMATS, open_dataset, open_patches
from wsikit.patches.images import encode

PIXELS = [name for name in FORMATS if FORMATS.load(name).has_pixels]


@pytest.fixture(params=list(FORMATS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_was_written_comes_back(name: str, level: int, tmp_path: Path) -> None:
    wanted = planted(6, level=level, label="Tumour", patient="P1", split="train", columns={"site": "Łódź, 2"})
    path = wanted.write(tmp_path, name, pieces=[2, 3])
    assert_same(wanted.open(path, name), wanted, verbatim=name != "coords")


def test_a_dataset_is_found_by_its_folder(name: str, tmp_path: Path) -> None:
    slides = {}
    for seed, slide_id in enumerate(("b.1", "a 2", "c")):
        wanted = planted(5, seed=seed, slide_id=slide_id)
        slides[slide_id] = wanted
        wanted.write(tmp_path, name)
    (tmp_path / "summary.csv").write_text("slide_id\n")
    found = open_dataset(tmp_path, slides={slide_id: wanted.slide for slide_id, wanted in slides.items()})
    assert [source.patches.slide_id for source in found] == ["a 2", "b.1", "c"]
    for source in found:
        assert_same(source, slides[source.patches.slide_id], verbatim=name != "coords")


def test_a_format_is_known_by_the_name_of_its_files(name: str, tmp_path: Path) -> None:
    path = planted().write(tmp_path, name)
    assert type(open_patches(path)) is FORMATS.load(name).source


def test_two_formats_in_one_folder_are_told_apart(name: str, tmp_path: Path) -> None:
    wanted = planted(3)
    others = [other for other in FORMATS if other != name]
    for each in FORMATS:
        wanted.write(tmp_path, each)
    with pytest.raises(ConfigError, match=others[0]) as caught:
        open_dataset(tmp_path)
    assert caught.value.code == "two_formats"
    [source] = open_dataset(tmp_path, name, slides={wanted.patches.slide_id: wanted.slide})
    assert_same(source, wanted, verbatim=name != "coords")


@pytest.mark.parametrize("where", ["empty", "missing/patches.zarr", "file.txt"])
def test_what_is_no_dataset_is_refused(where: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(ConfigError) as caught:
        open_patches(tmp_path / where)
    assert caught.value.code == "no_patches"
    with pytest.raises(ConfigError) as caught:
        open_dataset(tmp_path / "empty")
    assert caught.value.code == "no_patches"


def test_a_source_pickles(name: str, tmp_path: Path) -> None:
    wanted = planted(4)
    source = wanted.open(wanted.write(tmp_path, name), name)
    if name == "coords":
        # a slide in memory has no file to open again
        source = open_patches(tmp_path / "patches" / "case 1.a.h5")
    source = pickle.loads(pickle.dumps(source))
    assert source.patches == wanted.patches
    np.testing.assert_array_equal(source.xy, wanted.rows.xy)
    if name != "coords":
        assert_same(source, wanted)


def test_a_source_is_read_from_threads_and_after_close(name: str, tmp_path: Path) -> None:
    wanted = planted(20)
    source = wanted.open(wanted.write(tmp_path, name), name)
    with ThreadPoolExecutor(4) as pool:
        order = np.random.default_rng(1).permutation(np.repeat(np.arange(20), 5)).tolist()
        for index, found in zip(order, pool.map(source.read, order), strict=True):
            np.testing.assert_array_equal(found, wanted.images[index])
    source.close()
    source.close()
    np.testing.assert_array_equal(source.read(3), wanted.images[3])


def test_a_patch_is_decoded_into_what_is_given(name: str, tmp_path: Path) -> None:
    wanted = planted(3)
    source = wanted.open(wanted.write(tmp_path, name), name)
    whole, wide = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    for out in (whole, wide[:, SIDE:]):
        assert source.read(2, out) is out
        np.testing.assert_array_equal(out, wanted.images[2])
    assert not wide[:, :SIDE].any()


def test_past_the_end_there_is_nothing(name: str, tmp_path: Path) -> None:
    wanted = planted(3)
    source = wanted.open(wanted.write(tmp_path, name), name)
    with pytest.raises(IndexError):
        source.read(3)


def test_a_slide_without_patches_is_a_dataset(name: str, tmp_path: Path) -> None:
    wanted = planted(0)
    assert_same(wanted.open(wanted.write(tmp_path, name), name), wanted, verbatim=name != "coords")


def test_nothing_is_seen_before_commit(name: str, tmp_path: Path) -> None:
    wanted, other = planted(5), planted(4, seed=1)
    path = other.write(tmp_path, name)
    before = contents(tmp_path)
    writer = wanted.writer(tmp_path, name)
    writer.begin(wanted.patches)
    writer.write(wanted.part(0, 5))
    visible = {p: data for p, data in contents(tmp_path).items() if not any(x.startswith(".") for x in p.split("/"))}
    assert visible == before
    assert_same(other.open(path, name), other, verbatim=name != "coords")
    writer.commit()
    assert_same(wanted.open(path, name), wanted, verbatim=name != "coords")
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("written", [0, 5])
def test_abort_leaves_no_file(name: str, written: int, tmp_path: Path) -> None:
    wanted = planted(5)
    writer = wanted.writer(tmp_path, name)
    writer.begin(wanted.patches)
    writer.write(wanted.part(0, written))
    writer.abort()
    writer.abort()
    assert not contents(tmp_path)
    with pytest.raises(OutputError):
        writer.commit()
    writer.begin(wanted.patches)
    writer.write(wanted.rows)
    writer.commit()
    assert_same(wanted.open(writer.path, name), wanted, verbatim=name != "coords")


def test_a_writer_is_begun_first(name: str, tmp_path: Path) -> None:
    wanted = planted(2)
    writer = wanted.writer(tmp_path, name)
    for call in (lambda: writer.write(wanted.rows), writer.commit):
        with pytest.raises(OutputError) as caught:
            call()
        assert caught.value.code == "internal"


def test_columns_of_different_lengths_are_refused(name: str, tmp_path: Path) -> None:
    wanted = planted(3)
    writer = wanted.writer(tmp_path, name)
    writer.begin(wanted.patches)
    with pytest.raises(OutputError):
        writer.write(replace(wanted.rows, tissue=wanted.rows.tissue[:2]))
    writer.abort()


@pytest.mark.parametrize("name", PIXELS)
def test_a_patch_without_an_image_is_refused(name: str, tmp_path: Path) -> None:
    wanted = planted(3)
    writer = wanted.writer(tmp_path, name)
    writer.begin(wanted.patches)
    with pytest.raises(OutputError):
        writer.write(replace(wanted.rows, data=wanted.rows.data[:2]))
    writer.abort()


@given(pieces=st.lists(st.integers(0, 20), max_size=5))
@settings(max_examples=10)
@pytest.mark.parametrize("name", list(FORMATS))
def test_the_same_patches_give_the_same_bytes(
    name: str, pieces: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    wanted, (one, two) = planted(20), (tmp_path_factory.mktemp(n) for n in ("one", "two"))
    wanted.write(one, name)
    wanted.write(two, name, pieces=pieces)
    assert contents(one) == contents(two)


def test_a_full_disk_is_an_output_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = planted(5)
    writer = wanted.writer(tmp_path, name)
    writer.begin(wanted.patches)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    writer.write(wanted.rows)
    with pytest.raises(OutputError) as caught:
        writer.commit()
    assert caught.value.code == "no_space"
    writer.abort()
    assert not contents(tmp_path)


def test_a_place_that_cannot_be_written_is_an_output_error(name: str, tmp_path: Path) -> None:
    wanted = planted(1)
    writer = wanted.writer(tmp_path, name)
    writer.path.parent.parent.mkdir(parents=True, exist_ok=True)
    writer.path.parent.write_text("a file")
    with pytest.raises(OutputError):
        writer.begin(wanted.patches)


def _cut(data: bytes, at: int) -> bytes:
    return data[:at]


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


def _binaries(folder: Path) -> list[Path]:
    """The files that hold images or numbers; text has no checksum."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in {".csv", ".json"})


def _all(wanted: Planted, path: Path, name: str) -> list[Any]:
    source: Any = wanted.open(path, name)
    images = [source.read(index) for index in range(len(source))]
    return [*images, source.corners, source.xy, source.tissue, *([source.verbatim] if name != "coords" else [])]


@pytest.mark.parametrize("damage", [_cut, _flipped])
@pytest.mark.parametrize("name", PIXELS)
def test_damage_is_an_error_that_names_the_file_or_does_no_harm(name: str, damage: Any, tmp_path: Path) -> None:
    wanted = planted(6)
    path = wanted.write(tmp_path, name, **({} if name == "folder" else {"shard": 4}))
    for file in _binaries(path):
        whole, errors = file.read_bytes(), []
        for at in np.linspace(0, len(whole) - 1, 12).astype(int).tolist():
            file.write_bytes(damage(whole, at))
            try:
                found = _all(wanted, path, name)
            except (PixelReadError, ConfigError) as error:
                errors.append(error)
            else:
                # a tar file also holds headers and padding, a PNG its end
                assert name != "zarr", f"{file}, {damage.__name__} at {at} of {len(whole)}"
                for image, right in zip(found, wanted.images, strict=False):
                    np.testing.assert_array_equal(image, right)
        assert errors
        assert all(str(file) in str(error) and error.remedy for error in errors)
        file.write_bytes(whole)


@pytest.mark.parametrize("name", PIXELS)
def test_a_file_that_is_gone_is_an_error_that_names_it(name: str, tmp_path: Path) -> None:
    wanted = planted(6)
    path = wanted.write(tmp_path, name, **({} if name == "folder" else {"shard": 4}))
    for file in _binaries(path):
        whole = file.read_bytes()
        file.unlink()
        with pytest.raises((PixelReadError, ConfigError), match=re.escape(str(file))):
            _all(wanted, path, name)
        file.write_bytes(whole)


@pytest.mark.parametrize("at", [None, 0.0, 0.5])
def test_a_table_or_setting_that_is_gone_or_cut_is_an_error(name: str, at: float | None, tmp_path: Path) -> None:
    wanted = planted(6)
    path = wanted.write(tmp_path, name)
    for file in sorted(p for p in [path, *path.rglob("*")] if p.suffix in {".csv", ".json", ".h5"}):
        if name == "zarr" and file.parent.name not in {"patches.zarr", "images"}:
            continue  # what describes the columns is for others
        whole = file.read_bytes()
        if at is None:
            file.unlink()
        else:
            file.write_bytes(whole[: int(at * len(whole))])
        with pytest.raises(ConfigError) as caught:
            _all(wanted, path, name)
        assert caught.value.code == "no_patches"
        file.write_bytes(whole)


@pytest.mark.parametrize("name", PIXELS)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not an image",
        encode(np.zeros((SIDE, SIDE + 1, 3), np.uint8), "png"),
        encode(np.zeros((SIDE // 2, SIDE, 3), np.uint8), "jpeg"),
        encode(np.zeros((SIDE, SIDE, 3), np.uint8), "jpeg")[:-20],
    ],
    ids=["nothing", "text", "wider", "smaller", "cut short"],
)
def test_an_image_of_another_kind_is_an_error(name: str, data: bytes, tmp_path: Path) -> None:
    wanted = planted(3)
    images = [wanted.rows.data[0], data, wanted.rows.data[2]]
    bad = replace(wanted, rows=replace(wanted.rows, data=images))
    source = bad.open(bad.write(tmp_path, name), name)
    with pytest.raises(PixelReadError):
        source.read(1)
    np.testing.assert_array_equal(source.read(2), wanted.images[2])


@pytest.mark.parametrize("name", PIXELS)
def test_the_bytes_of_a_patch_are_kept(name: str, tmp_path: Path) -> None:
    wanted = planted(4, encoding="jpeg", quality=80)
    data = [encode(image, "jpeg", 80) for image in wanted.images]
    source: Any = FORMATS.load(name).source(replace(wanted, rows=replace(wanted.rows, data=data)).write(tmp_path, name))
    assert [bytes(source.data(index)) for index in range(4)] == data
    assert source.patches.encoding == "jpeg"


@pytest.mark.parametrize("name", ["zarr", "webdataset"])
def test_a_flipped_bit_in_a_jpeg_is_noticed(name: str, tmp_path: Path) -> None:
    """The decoder would show other pixels and say nothing."""
    wanted = planted(2, encoding="jpeg")
    data = [encode(image, "jpeg", 80) for image in wanted.images]
    path = replace(wanted, rows=replace(wanted.rows, data=data)).write(tmp_path, name)
    file = next(p for p in sorted(path.rglob("*")) if p.is_file() and data[0] in p.read_bytes())
    whole = file.read_bytes()
    at = whole.index(data[0]) + len(data[0]) - 40
    file.write_bytes(_flipped(whole, at))
    source = open_patches(path)
    with pytest.raises(PixelReadError, match="changed"):
        source.read(0)
    assert source.read(1).shape == (SIDE, SIDE, 3)
