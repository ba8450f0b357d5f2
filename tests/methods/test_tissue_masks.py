"""Masks as PNG, every form that they may have, and merged windows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wsikit.errors import ConfigError, OutputError
from wsikit.methods.cam_onss.classes import BCSS_WSSS, IGNORED, LUAD_HISTOSEG, SCHEMAS, ClassSchema
from wsikit.methods.cam_onss.masks import Mask, check_size, read_mask, write_mask
from wsikit.methods.cam_onss.merged import Window, crop_windows, merge_windows, windows_by_image, write_window

MASK = np.array([[0, 1, 2], [3, 4, IGNORED]], np.uint8)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_masks_come_back(tmp_path: Path, schema: ClassSchema) -> None:
    mask = np.random.default_rng(0).choice(list(schema.colours), (20, 30)).astype(np.uint8)
    write_mask(tmp_path / "a.png", mask, schema)
    assert np.array_equal(read_mask(tmp_path / "a.png", schema, (30, 20)), mask)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        # what a viewer shows are the classes' colours
        assert image.convert("RGB").getpixel((4, 7)) == schema.colours[int(mask[7, 4])]


def test_only_the_mask_is_there_in_the_end(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", MASK, LUAD_HISTOSEG)
    write_mask(tmp_path / "a.png", MASK[:1], LUAD_HISTOSEG)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(OutputError):
        write_mask(tmp_path / "none" / "a.png", MASK, LUAD_HISTOSEG)


def grey(mask: Mask) -> Image.Image:
    return Image.fromarray(mask)


def coloured(mask: Mask) -> Image.Image:
    table = np.zeros((256, 3), np.uint8)
    for index, rgb in LUAD_HISTOSEG.colours.items():
        table[index] = rgb
    return Image.fromarray(table[mask])


def foreign_palette(mask: Mask) -> Image.Image:
    """Of a tool of its own, black at 0."""
    image = Image.fromarray(mask)
    image.putpalette([value for index in range(256) for value in (index, 0, 0)])
    return image


def short_palette(mask: Mask) -> Image.Image:
    """As other tools write them: no more colours than classes."""
    image = Image.fromarray(np.minimum(mask, 4).astype(np.uint8))
    image.putpalette(LUAD_HISTOSEG.png_palette()[:15])
    return image


@pytest.mark.parametrize("form", [grey, coloured, foreign_palette])
def test_other_forms_say_the_same(tmp_path: Path, form: Callable[[Mask], Image.Image]) -> None:
    form(MASK).save(tmp_path / "a.png")
    found = read_mask(tmp_path / "a.png", LUAD_HISTOSEG)
    assert found.dtype == np.uint8
    assert np.array_equal(found, MASK)


def test_palettes_may_end_with_the_classes(tmp_path: Path) -> None:
    short_palette(MASK).save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png", LUAD_HISTOSEG), np.minimum(MASK, 4))


def refused(path: Path, *words: str, schema: ClassSchema = LUAD_HISTOSEG, size: tuple[int, int] | None = None) -> None:
    with pytest.raises(ConfigError) as raised:
        read_mask(path, schema, size)
    message = str(raised.value)
    assert all(word in message for word in (path.name, *words)), message
    assert (raised.value.code, bool(raised.value.remedy)) == ("bad_mask", True)


def test_an_index_that_no_class_has(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 5, 7]], np.uint8)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "no 5, 7", "0 TE, 1 NEC, 2 LYM, 3 TAS", "4 and 255")
    with pytest.raises(ConfigError, match="no 5"):
        write_mask(tmp_path / "b.png", np.array([[5]]), LUAD_HISTOSEG)
    assert not (tmp_path / "b.png").exists()


def test_a_colour_that_no_class_has(tmp_path: Path) -> None:
    Image.fromarray(np.array([[(205, 51, 51), (206, 51, 51)]], np.uint8)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "1 colours", "(206, 51, 51)", "luad_histoseg")


def test_a_palette_of_another_data_set(tmp_path: Path) -> None:
    """Both have an index 1, and green: in BCSS's order it is another class."""
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([*(0, 255, 0), *(255, 0, 0)])
    image.save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "index 0", "bcss_wsss gives index 1", schema=BCSS_WSSS)


def test_white_at_the_index_of_a_class(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([*(255, 255, 255), *(10, 20, 30)])
    image.save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "index 0", "gives index 4")


@pytest.mark.parametrize("mode", ["RGBA", "1", "I", "F", "LA", "I;16"])
def test_images_of_other_kinds(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (3, 2)).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", mode)


def test_no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"none")
    refused(tmp_path / "a.png", "cannot be read")
    refused(tmp_path / "b.png", "cannot be read")


def test_a_file_that_was_cut_off(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.random.default_rng(0).integers(0, 5, (200, 200)), LUAD_HISTOSEG)
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "a.png", "cannot be read")


