"""The layouts of public data sets for the points method: MoNuSeg, PanNuke, CoNSeP, as small files in their own formats;
and the real folders, where they are."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from tests.methods.test_points_data import HEIGHT, NAMES, WIDTH, labels_of, pixels_of, points_in, refused, same, saved
from wsikit.annotations.inside import points_of_labels
from wsikit.errors import AnnotationError, ConfigError, PixelReadError
from wsikit.methods.points import arrays
from wsikit.methods.points.data import PointData, read_points

# MoNuSeg


def boxes(labels: NDArray[Any]) -> list[list[tuple[float, float]]]:
    """The corners of the planted boxes."""
    found = []
    for number in np.setdiff1d(labels, [0]):
        rows, columns = np.nonzero(labels == number)
        x0, x1, y0, y1 = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
        found.append([(float(x), float(y)) for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))])
    return found


def write_xml(path: Path, regions: Sequence[Sequence[tuple[float, float]]]) -> Path:
    """As MoNuSeg's files are: one layer, a region for each nucleus, the ring not closed."""
    root = ET.Element("Annotations", {"MicronsPerPixel": "0.252000"})
    layer = ET.SubElement(root, "Annotation", {"Id": "1", "Name": "", "LineColor": "65280", "Type": "4"})
    ET.SubElement(ET.SubElement(layer, "Attributes"), "Attribute", {"Name": "Description", "Id": "0", "Value": ""})
    found = ET.SubElement(layer, "Regions")
    ET.SubElement(found, "RegionAttributeHeaders")
    for number, ring in enumerate(regions, 1):
        region = ET.SubElement(found, "Region", {"Id": str(number), "Type": "0", "NegativeROA": "0", "Text": ""})
        vertices = ET.SubElement(region, "Vertices")
        for x, y in ring:
            ET.SubElement(vertices, "Vertex", {"X": f"{x:.6f}", "Y": f"{y:.6f}", "Z": "0"})
    path.parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(root).write(path)
    return path


def write_monuseg(root: Path, images: str, annotations: str, suffix: str) -> Path:
    for seed, name in enumerate(NAMES):
        saved(root / images / f"{name}{suffix}", pixels_of(seed))
        write_xml(root / annotations / f"{name}.xml", boxes(labels_of(seed)))
    return root


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize(("images", "annotations"), [(".", "."), ("Tissue Images", "Annotations")])
def test_monuseg(tmp_path: Path, images: str, annotations: str, suffix: str) -> None:
    data = read_points(write_monuseg(tmp_path, images, annotations, suffix))
    assert (data.kind, data.warnings) == ("monuseg", ())
    assert same(data)
    for seed, one in enumerate(data):
        compact = np.unique(labels_of(seed), return_inverse=True)[1].reshape(HEIGHT, WIDTH)
        assert np.array_equal(np.asarray(one.instances()), compact)


def one_image(folder: Path, regions: Sequence[Sequence[tuple[float, float]]]) -> PointData:
    saved(folder / "a.png", pixels_of(0))
    write_xml(folder / "a.xml", regions)
    return read_points(folder)


