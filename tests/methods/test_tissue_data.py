"""Patches with labels: every dialect and layout, every way they can be broken; and the planted tissue itself."""

from __future__ import annotations

import itertools
import os
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from tests.methods.planted_tissue import (
    EXCLUDED,
    PARTS,
    REAL,
    TEST_SOURCES,
    TRAIN_SOURCES,
    PlantedPatch,
    flipped,
    label_of,
    label_text,
    outlines,
    over_activated,
    painted,
    scenes,
    schema_of,
    write_folder,
    write_table,
    wrong_share,
)
from wsikit.errors import AnnotationError, ConfigError, SlideOpenError
from wsikit.methods.cam_onss.classes import BCSS_WSSS, LUAD_HISTOSEG, SCHEMAS, WSSS4LUAD, ClassSchema
from wsikit.methods.cam_onss.data import PatchData, read_patches
from wsikit.methods.cam_onss.files import label_in_name
from wsikit.methods.cam_onss.masks import write_mask
from wsikit.training import images as training_images
from wsikit.training.names import barcode
from wsikit.training.splits import Member, split_members

FOUR = schema_of(4)
DATA = os.environ.get("WSIKIT_DATA")
real = pytest.mark.skipif(DATA is None, reason="WSIKIT_DATA is not set")


@pytest.fixture(scope="module")
def planted() -> list[PlantedPatch]:
    parts = [scenes(seed, 4, side=32, split=split) for seed, split in enumerate(("train", "validation", "test"))]
    return [patch for part in parts for patch in part]


@pytest.fixture
def folder(tmp_path: Path, planted: Sequence[PlantedPatch]) -> Path:
    return write_folder(tmp_path / "data", planted, FOUR)


def holds(data: PatchData, planted: Sequence[PlantedPatch]) -> bool:
    return [one.present for one in data] == [one.present for one in planted] and all(
        np.array_equal(one.read(), other.image) for one, other in zip(data, planted, strict=True)
    )


def picture(path: Path, size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 150, 180)).save(path)
    return path


def refused(
    path: Path, *words: str, schema: ClassSchema = FOUR, error: type[Exception] = ConfigError, **options: Any
) -> None:
    """Reading fails with these words, and with something to do about it."""
    with pytest.raises(error) as raised:
        read_patches(path, schema, **options)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert getattr(raised.value, "remedy", "")


# Labels in names


@pytest.mark.parametrize(
    ("name", "schema", "present"),
    [
        ("1031280-2300-27920-[1 0 0 1].png", LUAD_HISTOSEG, (1, 0, 0, 1)),
        ("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101].png", BCSS_WSSS, (1, 1, 0, 1)),
        ("1.2.276.0_38208_17984_[1_1_0].png", WSSS4LUAD, (1, 1, 0)),
        ("a_[1, 0, 0].png", WSSS4LUAD, (1, 0, 0)),
        ("a[0 1 0 0]-[1 0 0 0].png", LUAD_HISTOSEG, (1, 0, 0, 0)),
        ("a[1 0 0 1] (2).png", LUAD_HISTOSEG, (1, 0, 0, 1)),
    ],
)
def test_dialects(tmp_path: Path, name: str, schema: ClassSchema, present: tuple[int, ...]) -> None:
    picture(tmp_path / name)
    (one,) = read_patches(tmp_path, schema)
    assert one.present == tuple(map(bool, present))
    assert one.name == name


@given(st.sampled_from(list(SCHEMAS.values())), st.data())
def test_labels_come_back(schema: ClassSchema, data: st.DataObject) -> None:
    present = tuple(data.draw(st.booleans()) for _ in schema.classes)
    stem = data.draw(st.text("ab-_[]0 1", max_size=8)) + label_text(present, schema.dialect)
    assert label_in_name(Path(f"{stem}.png"), schema) == present