def test_another_size_than_its_image(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", MASK, LUAD_HISTOSEG)
    refused(tmp_path / "a.png", "3x2 px", "2x3 px", size=(2, 3))
    check_size(tmp_path / "a.png", (3, 2))
    with pytest.raises(ConfigError, match="3x2 px"):
        check_size(tmp_path / "a.png", (2, 3))


# Windows


def slow_spans(length: int, side: int, stride: int) -> list[tuple[int, int]]:
    """Step until a window reaches the edge, and push that one back."""
    spans, start = [], 0
    while True:
        if start + side >= length:
            return [*spans, (max(length - side, 0), length)]
        spans.append((start, start + side))
        start += stride


@given(st.integers(1, 900), st.integers(1, 300), st.integers(1, 300))
def test_windows_against_a_slow_loop(length: int, side: int, stride: int) -> None:
    stride = min(stride, side)
    windows = crop_windows("a", (length, 10), side, stride)
    found = list(dict.fromkeys((window.x1, window.x2) for window in windows))
    assert found == slow_spans(length, side, stride)
    # nothing is left out, and all are of one size
    assert set(itertools.chain.from_iterable(range(*span) for span in found)) == set(range(length))
    assert {x2 - x1 for x1, x2 in found} == {min(side, length)}


def test_windows_of_the_crop_tool() -> None:
    windows = crop_windows("a", (500, 300))
    assert [(w.y1, w.y2, w.x1, w.x2) for w in windows[:3]] == [(0, 256, 0, 256), (0, 256, 192, 448), (0, 256, 244, 500)]
    assert {(w.y1, w.y2) for w in windows} == {(0, 256), (44, 300)}
    assert (windows[0].height, windows[0].width) == (300, 500)


def test_strides_that_leave_gaps() -> None:
    for stride in (0, -1, 257):
        with pytest.raises(ValueError, match="stride"):
            crop_windows("a", (500, 300), 256, stride)


NAMES = st.text("ny_p.-[]0123456789TCGA", min_size=1, max_size=24).filter(lambda name: name.strip("."))


@given(NAMES, st.integers(1, 999), st.integers(1, 999), st.data())
def test_names_with_underscores_come_back(name: str, height: int, width: int, data: st.DataObject) -> None:
    y1, x1 = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    y2, x2 = data.draw(st.integers(y1 + 1, height)), data.draw(st.integers(x1 + 1, width))
    window = Window(name, height, width, y1, y2, x1, x2)
    assert Window.parse(Path(window.filename)) == window


@pytest.mark.parametrize(
    "name",
    ["a.npy", "a_1_2_3_4_5.npy", "_8_8_0_8_0_8.npy", "a_8_8_0_8_0_8.npz", "a_8_8_0_9_0_8.npy", "a_8_8_4_4_0_8.npy"],
)
def test_names_that_are_no_windows(name: str) -> None:
    with pytest.raises(ConfigError, match=name) as raised:
        Window.parse(Path(name))
    assert (raised.value.code, bool(raised.value.remedy)) == ("bad_window", True)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_merging_against_a_slow_loop(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder, rng = tmp_path_factory.mktemp("windows"), np.random.default_rng(seed)
    width, height, side = (int(value) for value in rng.integers(4, 20, 3))
    windows = crop_windows("TCGA_a_1_2", (width, height), side, int(rng.integers(1, side + 1)))
    parts = [rng.random((3, w.y2 - w.y1, w.x2 - w.x1)).astype(np.float32) for w in windows]
    paths = [write_window(folder, window, part) for window, part in zip(windows, parts, strict=True)]
    values: dict[tuple[int, int], list[np.ndarray]] = {}
    for window, part in zip(windows, parts, strict=True):
        for y in range(window.y1, window.y2):
            for x in range(window.x1, window.x2):
                values.setdefault((y, x), []).append(part[:, y - window.y1, x - window.x1])
    merged = merge_windows(paths)
    assert merged.shape == (3, height, width)
    for (y, x), those in values.items():
        assert merged[:, y, x] == pytest.approx(np.mean(those, axis=0))


def written(folder: Path, name: str, shape: tuple[int, ...], dtype: type = np.float32) -> Path:
    np.save(folder / name, np.zeros(shape, dtype))
    return folder / name


def test_windows_are_told_apart_by_their_image(tmp_path: Path) -> None:
    for name in ("a_1_8_8_0_8_0_8.npy", "a_8_8_0_8_0_4.npy", "a_8_8_0_8_4_8.npy"):
        written(tmp_path, name, (2, 8, 8))
    found = windows_by_image(tmp_path)
    assert {name: len(paths) for name, paths in found.items()} == {"a": 2, "a_1": 1}


def test_a_folder_without_windows(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no windows"):
        windows_by_image(tmp_path)


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([("a_8_8_0_8_4_8.npy", (2, 8, 3))], r"is float32 \(2, 8, 3\); by its name it is \(K, 8, 4\)"),
        ([("a_8_8_0_8_4_8.npy", (3, 8, 4))], "has 3 classes, other windows of a have 2"),
        ([("a_8_8_0_8_5_8.npy", (2, 8, 3))], "8 of 64 px of a lie in no window"),
        ([("b_8_8_0_8_4_8.npy", (2, 8, 4))], "got those of 2"),
        ([("a_8_9_0_8_4_9.npy", (2, 8, 5))], "got those of 2"),
    ],
)
def test_windows_that_do_not_fit(tmp_path: Path, others: list[tuple[str, tuple[int, ...]]], words: str) -> None:
    paths = [written(tmp_path, "a_8_8_0_8_0_4.npy", (2, 8, 4))]
    paths += [written(tmp_path, name, shape) for name, shape in others]
    with pytest.raises(ConfigError, match=words) as raised:
        merge_windows(paths)
    assert (raised.value.code, bool(raised.value.remedy)) == ("bad_window", True)


def test_windows_that_are_no_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a_8_8_0_8_0_8.npy"
    path.write_bytes(b"none")
    with pytest.raises(ConfigError, match="cannot be read"):
        merge_windows([path])
    # objects would run code when they are loaded
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        merge_windows([path])
    with pytest.raises(ConfigError, match="int64"):
        merge_windows([written(tmp_path, path.name, (2, 8, 8), np.int64)])


def test_only_windows_of_their_size_are_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(K, 8, 8\)"):
        write_window(tmp_path, Window("a", 8, 8, 0, 8, 0, 8), np.zeros((2, 8, 7)))
    assert not list(tmp_path.iterdir())