def box(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def test_every_outline_has_a_point_though_it_is_hidden_or_tiny(tmp_path: Path) -> None:
    hidden, tiny, bow = box(2, 2, 6, 6), box(20.6, 20.6, 21.4, 21.4), [(30.0, 2.0), (36, 8), (36, 2), (30, 8)]
    # the two that hide the first are smaller
    halves = [box(2, 2, 4, 6), box(4, 2, 6, 6)]
    data = one_image(tmp_path, [hidden, *halves, tiny, bow])
    points, labels = data[0].points, data[0].instances()
    assert len(points) == 5
    assert labels is not None
    assert set(np.unique(labels)) == {0, 2, 3, 5}
    assert points[0].tolist() == [3.5, 3.5]
    assert (np.abs(points[3] - 21) < 0.4).all()


def test_outlines_may_reach_beyond_the_edge(tmp_path: Path) -> None:
    data = one_image(tmp_path, [box(-5, -5, 4, 4), box(44, 36, 60, 60)])
    assert data[0].points.tolist() == [[1.5, 1.5], [45.5, 37.5]]


def test_an_outline_outside_of_the_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.xml: 1 of 2 points .* image a\.png of 48x40 px: \(55, 55\)"):
        one_image(tmp_path, [box(2, 2, 6, 6), box(50, 50, 60, 60)])


def test_stray_clicks_beside_outlines_are_warned_of(tmp_path: Path) -> None:
    data = one_image(tmp_path, [box(2, 2, 6, 6), [(9.0, 9.0)], [(12.0, 12.0), (14.0, 14.0)]])
    assert data[0].points.tolist() == [[3.5, 3.5]]
    assert data.warnings == ("2 lines, or points beside outlines were left out, 2 of them in a.xml",)


def test_an_xml_without_a_nucleus_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", pixels_of(0))
    write_xml(tmp_path / "a.xml", [])
    refused(tmp_path, "a.xml holds no point")


# PanNuke

TISSUES = ("Breast", "Colon", "Bile-duct")


def stacked(seed: int, count: int = 6) -> NDArray[np.float64]:
    """(H, W, 6) as PanNuke has it: instances by type, numbers of their own in each, and the background."""
    labels = labels_of(seed, count)
    masks = np.zeros((HEIGHT, WIDTH, 6))
    for index, number in enumerate(np.setdiff1d(labels, [0])):
        masks[labels == number, index % 3] = index // 3 + 1
    masks[..., 5] = labels == 0
    return masks


def write_pannuke(root: Path, folds: int = 1, dtype: Any = np.float64, nested: bool = True, empty: int = -1) -> Path:
    for fold in range(1, folds + 1):
        seeds = range(3 * (fold - 1), 3 * fold)
        masks = np.stack([stacked(seed, 0 if seed == empty else 6) for seed in seeds])
        images = np.stack([pixels_of(seed) for seed in seeds]).astype(dtype)
        base = root / f"Fold {fold}" if nested else root
        places = [base / part / f"fold{fold}" if nested else base for part in ("images", "masks")]
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        np.save(places[0] / "images.npy", images)
        np.save(places[0] / "types.npy", np.array(TISSUES))
        np.save(places[1] / "masks.npy", masks)
    return root


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
@pytest.mark.parametrize("nested", [True, False])
def test_pannuke(tmp_path: Path, dtype: Any, nested: bool) -> None:
    data = read_points(write_pannuke(tmp_path, dtype=dtype, nested=nested))
    assert (data.kind, data.warnings, len(data)) == ("pannuke", (), 3)
    for seed, one in enumerate(data):
        assert np.array_equal(one.read(), pixels_of(seed))
        assert {tuple(xy) for xy in one.points.tolist()} == {tuple(xy) for xy in points_in(seed).tolist()}
        labels = one.instances()
        assert labels is not None
        assert np.array_equal(labels > 0, labels_of(seed) > 0)
        assert len(np.unique(labels)) == 7
        assert one.organ == TISSUES[seed]
        assert one.split is None


def test_folds_of_pannuke_have_names_of_their_own(tmp_path: Path) -> None:
    data = read_points(write_pannuke(tmp_path, folds=2))
    assert [one.name for one in data[2:4]] == ["Fold 1/images/fold1/00002", "Fold 2/images/fold2/00000"]
    (one, *_) = read_points(tmp_path / "Fold 2")
    assert one.name == "fold2/00000"
    assert np.array_equal(one.read(), pixels_of(3))


def test_arrays_of_pannuke_are_read_image_by_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pannuke(tmp_path)
    modes = []
    whole = np.load

    def noted(path: Any, mmap_mode: Any = None, **options: Any) -> Any:
        modes.append(mmap_mode)
        return whole(path, mmap_mode=mmap_mode, **options)

    monkeypatch.setattr(arrays.np, "load", noted)
    data = read_points(tmp_path)
    data[1].read()
    data[1].instances()
    assert len(modes) >= 8
    assert set(modes) == {"r"}


def test_an_image_of_pannuke_that_is_all_background_is_empty_on_purpose(tmp_path: Path) -> None:
    write_pannuke(tmp_path, empty=1)
    assert [len(one.points) for one in read_points(tmp_path)] == [6, 0, 6]
    path = next(tmp_path.rglob("masks.npy"))
    masks = np.load(path)
    masks[1] = 0
    np.save(path, masks)
    refused(tmp_path, "masks.npy, image 1", "holds no point")


def broken(root: Path, name: str, array: NDArray[Any]) -> Path:
    np.save(next(write_pannuke(root).rglob(name)), array)
    return root


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("images.npy", np.zeros((3, HEIGHT, WIDTH)), ("images.npy is (3, 40, 48), not (N, H, W, 3)",)),
        ("masks.npy", np.zeros((2, HEIGHT, WIDTH, 6)), ("masks.npy is (2, 40, 48, 6)", "(3, 40, 48, 3)")),
        ("masks.npy", np.zeros((3, HEIGHT, WIDTH, 3)), ("masks.npy is (3, 40, 48, 3)",)),
        ("types.npy", np.array(["Breast"]), ("types.npy is (1,)", "3 images")),
        ("types.npy", np.array(["Breast", None, 3], object), ("types.npy", "no array that can be read")),
    ],
)
def test_arrays_that_are_not_pannukes(tmp_path: Path, name: str, array: NDArray[Any], words: Sequence[str]) -> None:
    refused(broken(tmp_path, name, array), *words)