@pytest.mark.parametrize(
    ("name", "schema"),
    [
        ("a[1001].png", LUAD_HISTOSEG),
        ("a[1 0 0 1].png", BCSS_WSSS),
        ("a[1_0_0_1].png", BCSS_WSSS),
        ("a[1 0 0].png", WSSS4LUAD),
        ("a[100].png", WSSS4LUAD),
        ("a[2 0 0 1].png", LUAD_HISTOSEG),
        ("a[].png", LUAD_HISTOSEG),
        ("a[copy].png", BCSS_WSSS),
        ("a[1  0 0 1].png", LUAD_HISTOSEG),
        ("a[1_0, 1].png", WSSS4LUAD),
    ],
)
def test_another_dialect_is_another_data_set(tmp_path: Path, name: str, schema: ClassSchema) -> None:
    refused(picture(tmp_path / name).parent, name, "is no label of", schema.name, schema=schema)


@pytest.mark.parametrize(
    ("name", "schema"), [("a[1 0 0].png", LUAD_HISTOSEG), ("a[11011].png", BCSS_WSSS), ("a[1_0].png", WSSS4LUAD)]
)
def test_another_number_of_digits(tmp_path: Path, name: str, schema: ClassSchema) -> None:
    refused(picture(tmp_path / name).parent, name, "digits", f"{len(schema.classes)} classes", schema=schema)


def test_a_label_of_nothing(tmp_path: Path) -> None:
    picture(tmp_path / "a-[0 1 0 0].png")
    picture(tmp_path / "b-[0 0 0 0].png")
    refused(tmp_path, "b-[0 0 0 0].png", "no class", schema=LUAD_HISTOSEG)


def test_an_image_without_a_label(tmp_path: Path) -> None:
    picture(tmp_path / "a-[0 1 0 0].png")
    picture(tmp_path / "b.png")
    refused(tmp_path, "1 images have no label", "b.png", schema=LUAD_HISTOSEG)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101]", ("TCGA-A1-A0SK-DX1", "TCGA-A1-A0SK")),
        ("TCGA-A1-A0SK-01Z-00-DX1.A44D70FA-1.png", ("TCGA-A1-A0SK-01Z-00-DX1", "TCGA-A1-A0SK")),
        ("TCGA-A2-A0YE_left-44350_top-43750", (None, "TCGA-A2-A0YE")),
        ("TCGA-A2-A0YEX_left", (None, None)),
        ("1031280-2300-27920-[1 0 0 1]", (None, None)),
        ("a-TCGA-A2-A0YE", (None, None)),
    ],
)
def test_barcodes(name: str, expected: tuple[str | None, str | None]) -> None:
    assert barcode(name) == expected


def test_barcodes_keep_patients_together(tmp_path: Path) -> None:
    for patient in ("A0AA", "A0BB", "A0CC"):
        for x in range(4):
            picture(tmp_path / f"TCGA-A1-{patient}-DX1_xmin{x}[1000].png")
    data = read_patches(tmp_path, BCSS_WSSS)
    assert (data[0].slide, data[0].patient) == ("TCGA-A1-A0AA-DX1", "TCGA-A1-A0AA")
    splits = split_members([Member(one.name, one.patient, one.slide, one.split) for one in data])
    assert splits.grouped_by == "patient"


# Folders


def test_the_layout_of_the_data_sets(folder: Path, planted: Sequence[PlantedPatch]) -> None:
    data = read_patches(folder, FOUR)
    assert holds(data, planted)
    assert [one.split for one in data] == ["train"] * 4 + ["validation"] * 4 + ["test"] * 4
    assert data.kind == "names"
    assert all(one.mask() is None for one in data[:4])
    for one, true in zip(data[4:], planted[4:], strict=True):
        assert np.array_equal(one.mask(), true.truth)


@pytest.mark.parametrize(
    "renamed",
    [
        {"train": "training", "val": "valid"},
        {"val": "validation", "test": "Test"},
        {"val/img": "val/images", "val/mask": "val/masks"},
    ],
)
def test_other_names_of_folders(folder: Path, planted: Sequence[PlantedPatch], renamed: dict[str, str]) -> None:
    for old, new in renamed.items():
        (folder / old).rename(folder / new)
    data = read_patches(folder, FOUR)
    assert holds(data, planted)
    assert [one.split for one in data] == ["train"] * 4 + ["validation"] * 4 + ["test"] * 4
    assert all(one.truth is not None for one in data[4:])


