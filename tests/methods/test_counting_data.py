"""Data of the counting method: every layout, every way it can be broken, groups by appearance, planted scenes."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.methods.planted_counting import (
    Planted,
    array_slide,
    dice,
    mosaic,
    tile,
    tiles,
    value_dice,
    write_folder,
    write_lysto,
    write_slide,
    write_table,
)
from wsikit.errors import AnnotationError, ConfigError, PixelReadError, SlideOpenError
from wsikit.methods.counting.data import CountingData, read_counts
from wsikit.slides import open_slide
from wsikit.training import images as training_images
from wsikit.training.appearance import appearance_groups
from wsikit.training.splits import split_images


@pytest.fixture(scope="module")
def planted() -> list[Planted]:
    return tiles(3, 6, side=64, most=6)


@pytest.fixture
def folder(tmp_path: Path, planted: Sequence[Planted]) -> Path:
    return write_folder(tmp_path / "data", planted)


def holds(data: CountingData, planted: Sequence[Planted]) -> bool:
    return [image.count for image in data] == [one.count for one in planted] and all(
        np.array_equal(image.read(), one.image) for image, one in zip(data, planted, strict=True)
    )


def rewritten(folder: Path, *rows: Sequence[object], header: Sequence[str] = ("image", "count")) -> Path:
    write_table(folder / "counts.csv", [header, *rows])
    return folder


def refused(path: Path, *words: str, error: type[Exception] = ConfigError, **options: Any) -> None:
    """Reading fails with these words, and with something to do about it."""
    with pytest.raises(error) as raised:
        read_counts(path, **options)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert getattr(raised.value, "remedy", "")


# A folder and a table


def test_a_folder_with_a_table(folder: Path, planted: Sequence[Planted]) -> None:
    data = read_counts(folder)
    assert holds(data, planted)
    assert (data.kind, data.warnings, data[1].name) == ("table", (), "001.png")
    assert data[0].labels() is None


def test_all_columns_are_kept(tmp_path: Path, planted: Sequence[Planted]) -> None:
    columns = {"Patient_ID": "aabbcc", "slide": "uvwxyz", "organ": ["colon"] * 6, "split": ["train"] * 5 + ["test"]}
    data = read_counts(write_folder(tmp_path / "data", planted, **columns))  # type: ignore[arg-type]
    assert [image.patient for image in data] == list("aabbcc")
    assert (data[5].slide, data[5].organ, data[5].split) == ("z", "colon", "test")


def test_barcodes_keep_a_patient_on_one_side_of_the_split(tmp_path: Path) -> None:
    one = tiles(3, 1, side=64, most=6)[0]
    folder = tmp_path / "data"
    folder.mkdir()
    rows: list[Sequence[object]] = [("image", "count")]
    for patient in range(6):
        for field in range(5):
            name = f"TCGA-A1-A0S{patient}-DX1_{field}.png"
            Image.fromarray(one.image).save(folder / name)
            rows.append((name, patient + field))
    write_table(folder / "counts.csv", rows)
    data = read_counts(folder)
    assert (data[0].slide, data[0].patient) == ("TCGA-A1-A0S0-DX1", "TCGA-A1-A0S0")
    splits = split_images(data, validation=0.2, test=0.2, seed=0)
    parts = [{data[i].patient for i in splits.of(part)} for part in ("train", "validation", "test")]
    assert all(parts)
    assert sum(map(len, parts)) == 6


def test_names_go_without_suffix_and_in_any_order(folder: Path, planted: Sequence[Planted]) -> None:
    order = [4, 0, 5, 2, 1, 3]
    data = read_counts(rewritten(folder, *([f"{i:03d}", planted[i].count] for i in order)))
    assert holds(data, [planted[i] for i in order])


@pytest.mark.parametrize(
    ("delimiter", "mark"), [(",", b""), (";", b"\xef\xbb\xbf"), (";", b""), (",", b"\xef\xbb\xbf")]
)
def test_dialects_of_spreadsheets(folder: Path, planted: Sequence[Planted], delimiter: str, mark: bytes) -> None:
    table = folder / "counts.csv"
    rows = table.read_bytes().replace(b",", delimiter.encode()).replace(b"\r\n", b"\r\n\r\n")
    table.write_bytes(mark + rows)
    assert holds(read_counts(folder), planted)


def test_the_table_may_lie_elsewhere(folder: Path, tmp_path: Path, planted: Sequence[Planted]) -> None:
    table = (folder / "counts.csv").rename(tmp_path / "elsewhere.csv")
    assert holds(read_counts(folder, counts=table), planted)


def test_a_table_is_enough_where_its_images_are_beside_it(folder: Path, planted: Sequence[Planted]) -> None:
    assert holds(read_counts(folder / "counts.csv"), planted)


def test_images_may_have_a_folder_of_their_own(folder: Path, planted: Sequence[Planted]) -> None:
    (folder / "images").mkdir()
    for path in folder.glob("*.png"):
        path.rename(folder / "images" / path.name)
    assert holds(read_counts(folder), planted)


def test_sizes_may_differ(folder: Path, planted: Sequence[Planted]) -> None:
    Image.fromarray(planted[0].image[:40, :50]).save(folder / "000.png")
    assert [image.read().shape for image in read_counts(folder)][:2] == [(40, 50, 3), (64, 64, 3)]


def test_transparency_is_laid_over_white(folder: Path) -> None:
    pixels = np.full((8, 8, 4), (100, 0, 0, 255), np.uint8)
    pixels[0, 0, 3] = 0
    Image.fromarray(pixels, "RGBA").save(folder / "000.png")
    found = read_counts(folder)[0].read()
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[1, 1].tolist() == [100, 0, 0]


@pytest.mark.parametrize("count", ["-1", "2.5", "nan", "inf", "many", "3,0"])
def test_what_is_no_count_is_named_with_its_line(folder: Path, count: str) -> None:
    refused(rewritten(folder, ["000.png", 1], ["001.png", count]), "counts.csv, line 3", f"'{count}'")


def test_counts_of_spreadsheets_are_whole(folder: Path, planted: Sequence[Planted]) -> None:
    assert holds(
        read_counts(rewritten(folder, *([f"{i:03d}", f"{p.count}.0"] for i, p in enumerate(planted)))), planted
    )


def test_an_empty_count_is_no_zero(folder: Path) -> None:
    refused(rewritten(folder, ["000.png", ""]), "counts.csv, line 2", "'count'", "empty")


def test_a_short_row_is_no_zero(folder: Path) -> None:
    refused(rewritten(folder, ["000.png"]), "counts.csv, line 2", "'count'", "empty")


def test_a_row_without_its_image(folder: Path) -> None:
    refused(rewritten(folder, ["000.png", 1], ["other.png", 1]), "counts.csv, line 3", "'other.png'")


def test_images_without_rows(folder: Path) -> None:
    refused(rewritten(folder, ["000.png", 1], ["003.png", 1]), "4 images", "001.png, 002.png, 004.png, 005.png")


def test_an_image_with_two_rows(folder: Path) -> None:
    refused(rewritten(folder, ["000.png", 1], ["000", 1]), "counts.csv, line 3", "000.png", "line 2")


def test_a_name_of_two_images(folder: Path, planted: Sequence[Planted]) -> None:
    Image.fromarray(planted[0].image).save(folder / "000.jpg")
    refused(rewritten(folder, ["000", 1]), "line 2", "000.jpg or 000.png")


@pytest.mark.parametrize("header", [("image", "number"), ("tile", "count"), ("image\tcount",)])
def test_a_table_of_other_columns(folder: Path, header: tuple[str, ...]) -> None:
    refused(rewritten(folder, ["000.png", 1], header=header), "counts.csv", "has no column", repr(header[-1]))


def test_an_empty_table(folder: Path) -> None:
    (folder / "counts.csv").write_bytes(b"")
    with pytest.raises(AnnotationError, match="empty"):
        read_counts(folder)


def test_equal_counts_are_warned_of(folder: Path) -> None:
    data = read_counts(rewritten(folder, *([f"{i:03d}", 4] for i in range(6))))
    assert "all 6 images have the count 4" in data.warnings[0]


def test_no_images(tmp_path: Path) -> None:
    refused(tmp_path, "holds no image")


def test_nothing_there(tmp_path: Path, folder: Path) -> None:
    refused(tmp_path / "none", "does not exist")
    refused(folder, "does not exist", counts=tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="no data"):
        read_counts(None)


def test_what_is_neither_folder_nor_hdf5(folder: Path) -> None:
    refused(folder / "000.png", "neither a folder nor an HDF5 file")


def test_an_unreadable_image_is_named_at_once(folder: Path) -> None:
    (folder / "002.png").write_bytes(b"no image")
    refused(folder, "002.png", error=SlideOpenError)


@pytest.mark.parametrize("mode", ["L", "I;16", "LA"])
def test_grey_images_are_refused_as_slides_are(folder: Path, mode: str) -> None:
    Image.new(mode, (16, 16)).save(folder / "002.png")
    with pytest.raises(SlideOpenError, match=r"002\.png") as raised:
        read_counts(folder)
    assert raised.value.code == "unsupported_pixels"


def test_a_cut_image_fails_when_it_is_read(folder: Path) -> None:
    whole = (folder / "002.png").read_bytes()
    (folder / "002.png").write_bytes(whole[: len(whole) // 2])
    data = read_counts(folder)
    with pytest.raises(PixelReadError, match=r"002\.png"):
        data[2].read()


def test_another_resolution_is_warned_of(tmp_path: Path, planted: Sequence[Planted]) -> None:
    folder = tmp_path / "tiffs"
    folder.mkdir()
    write_slide(folder / "a.tif", planted[0])
    write_slide(folder / "b.tif", planted[1])
    rewritten(folder, ["a", planted[0].count], ["b", planted[1].count])
    assert holds(read_counts(folder, mpp=0.5), planted[:2])
    assert not read_counts(folder, mpp=0.5).warnings
    assert "2 of the images say another resolution than 0.25 um/px" in read_counts(folder, mpp=0.25).warnings[0]


# Labels


def test_counts_come_from_labels(tmp_path: Path, planted: Sequence[Planted]) -> None:
    data = read_counts(write_folder(tmp_path / "data", planted, labels=True))
    assert holds(data, planted)
    assert data.kind == "labels"
    assert all(np.array_equal(image.labels(), one.labels) for image, one in zip(data, planted, strict=True))


@pytest.mark.parametrize("name", ["labels", "masks"])
@pytest.mark.parametrize("suffix", ["", "_labels"])
def test_labels_in_a_folder_of_their_own(tmp_path: Path, planted: Sequence[Planted], name: str, suffix: str) -> None:
    source = write_folder(tmp_path / "source", planted, labels=True)
    for kind in ("images", name):
        (tmp_path / "data" / kind).mkdir(parents=True)
    for index in range(len(planted)):
        (source / f"{index:03d}.png").rename(tmp_path / "data" / "images" / f"{index:03d}.png")
        (source / f"{index:03d}_labels.png").rename(tmp_path / "data" / name / f"{index:03d}{suffix}.png")
    assert holds(read_counts(tmp_path / "data"), planted)


def test_a_table_is_believed_before_labels(tmp_path: Path, planted: Sequence[Planted]) -> None:
    folder = write_folder(tmp_path / "data", planted, labels=True)
    data = read_counts(rewritten(folder, *([f"{i:03d}", 10 + i] for i in range(6))))
    assert [image.count for image in data] == list(range(10, 16))
    assert np.array_equal(data[0].labels(), planted[0].labels)


def test_numbers_with_gaps_are_counted_once_each(tmp_path: Path, planted: Sequence[Planted]) -> None:
    folder = write_folder(tmp_path / "data", planted, labels=True)
    labels = np.zeros((64, 64), np.uint16)
    labels[0, 0], labels[5, 5:9], labels[9, 9] = 7, 300, 7
    Image.fromarray(labels).save(folder / "000_labels.png")
    assert read_counts(folder)[0].count == 2


def test_an_image_without_labels(tmp_path: Path, planted: Sequence[Planted]) -> None:
    folder = write_folder(tmp_path / "data", planted, labels=True)
    (folder / "003_labels.png").unlink()
    refused(folder, "1 images", "003.png", "no table")


def test_labels_of_another_size(tmp_path: Path, planted: Sequence[Planted]) -> None:
    folder = write_folder(tmp_path / "data", planted, labels=True)
    Image.fromarray(planted[0].labels[:32].astype(np.uint8)).save(folder / "000_labels.png")
    refused(folder, "000_labels.png", "64x32", "64x64")


def test_masks_are_no_instances(tmp_path: Path) -> None:
    scenes = [tile(np.random.default_rng(seed), side=64, count=3) for seed in range(3)]
    folder = write_folder(tmp_path / "data", scenes, labels=True)
    for index, one in enumerate(scenes):
        Image.fromarray(255 * (one.labels > 0).astype(np.uint8)).save(folder / f"{index:03d}_labels.png")
    refused(folder, "masks and no instances", "pieces")


def test_coloured_labels(tmp_path: Path, planted: Sequence[Planted]) -> None:
    folder = write_folder(tmp_path / "data", planted, labels=True)
    Image.fromarray(planted[0].image).save(folder / "000_labels.png")
    refused(folder, "000_labels.png", "no label image", error=AnnotationError)


def test_the_counts_of_dsb2018(data: Path) -> None:
    found = read_counts(data / "nuclei" / "dsb2018_he")
    assert (len(found), sum(image.count for image in found), found.warnings) == (70, 3047, ())
    index = (data / "nuclei" / "dsb2018_index.csv").read_text().splitlines()
    listed = {row.split(",")[0]: int(row.split(",")[5]) for row in index[1:]}
    assert all(image.count == listed[image.name] for image in found)


# LYSTO


def test_lysto(tmp_path: Path, planted: Sequence[Planted]) -> None:
    organs = ["colon", "breast", "prostate", "colon", "colon", "breast"]
    data = read_counts(write_lysto(tmp_path / "training.h5", planted, organs=organs))
    assert holds(data, planted)
    assert (data.kind, data.warnings) == ("lysto", ())
    assert [image.organ for image in data] == organs
    assert data[3].name == "00003"
    assert data[3].labels() is None


def test_a_folder_with_lystos_file(tmp_path: Path, planted: Sequence[Planted]) -> None:
    write_lysto(tmp_path / "training.h5", planted)
    assert holds(read_counts(tmp_path), planted)


def test_the_table_beside_lystos_file_says_patients(tmp_path: Path, planted: Sequence[Planted]) -> None:
    write_lysto(tmp_path / "training.h5", planted)
    rows = [[one.count, patient, "breast_CD8"] for one, patient in zip(planted, "aabbcc", strict=True)]
    write_table(tmp_path / "training_labels.csv", [["y", "patient_id", "organ"], *rows])
    data = read_counts(tmp_path / "training.h5")
    assert [image.patient for image in data] == list("aabbcc")
    assert {image.organ for image in data} == {"breast"}


def test_a_table_in_another_order_is_refused(tmp_path: Path, planted: Sequence[Planted]) -> None:
    write_lysto(tmp_path / "training.h5", planted)
    counts = [one.count for one in planted][::-1]
    assert counts != counts[::-1]
    write_table(tmp_path / "training_labels.csv", [["count", "patient"], *([count, "a"] for count in counts)])
    refused(tmp_path / "training.h5", "training_labels.csv, line", "of training.h5 says")


def test_a_table_of_another_length_is_refused(tmp_path: Path, planted: Sequence[Planted]) -> None:
    write_lysto(tmp_path / "training.h5", planted)
    write_table(tmp_path / "training_labels.csv", [["patient"], ["a"], ["b"]])
    refused(tmp_path / "training.h5", "2 rows", "6 images")


def test_lystos_test_file_needs_counts(tmp_path: Path, planted: Sequence[Planted]) -> None:
    path = write_lysto(tmp_path / "test.h5", planted, counted=False)
    refused(path, "image 0 of test.h5 has no count")
    table = write_table(tmp_path / "truth.csv", [["count"], *([one.count] for one in planted)])
    assert holds(read_counts(path, counts=table), planted)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("y", np.array([1, 2, -3, 4, 5, 6]), ("image 2 of training.h5", "-3")),
        ("y", np.array([1, 2.5, 3, 4, 5, 6]), ("image 1 of training.h5", "2.5")),
        ("y", np.array([1, 2, 3, np.nan, 5, 6]), ("image 3 of training.h5", "nan")),
        ("y", np.arange(5), ("6 images", "5 values in y")),
        ("x", np.zeros((6, 8, 8), np.uint8), ("x is uint8 (6, 8, 8)",)),
        ("x", np.zeros((6, 8, 8, 3), np.float32), ("x is float32",)),
        ("x", None, ("its datasets are organ, y",)),
    ],
)
def test_other_arrays_than_lystos(
    tmp_path: Path, planted: Sequence[Planted], name: str, values: Any, words: Any
) -> None:
    path = write_lysto(tmp_path / "training.h5", planted)
    with h5py.File(path, "r+") as file:
        del file[name]
        if values is not None:
            file[name] = values
    refused(path, *words)


def test_a_cut_hdf5_file(tmp_path: Path, planted: Sequence[Planted]) -> None:
    path = write_lysto(tmp_path / "training.h5", planted)
    path.write_bytes(path.read_bytes()[:3000])
    refused(path, "no HDF5 file that can be read")


def test_chunks_of_many_images_are_warned_of(tmp_path: Path, planted: Sequence[Planted]) -> None:
    path = write_lysto(tmp_path / "training.h5", planted)
    with h5py.File(path, "r+") as file:
        pixels = file["x"][:]
        del file["x"]
        file.create_dataset("x", data=pixels, chunks=(3, 64, 64, 3))
    data = read_counts(path)
    assert "3 images in one chunk" in data.warnings[0]
    assert holds(data, planted)


# Memory, processes, digests


@pytest.mark.parametrize("kept", [True, False])
def test_pixels_stay_in_memory_only_where_there_is_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    total = 6 * 64 * 64 * 3
    monkeypatch.setattr(training_images, "KEPT_BYTES", total + 1 if kept else total)
    image = read_counts(folder)[0]
    first = image.read()
    assert (image.read() is first) == kept
    assert np.array_equal(image.read(), first)


def test_pixels_in_memory_cannot_be_changed(folder: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        read_counts(folder)[0].read()[:] = 0


def test_lysto_is_read_image_by_image(
    tmp_path: Path, planted: Sequence[Planted], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_counts(write_lysto(tmp_path / "training.h5", planted))
    asked: list[Any] = []
    whole = h5py.Dataset.__getitem__

    def noted(dataset: h5py.Dataset, key: Any, *more: Any) -> Any:
        asked.append(key)
        return whole(dataset, key, *more)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", noted)
    data[4].read()
    assert asked == [4]


@pytest.mark.parametrize("layout", ["folder", "lysto"])
def test_data_pickles_without_pixels(tmp_path: Path, planted: Sequence[Planted], layout: str) -> None:
    path = write_folder(tmp_path / "f", planted) if layout == "folder" else write_lysto(tmp_path / "f.h5", planted)
    data = read_counts(path)
    digest, empty = data.digest, len(pickle.dumps(read_counts(path)))
    text = pickle.dumps(data)
    assert len(text) < empty + 200
    copy = pickle.loads(text)
    assert holds(copy, planted)
    assert copy.digest == digest


def digest_of(folder: Path) -> str:
    return read_counts(folder).digest


def test_a_copy_is_the_same_data(tmp_path: Path, folder: Path, planted: Sequence[Planted]) -> None:
    assert digest_of(write_folder(tmp_path / "copy", planted)) == digest_of(folder)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("change", ["pixel", "count", "name", "patient", "size"])
def test_changed_data_has_another_digest(
    folder: Path, planted: Sequence[Planted], monkeypatch: pytest.MonkeyPatch, change: str, kept: bool
) -> None:
    if not kept:
        monkeypatch.setattr(training_images, "KEPT_BYTES", 0)
    before = digest_of(folder)
    counts = [[f"{i:03d}.png", one.count, ""] for i, one in enumerate(planted)]
    pixels = planted[2].image.copy()
    if change == "pixel":
        pixels[5, 5, 1] ^= 1
        Image.fromarray(pixels).save(folder / "002.png", compress_level=1)
    elif change == "size":
        Image.fromarray(pixels[:, :-1]).save(folder / "002.png", compress_level=1)
    elif change == "name":
        (folder / "002.png").rename(folder / "02.png")
        counts[2][0] = "02.png"
    elif change == "count":
        counts[2][1] = planted[2].count + 1
    else:
        counts[2][2] = "a"
    assert digest_of(rewritten(folder, *counts, header=("image", "count", "patient"))) != before


def test_a_large_set_is_told_by_some_pixels_and_all_sizes(
    folder: Path, planted: Sequence[Planted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_images, "KEPT_BYTES", 0)
    monkeypatch.setattr(training_images, "LOOKED_AT", 2)
    before = digest_of(folder)
    # the second image's pixels are not looked at, the size of its file is
    Image.fromarray(planted[0].image).save(folder / "001.png", compress_level=9)
    assert digest_of(folder) != before


# Groups by appearance


def tinted(rng: np.random.Generator, n: int, gain: Sequence[float]) -> list[Planted]:
    """Fields of one slide: 4 to 8 cells in light of one colour."""
    scenes = [tile(rng, side=64, count=int(rng.integers(4, 9)), hard=False) for _ in range(n)]
    return [Planted((one.image * np.array(gain)).astype(np.uint8), one.labels, one.centres, one.mpp) for one in scenes]


@pytest.mark.parametrize("seed", range(4))
def test_appearance_finds_planted_slides(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    gains, sizes = ((1, 1, 1), (0.95, 0.85, 1), (0.85, 0.95, 0.85)), (8, 6, 4)
    scenes = [one for gain, size in zip(gains, sizes, strict=True) for one in tinted(rng, size, gain)]
    data = read_counts(write_folder(tmp_path / "data", scenes))
    wanted = ["look-1"] * 8 + ["look-2"] * 6 + ["look-3"] * 4
    assert sum(a != b for a, b in zip(appearance_groups(data, 3), wanted, strict=True)) <= 1


def test_groups_do_not_hang_on_the_order(folder: Path) -> None:
    data = read_counts(folder)
    forward, backward = appearance_groups(data, 3), appearance_groups(data[::-1], 3)[::-1]
    together = [[a == b for a in groups for b in groups] for groups in (forward, backward)]
    assert together[0] == together[1]


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_as_many_groups_as_asked_for(folder: Path, groups: int) -> None:
    assert set(appearance_groups(read_counts(folder), groups)) == {f"look-{k}" for k in range(1, groups + 1)}


@pytest.mark.parametrize("groups", [0, 7])
def test_an_impossible_number_of_groups(folder: Path, groups: int) -> None:
    with pytest.raises(ConfigError, match="1 to 6 groups"):
        appearance_groups(read_counts(folder), groups)


def test_appearance_tells_the_laboratories_of_dsb2018(data: Path) -> None:
    found = read_counts(data / "nuclei" / "dsb2018_he")
    groups = appearance_groups(found, 8)
    # backgrounds of three kinds, seen by eye: grey glass, violet, and the only two that are H&E
    kinds = []
    for image in found:
        red, green, blue = np.percentile(image.read().reshape(-1, 3), 80, axis=0)
        kinds.append("grey" if green > 190 else "violet" if blue > red + 15 else "he")
    assert Counter(kinds) == {"grey": 25, "violet": 43, "he": 2}
    assert all(len({kind for kind, group in zip(kinds, groups, strict=True) if group == name}) == 1 for name in groups)


# The planted scenes themselves


def test_darkness_tells_cells_in_easy_scenes_and_not_in_hard_ones() -> None:
    easy = [value_dice(tiles(seed, 30, hard=False)) for seed in range(4)]
    hard = [value_dice(tiles(seed, 30)) for seed in range(4)]
    assert min(easy) > 0.95
    assert min(hard) > 0.4
    assert max(hard) < 0.6


def test_the_originals_value_of_170_is_near_the_best() -> None:
    planted = tiles(0, 40, hard=False)
    at_170 = [one.image.max(axis=2) <= 170 for one in planted]
    assert dice([one.labels > 0 for one in planted], at_170) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_cells_have_numbers_and_centres(seed: int) -> None:
    for one in tiles(seed, 10):
        numbers, areas = np.unique(one.labels[one.labels > 0], return_counts=True)
        assert numbers.tolist() == list(range(1, one.count + 1))
        # touching is allowed, hiding one another is not
        assert areas.min(initial=99) > 0.7 * np.pi * 5**2
        x, y = one.centres.T.astype(int)
        assert one.labels[y, x].tolist() == numbers.tolist()


def test_streaks_fill_tiles_without_cells() -> None:
    empty = [one for one in tiles(1, 20) if one.count == 0]
    assert len(empty) == 4
    assert all((one.image.max(axis=2) <= 170).mean() > 0.05 for one in empty)


def test_the_same_scene_at_another_resolution() -> None:
    fine = tile(np.random.default_rng(4), side=192, mpp=0.25, count=7)
    coarse = tile(np.random.default_rng(4), side=96, mpp=0.5, count=7)
    assert np.allclose(fine.centres * 0.25, coarse.centres * 0.5)
    assert dice([fine.labels[::2, ::2] > 0], [coarse.labels > 0]) > 0.95


def test_a_mosaic_has_cells_on_its_seams() -> None:
    planted = mosaic(2, side=64)
    assert planted.image.shape == (128, 128, 3)
    across = set(planted.labels[:, 63][planted.labels[:, 63] > 0]) & set(planted.labels[:, 64])
    down = set(planted.labels[63][planted.labels[63] > 0]) & set(planted.labels[64])
    assert len(across) >= 3
    assert len(down) >= 3
    assert len(np.unique(planted.labels)) - 1 == planted.count


def test_a_planted_slide_is_read_back(tmp_path: Path) -> None:
    planted = mosaic(5)
    with open_slide(write_slide(tmp_path / "planted.tif", planted, glass=64)) as slide:
        assert (slide.width, slide.height, round(slide.mpp, 4), len(slide.levels)) == (320, 320, 0.5, 2)
        found = slide.read(slide.plane(0.5))
    assert np.array_equal(found[64:-64, 64:-64], planted.image)
    with array_slide(planted, glass=64) as slide:
        assert np.array_equal(slide.read(slide.plane(0.5)), found)