def test_masks_of_pannuke_must_be_numbers_of_cells(tmp_path: Path) -> None:
    refused(broken(tmp_path, "masks.npy", np.full((3, HEIGHT, WIDTH, 6), 0.5)), "masks 0 of", error=AnnotationError)


def test_images_of_pannuke_must_be_grey_levels(tmp_path: Path) -> None:
    data = read_points(broken(tmp_path, "images.npy", np.full((3, HEIGHT, WIDTH, 3), 256.0)))
    with pytest.raises(PixelReadError, match=r"image 0 of .* has values from 256"):
        data[0].read()


def test_a_fold_without_masks(tmp_path: Path) -> None:
    next(write_pannuke(tmp_path).rglob("masks.npy")).unlink()
    refused(tmp_path, "images.npy has no masks")


# CoNSeP


def write_consep(root: Path, parts: Sequence[str] = ("Train", "Test"), **instead: Any) -> Path:
    """Two images in the first part and one in the last, with all that CoNSeP's files hold."""
    for seed, name in enumerate(NAMES):
        folder = root / parts[0 if seed < 2 else -1]
        saved(folder / "Images" / f"{name}.png", pixels_of(seed))
        (folder / "Labels").mkdir(exist_ok=True)
        labels = np.unique(labels_of(seed), return_inverse=True)[1].reshape(HEIGHT, WIDTH)
        held = {
            "inst_map": labels.astype(np.float64),
            "type_map": (labels > 0).astype(np.float64),
            "inst_type": np.ones((6, 1)),
            "inst_centroid": points_of_labels(labels)[1],
        }
        kept = {key: value for key, value in {**held, **instead}.items() if value is not None}
        savemat(folder / "Labels" / f"{name}.mat", kept)
    return root