def test_training_images_may_lie_in_img_beside_pseudo_masks(folder: Path, planted: Sequence[PlantedPatch]) -> None:
    (folder / "img").mkdir()
    for path in (folder / "train").glob("*.png"):
        path.rename(folder / "img" / path.name)
    (folder / "img").rename(folder / "train" / "img")
    shutil.copytree(folder / "val" / "mask", folder / "train_PM" / "vote_mask_0.75_1_1.25")
    (folder / "train.lst").write_text("a\n")
    assert holds(read_patches(folder, FOUR), planted)


def test_a_part_alone_says_no_split(folder: Path, planted: Sequence[PlantedPatch]) -> None:
    data = read_patches(folder / "val", FOUR)
    assert holds(data, planted[4:8])
    assert {one.split for one in data} == {None}


def test_labels_of_patches_that_have_only_masks(folder: Path, planted: Sequence[PlantedPatch]) -> None:
    for sub in ("test/img", "test/mask"):
        for index, path in enumerate(sorted((folder / sub).glob("*.png"))):
            path.rename(path.with_name(f"{index}.png"))
    data = read_patches(folder, FOUR)
    held = [tuple(bool((one.truth == k).any()) for k in range(4)) for one in planted[8:]]
    assert [one.present for one in data[8:]] == held


def test_masks_may_leave_the_label_out(folder: Path, planted: Sequence[PlantedPatch]) -> None:
    for path in sorted((folder / "val/mask").glob("*.png")):
        path.rename(path.with_name(path.name.partition("-[")[0] + ".png"))
    data = read_patches(folder, FOUR)
    assert all(np.array_equal(one.mask(), true.truth) for one, true in zip(data[4:8], planted[4:8], strict=True))


def test_patches_that_hold_no_class_are_left_out_and_said(tmp_path: Path) -> None:
    picture(tmp_path / "img/a-[1 0 0 0].png")
    picture(tmp_path / "img/b.png")
    (tmp_path / "mask").mkdir()
    write_mask(tmp_path / "mask/b.png", np.full((6, 8), 4), FOUR)
    data = read_patches(tmp_path, FOUR)
    assert [one.name for one in data] == ["a-[1 0 0 0].png"]
    assert "1 patches were left out, since their masks hold no class: b.png" in data.warnings
    (tmp_path / "img/a-[1 0 0 0].png").unlink()
    refused(tmp_path, "no class")


def test_folders_that_contradict_one_another(folder: Path) -> None:
    (folder / "training").mkdir()
    refused(folder, "two folders of the split train", "train and training")


def test_images_beside_the_folders_of_splits(folder: Path) -> None:
    picture(folder / "a[1 0 0 0].png")
    refused(folder, "a[1 0 0 0].png", "beside its folders")


def test_a_name_in_two_splits(folder: Path) -> None:
    path = next((folder / "train").glob("*.png"))
    shutil.copy(path, folder / "test" / "img" / path.name)
    refused(folder, "two images have the name", path.stem)


def test_a_name_with_two_suffixes(tmp_path: Path) -> None:
    picture(tmp_path / "a-[1 0 0 0].png")
    picture(tmp_path / "a-[1 0 0 0].bmp")
    refused(tmp_path, "two images have the name")


def test_a_mask_without_its_image(folder: Path) -> None:
    path = next((folder / "val/img").glob("*.png"))
    path.unlink()
    refused(folder, "1 masks", path.name)


def test_a_mask_of_another_size(folder: Path) -> None:
    path = next((folder / "val/mask").glob("*.png"))
    write_mask(path, np.zeros((32, 31)), FOUR)
    refused(folder, path.name, "31x32 px", "32x32 px")


def test_a_mask_of_other_classes(folder: Path) -> None:
    path = next((folder / "val/mask").glob("*.png"))
    Image.fromarray(np.full((32, 32), 9, np.uint8)).save(path)
    one = next(one for one in read_patches(folder, FOUR) if one.truth == path)
    with pytest.raises(ConfigError, match="no 9"):
        one.mask()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("")])
def test_nothing_there(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "data")
    refused(tmp_path / "data", "data")


def test_no_data_is_given() -> None:
    with pytest.raises(ConfigError, match="no data"):
        read_patches(None, FOUR)


