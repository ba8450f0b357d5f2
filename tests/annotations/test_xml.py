"""ASAP and Aperio XML as other programs write them, and XML that means harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from wsikit.annotations import Annotations, read_annotations, write_annotations
from wsikit.annotations.annotations import Item, gather
from wsikit.errors import AnnotationError


@pytest.fixture
def read(tmp_path: Path) -> Any:
    def of(text: str | bytes) -> Annotations:
        path = tmp_path / "a.xml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_annotations(path)

    return of


def points(*xy: tuple[float, float], tag: str = "Vertex") -> str:
    return "".join(f'<{tag} Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(xy))


def square(x: float, y: float, side: float) -> tuple[tuple[float, float], ...]:
    return ((x, y), (x + side, y), (x + side, y + side), (x, y + side))


def region(*xy: tuple[float, float], kind: str = "0", **more: str) -> str:
    facts = "".join(f' {key}="{value}"' for key, value in more.items())
    return f'<Region Id="1" Type="{kind}"{facts}><Vertices>{points(*xy)}</Vertices></Region>'


def aperio(*regions: str, layer: str = 'Name="Tumor" LineColor="255"', attributes: str = "") -> str:
    inner = f"{attributes}<Regions>{''.join(regions)}</Regions>"
    return f'<Annotations><Annotation Id="1" {layer}>{inner}</Annotation></Annotations>'


def annotation(*xy: tuple[float, float], group: str = "tumor", kind: str = "Polygon", name: str = "x") -> str:
    head = f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
    return f"{head}<Coordinates>{points(*xy, tag='Coordinate')}</Coordinates></Annotation>"


def asap(*annotations: str, groups: str = '<Group Name="tumor" PartOfGroup="None" Color="#64FE2E"/>') -> str:
    listed = f"<Annotations>{''.join(annotations)}</Annotations>"
    grouped = f"<AnnotationGroups>{groups}</AnnotationGroups>"
    return f'<?xml version="1.0"?><ASAP_Annotations>{listed}{grouped}</ASAP_Annotations>'


def test_aperio_colours_are_blue_green_red(read: Any) -> None:
    found = read(aperio(region(*square(0, 0, 5)), layer='Name="Tumor" LineColor="16744448"'))
    assert found.labels[0].color == (0, 128, 255)


@pytest.mark.parametrize(
    ("layer", "attributes", "label"),
    [
        ('Name="Tumor"', '<Attributes><Attribute Name="CaP" Id="0" Value=""/></Attributes>', "Tumor"),
        ('Name=""', '<Attributes><Attribute Name="CaP" Id="0" Value=""/></Attributes>', "CaP"),
        ('Name=""', '<Attributes><Attribute Name="Description" Id="0" Value="gland"/></Attributes>', "gland"),
        ('Name=""', '<Attributes><Attribute Name="Description" Id="0" Value=""/></Attributes>', None),
        ("", "<Attributes/>", None),
    ],
)
def test_an_aperio_layer_is_named_as_imagescope_shows_it(read: Any, layer: str, attributes: str, label: Any) -> None:
    found = read(aperio(region(*square(0, 0, 5)), layer=layer, attributes=attributes))
    assert [each.name for each in found.labels] == ([label] if label else [])


def test_aperio_types_of_two_vertices(read: Any) -> None:
    pair = ((10.0, 10.0), (30.0, 20.0))
    found = read(aperio(*(region(*pair, kind=kind) for kind in ("1", "2", "3", "4")), region((1, 2))))
    box, oval, arrow, ruler, pin = found.features[0].geometries
    assert box.equals(shapely.box(10, 10, 30, 20))
    assert oval.bounds == pytest.approx((10, 10, 30, 20))
    assert oval.area == pytest.approx(np.pi * 50, rel=1e-3)
    assert arrow.equals(ruler)
    assert arrow.equals(shapely.LineString(pair))
    assert pin.equals(shapely.Point(1, 2))


def test_halo_files_are_of_the_same_make(tmp_path: Path) -> None:
    text = aperio(region((0, 0), (8, 4), kind="Rectangle")).replace("<Vertex ", "<V ")
    (tmp_path / "a.annotations").write_text(text)
    assert read_annotations(tmp_path / "a.annotations").polygons()[0].equals(shapely.box(0, 0, 8, 4))


def test_negative_regions_are_holes_of_the_region_before_or_of_the_smallest_around(read: Any) -> None:
    negative = {"NegativeROA": "1"}
    found = read(
        aperio(
            region(*square(0, 0, 100)),
            region(*square(20, 20, 40)),
            region(*square(70, 70, 10), **negative),  # not in the region before: in the first
            region(*square(25, 25, 10), **negative),  # in the region before
            region(*square(500, 500, 10), **negative),
        )
    )
    outer, inner = found.features[0].geometries
    assert outer.area == 100**2 - 10**2
    assert inner.area == 40**2 - 10**2
    assert "lies in no area" in found.notes[0]


def test_a_hole_that_reaches_over_the_edge_of_another_is_cut(read: Any) -> None:
    negative = {"NegativeROA": "1"}
    found = read(
        aperio(
            region(*square(0, 0, 100)), region(*square(10, 10, 20), **negative), region(*square(20, 20, 20), **negative)
        )
    )
    (shape,) = found.polygons()
    assert shape.area == 100**2 - (400 + 400 - 100)


@pytest.mark.parametrize("group", ["_2", "Exclusion", "tumor (hole)"])
def test_asap_holes_by_convention(read: Any, group: str) -> None:
    found = read(asap(annotation(*square(0, 0, 50)), annotation(*square(10, 10, 5), group=group)))
    (shape,) = found.polygons(["tumor"])
    assert shape.area == 2500 - 25
    assert found.labels[0].color == (100, 254, 46)


def test_asap_types(read: Any) -> None:
    found = read(
        asap(
            annotation((3, 4), kind="Dot"),
            annotation((3, 4), (5, 6), kind="PointSet"),
            annotation(*square(0, 0, 5), kind="Rectangle"),
            annotation(*square(0, 0, 5), kind="Spline"),
            annotation((0, 0), (9, 9), kind="Measurement", group="None"),
        )
    )
    shapes = [shape.geom_type for shape in found.features[0].geometries]
    assert shapes == ["Point", "MultiPoint", "Polygon", "Polygon", "LineString"]
    assert found.features[0].labels.tolist() == [0, 0, 0, 0, -1]
    assert found.notes == ("1 x splines: straight between their points",)


def test_stray_clicks_are_left_out_and_said(read: Any) -> None:
    click = ((3, 3), (4, 4), (3, 3))
    found = read(asap(annotation(*click), annotation((1, 1)), annotation(*square(0, 0, 5))))
    assert (len(found), found.notes) == (1, ("2 x areas with fewer than 3 corners: left out",))
    found = read(aperio(region(*click), region(*square(0, 0, 5))))
    assert len(found) == 1
    assert "encloses nothing" in found.notes[0]


def test_asap_points_go_by_their_order(read: Any) -> None:
    text = asap(annotation(*square(0, 0, 5)))
    swapped = text.replace('Order="1"', 'Order="9"').replace('Order="2"', 'Order="1"').replace('Order="9"', 'Order="2"')
    assert not shapely.is_valid(read(swapped).features[0].geometries[0])
    assert shapely.is_valid(read(text).features[0].geometries[0])


def test_an_island_in_a_hole_comes_back_as_it_was(tmp_path: Path) -> None:
    lake = shapely.box(0, 0, 100, 100).difference(shapely.box(20, 20, 80, 80))
    island = shapely.box(30, 30, 70, 70).difference(shapely.box(40, 40, 60, 60))
    drawn = gather([Item("annotation", s, "Tumor") for s in (island, lake, island, shapely.box(0, 0, 100, 100))])
    for name in ("asap", "aperio"):
        write_annotations(tmp_path / "a.xml", drawn, format=name)
        found = read_annotations(tmp_path / "a.xml").features[0].geometries
        assert shapely.equals(found, drawn.features[0].geometries).all()


def test_classes_that_mean_something_else_in_asap_are_said(tmp_path: Path) -> None:
    drawn = gather([Item("annotation", shapely.box(0, 0, 9, 9), name) for name in ("None", "Exclusion", "a (hole)")])
    left_out = write_annotations(tmp_path / "a.xml", drawn, format="asap")
    assert left_out[0].startswith("3 x classes whose name means something else")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<Annotations><Annotation>", "not well-formed"),
        ("<Annotations/>extra", "not well-formed"),
        (aperio(region((0, 0), (1, float("nan")), (2, 2))), "finite"),
        (aperio(region(*square(0, 0, 5))).replace('X="5"', ""), "needs numbers"),
        (aperio(region(*square(0, 0, 5))).replace('X="5"', 'X="five"'), "needs numbers"),
        (aperio(region(*square(0, 0, 5)), layer='LineColor="red"'), "LineColor"),
        (aperio(region((0, 0), (1, 1), NegativeROA="1")), "must be an area"),
        (asap(annotation(*square(0, 0, 5), kind="Blob")), "'Blob'"),
        (asap(annotation((0, 0), kind="Dot", group="_2")), "means a hole"),
        (asap(annotation(*square(0, 0, 5))).replace("#F4FA58", "yellow"), "colour"),
        ("<a>" * 100_000, "more than 64 deep"),
    ],
)
def test_broken_xml_is_an_error_that_says_where(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    name = "asap" if "ASAP" in text else "aperio"
    with pytest.raises(AnnotationError, match=says) as caught:
        read_annotations(tmp_path / "a.xml", format=name)
    assert "a.xml" in str(caught.value)


BOMB = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))


@pytest.mark.parametrize(
    "doctype",
    [
        f'<!DOCTYPE a [<!ENTITY e0 "ha">{BOMB}]>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>',
        '<!DOCTYPE a SYSTEM "http://localhost/a.dtd">',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_that_grow_or_reach_out_are_refused(read: Any, doctype: str, encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?>{doctype}<Annotations>&e11;</Annotations>'
    with pytest.raises(AnnotationError, match="DOCTYPE"):
        read(text.encode(encoding))


def test_names_that_xml_cannot_hold_are_replaced_and_said(tmp_path: Path) -> None:
    drawn = gather([Item("annotation", shapely.box(0, 0, 9, 9), "a\x00b", "c\x0b\ud800")])
    for name in ("asap", "aperio"):
        left_out = write_annotations(tmp_path / "a.xml", drawn, format=name)
        assert any("XML lacks" in sentence for sentence in left_out)
        assert read_annotations(tmp_path / "a.xml").labels[0].name == "a\ufffdb"


def test_asap_and_aperio_of_one_suffix_are_told_apart_and_a_third_is_refused(read: Any) -> None:
    assert len(read(asap(annotation(*square(0, 0, 5))))) == len(read(aperio(region(*square(0, 0, 5))))) == 1
    with pytest.raises(AnnotationError, match="no known annotation format"):
        read("<svg/>")
