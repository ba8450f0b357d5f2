"""The charts: well-formed, harmless, and every slide in them once."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsikit.pipeline.report.charts import BAR_BINS, DOT_BINS, FEWEST_DOTS, WIDTH, binned, composition, distributions
from wsikit.pipeline.report.cohort import Measure, Point
from wsikit.pipeline.report.formats import density, percent

VALUES = st.floats(0, 1e7, allow_subnormal=False) | st.integers(0, 3).map(float)
HOSTILE = "</svg><script>alert(1)</script>&\"'\x00\u202e"


def measure(values: list[float], name: str = "Nucleus", index: int = 1) -> Measure:
    points = tuple(Point(number, f"slide {number}", value) for number, value in enumerate(values, index))
    return Measure(name, (10, 20, 30), sum(values), None, points)


def drawn(values: list[float], name: str = "Nucleus") -> ElementTree.Element:
    ((_, svg),) = distributions([measure(values, name)], "objects per mm²", density)
    return ElementTree.fromstring(svg)


@given(st.lists(VALUES, min_size=1, max_size=200), st.sampled_from([DOT_BINS, BAR_BINS]))
def test_each_value_lies_in_one_class_and_within_its_edges(values: list[float], wanted: int) -> None:
    bins = binned(measure(values).points, wanted)
    assert sum(map(len, bins.members)) == len(values)
    assert len(bins.members) <= wanted + 2
    slack = 1e-6 * bins.step
    for number, members in enumerate(bins.members):
        low, high = bins.edges(number)
        assert all(low - slack <= point.value <= high + slack for point in members)


def test_values_on_an_edge_belong_to_the_class_above() -> None:
    bins = binned(measure([0.0, 1.0, 1.0, 9.5, 10.0]).points, 10)
    assert (bins.low, bins.step) == (0.0, 1.0)
    assert [len(members) for members in bins.members] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("count", [3, 5, 40])
def test_few_slides_are_dots_that_lead_to_their_sections(count: int) -> None:
    svg = drawn([100.0 * i for i in range(count)])
    assert sorted(a.get("href") or "" for a in svg.iter("a")) == sorted(f"#slide-{i}" for i in range(1, count + 1))
    assert len(list(svg.iter("circle"))) == count
    assert not list(svg.iter("rect"))


def test_many_slides_are_bars_whose_counts_add_up() -> None:
    svg = drawn([float(i % 50) for i in range(500)])
    titles = [title.text or "" for title in svg.iter("title")]
    counts = [int(re.findall(r"^(\d+) slide", text)[0]) for text in titles]
    heights = [float(bar.get("height") or 0) for bar in svg.iter("rect")]
    assert sum(counts) == 500
    assert heights == pytest.approx([96 * count / max(counts) for count in counts], abs=0.01)
    assert f"highest bar: {max(counts)} slides" in [text.text for text in svg.iter("text")]


@given(st.lists(VALUES, min_size=FEWEST_DOTS, max_size=60))
def test_all_of_a_chart_lies_within_its_width(values: list[float]) -> None:
    svg = drawn(values)
    places = [float(e.get(key) or 0) for e in svg.iter() for key in ("x", "x1", "x2", "cx") if e.get(key)]
    assert min(places) >= 0
    assert max(places) <= WIDTH


def test_the_median_is_marked_where_it_lies() -> None:
    svg = drawn([0.0, 10.0, 100.0])
    (mark,) = [line for line in svg.iter("line") if line.get("class") == "mark"]
    dots = sorted(float(dot.get("cx") or 0) for dot in svg.iter("circle"))
    # a dot stands in the middle of its class, of which there are 21
    assert abs(float(mark.get("x1") or 0) - dots[1]) <= 432 / 21 / 2 + 0.1
    assert abs(float(mark.get("x1") or 0) - (14 + 432 * 10 / 105)) < 0.1
    assert "median 10.0" in [text.text for text in svg.iter("text")]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_there_is_no_chart_of_one_or_two_slides(count: int) -> None:
    assert distributions([measure([1.0] * count)], "x", density) == []


def test_what_a_chart_shows_is_told_to_those_who_do_not_see_it() -> None:
    label = drawn([1000.0, 2000.0, 4500.0]).get("aria-label")
    assert label == "Nucleus, objects per mm², over 3 slides: lowest 1,000, median 2,000, highest 4,500"


def test_hostile_names_are_text() -> None:
    points = tuple(Point(i, HOSTILE, float(i)) for i in range(1, 4))
    ((_, svg),) = distributions([Measure(HOSTILE, (1, 2, 3), 0, None, points)], HOSTILE, density)
    for text in (svg, composition([Measure(HOSTILE, (1, 2, 3), 0, None, points)], percent)):
        names = {element.tag for element in ElementTree.fromstring(text).iter()}
        assert names <= {"svg", "g", "a", "circle", "rect", "line", "text", "title"}
        assert "\u202e" not in text


def test_a_composition_has_a_full_column_for_each_slide_sorted_by_the_first_class() -> None:
    shares = [0.2, 0.7, 0.4]
    svg = ElementTree.fromstring(
        composition([measure(shares, "a"), measure([1 - share for share in shares], "b")], percent)
    )
    columns = list(svg.iter("g"))
    heights = [[float(rect.get("height") or 0) for rect in column.iter("rect")] for column in columns]
    assert heights == [pytest.approx(pair) for pair in ([70, 30], [40, 60], [20, 80])]
    assert (columns[0].findtext("title") or "").splitlines() == ["slide 2", "a 70.0 %", "b 30.0 %"]
