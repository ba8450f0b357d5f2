"""Annotation files of published data sets."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from tests.annotations.drawn import of
from tests.conformance.qupath import assert_qupath
from wsikit.annotations import read_annotations, write_annotations
from wsikit.annotations.annotations import Annotations, Item, gather
from wsikit.geometry import Region


def test_the_nuclei_of_monuseg_are_all_there(data: Path, tmp_path: Path) -> None:
    """3,498 nuclei in 6 files, a quarter of them drawn so that their outline touches or crosses itself."""
    files = sorted((data / "nuclei" / "monuseg_test_NC").glob("*.xml"))
    found = [read_annotations(path) for path in files]
    assert [len(each) for each in found] == [575, 818, 441, 521, 677, 466]
    for each in found:
        nuclei = each.polygons(invalid="largest")
        assert len(nuclei) == len(each)
        assert shapely.is_valid(nuclei).all()
        # vertices are whole pixels, and the fields 1000 px
        x0, y0, x1, y1 = shapely.total_bounds(nuclei)
        assert min(x0, y0) >= -2
        assert max(x1, y1) <= 1002
        drawn = each.features[0].geometries
        valid = shapely.is_valid(drawn)
        assert shapely.equals(nuclei[valid], drawn[valid]).all()
    assert len(write_annotations(tmp_path / "a.geojson", found[0])) == 1
    assert_qupath(tmp_path / "a.geojson")
    assert len(read_annotations(tmp_path / "a.geojson")) == 575


def test_aperio_regions_of_histoqc(data: Path, tmp_path: Path) -> None:
    (path,) = (data / "tissue" / "histoqc").glob("*.xml")
    annotations = read_annotations(path)
    assert annotations.counts() == {"annotation": {"CaP": 2, "": 2}}
    # ImageScope noted the area of the first region as 29046449.6 px
    assert annotations.features[0].geometries[0].area == pytest.approx(29046449.6, rel=0.001)
    for name in ("aperio", "asap", "dsa"):
        target = tmp_path / ("a.json" if name == "dsa" else "a.xml")
        assert write_annotations(target, annotations, format=name) == ()
        again = read_annotations(target)
        assert again.counts() == annotations.counts()
        assert shapely.equals_exact(again.features[0].geometries, annotations.features[0].geometries).all()


def bcss(data: Path) -> Annotations:
    """The contours of a tissue mask, as the table beside it has them."""
    before = csv.field_size_limit(1 << 30)
    with (data / "tissue" / "bcss_masks" / "sample_contours_df.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    csv.field_size_limit(before)
    items, colors = [], {}
    for row in rows:
        xy = [[int(v) for v in row[key].split(",")] for key in ("coords_x", "coords_y")]
        red, green, blue = map(int, re.findall(r"\d+", row["color"]))
        colors[row["group"]] = red, green, blue
        items.append(Item("annotation", shapely.Polygon(np.transpose(xy)), row["group"]))
    sound = gather(items).polygons(invalid="largest")
    return gather([replace(item, geometry=s) for item, s in zip(items, sound, strict=True)], colors)


def test_a_whole_annotated_region_goes_through_every_format(data: Path, tmp_path: Path) -> None:
    drawn = bcss(data)
    assert len(drawn) == 46
    for name, file in (("asap", "a.xml"), ("geojson", "b.geojson"), ("dsa", "c.json"), ("aperio", "d.xml")):
        assert write_annotations(tmp_path / file, drawn, format=name) == ()
        drawn, before = read_annotations(tmp_path / file), drawn
        assert of(drawn) == of(before)


def test_instance_labels_of_dsb_are_the_same_pixels_there_and_back(data: Path, tmp_path: Path) -> None:
    files = sorted((data / "nuclei" / "dsb2018_he").glob("*_labels.png"))[:8]
    assert files
    for path in files:
        image = np.asarray(Image.open(path)).astype(int)
        size = image.shape[1], image.shape[0]
        annotations = read_annotations(path, size=size)
        assert write_annotations(tmp_path / "a.png", annotations, size=size) == ()
        again = np.asarray(Image.open(tmp_path / "a.png"))
        numbers, first = np.unique(image, return_index=True)
        assert np.array_equal(again, np.searchsorted(numbers[numbers > 0], image) * (image > 0) + (image > 0))
        mask, _ = annotations.instance_mask(Region(0, 0, *size, 0.5), _Half())
        assert np.array_equal(mask > 0, image > 0)
        assert len(first) - 1 == len(annotations)


class _Half:
    mpp = 0.5