@pytest.mark.parametrize(
    ("parts", "splits"), [(("Train", "Test"), ["train", "train", "test"]), ((".",), [None, None, None])]
)
def test_consep(tmp_path: Path, parts: Sequence[str], splits: list[str | None]) -> None:
    data = read_points(write_consep(tmp_path, parts))
    assert data.kind == "consep"
    assert sorted(one.name for one in data) == ["a.png", "b.png", "c.png"]
    by_name = {one.name[0]: one for one in data}
    assert [by_name[name].split for name in NAMES] == splits
    for seed, name in enumerate(NAMES):
        labels = by_name[name].instances()
        assert labels is not None
        assert labels.dtype == np.int64
        assert np.array_equal(labels > 0, labels_of(seed) > 0)
        assert np.array_equal(by_name[name].points, points_in(seed))


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (None, ("holds no inst_map",)),
        (np.full((HEIGHT, WIDTH), 0.5), ("whole numbers",)),
        (np.full((HEIGHT, WIDTH), -1), ("whole numbers",)),
        (np.zeros((2, HEIGHT, WIDTH)), ("(2, 40, 48)",)),
    ],
)
def test_other_matlab_files(tmp_path: Path, held: Any, words: Sequence[str]) -> None:
    refused(write_consep(tmp_path, inst_map=held), ".mat", *words, error=AnnotationError)


def test_instances_of_another_size(tmp_path: Path) -> None:
    refused(write_consep(tmp_path, inst_map=np.ones((HEIGHT, 20))), "20x40 px", "48x40 px")


def test_empty_instances_are_named(tmp_path: Path) -> None:
    refused(write_consep(tmp_path, inst_map=np.zeros((HEIGHT, WIDTH))), ".mat holds no point")


@pytest.mark.parametrize("content", [b"", b"no matlab", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_broken_matlab_files(tmp_path: Path, content: bytes) -> None:
    (write_consep(tmp_path) / "Train" / "Labels" / "b.mat").write_bytes(content)
    refused(tmp_path, "b.mat", error=AnnotationError)


def test_matlab_files_and_images_belong_together(tmp_path: Path) -> None:
    labels = write_consep(tmp_path) / "Train" / "Labels"
    (labels / "b.mat").rename(labels / "d.mat")
    refused(tmp_path, "1 images of", "b.png")
    (labels / "d.mat").rename(labels / "b.mat")
    (labels / "d.mat").write_bytes((labels / "b.mat").read_bytes())
    refused(tmp_path, "1 files of", "d")


def test_one_name_in_both_parts_is_refused(tmp_path: Path) -> None:
    write_consep(tmp_path)
    for end in ("Images/c.png", "Labels/c.mat"):
        (tmp_path / "Test" / end).rename(tmp_path / "Test" / end.replace("c.", "a."))
    refused(tmp_path, "names are those of several images", "a.png")


# Real folders


def inside(data: PointData) -> bool:
    """Whether every point lies in an instance of its own."""
    for one in data:
        labels = one.instances()
        assert labels is not None
        columns, rows = np.floor(one.points).astype(int).T
        hit = labels[rows, columns]
        if (hit == 0).any() or len(set(hit.tolist())) < len(hit):
            return False
    return True


def test_all_nuclei_of_dsb2018(data: Path) -> None:
    found = read_points(data / "nuclei" / "dsb2018_he")
    assert (found.kind, len(found), found.warnings) == ("labels", 70, ())
    assert sum(len(one.points) for one in found) == 3047
    assert inside(found)


def test_all_polygons_of_monuseg(data: Path) -> None:
    found = read_points(data / "nuclei" / "monuseg_test_NC")
    assert (found.kind, len(found), found.warnings) == ("monuseg", 6, ())
    assert sum(len(one.points) for one in found) == 3498
    assert inside(found)
    assert found[0].patient == "TCGA-2Z-A9J9"


def test_a_transparent_image_is_an_image(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([pixels_of(0), np.full((HEIGHT, WIDTH), 255, np.uint8)])).save(tmp_path / "a.png")
    saved(tmp_path / "a_labels.png", labels_of(0))
    assert np.array_equal(read_points(tmp_path)[0].read(), pixels_of(0))