def test_what_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "a-[1 0 0 0].png").write_bytes(b"none")
    refused(tmp_path, "a-[1 0 0 0].png", error=SlideOpenError)


def test_hidden_files_are_none(folder: Path, planted: Sequence[PlantedPatch]) -> None:
    (folder / "train" / "._a.png").write_bytes(b"a Mac was here")
    assert holds(read_patches(folder, FOUR), planted)


def test_classes_that_tell_nothing(tmp_path: Path) -> None:
    picture(tmp_path / "a-[1 1 0 0].png")
    picture(tmp_path / "b-[1 0 0 0].png")
    never, always = read_patches(tmp_path, LUAD_HISTOSEG).warnings
    assert "no patch to learn from holds LYM, TAS" in never
    assert "all patches to learn from hold TE" in always


def test_another_resolution_is_warned_of(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6)).save(tmp_path / "a-[1 0 0 0].tif", resolution=10000, resolution_unit=3)
    said = " ".join(read_patches(tmp_path, FOUR, mpp=0.5).warnings)
    assert "1 of the images say another resolution than 0.5 um/px" in said
    assert "resolution" not in " ".join(read_patches(tmp_path, FOUR, mpp=1.0).warnings)


# Tables


@pytest.fixture
def plain(tmp_path: Path, planted: Sequence[PlantedPatch]) -> Path:
    """Images ``0.png``, ..., whose names say nothing."""
    for index, one in enumerate(planted[:4]):
        (tmp_path / "plain").mkdir(exist_ok=True)
        Image.fromarray(one.image).save(tmp_path / "plain" / f"{index}.png")
    return tmp_path / "plain"


def codes_of(one: PlantedPatch) -> list[str]:
    return [code for code, present in zip(FOUR.codes, one.present, strict=True) if present]


def table(folder: Path, header: Sequence[str], *rows: Sequence[object], delimiter: str = ",") -> Path:
    return write_table(folder / "labels.csv", [header, *rows], delimiter)


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_a_column_for_each_class(plain: Path, planted: Sequence[PlantedPatch], delimiter: str) -> None:
    rows = [[f"{i}.png", *map(int, one.present), f"p{i}"] for i, one in enumerate(planted[:4])]
    path = table(plain, ["image", "a", "B", "c", "D", "patient"], *rows, delimiter=delimiter)
    for data in (read_patches(path, FOUR), read_patches(plain, FOUR, labels=path)):
        assert holds(data, planted[:4])
        assert (data.kind, data[3].patient) == ("table", "p3")


def test_columns_go_by_their_names(plain: Path) -> None:
    rows = [[f"{i}.png", 0, 0, 0, 1] for i in range(4)]
    (one, *_) = read_patches(table(plain, ["image", "D", "C", "B", "A"], *rows), FOUR)
    assert one.present == (True, False, False, False)


@pytest.mark.parametrize("between", [" ", ";", "+", "|", ", "])
def test_a_column_of_codes(plain: Path, planted: Sequence[PlantedPatch], between: str) -> None:
    rows = [[str(i), between.join(codes_of(one)), "train" if i else "Valid"] for i, one in enumerate(planted[:4])]
    data = read_patches(table(plain, ["File", "Labels", "Split"], *rows), FOUR)
    assert holds(data, planted[:4])
    assert [one.split for one in data] == ["validation", "train", "train", "train"]


def test_a_table_wins_over_names(folder: Path) -> None:
    rows = [
        [path.relative_to(folder).as_posix(), "B"] for path in sorted(folder.rglob("*.png")) if "mask" not in str(path)
    ]
    data = read_patches(folder, FOUR, labels=table(folder, ["image", "labels"], *rows))
    assert {one.present for one in data} == {(False, True, False, False)}
    assert data[5].mask() is not None


def test_columns_win_over_barcodes(tmp_path: Path) -> None:
    picture(tmp_path / "TCGA-A1-A0SK-DX1_a.png")
    path = table(tmp_path, ["image", "labels", "patient"], ["TCGA-A1-A0SK-DX1_a", "A", "other"])
    (one,) = read_patches(path, FOUR)
    assert (one.slide, one.patient) == ("TCGA-A1-A0SK-DX1", "other")


