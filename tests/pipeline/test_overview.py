"""The overview picture: planted scenes, measured in the pixels of the PNG."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from wsikit.errors import ConfigError, OutputError
from wsikit.geometry import Region
from wsikit.pipeline import lettering
from wsikit.pipeline.lettering import elided, nice_length, printable, text_width
from wsikit.pipeline.merge import OVERVIEW_LEAST, OVERVIEW_SIDE, overview_picture
from wsikit.pipeline.overview import GAP, LONG_SIDE, Field, Outlines, Scene, choose_fields, draw_overview
from wsikit.predictions import Label
from wsikit.slides import Pixels, Slide
from wsikit.slides.array import ArrayReader

GREEN, RED = (0, 255, 0), (255, 0, 0)
LABELS = (Label("a", GREEN), Label("b", RED))


def outlines(geometries: list[shapely.Geometry], labels: list[int] | None = None) -> Outlines:
    return Outlines(np.array(geometries, object), np.array(labels or [0] * len(geometries), np.int64))


def scene(width: int = 1000, height: int = 1000, **changes: object) -> Scene:
    """A grey slide, shown pixel for pixel where it is 640 to 1400 px long."""
    grey = np.full((height, width, 3), 200, np.uint8)
    plain = Scene("case", 0.5, (width, height), grey, 0.5, "nuclei", 0.5, LABELS)
    return replace(plain, **changes)  # type: ignore[arg-type]


def drawn(item: Scene, tmp_path: Path) -> np.ndarray:
    draw_overview(item, tmp_path / "overview.png")
    with Image.open(tmp_path / "overview.png") as image:
        return np.asarray(image.convert("RGB")).astype(int)


def slide_part(picture: np.ndarray, item: Scene) -> np.ndarray:
    return picture[GAP : GAP + item.size[1], GAP : GAP + item.size[0]]


def greenness(pixels: np.ndarray) -> np.ndarray:
    return np.clip(pixels[..., 1] - pixels[..., 0], 0, None)


def test_outline_in_the_slide_sits_on_its_object(tmp_path: Path) -> None:
    item = scene(objects=outlines([shapely.box(300, 400, 340, 420)]))
    ys, xs = np.nonzero(greenness(slide_part(drawn(item, tmp_path), item)) > 60)
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == pytest.approx((300, 340, 400, 420), abs=1)


def test_outline_in_the_slide_follows_the_scale_of_the_picture(tmp_path: Path) -> None:
    item = scene(objects=outlines([shapely.box(1200, 1600, 1360, 1680)]), size=(4000, 4000), picture_mpp=2.0)
    green = greenness(drawn(item, tmp_path)[GAP : GAP + 1000, GAP : GAP + 1000])
    ys, xs = np.nonzero(green > 60)
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == pytest.approx((300, 340, 400, 420), abs=1)


def test_outline_in_a_field_has_its_weight_on_the_edge_of_the_object(tmp_path: Path) -> None:
    # the field of 250 px is shown 760 px wide; measured where no scale bar or letter is
    region = Region(100, 200, 250, 250, 0.5)
    thing = outlines([shapely.box(200, 300, 260, 380)])
    item = scene(fields=(Field(region, np.full((250, 250, 3), 200, np.uint8), thing),))
    field = greenness(drawn(item, tmp_path)[GAP : GAP + 760, 2 * GAP + 1000 : 2 * GAP + 1760]).astype(float)
    row = field[round(140 * 3.04)]
    left, right = row[:460], row[460:]
    centres = [np.average(np.arange(len(half)) + 0.5, weights=half) for half in (left, right)]
    assert centres[0] == pytest.approx(100 * 3.04, abs=0.35)
    assert centres[1] + 460 == pytest.approx(160 * 3.04, abs=0.35)


def test_holes_are_drawn(tmp_path: Path) -> None:
    ring = shapely.Polygon([(300, 300), (500, 300), (500, 500), (300, 500)], [[(350, 350), (450, 350), (400, 450)]])
    item = scene(objects=outlines([ring]))
    assert greenness(slide_part(drawn(item, tmp_path), item))[345:355, 370:430].max() > 60


def test_each_class_has_its_color(tmp_path: Path) -> None:
    item = scene(objects=outlines([shapely.box(100, 100, 150, 150), shapely.box(600, 600, 650, 650)], [0, 1]))
    part = slide_part(drawn(item, tmp_path), item)
    assert greenness(part)[90:160, 90:160].max() > 100
    assert (part[590:660, 590:660, 0] - part[590:660, 590:660, 1]).max() > 100


def test_objects_too_small_for_outlines_show_as_density_at_their_place(tmp_path: Path) -> None:
    item = scene(objects=outlines([shapely.box(500, 300, 502, 302)]))
    green = greenness(slide_part(drawn(item, tmp_path), item)).astype(float)[:900]  # above the scale bar
    ys, xs = np.mgrid[: green.shape[0], : green.shape[1]]
    assert np.average(xs + 0.5, weights=green) == pytest.approx(501, abs=1)
    assert np.average(ys + 0.5, weights=green) == pytest.approx(301, abs=1)


def test_denser_places_are_more_opaque(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sparse, dense = rng.uniform((100, 100), (400, 400), (9000, 2)), rng.uniform((600, 600), (900, 900), (90000, 2))
    item = scene(objects=outlines(list(shapely.points(np.concatenate([sparse, dense])))))
    green = greenness(slide_part(drawn(item, tmp_path), item))
    assert green[650:850, 650:850].mean() > 2 * green[150:350, 150:350].mean() > 0


def test_points_are_seen_in_a_field(tmp_path: Path) -> None:
    region = Region(0, 0, 200, 200, 0.5)
    item = scene(fields=(Field(region, np.full((200, 200, 3), 200, np.uint8), outlines([shapely.Point(100, 100)])),))
    field = greenness(drawn(item, tmp_path)[GAP : GAP + 760, 2 * GAP + 1000 :])
    assert field[350:410, 350:410].max() > 100
    assert field[100:300, 100:300].max() == 0


def test_tissue_outline_is_drawn_on_the_tissue(tmp_path: Path) -> None:
    item = scene(tissue=[shapely.box(200, 250, 800, 750)])
    teal = slide_part(drawn(item, tmp_path), item)[..., 0] < 60
    ys, xs = np.nonzero(teal[:800, :])
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == pytest.approx((200, 800, 250, 750), abs=3)


def test_a_field_is_marked_where_it_lies(tmp_path: Path) -> None:
    region = Region(300, 400, 200, 200, 0.5)
    item = scene(fields=(Field(region, np.full((200, 200, 3), 200, np.uint8)),))
    dark = slide_part(drawn(item, tmp_path), item).max(axis=2) < 60
    ys, xs = np.nonzero(dark[:900])
    assert (xs.min(), xs.max() + 1, ys.min(), ys.max() + 1) == pytest.approx((300, 500, 400, 600), abs=2)


def test_score_map_tints_its_classes_at_their_place_and_leaves_nothing_else(tmp_path: Path) -> None:
    classes = np.zeros((10, 10), np.uint8)
    classes[2, 3] = 1
    item = scene(classes=classes)
    part = slide_part(drawn(item, tmp_path), item)
    assert part[250, 350] == pytest.approx([200 * 0.6, 200 * 0.6 + 255 * 0.4, 200 * 0.6], abs=2)
    assert (part[250, 450] == 200).all()


def test_class_value_without_a_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got 3"):
        drawn(scene(classes=np.full((4, 4), 3, np.uint8)), tmp_path)


def test_unreadable_tiles_are_red(tmp_path: Path) -> None:
    item = scene(bad=[(500, 500, 600, 600)])
    part = slide_part(drawn(item, tmp_path), item)
    assert part[550, 550, 0] - part[550, 550, 1] > 40
    assert (part[550, 650] == 200).all()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 1400), (1400, 1), (16, 16), (1400, 21), (21, 1400)])
def test_extreme_shapes_give_a_picture(tmp_path: Path, width: int, height: int) -> None:
    region = Region(0, 0, width, height, 0.5)
    pixels = np.full((height, width, 3), 200, np.uint8)
    thing = outlines([shapely.box(0, 0, 1, 1)])
    picture = drawn(scene(width, height, objects=thing, fields=(Field(region, pixels, thing),)), tmp_path)
    assert 600 < picture.shape[1] <= 3000
    assert picture.shape[0] <= 3000


def test_two_hundred_thousand_polygons_take_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, 60_000, (2, 200_000))
    many = Outlines(shapely.box(x, y, x + 20, y + 20), rng.integers(0, 2, 200_000))
    item = scene(objects=many, size=(60_000, 60_000), picture_mpp=30.0)
    start = time.process_time()
    drawn(item, tmp_path)
    assert time.process_time() - start < 5


def test_picture_is_at_most_the_long_side(tmp_path: Path) -> None:
    picture = drawn(scene(2800, 2000), tmp_path)
    assert picture.shape[1] == LONG_SIDE + 2 * GAP


@pytest.mark.parametrize("name", ["病理-01", "Präparat µ²", "שלום", "a\nb\u202ec\udcff", "", "x" * 500])
def test_any_slide_name_can_be_written(tmp_path: Path, name: str) -> None:
    assert drawn(scene(slide_id=name), tmp_path).shape[1] == 1000 + 2 * GAP


def test_characters_without_a_glyph_are_escaped_and_not_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_fonts", lambda size: (ImageFont.load_default(size),))
    assert lettering._drawable("病 5 µm", ImageFont.load_default(15)) == "\\u75c5 5 um"


def test_long_names_are_shortened_in_the_middle_to_fit() -> None:
    short = elided("start-" + "x" * 300 + "-end", 20, 400)
    assert text_width(short, 20) <= 400
    assert (short[:6], short[-4:]) == ("start-", "-end")


def test_printable_can_be_encoded_and_is_one_line() -> None:
    text = printable("a\nb\u202ec\udcff病\u2028")
    assert text.encode() == "a\\nb\\u202ec\\udcff病\\u2028".encode()


def test_a_picture_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"overview\.png"):
        draw_overview(scene(), tmp_path / "missing" / "overview.png")


@given(st.floats(1e-3, 1e6))
def test_scale_bar_is_a_round_length_that_fits(um: float) -> None:
    length, _ = nice_length(um)
    assert um / 2.51 <= length <= um * 1.000001
    assert float(f"{length:.0e}"[0]) in {1, 2, 5}


def test_scale_bar_text() -> None:
    assert [nice_length(um)[1] for um in (0.6, 60, 2500)] == ["0.5 µm", "50 µm", "2 mm"]


sizes = st.tuples(st.integers(1, 60_000), st.integers(1, 60_000))


@given(sizes, st.floats(0.1, 1.0), st.floats(1.0, 4.0), st.integers(0, 50), st.integers(1, 2))
def test_fields_lie_inside_the_slide_and_do_not_overlap(
    size: tuple[int, int], slide_mpp: float, coarser: float, objects: int, count: int
) -> None:
    xy = np.random.default_rng(objects).uniform((0, 0), size, (objects, 2))
    mpp = slide_mpp * coarser
    regions = choose_fields(xy, size=size, slide_mpp=slide_mpp, mpp=mpp, count=count)
    assert 1 <= len(regions) <= count
    limits = [max(1.0, length * slide_mpp / mpp) + 1e-6 for length in size]
    assert all(r.x >= 0 and r.y >= 0 and r.x1 <= limits[0] and r.y1 <= limits[1] for r in regions)
    assert len(regions) < 2 or regions[0].intersection(regions[1]) is None


def test_fields_avoid_the_sparse_and_do_not_depend_on_the_order_of_objects() -> None:
    rng = np.random.default_rng(2)
    crowd = rng.uniform((4000, 4000), (5200, 5200), (5000, 2))
    dust = rng.uniform(0, 10_000, (300, 2))
    xy = np.concatenate([crowd, dust])
    regions = choose_fields(xy, size=(10_000, 10_000), slide_mpp=0.5, mpp=0.5)
    counts = [int(((xy >= (r.x, r.y)) & (xy < (r.x1, r.y1))).all(axis=1).sum()) for r in regions]
    assert min(counts) > 200
    assert choose_fields(rng.permutation(xy), size=(10_000, 10_000), slide_mpp=0.5, mpp=0.5) == regions


def test_three_fields_are_refused() -> None:
    with pytest.raises(ConfigError, match="count=3"):
        choose_fields(np.zeros((0, 2)), size=(10, 10), slide_mpp=0.5, mpp=0.5, count=3)


def test_outlines_inside_a_box_are_those_that_meet_it() -> None:
    things = outlines([shapely.box(0, 0, 10, 10), shapely.box(20, 20, 30, 30), shapely.Point(9, 9)], [0, 1, 1])
    assert things.inside((8, 8, 19, 19)).labels.tolist() == [0, 1]


def test_field_of_a_real_slide_shows_the_pixels_of_the_slide(tmp_path: Path) -> None:
    data = os.environ.get("WSIKIT_DATA")
    if not data:
        pytest.skip("WSIKIT_DATA is not set, so there is no real slide")
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(Path(data) / "slides" / "cmu-1-small-region.svs") as slide:
        whole = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    size = (whole.shape[1], whole.shape[0])
    small = np.asarray(Image.fromarray(whole).resize((1048, 1400), Image.Resampling.BOX))
    region = Region(500, 600, 760, 760, 0.499)
    field = Field(region, whole[600:1360, 500:1260])
    item = Scene("cmu", 0.499, size, small, 0.499 * size[1] / 1400, "nuclei", 0.499, LABELS, fields=(field,))
    shown = drawn(item, tmp_path)[GAP : GAP + 760, 2 * GAP + 1048 : 2 * GAP + 1048 + 760]
    assert (shown[:700] == field.pixels[:700]).all()


class Pyramid(ArrayReader):
    """Levels of one grey that take no memory, and which of them were read."""

    def __init__(self, *sizes: tuple[int, int]) -> None:
        super().__init__([np.broadcast_to(np.uint8(200), (height, width, 3)) for width, height in sizes], 0.25)
        self.read_levels: set[int] = set()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        self.read_levels.add(level)
        return super().read(level, x, y, width, height)


@pytest.mark.parametrize(
    ("sizes", "level", "longest"),
    [
        pytest.param([(16384, 8192), (4096, 2048), (1024, 512)], 2, 1024, id="a level as it is"),
        pytest.param([(8192, 8192), (2048, 2048)], 1, 1024, id="two pixels of a level"),
        pytest.param([(9000, 12000), (2250, 3000), (562, 750)], 1, 1000, id="three pixels of a level, to the last px"),
        pytest.param([(6800, 6000), (1700, 1500)], 1, 1400, id="half a level would be too small"),
        pytest.param([(16384, 8192), (3840, 1920), (960, 480)], 1, 1280, id="a level just too small"),
        pytest.param([(700, 300), (350, 150)], 0, 700, id="a small slide"),
        pytest.param([(300, 1399)], 0, 1399, id="one level"),
    ],
)
def test_the_picture_of_a_slide_is_made_of_its_coarsest_level_that_will_do(
    sizes: list[tuple[int, int]], level: int, longest: int
) -> None:
    reader = Pyramid(*sizes)
    slide = Slide(reader)
    picture, mpp = overview_picture(slide)
    assert reader.read_levels == {level}
    assert max(picture.shape) == longest
    assert picture.shape[:2] == slide.size_at(mpp)[::-1]
    assert (picture[:-1, :-1] == 200).all()


@given(st.integers(1, 20_000), st.lists(st.sampled_from([2, 3, 4, 5, 7]), max_size=3))
def test_the_picture_of_any_slide_is_of_the_size_wanted(longest: int, steps: list[int]) -> None:
    sizes = [(longest, max(1, longest // 16))]
    for step in steps:
        sizes.append((max(1, sizes[-1][0] // step), max(1, sizes[-1][1] // step)))
    picture, _ = overview_picture(Slide(Pyramid(*sizes)))
    # a level within 2 % of the wish is taken for it
    assert min(longest, 0.98 * OVERVIEW_LEAST) <= max(picture.shape) <= 1.02 * OVERVIEW_SIDE + 1
