"""Masks and shares for training, against shapely pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planted import scene
from wsikit.annotations import IGNORE, Annotations
from wsikit.annotations.annotations import Item, gather
from wsikit.errors import AnnotationError
from wsikit.geometry import Region

CLASSES = ["Tumor", "Stroma", "Fold"]
SLIDE = scene(200, 160, [])
places = st.tuples(st.integers(0, 2000).map(lambda v: v / 10 + 0.03), st.integers(0, 1600).map(lambda v: v / 10 + 0.03))


@st.composite
def drawings(draw: st.DrawFn) -> Annotations:
    items = []
    for _ in range(draw(st.integers(1, 6))):
        shape = shapely.MultiPoint(draw(st.lists(places, min_size=3, max_size=6, unique=True))).convex_hull
        if draw(st.booleans()):
            shape = shape.difference(shapely.box(*draw(places), *draw(places)))
        if shape.area > 0:
            items.append(Item("annotation", shape, draw(st.sampled_from(CLASSES))))
    corner = shapely.box(190, 150, 191, 151)
    every_class = [Item("annotation", corner, name) for name in CLASSES]
    return gather([*items, Item("annotation", shapely.Point(3, 3), "Dot"), *every_class])


@st.composite
def windows(draw: st.DrawFn) -> Region:
    return Region(draw(st.integers(-8, 60)), draw(st.integers(-8, 60)), 24, 17, draw(st.sampled_from([0.5, 1.0, 0.83])))


def centres(region: Region) -> tuple[Any, Any]:
    scale = region.mpp / SLIDE.mpp
    x, y = np.meshgrid(np.arange(region.x, region.x1) + 0.5, np.arange(region.y, region.y1) + 0.5)
    return x * scale, y * scale


def slow(annotations: Annotations, region: Region, chosen: list[str]) -> Any:
    """Position among all objects + 1 of the smallest area that each pixel's centre lies in."""
    x, y = centres(region)
    result = np.zeros(x.shape, int)
    items = list(annotations.items())
    for i in sorted(range(len(items)), key=lambda i: (-items[i].geometry.area, i)):
        if items[i].label in chosen:
            result[shapely.contains_xy(items[i].geometry, x, y)] = i + 1
    return result


@settings(max_examples=60)
@given(annotations=drawings(), region=windows())
def test_class_masks_are_those_of_pixel_centres(annotations: Annotations, region: Region) -> None:
    mask = annotations.class_mask(region, SLIDE, ["Stroma", "Tumor"], unlabelled=9, ignore=["Fold"])
    items = list(annotations.items())
    value = np.array([9, *({"Stroma": 1, "Tumor": 2}.get(item.label or "", 9) for item in items)])
    wanted = value[slow(annotations, region, ["Stroma", "Tumor"])]
    wanted[slow(annotations, region, ["Fold"]) > 0] = IGNORE
    assert np.array_equal(mask, wanted)


@settings(max_examples=60)
@given(annotations=drawings(), region=windows())
def test_instance_masks_name_the_object(annotations: Annotations, region: Region) -> None:
    mask, labels = annotations.instance_mask(region, SLIDE, ["Tumor", "Stroma"])
    of_objects = [i for i, item in enumerate(annotations.items()) if item.label in ("Tumor", "Stroma")]
    number = np.zeros(len(annotations) + 1, int)
    number[np.array(of_objects) + 1] = np.arange(1, len(of_objects) + 1)
    assert np.array_equal(mask, number[slow(annotations, region, ["Tumor", "Stroma"])])
    names = [item.label for item in annotations.items()]
    assert [annotations.labels[k].name for k in labels] == [names[i] for i in of_objects]


@settings(max_examples=40)
@given(annotations=drawings(), region=windows())
def test_shares_are_those_of_the_mask(annotations: Annotations, region: Region) -> None:
    shares = annotations.class_shares(region, SLIDE, ["Tumor", "Stroma"], ignore=["Fold"])
    mask = annotations.class_mask(region, SLIDE, ["Tumor", "Stroma"], ignore=["Fold"])
    seen = mask[mask != IGNORE]
    assert (np.isnan(shares).all() and not len(seen)) or shares.tolist() == [(seen == k).mean() for k in (1, 2)]


def test_regions_of_one_lattice_agree_where_they_overlap() -> None:
    ring = shapely.Point(80, 70).buffer(50).difference(shapely.Point(80, 70).buffer(20))
    drawn = gather([Item("annotation", ring, "Tumor"), Item("annotation", shapely.Point(80, 70).buffer(25), "Stroma")])
    whole, _ = drawn.instance_mask(Region(0, 0, 200, 160, 0.5), SLIDE)
    for x, y in ((0, 0), (37, 11), (101, 90)):
        part, _ = drawn.instance_mask(Region(x, y, 40, 40, 0.5), SLIDE)
        assert np.array_equal(part, whole[y : y + 40, x : x + 40])
    assert set(np.unique(whole)) == {0, 1, 2}


def test_what_cannot_be_meant_is_an_error() -> None:
    drawn = gather([Item("annotation", shapely.box(0, 0, 9, 9), "Tumor")])
    region = Region(0, 0, 4, 4, 0.5)
    for classes, more in (([], {}), (["Tumor"], {"ignore": ["Tumor"]}), (["Tumor"], {"unlabelled": 256})):
        with pytest.raises(AnnotationError, match="class mask"):
            drawn.class_mask(region, SLIDE, classes, **more)  # type: ignore[arg-type]
    with pytest.raises(AnnotationError, match="'Tumour'"):
        drawn.class_mask(region, SLIDE, ["Tumour"])