ONES = [["0", "A"], ["1", "B"], ["2", "A"], ["3", "A"]]


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        (["image", "labels"], [*ONES[:2], ["2", "A E"], ONES[3]], ["line 4", "'E'", "A, B, C, D"]),
        (["image", "labels"], [*ONES[:2], ["2", ""], ONES[3]], ["line 4", "2.png", "no class"]),
        (["image", "labels"], [*ONES[:2], ["", "A"], ONES[3]], ["line 4", "empty"]),
        (["image", "labels"], [*ONES, ["4", "A"]], ["line 6", "'4'"]),
        (["image", "labels"], [*ONES, ["3.png", "A"]], ["line 6", "line 5", "row already"]),
        (["image", "labels"], ONES[:2], ["2 images", "have no row", "2.png, 3.png"]),
        (["image", "labels", "split"], [[*row, "fold1"] for row in ONES], ["line 2", "'fold1'"]),
        (["image", "text"], ONES, ["no column A, B, C, D", "'text'"]),
        (["tile", "labels"], ONES, ["no column 'image'"]),
        (["image", "A", "B", "C"], [[str(i), 1, 0, 0] for i in range(4)], ["no column D"]),
        (["image", "A", "B", "C", "D"], [[str(i), 1, 0, 0, 2] for i in range(4)], ["line 2", "column D", "'2'"]),
        (["image", "A", "B", "C", "D"], [[str(i), 1, 0, 0] for i in range(4)], ["line 2", "column D", "''"]),
        (["image", "A", "B", "C", "D"], [[str(i), 0, 0, 0, 0] for i in range(4)], ["line 2", "0.png", "no class"]),
        (["image", "A", "labels"], [[str(i), 1, "A"] for i in range(4)], ["both a column of labels and A"]),
    ],
)
def test_tables_that_are_wrong(
    plain: Path, header: Sequence[str], rows: Sequence[Sequence[object]], words: Sequence[str]
) -> None:
    refused(table(plain, header, *rows), *words)


def test_an_empty_table(plain: Path) -> None:
    (plain / "labels.csv").write_text("")
    with pytest.raises(AnnotationError, match=r"labels\.csv is empty"):
        read_patches(plain / "labels.csv", FOUR)


def test_a_split_that_is_not_the_folders(folder: Path) -> None:
    rows = [[path.stem, "A", "train"] for path in sorted(folder.rglob("*.png")) if "mask" not in str(path)]
    refused(
        folder, "line 10", "the split train", "folder of", labels=table(folder, ["image", "labels", "split"], *rows)
    )


# What they are as data


def test_patches_pickle_without_their_pixels(folder: Path) -> None:
    one = read_patches(folder, FOUR)[0]
    before = len(pickle.dumps(one))
    assert one.read() is one.read()
    assert not one.read().flags.writeable
    again = pickle.loads(pickle.dumps(one))
    assert len(pickle.dumps(one)) == before
    assert np.array_equal(again.read(), one.read())


