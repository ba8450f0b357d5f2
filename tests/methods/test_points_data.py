"""Data of the points method: layouts of folders and tables, every way they can be broken, draws of points."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from wsikit.annotations import read_annotations, write_annotations
from wsikit.annotations.annotations import Item, gather
from wsikit.annotations.inside import points_of_labels
from wsikit.errors import AnnotationError, ConfigError
from wsikit.methods.points.data import PointData, read_points, sampled
from wsikit.training import images as training_images

WIDTH, HEIGHT = 48, 40
NAMES = ("a", "b", "c")


def labels_of(seed: int, count: int = 6) -> NDArray[np.uint16]:
    """Boxes on a grid of cells of 8 px, numbered with gaps."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    for number, cell in enumerate(rng.permutation(30)[:count], 1):
        row, column = 8 * (cell // 6) + rng.integers(0, 3), 8 * (cell % 6) + rng.integers(0, 3)
        labels[row : row + rng.integers(3, 6), column : column + rng.integers(3, 6)] = 300 * number + 1
    return labels


def pixels_of(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def points_in(seed: int) -> NDArray[np.float64]:
    return points_of_labels(labels_of(seed))[1]


def saved(path: Path, image: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images without labels."""
    for seed, name in enumerate(NAMES):
        saved(tmp_path / "data" / f"{name}.png", pixels_of(seed))
    return tmp_path / "data"


def same(data: PointData, names: Sequence[str] = NAMES) -> bool:
    """Whether the points of all images are those that were planted, whatever their order."""
    return [Path(one.name).stem for one in data] == list(names) and all(
        np.array_equal(placed(one.points), placed(points_in(NAMES.index(name))))
        for name, one in zip(names, data, strict=True)
    )


def placed(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points[np.lexsort(points.T)]


def knows_instances(data: PointData) -> bool:
    return all(one.instances() is not None for one in data) and all(
        np.array_equal(np.asarray(one.instances()) > 0, labels_of(seed) > 0) for seed, one in enumerate(data)
    )


def drawn(path: Path, *shapes: shapely.Geometry, kind: Any = "annotation") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_annotations(path, gather([Item(kind, shape) for shape in shapes]))
    return path


def table(path: Path, *rows: Sequence[object], header: Sequence[str] = ("image", "x", "y")) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def all_rows(names: Sequence[str] = NAMES) -> list[list[object]]:
    return [[f"{name}.png", *xy] for name in names for xy in points_in(NAMES.index(name)).tolist()]


def refused(path: Path, *words: str, error: type[Exception] = ConfigError, **options: Any) -> None:
    """Reading fails with these words, and with something to do about it."""
    with pytest.raises(error) as raised:
        read_points(path, **options)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert getattr(raised.value, "remedy", "")


# Instance labels


@pytest.mark.parametrize("where", ["{}_labels.png", "{}_label.png", "labels/{}.png", "masks/{}.png", "labels/{}.tif"])
def test_instance_labels(folder: Path, where: str) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder / where.format(name), labels_of(seed))
    data = read_points(folder)
    assert (data.kind, data.warnings) == ("labels", ())
    assert same(data)
    assert knows_instances(data)


def test_images_may_have_a_folder_of_their_own(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        (folder / "images").mkdir(exist_ok=True)
        (folder / f"{name}.png").rename(folder / "images" / f"{name}.png")
        saved(folder / "labels" / f"{name}.png", labels_of(seed))
    assert same(read_points(folder))


@pytest.mark.parametrize("seed", range(4))
def test_points_lie_in_their_instances(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in NAMES:
        wild = ndimage.gaussian_filter(rng.normal(size=(HEIGHT, WIDTH)), 2) > 0.02
        saved(folder / f"{name}_labels.png", ndimage.label(wild)[0].astype(np.uint8))
    for one in read_points(folder):
        labels = one.instances()
        assert labels is not None
        columns, rows = np.floor(one.points).astype(int).T
        assert (one.points % 1 == 0.5).all()
        assert sorted(labels[rows, columns]) == sorted(set(labels[labels > 0].tolist()))


def test_an_image_without_labels_is_refused(folder: Path) -> None:
    for seed, name in enumerate(NAMES[:2]):
        saved(folder / f"{name}_labels.png", labels_of(seed))
    refused(folder, "1 images", "no points and no labels", "c.png")


def test_labels_of_another_size(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder / f"{name}_labels.png", labels_of(seed)[:, : 30 if name == "b" else None])
    refused(folder, "b_labels.png have 30x40 px", "48x40")


def test_masks_are_no_instances(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder / f"{name}_labels.png", (labels_of(seed) > 0).astype(np.uint8))
    refused(folder, "masks and no instances", "pieces")


def test_empty_labels_fail_at_once_and_are_named(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder / f"{name}_labels.png", labels_of(seed) * (name != "b"))
    refused(folder, str(folder / "b_labels.png"), "holds no point")
    data = read_points(folder, allow_empty=True)
    assert [len(one.points) for one in data] == [6, 0, 6]


@pytest.mark.parametrize("allow_empty", [False, True])
def test_data_without_any_point_is_refused(folder: Path, allow_empty: bool) -> None:
    for name in NAMES:
        saved(folder / f"{name}_labels.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    refused(folder, "point", allow_empty=allow_empty)
    table(folder / "points.csv", *([name, "", ""] for name in NAMES))
    refused(folder, "none of 3 images has a point", allow_empty=allow_empty)


# Points that were clicked


@pytest.mark.parametrize("where", ["{}.geojson", "{}.geojson.gz", "annotations/{}.geojson", "points/{}.geojson"])
@pytest.mark.parametrize("several", [False, True])
def test_qupath_points(folder: Path, where: str, several: bool) -> None:
    for seed, name in enumerate(NAMES):
        points = points_in(seed)
        shapes = [shapely.MultiPoint(points)] if several else list(shapely.points(points))
        drawn(folder / where.format(name), *shapes)
    data = read_points(folder)
    assert (data.kind, data.warnings) == ("geojson", ())
    assert same(data)
    assert data[0].instances() is None


def test_points_are_kept_to_the_hundredth(folder: Path) -> None:
    for name in NAMES:
        drawn(folder / f"{name}.geojson", shapely.Point(3.25, 7.01), shapely.Point(0, 0))
    assert read_points(folder)[1].points.tolist() == [[3.25, 7.01], [0, 0]]


def test_areas_beside_points_are_no_nuclei(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        drawn(folder / f"{name}.geojson", shapely.box(0, 0, WIDTH, HEIGHT), *shapely.points(points_in(seed)))
    data = read_points(folder)
    assert same(data)
    assert data.warnings == ("3 areas beside points were left out, 1 of them in a.geojson",)


def test_outlines_from_qupath_are_instances(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder.parent / f"{name}_labels.png", labels_of(seed))
        write_annotations(folder / f"{name}.geojson", read_annotations(folder.parent / f"{name}_labels.png"))
    data = read_points(folder)
    assert same(data)
    assert knows_instances(data)


def test_cells_from_qupath_are_learned_by_their_nuclei(folder: Path) -> None:
    """Boundaries are the nuclei, 4 px wider, and overlap; of one cell of the last image no nucleus is known."""
    for seed, name in enumerate(NAMES):
        nuclei = read_annotations(saved(folder.parent / f"{name}_labels.png", labels_of(seed))).polygons()
        cells = [Item("cell", nucleus.envelope.buffer(4), nucleus=nucleus) for nucleus in nuclei]
        if name == "c":
            cells[-1] = Item("cell", nuclei[-1])
        write_annotations(folder / f"{name}.geojson", gather(cells))
    data = read_points(folder)
    assert same(data)
    assert knows_instances(data)
    assert data.warnings == (
        "17 x cells: their nucleus is taken, not their boundary (in a.geojson and 2 more)",
        "1 x cells without a nucleus: their boundary is taken (in c.geojson)",
    )


def test_what_a_file_lost_in_reading_is_warned_of(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        path = drawn(folder / f"{name}.geojson", *shapely.points(points_in(seed)))
        document = json.loads(path.read_text("utf-8"))
        document["features"].append({"type": "Feature", "geometry": {"type": "MultiPoint", "coordinates": []}})
        path.write_text(json.dumps(document), "utf-8")
    data = read_points(folder)
    assert same(data)
    assert data.warnings == ("3 x features without a geometry: left out (in a.geojson and 2 more)",)


@pytest.mark.parametrize("where", ["{}_label_point.png", "{}_points.png", "points/{}.png", "labels/{}_dots.png"])
def test_dots(folder: Path, where: str) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder / where.format(name), dots_of(points_in(seed)))
    data = read_points(folder)
    assert data.kind == "dots"
    assert same(data)


def dots_of(points: NDArray[np.float64], value: int = 255) -> NDArray[np.uint8]:
    image = np.zeros((HEIGHT, WIDTH), np.uint8)
    columns, rows = points.astype(int).T
    image[rows, columns] = value
    return image


def test_discs_are_no_dots(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder / f"{name}_points.png", labels_of(seed).astype(np.uint8))
    refused(folder, "a_points.png holds no dots", "in 6 places")


def test_dots_of_another_size(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder / f"{name}_points.png", dots_of(points_in(seed))[1:])
    refused(folder, "a_points.png", "48x39")


def test_a_table_for_each_image(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        table(folder / f"{name}.csv", *points_in(seed).tolist(), header=("x", "y"))
    data = read_points(folder)
    assert data.kind == "csv"
    assert same(data)


def test_a_table_for_each_image_in_um(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        table(folder / f"{name}.csv", *(points_in(seed) * 0.25).tolist(), header=("x_um", "y_um"))
    assert same(read_points(folder, mpp=0.25))
    refused(folder, "a.csv", "um", error=AnnotationError)


def test_points_come_first_and_labels_are_the_truth(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder / f"{name}_labels.png", labels_of(seed))
        drawn(folder / f"{name}.geojson", *shapely.points(points_in(seed)[:2]))
    data = read_points(folder)
    assert data.kind == "geojson"
    assert [len(one.points) for one in data] == [2, 2, 2]
    assert knows_instances(data)


def test_labels_for_some_images_do_not_stand_in_for_points(folder: Path) -> None:
    saved(folder / "a_labels.png", labels_of(0))
    for seed, name in enumerate(NAMES[1:], 1):
        drawn(folder / f"{name}.geojson", *shapely.points(points_in(seed)))
    refused(folder, "have no points as geojson", "a.png")


def test_a_folder_of_labels_elsewhere(folder: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder / f"{name}_labels.png", labels_of(seed))
        drawn(tmp_path / "mine" / f"{name}.geojson", *shapely.points(points_in(seed)[:3]))
        saved(tmp_path / "theirs" / f"{name}.png", labels_of(seed + 10))
    data = read_points(folder, labels=tmp_path / "mine")
    assert [len(one.points) for one in data] == [3, 3, 3]
    assert knows_instances(data)
    other = read_points(folder, labels=tmp_path / "theirs")
    assert np.array_equal(other[1].points, points_in(11))
    assert np.array_equal(np.asarray(other[1].instances()), labels_of(11))


def test_an_empty_folder_of_labels_is_not_passed_over(folder: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder / f"{name}_labels.png", labels_of(seed))
    (tmp_path / "mine").mkdir()
    refused(folder, "3 images", "no points and no labels", labels=tmp_path / "mine")


# One table


def test_one_table(folder: Path) -> None:
    table(folder / "points.csv", *all_rows())
    data = read_points(folder)
    assert (data.kind, data.warnings) == ("table", ())
    assert same(data)


def test_rows_may_stand_in_any_order_and_names_without_suffix(folder: Path) -> None:
    rows = [[str(name)[:-4], *xy] for name, *xy in all_rows()]
    np.random.default_rng(0).shuffle(rows)
    table(folder / "points.csv", *rows)
    first = list(dict.fromkeys(str(row[0]) for row in rows))
    assert same(read_points(folder), first)


def test_the_table_may_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    path = table(tmp_path / "clicked.csv", *all_rows())
    assert same(read_points(folder, labels=path))


def test_a_table_is_enough_where_its_images_are_beside_it(folder: Path) -> None:
    assert same(read_points(table(folder / "clicked.csv", *all_rows())))


def test_a_table_in_um(folder: Path) -> None:
    rows = [[name, float(x) * 0.5, float(y) * 0.5] for name, x, y in all_rows()]  # type: ignore[arg-type]
    table(folder / "points.csv", *rows, header=("image", "x_um", "y_um"))
    assert same(read_points(folder, mpp=0.5))
    refused(folder, "points.csv has its coordinates in um")


def test_a_row_without_x_and_y_is_an_image_without_nuclei(folder: Path) -> None:
    table(folder / "points.csv", *all_rows(("a", "c")), ["b.png", "", ""])
    assert {one.name: len(one.points) for one in read_points(folder)} == {"a.png": 6, "b.png": 0, "c.png": 6}


def test_what_the_table_says_of_images(folder: Path) -> None:
    known = {"a.png": ("p", "s1", "colon", "train"), "b.png": ("q", "s2", "", "val"), "c.png": ("q", "", "", "TEST")}
    rows = [[*row, *known[str(row[0])]] for row in all_rows()]
    table(folder / "points.csv", *rows, header=("image", "x", "y", "patient_id", "slide_id", "organ", "split"))
    found = [(one.patient, one.slide, one.organ, one.split) for one in read_points(folder)]
    assert found == [("p", "s1", "colon", "train"), ("q", "s2", None, "validation"), ("q", None, None, "test")]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (all_rows(("a", "b")), ("1 images", "no row in", "c.png")),
        ([*all_rows(), ["d.png", 3, 3]], ("line 20", "there is no image 'd.png'")),
        ([*all_rows(), ["a", 3, 3]], ("line 20", "a.png has a row already (points.csv, line 2)")),
        ([*all_rows(), ["a.png", "", ""]], ("line 20", "a.png has no point, and other rows")),
        ([*all_rows(), ["a.png", 3, ""]], ("line 20", "'3' and ''")),
        ([*all_rows(), ["a.png", "left", "1"]], ("line 20", "'left'")),
        ([*all_rows(), ["a.png", "inf", "1"]], ("line 20", "'inf'")),
        ([*all_rows(), ["", 1, 1]], ("line 20", "names no image")),
        ([*all_rows(), ["b.png", 48.5, 3]], ("points.csv, line 8", "1 of 7 points", "b.png of 48x40 px", "(48.5, 3)")),
        ([*all_rows(), ["b.png", 3, -0.25]], ("(3, -0.25)",)),
        ([*all_rows(), ["b.png", 48, 40]], ("(48, 40)",)),
    ],
)
def test_tables_that_are_refused(folder: Path, rows: list[list[object]], words: Sequence[str]) -> None:
    table(folder / "points.csv", *rows)
    refused(folder, *words)


def test_a_table_without_a_column(folder: Path) -> None:
    table(folder / "points.csv", *all_rows(), header=("image", "x", "why"))
    refused(folder, "no column 'y'")


def test_contradictions_between_rows(folder: Path) -> None:
    rows = [[*row, "train"] for row in all_rows()]
    rows[3][3] = "test"
    table(folder / "points.csv", *rows, header=("image", "x", "y", "split"))
    refused(folder, "line 5 says", "of a.png, points.csv, line 2 says")


def test_an_unknown_split(folder: Path) -> None:
    table(folder / "points.csv", *([*row, "holdout"] for row in all_rows()), header=("image", "x", "y", "split"))
    refused(folder, "line 2", "'holdout'")


def test_duplicates_are_left_out_and_warned_of(folder: Path) -> None:
    x, y = points_in(1)[2]
    table(folder / "points.csv", *all_rows(), ["b.png", x, y], ["b.png", x + 0.2, y])
    data = read_points(folder)
    assert same(data)
    assert data.warnings == ("2 points lie in the pixel of another and were left out, 2 of them in b.png",)


def test_images_csv_tells_of_images_without_a_table_of_points(folder: Path) -> None:
    for seed, name in enumerate(NAMES):
        saved(folder / f"{name}_labels.png", labels_of(seed))
    header = ("image", "patient", "split")
    table(folder / "images.csv", ["b", "q", "test"], ["a", "p", "train"], ["c", "q", "test"], header=header)
    data = read_points(folder)
    assert same(data)
    assert [(one.patient, one.split) for one in data] == [("p", "train"), ("q", "test"), ("q", "test")]
    table(folder / "images.csv", ["b", "q", "test"], header=header)
    refused(folder, "2 images", "images.csv")


def test_barcodes_say_slide_and_patient(tmp_path: Path) -> None:
    name = "TCGA-18-5592-01Z-00-DX1"
    saved(tmp_path / f"{name}.png", pixels_of(0))
    saved(tmp_path / f"{name}_labels.png", labels_of(0))
    (one,) = read_points(tmp_path)
    assert (one.slide, one.patient) == (name, "TCGA-18-5592")


@pytest.mark.parametrize("path", [None, "nowhere", "data/a.png"])
def test_what_is_no_data(folder: Path, path: str | None) -> None:
    with pytest.raises(ConfigError, match=r"no data|does not exist|neither a folder nor a table"):
        read_points(path and folder.parent / path)


def test_a_folder_without_images(tmp_path: Path) -> None:
    refused(tmp_path, "holds no image")


# The MO layout


def mo(root: Path, *, suffix: str = ".png", label: str = "_label", lists: bool = True, points: bool = True) -> Path:
    for seed, name in enumerate(NAMES):
        saved(root / "images" / f"{name}.png", pixels_of(seed))
        saved(root / "labels_instance" / f"{name}{label}.png", labels_of(seed))
        if points:
            saved(root / "labels_point" / f"{name}_label_point.png", dots_of(points_in(seed)))
    if lists:
        said = {"train": [f"a{suffix}"], "val": [f"b{suffix}"], "test": [f"c{suffix}"]}
        (root / "train_val_test.json").write_text(json.dumps(said))
    return root


@pytest.mark.parametrize("suffix", [".png", ""])
@pytest.mark.parametrize("label", ["_label", "_labels"])
@pytest.mark.parametrize("points", [True, False])
def test_the_mo_layout(tmp_path: Path, suffix: str, label: str, points: bool) -> None:
    data = read_points(mo(tmp_path, suffix=suffix, label=label, points=points))
    assert (data.kind, data.warnings) == ("mo", ())
    assert same(data)
    assert knows_instances(data)
    assert [one.split for one in data] == ["train", "validation", "test"]


def test_mo_without_lists_says_no_splits(tmp_path: Path) -> None:
    data = read_points(mo(tmp_path, lists=False))
    assert data.kind == "mo"
    assert [one.split for one in data] == [None] * 3


def test_partial_points_of_mo_are_taken_as_they_are(tmp_path: Path) -> None:
    root = mo(tmp_path)
    saved(root / "labels_point" / "a_label_point.png", dots_of(points_in(0)[:1]))
    assert [len(one.points) for one in read_points(root)] == [1, 6, 6]


def test_mo_may_have_points_for_training_alone(tmp_path: Path) -> None:
    root = mo(tmp_path)
    for name in ("b", "c"):
        (root / "labels_point" / f"{name}_label_point.png").unlink()
    assert same(read_points(root))
    saved(root / "labels_point" / "b_label_point.png", dots_of(points_in(1)))
    (root / "labels_point" / "a_label_point.png").unlink()
    refused(root, "have no points as dots", "a.png")


def test_an_empty_dot_image_of_mo_is_named(tmp_path: Path) -> None:
    root = mo(tmp_path)
    saved(root / "labels_point" / "b_label_point.png", np.zeros((HEIGHT, WIDTH), np.uint8))
    refused(root, "b_label_point.png holds no point")


def test_images_in_no_list_are_left_out_and_warned_of(tmp_path: Path) -> None:
    root = mo(tmp_path)
    (root / "train_val_test.json").write_text('{"train": ["a.png"], "test": ["c"]}')
    data = read_points(root)
    assert same(data, ("a", "c"))
    assert "1 images are in no list" in data.warnings[0]
    assert "b.png" in data.warnings[0]


def test_two_sources_of_splits_must_agree(tmp_path: Path) -> None:
    root = mo(tmp_path)
    table(root / "images.csv", ["a", "train"], ["b", ""], ["c", "test"], header=("image", "split"))
    assert [one.split for one in read_points(root)] == ["train", "validation", "test"]
    table(root / "images.csv", ["a", "test"], ["b", ""], ["c", "test"], header=("image", "split"))
    refused(root, "1 images", "train_val_test.json", "images.csv", "a.png")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"train": ["a.png", "d.png"]}', ("'d.png' for train", "no such image")),
        ('{"train": ["a.png"], "test": ["a"]}', ("'a' in the lists of train and test",)),
        ('["a.png"]', ("no lists of names",)),
        ('{"train": [1]}', ("no lists of names",)),
        ('{"learn": ["a.png"]}', ("no lists of names",)),
        ("{", ("no JSON that can be read",)),
    ],
)
def test_lists_that_are_refused(tmp_path: Path, text: str, words: Sequence[str]) -> None:
    root = mo(tmp_path)
    (root / "train_val_test.json").write_text(text)
    refused(root, "train_val_test.json", *words)


# Draws of points


def cloud(n: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(0, 900, (n, 2))


def as_set(points: NDArray[np.float64]) -> set[tuple[float, ...]]:
    return set(map(tuple, points.tolist()))


@pytest.mark.parametrize(
    ("n", "ratio", "count"),
    [
        *((600, ratio, round(600 * ratio)) for ratio in (0.05, 0.1, 0.25, 0.5, 1.0)),
        *((45, 0.1, 5), (30, 0.15, 5), (44, 0.1, 4), (5, 0.1, 1), (1, 0.01, 1), (4, 0.01, 1), (0, 0.5, 0), (7, 1.0, 7)),
    ],
)
def test_the_number_of_drawn_points_is_exact(n: int, ratio: float, count: int) -> None:
    for seed in range(5):
        assert len(sampled(cloud(n), ratio, seed, "a.png")) == count


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ratio", [0.05, 0.5, 0.9, 1.0])
def test_points_are_drawn_without_replacement(seed: int, ratio: float) -> None:
    points = cloud(200)
    found = sampled(points, ratio, seed, "a.png")
    assert len(as_set(found)) == len(found)
    assert as_set(found) <= as_set(points)


@pytest.mark.parametrize("seed", range(4))
def test_draws_are_nested(seed: int) -> None:
    draws = [as_set(sampled(cloud(300), ratio, seed, "a.png")) for ratio in (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)]
    assert all(small < large for small, large in pairwise(draws))


@pytest.mark.parametrize("seed", range(4))
def test_a_draw_depends_on_seed_and_name_and_on_no_order(seed: int) -> None:
    points = cloud(200)
    shuffled = np.random.default_rng(seed).permutation(points)
    found = as_set(sampled(points, 0.1, seed, "a.png"))
    assert as_set(sampled(shuffled, 0.1, seed, "a.png")) == found
    assert as_set(sampled(points, 0.1, seed, "b.png")) != found
    assert as_set(sampled(points, 0.1, seed + 1, "a.png")) != found


def test_a_draw_is_the_same_on_every_machine() -> None:
    grid = np.stack(np.meshgrid(np.arange(5), np.arange(4)), axis=-1).reshape(-1, 2) + 0.5
    assert (sampled(grid, 0.15, 7, "a.png") - 0.5).tolist() == [[2, 0], [2, 2], [4, 2]]


def test_drawn_points_keep_their_order() -> None:
    points = cloud(100)
    found = sampled(points, 0.3, 3, "a.png").tolist()
    assert found == [xy for xy in points.tolist() if xy in found]


def test_every_point_is_drawn_as_often_as_any_other() -> None:
    points = cloud(20)
    drawn = [xy for seed in range(2000) for xy in map(tuple, sampled(points, 0.25, seed, "a.png").tolist())]
    counts = np.array([drawn.count(tuple(xy)) for xy in points.tolist()])
    # 2000 draws of 5 in 20: 500 each, with a standard deviation of 19
    assert np.abs(counts - 500).max() < 90


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01, 10, float("nan")])
def test_impossible_shares(ratio: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        sampled(cloud(5), ratio, 0, "a.png")


def test_a_negative_seed() -> None:
    with pytest.raises(ConfigError, match="seed"):
        sampled(cloud(5), 0.5, -1, "a.png")


def labelled(folder: Path) -> PointData:
    for seed, name in enumerate(NAMES):
        saved(folder / f"{name}_labels.png", labels_of(seed))
    return read_points(folder)


def test_data_is_drawn_image_by_image(folder: Path) -> None:
    data = labelled(folder)
    part = data.sampled(0.5, 3)
    assert [len(one.points) for one in part] == [3, 3, 3]
    for one, whole in zip(part, data, strict=True):
        assert np.array_equal(one.points, sampled(whole.points, 0.5, 3, whole.name))
    assert knows_instances(part)
    # the rest of the data does not count
    (folder / "a.png").unlink()
    fewer = read_points(folder).sampled(0.5, 3)
    assert [one.points.tolist() for one in fewer] == [one.points.tolist() for one in part[1:]]


# Memory, processes, digests


def test_points_cannot_be_changed(folder: Path) -> None:
    data = labelled(folder)
    for one in (*data, *data.sampled(0.5, 0)):
        with pytest.raises(ValueError, match="read-only"):
            one.points[:] = 0


def test_data_pickles_without_pixels(folder: Path) -> None:
    data = labelled(folder)
    digest, empty = data.digest, len(pickle.dumps(read_points(folder)))
    text = pickle.dumps(data)
    assert len(text) < empty + 200
    copy = pickle.loads(text)
    assert same(copy)
    assert copy.digest == digest


def test_a_copy_is_the_same_data(folder: Path, tmp_path: Path) -> None:
    digest = labelled(folder).digest
    shutil.copytree(folder, tmp_path / "copy")
    assert read_points(tmp_path / "copy").digest == digest


def repainted(folder: Path) -> None:
    saved(folder / "b.png", pixels_of(9))


def relabelled(folder: Path) -> None:
    """Another outline about the same point."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint16)
    columns, rows = points_in(1).astype(int).T
    labels[rows, columns] = np.arange(1, 7)
    saved(folder / "b_labels.png", labels)


def without_a_nucleus(folder: Path) -> None:
    labels = labels_of(1)
    saved(folder / "b_labels.png", np.where(labels == labels.max(), 0, labels))


def renamed(folder: Path) -> None:
    for end in ("", "_labels"):
        (folder / f"b{end}.png").rename(folder / f"b2{end}.png")


def grouped(folder: Path) -> None:
    table(folder / "images.csv", *([name, "p"] for name in NAMES), header=("image", "patient"))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("change", [repainted, relabelled, without_a_nucleus, renamed, grouped])
def test_changed_data_has_another_digest(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], kept: bool
) -> None:
    if not kept:
        monkeypatch.setattr(training_images, "KEPT_BYTES", 0)
    before = labelled(folder).digest
    change(folder)
    assert read_points(folder).digest != before


def test_a_draw_has_another_digest(folder: Path) -> None:
    data = labelled(folder)
    assert len({data.digest, data.sampled(0.5, 0).digest, data.sampled(0.5, 1).digest}) == 3