def test_a_copy_is_the_same_data(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert read_patches(folder, FOUR).digest == read_patches(tmp_path / "copy", FOUR).digest


def test_the_digest_is_of_all_that_is_learned_from_or_scored(
    folder: Path, monkeypatch: pytest.MonkeyPatch, planted: Sequence[PlantedPatch]
) -> None:
    digests = {read_patches(folder, FOUR).digest}
    image = next((folder / "train").glob("*.png"))
    Image.fromarray(255 - planted[0].image).save(image)
    digests.add(read_patches(folder, FOUR).digest)
    image.rename(image.with_name("scene-other-[1 1 1 1].png"))
    digests.add(read_patches(folder, FOUR).digest)
    mask = next((folder / "val/mask").glob("*.png"))
    write_mask(mask, np.zeros((32, 32)), FOUR)
    digests.add(read_patches(folder, FOUR).digest)
    digests.add(read_patches(folder, FOUR.model_copy(update={"name": "other"})).digest)
    monkeypatch.setattr(training_images, "KEPT_BYTES", 0)
    digests.add(read_patches(folder, FOUR).digest)
    assert len(digests) == 6


# The planted tissue


def test_scenes_are_the_same_for_the_same_seed() -> None:
    first, again, other = scenes(5, 3), scenes(5, 3), scenes(6, 3)
    assert all(
        np.array_equal(a.image, b.image) and np.array_equal(a.truth, b.truth) for a, b in zip(first, again, strict=True)
    )
    assert not np.array_equal(first[0].image, other[0].image)


def test_scenes_hold_what_they_say() -> None:
    patches = scenes(1, 60, single=0.3)
    assert sum(sum(one.present) == 1 for one in patches) == 18
    assert np.array([one.present for one in patches]).any(axis=0).all()
    for one in patches:
        shares = np.bincount(one.truth.ravel(), minlength=4) / one.truth.size
        assert one.present == tuple(shares >= 0.02)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("share", [0.25, 0.35])
def test_over_activation_is_structured_and_as_heavy_as_asked_for(seed: int, share: float) -> None:
    patches = scenes(seed, 60)
    masks = over_activated(patches, share, seed)
    assert share - 0.04 < wrong_share(patches, masks) <= share + 0.001
    for one, mask in zip(patches, masks, strict=True):
        wrong = mask != one.truth
        if sum(one.present) == 1:
            assert not wrong.any()
            continue
        # one class has grown, and what is wrong hangs together, unlike flipped pixels
        assert len(np.unique(mask[wrong])) == 1
        assert ndimage.label(wrong)[1] < 25
        assert set(np.unique(mask)) <= set(np.unique(one.truth))


def test_flipped_pixels_are_as_many_and_scattered() -> None:
    patches = scenes(0, 30)
    masks = flipped(patches, 0.2, 0)
    assert wrong_share(patches, masks) == pytest.approx(0.2, abs=0.002)
    several = [(one, mask) for one, mask in zip(patches, masks, strict=True) if sum(one.present) > 1]
    assert all(ndimage.label(one.truth != mask)[1] > 100 for one, mask in several)


def test_colours_alone_do_not_tell_textures_apart() -> None:
    """A share of right pixels far below 1 for the best guess from a pixel's colour, though it knows the truth."""
    patches = [one for one in scenes(2, 80) if sum(one.present) > 1]
    colour = np.concatenate([(one.image.reshape(-1, 3) // 24) @ [1, 11, 121] for one in patches])
    truth = np.concatenate([one.truth.ravel() for one in patches])
    counts = np.bincount(colour * 4 + truth, minlength=4 * 1331).reshape(1331, 4)
    assert 0.3 < counts.max(axis=1).sum() / counts.sum() < 0.62


@real
def test_outlines_of_splits_do_not_overlap_and_hold_all_classes() -> None:
    for shares in zip(*PARTS.values(), strict=True):
        edges = sorted(shares)
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(edges))
    for split in PARTS:
        held = sum(np.bincount(mask.ravel(), minlength=4) for mask in outlines(Path(DATA or ""), split, 4))
        assert (held[:3] > 0.01 * held.sum()).all()


@real
def test_test_tissue_is_of_other_images() -> None:
    shared = [
        {s.file for s in train} & {s.file for s in test}
        for train, test in zip(TRAIN_SOURCES, TEST_SOURCES, strict=True)
    ]
    # another part of the lymph node; fat is excluded anyway
    assert [len(files) for files in shared] == [0, 0, 1, 1]
    for own in (*TRAIN_SOURCES, *TEST_SOURCES):
        assert all((Path(DATA or "") / source.file).is_file() for source in own)


@real
def test_painted_patches() -> None:
    first, again = (painted(Path(DATA or ""), 3, 8, split="test", side=96) for _ in "ab")
    for one, other in zip(first, again, strict=True):
        assert np.array_equal(one.image, other.image)
        assert one.image.shape == (96, 96, 3)
        assert (one.truth == REAL.excluded).mean() <= EXCLUDED
        assert one.present == label_of(one.truth, 3)
        assert one.split == "test"


@real
def test_painted_patches_are_read(tmp_path: Path) -> None:
    patches = [replace(one, slide=f"s{i % 3}") for i, one in enumerate(painted(Path(DATA or ""), 3, 4, side=64))]
    assert holds(read_patches(write_folder(tmp_path, patches, REAL), REAL), sorted(patches, key=lambda one: one.slide))
