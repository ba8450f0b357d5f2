"""report.html and summary.csv, read back with the standard library's own parsers."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
from collections.abc import Iterable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.etree import ElementTree

import jinja2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wsikit.atomic import replace_file
from wsikit.errors import OutputError
from wsikit.pipeline.report import RunFacts, pictures, summary, write_report, write_summary
from wsikit.pipeline.report.pictures import PICTURE_BYTES
from wsikit.pipeline.report.summary import COLUMNS
from wsikit.slides import open_slide

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>\n\u202egpj.{{ 7 * 6 }}"
QUALITY = {
    "patches": 200,
    "dropped": 20,
    "filter": "pen<=0.1",
    "flags": {"blur": 90, "pen": 20},
    "measures": {"sharpness": [1.0, 2.0, 3.25, 4.0, 5.0]},
}
MODEL = {
    "name": "nuclei",
    "mpp": 0.5,
    "core": 1024,
    "halo": 64,
    "labels": [{"name": "Nucleus", "color": [0, 190, 90]}, {"name": "Mitosis", "color": [240, 120, 0]}],
    "hash": "9f3c",
}


def complete(slide_id: str = "one", **changes: Any) -> dict[str, Any]:
    return {
        "schema": 2,
        "slide_id": slide_id,
        "path": f"slides/{slide_id}.svs",
        "status": "complete",
        "reason": "",
        "message": "",
        "remedy": "",
        "reader": {"name": "openslide", "vendor": "aperio"},
        "width": 2220,
        "height": 2967,
        "mpp": 0.499,
        "mpp_source": "openslide.mpp-x",
        "bounds_offset": [0, 0],
        "model": MODEL,
        "bound": {"threshold": 0.123},
        "patches": 12,
        "objects": 1500,
        "objects_per_class": {"Nucleus": 1400, "Mitosis": 100},
        "seam_conflicts": 0,
        "area_fractions": {},
        "tissue_um2": 500_000.0,
        "bad_tiles": [],
        "seconds": {"tissue": 1.0, "predict": 3.0, "total": 4.5},
        "peak_rss_mb": 640.0,
        "versions": {"wsikit": "0.1.0"},
        "outputs": {"objects.geojson.gz": {"bytes": 401_234, "sha256": "0" * 64}},
        **changes,
    }


def failed(slide_id: str, reason: str = "missing_mpp", message: str = "no mpp", **changes: Any) -> dict[str, Any]:
    return {
        "slide_id": slide_id,
        "path": f"slides/{slide_id}.tif",
        "status": "failed",
        "reason": reason,
        "message": message,
        **changes,
    }


class Page(HTMLParser):
    """Elements with their attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style", "nav", "title"} & set(self._open):
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(out: Path, records: list[dict[str, Any]], **options: Any) -> Page:
    return Page(write_report(out, records, **options).read_text("utf-8"))


def picture(out: Path, slide_id: str, size: tuple[int, int] = (1600, 1200), noise: bool = False) -> None:
    (out / slide_id).mkdir(parents=True)
    pixels = np.full((size[1], size[0], 3), 120, np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    Image.fromarray(pixels).save(out / slide_id / "overview.png", compress_level=1)


def embedded(found: Page) -> list[bytes]:
    sources = [attributes["src"] or "" for attributes in found.named("img")]
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    return [base64.b64decode(source.partition(",")[2]) for source in sources]


def rows(out: Path, records: list[dict[str, Any]]) -> list[dict[str, str]]:
    with write_summary(out, records).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_headline_adds_up(tmp_path: Path) -> None:
    text = page(
        tmp_path, [complete("a"), complete("b", status="partial", reason="unreadable_pixels"), failed("c")]
    ).text
    headline = " ".join(text[: text.index("What was found")].split())
    said = "3slides 1complete 1partial 1failed 1.00mm² of tissue 3,000objects3,000objects per mm² 9.0 sof work"
    assert said in headline


def test_wall_time_of_the_run_is_shown_when_given(tmp_path: Path) -> None:
    assert "1 min 05 swall time" in page(tmp_path, [complete()], run=RunFacts(wall_seconds=65.2)).text


def test_every_slide_has_a_row_whose_link_reaches_more_of_it(tmp_path: Path) -> None:
    found = page(tmp_path, [complete("a"), failed("b"), complete("c"), complete("d", status="partial")])
    links = {(attributes["href"] or "")[1:] for attributes in found.named("a") if (attributes["href"] or "")[0] == "#"}
    assert {link for link in links if link.startswith("slide-")} == {f"slide-{i}" for i in range(1, 5)}
    targets = [
        attributes["id"] for _, attributes in found.elements if (attributes.get("id") or "").startswith("slide-")
    ]
    assert sorted(map(str, targets)) == [f"slide-{i}" for i in range(1, 5)]


def test_the_links_of_the_top_lead_to_parts_that_are_there(tmp_path: Path) -> None:
    found = page(tmp_path, [complete("a", patient="P", quality=QUALITY), failed("b")])
    ids = {attributes.get("id") for _, attributes in found.elements}
    links = [attributes["href"] or "" for attributes in found.named("a")]
    assert len([link for link in links if link.startswith("#") and not link.startswith("#slide")]) == 8
    assert not {link[1:] for link in links if link.startswith("#")} - ids


def test_a_failed_slide_stands_among_the_problems_only(tmp_path: Path) -> None:
    found = page(tmp_path, [complete("a"), failed("b", message="the only message")])
    assert [attributes["id"] for attributes in found.named("article")] == ["slide-1"]
    assert found.text.count("the only message") == 1


def test_a_picture_leads_to_the_whole_overview(tmp_path: Path) -> None:
    picture(tmp_path, "one")
    assert "one/overview.png" in [attributes["href"] for attributes in page(tmp_path, [complete()]).named("a")]


def test_score_maps_have_areas_and_no_objects(tmp_path: Path) -> None:
    areas = complete(objects=1, objects_per_class={}, area_fractions={"DAB": 0.25})
    text = page(tmp_path, [areas]).text
    assert "DAB 25.0 %" in text
    assert "bjects" not in text[: text.index("Slide by slide")]
    assert rows(tmp_path, [areas])[0]["objects_per_mm2"] == ""


MAP = {
    **{"objects": 0, "objects_per_class": {}, "tissue_um2": 4e6},
    **{"area_fractions": {"Tumor": 0.75, "Stroma": 0.25}, "areas_mm2": {"Tumor": 1.5, "Stroma": 0.5}},
    **{"mean_confidence": 0.875, "low_confidence": 0.0625, "tumor_stroma_ratio": 3.0},
}
"""A class map of half of the tissue."""


def test_a_class_map_shows_areas_confidence_and_ratio(tmp_path: Path) -> None:
    text = page(tmp_path, [complete(**MAP)]).text
    section = text[text.index("Slide by slide") :]
    assert "75.0 % 1.50 mm²" in section
    assert "Tumour per stroma3.00" in section
    assert re.search(r"Confidence0\.875 mean, low on 6\.\d %", section)


def test_the_area_of_a_class_in_all_slides_is_what_was_analysed(tmp_path: Path) -> None:
    text = page(tmp_path, [complete("a", **MAP), complete("b", **MAP)]).text
    assert re.search(r"Tumor\s*3\.00\s*75\.0 %", text)


@pytest.mark.parametrize(("key", "head"), [("bad_tiles", "Bad tiles"), ("seam_conflicts", "Seam conflicts")])
def test_what_went_wrong_nowhere_has_no_column(tmp_path: Path, key: str, head: str) -> None:
    some: Any = [{"level": 0, "box": [0, 0, 240, 240]}] if key == "bad_tiles" else 3
    texts = [page(tmp_path, [complete("a"), complete("b", **found)]).text for found in ({}, {key: some})]
    assert [head in text[: text.index("Slide by slide")] for text in texts] == [False, True]


def test_stages_stand_in_the_order_of_their_happening(tmp_path: Path) -> None:
    seconds = {"merge": 1.0, "other": 1.0, "open": 1.0, "predict": 1.0, "total": 4.0}
    bars = [a for a in page(tmp_path, [complete(seconds=seconds)]).named("i") if a.get("title")]
    assert [(bar["title"] or "").split()[0] for bar in bars] == ["open", "predict", "merge", "other"]


BUSY = {"read": 3.0, "model": 1.0, "post": 0.25, "wall": 4.0}


def test_the_stage_that_binds_is_told_of_all_slides_and_of_each(tmp_path: Path) -> None:
    gpu = {"read": 1.0, "model": 3.8, "post": 0.0, "gpu": 3.6, "wall": 4.0}
    text = page(tmp_path, [complete("a", busy=BUSY), complete("b", busy=gpu)]).text
    whole, each = text.split("Slide by slide")
    assert "Within predict: model-bound, GPU 45 % busy (model 60 %, reader 50 %, post-processing 3 %, GPU 45 %" in whole
    assert "--batch-size" in whole
    assert each.index("reader-bound, model 25 % busy") < each.index("model-bound, GPU 90 % busy")


def test_records_of_earlier_versions_say_nothing_of_what_binds(tmp_path: Path) -> None:
    text = page(tmp_path, [complete()]).text
    assert "Within predict" not in text
    assert "-bound" not in text


@pytest.mark.parametrize("busy", [{"read": "much"}, {"wall": float("nan")}, [1, 2]])
def test_busy_that_is_none_is_a_bad_record(tmp_path: Path, busy: Any) -> None:
    assert "slide.json cannot be used: busy" in page(tmp_path, [complete(busy=busy)]).text


def test_summary_tells_how_busy_stages_were_where_it_is_known(tmp_path: Path) -> None:
    first, second = rows(tmp_path, [complete("a"), complete("b", busy=BUSY)])
    names = ("busy:read", "busy:model", "busy:post", "busy:wall")
    assert [first[name] for name in names] == [""] * 4
    assert [float(second[name]) for name in names] == [3, 1, 0.25, 4]
    assert (first["bottleneck"], second["bottleneck"]) == ("", "reader")
    assert "busy:gpu" not in second


@pytest.mark.parametrize(
    ("value", "said"), [(0.000416, "0.000416"), (0.66535, "0.665"), (9.3995, "9.40"), (12_345.6, "12,346"), (0.0, "0")]
)
def test_small_and_large_areas_are_told_apart(tmp_path: Path, value: float, said: str) -> None:
    assert f"{said}mm² of tissue" in page(tmp_path, [complete(tissue_um2=1e6 * value)]).text


def test_lists_among_the_parameters_read_as_text(tmp_path: Path) -> None:
    text = page(tmp_path, [complete()], run=RunFacts(parameters={"format": ["geojson.gz", "omezarr"]})).text
    assert "geojson.gz, omezarr" in text
    assert "[" not in text


def test_the_time_of_the_run_reads_as_a_date(tmp_path: Path) -> None:
    run = RunFacts(started="2026-11-21T09:05:26+00:00")
    assert "21 November 2026, 09:05 UTC" in page(tmp_path, [complete()], run=run).text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    record = complete(HOSTILE, path=HOSTILE, message=HOSTILE, reason=HOSTILE, status="partial", remedy=HOSTILE)
    record |= {"mpp_source": HOSTILE, "objects_per_class": {HOSTILE: 1, "b": 2}, "seconds": {HOSTILE: 1.0}}
    record |= {"outputs": {HOSTILE: {"bytes": 1}}, "area_fractions": {HOSTILE: 0.5}, "versions": {HOSTILE: HOSTILE}}
    record |= {
        "model": {"name": HOSTILE, "labels": [{"name": HOSTILE, "color": [1, 2, 3]}]},
        "bound": {HOSTILE: HOSTILE},
    }
    found = page(tmp_path, [record], title=HOSTILE, run=RunFacts(HOSTILE, None, {HOSTILE: HOSTILE}, HOSTILE))
    assert len(found.named("script")) == 1
    assert not found.named("img")
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert "\u202e" not in found.text
    assert "{{ 7 * 6 }}" in found.text


def test_names_that_are_no_unicode_are_shown_escaped_and_linked_byte_for_byte(tmp_path: Path) -> None:
    found = page(tmp_path, [complete("a\udcff")])
    assert "a\\udcff" in found.text
    links = [attributes["href"] or "" for attributes in found.named("a")]
    assert b"a\xff/objects.geojson.gz" in [unquote_to_bytes(link) for link in links]


def test_report_asks_the_network_for_nothing(tmp_path: Path) -> None:
    picture(tmp_path, "one")
    found = page(tmp_path, [complete()])
    assert not found.named("link")
    assert not any("src" in attributes for attributes in found.named("script"))
    policy = [a["content"] for a in found.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none'; img-src data:;")
    html = write_report(tmp_path, [complete(f"s{i}", tissue_um2=1e6 * (i + 1), quality=QUALITY) for i in range(4)])
    assert not re.findall(
        r"https?:|//[a-z]|@import|url\(|srcset|<(?:iframe|object|embed|base)\b", bare(html.read_text())
    )


def bare(html: str) -> str:
    """Without comments of the script and without embedded pictures."""
    return re.sub(r"data:image/jpeg;base64,[\w+/=]+|(?m:(?:^|  )// .*$)|http-equiv", "", html)


def test_only_the_script_of_the_page_may_run(tmp_path: Path) -> None:
    html = write_report(tmp_path, [complete()]).read_text()
    (allowed,) = re.findall(r"script-src '([^']+)'", html)
    (script,) = re.findall(r"<script>(.*)</script>", html, flags=re.DOTALL)
    assert allowed == "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@pytest.mark.parametrize("count", [1, 5, 60])
def test_the_charts_of_the_page_are_well_formed(tmp_path: Path, count: int) -> None:
    html = write_report(tmp_path, [complete(f"<{i}>&", tissue_um2=1e5 * (i + 1)) for i in range(count)]).read_text()
    charts = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(charts) == (3 if count > 2 else 0)
    for chart in charts:
        ElementTree.fromstring(chart)


def test_quality_is_told_and_a_flagged_slide_is_marked(tmp_path: Path) -> None:
    text = page(tmp_path, [complete("a", quality=QUALITY), complete("old")]).text
    whole, table, details = (text.split(head)[1] for head in ("Quality\n", "\nSlides\n", "Slide by slide"))
    assert "200 patches of 1 slide looked at; kept were those with pen<=0.1, and 20 were left out (10.0 %)" in whole
    assert "more than 20 % of its patches" in whole
    assert "blur 45.0 %" in table[: table.index("Slide by slide")]
    assert "pen 10.0 %" not in table[: table.index("Slide by slide")]
    assert "sharpness 3.25 1.00 to 5.00" in details


def test_warnings_scores_and_features_are_shown(tmp_path: Path) -> None:
    more = {"warnings": ["the stain is odd"], "scores": {"ALL": 0.2, "AML": 0.7}}
    bag = complete(objects_per_class={}, objects=0, features={"patches": 1234, "width": 384}, **more)
    text = page(tmp_path, [bag]).text
    assert "The stain is odd." in text
    assert "The label with the highest score: AML for 1 slide." in text
    assert "Features of 1,234 patches of 1 slide, 384 numbers each." in text
    assert "AML 0.700" in text[text.index("\nSlides\n") : text.index("Slide by slide")]
    assert text.index("AML 0.700", text.index("Slide by slide")) < text.index("ALL 0.200")
    assert "Objects" not in text
    assert rows(tmp_path, [bag])[0]["score:AML"] == "0.7"


def test_summary_has_columns_of_quality_and_patient_only_where_there_are_some(tmp_path: Path) -> None:
    row = rows(tmp_path, [complete("a", quality=QUALITY, patient="P 1"), complete("b")])[0]
    assert (row["flag:blur"], row["flag:pen"], row["dropped"], row["patient"]) == ("0.45", "0.1", "20", "P 1")
    assert not {"dropped", "patient"} & set(rows(tmp_path, [complete("b")])[0])


def test_pictures_and_charts_have_text_for_those_who_do_not_see_them(tmp_path: Path) -> None:
    picture(tmp_path, "one")
    found = page(tmp_path, [complete(), *(complete(f"s{i}") for i in range(3))])
    assert all("one" in (attributes["alt"] or "") for attributes in found.named("img"))
    assert all(attributes.get("aria-label") for attributes in found.named("svg"))
    heads = [int(tag[1]) for tag, _ in found.elements if tag in {"h1", "h2", "h3", "h4"}]
    assert heads[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(heads))


def test_overview_is_embedded_small(tmp_path: Path) -> None:
    picture(tmp_path, "one")
    thumbnail, large = (Image.open(io.BytesIO(data)) for data in embedded(page(tmp_path, [complete()])))
    assert (thumbnail.size, large.size) == ((128, 96), (1280, 960))


def test_overview_that_compresses_badly_is_made_smaller(tmp_path: Path) -> None:
    picture(tmp_path, "one", noise=True)
    assert len(embedded(page(tmp_path, [complete()]))[1]) <= PICTURE_BYTES


def test_many_slides_share_the_room_for_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "PICTURES_BYTES", 200_000)
    for name in "abcd":
        picture(tmp_path, name, (1000, 800), noise=True)
    large = embedded(page(tmp_path, [complete(name) for name in "abcd"]))[4:]
    assert len(large) == 4
    assert sum(map(len, large)) <= 200_000


@pytest.mark.parametrize("count", [1, 6])
def test_a_report_of_real_pictures_is_under_200_kb_a_slide(cmu: Path, tmp_path: Path, count: int) -> None:
    with open_slide(cmu) as slide:
        tissue = Image.fromarray(slide.reader.read(0, 0, 700, 2100, 1500))
    names = [f"slide-{i}" for i in range(count)]
    for i, name in enumerate(names):
        (tmp_path / name).mkdir()
        tissue.rotate(180 * (i % 2)).save(tmp_path / name / "overview.png", compress_level=1)
    tiles = [{"level": 0, "box": [1000 * i, 0, 1000 * i + 240, 240]} for i in range(30)]
    more = {"status": "partial", "reason": "bad_tiles", "bad_tiles": tiles, "quality": QUALITY, "patient": "P"}
    path = write_report(tmp_path, [complete(name, **more) for name in names])
    assert path.stat().st_size < 200_000 * count
    pictures = [Image.open(io.BytesIO(data)) for data in embedded(Page(path.read_text()))]
    assert sum(picture.width > 900 for picture in pictures) == count


def test_unreadable_overview_is_said_and_costs_only_the_picture(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "overview.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "overview.png cannot be read" in page(tmp_path, [complete()]).text


def test_failures_are_grouped_by_reason_with_each_remedy_once(tmp_path: Path) -> None:
    records = [failed(f"m{i}", message=f"message {i}", remedy="say --mpp-override") for i in range(3)]
    text = page(tmp_path, [failed("x", "unreadable", "broken"), *records]).text
    section = text[text.index("What needs attention") : text.index("Slides\n")]
    assert section.count("Say --mpp-override.") == 1
    assert [section.count(f"message {i}") for i in range(3)] == [1, 1, 1]
    assert section.index("missing_mpp") < section.index("unreadable")


def test_no_failures_no_section(tmp_path: Path) -> None:
    assert "What needs attention" not in page(tmp_path, [complete()]).text


def test_bad_tiles_are_listed_up_to_a_limit(tmp_path: Path) -> None:
    tiles = [{"level": 0, "box": [1000 * i, 0, 1000 * i + 240, 240]} for i in range(30)]
    text = page(tmp_path, [complete(status="partial", reason="unreadable_pixels", bad_tiles=tiles)]).text
    assert "level 0: x 2,000–2,240, y 0–240 px" in text
    assert "and 6 more in slide.json" in text


def test_stage_bar_is_full(tmp_path: Path) -> None:
    bars = [a for a in page(tmp_path, [complete()]).named("i") if a.get("title")]
    widths = [float((bar["style"] or "").partition("%")[0].rpartition(" ")[2]) for bar in bars]
    assert widths == [25.0, 75.0]


def test_different_models_of_a_resumed_run_are_all_shown(tmp_path: Path) -> None:
    records = [complete("a"), complete("b", model={**MODEL, "hash": "other"}), complete("c")]
    text = page(tmp_path, records).text
    assert text.count("Model\n") == 2
    assert "other" in text


def test_empty_run_gives_a_report_and_a_summary(tmp_path: Path) -> None:
    assert "0slides" in page(tmp_path, []).text
    assert rows(tmp_path, []) == []


def test_null_values_are_as_good_as_missing_ones(tmp_path: Path) -> None:
    keep = {"slide_id", "path", "status", "reason", "message"}
    blank = {key: value if key in keep else None for key, value in complete().items()}
    assert "one" in page(tmp_path, [blank]).text
    assert rows(tmp_path, [blank])[0]["objects"] == ""


def test_summary_starts_with_the_promised_columns(tmp_path: Path) -> None:
    header = write_summary(tmp_path, [complete()]).read_text().splitlines()[0]
    assert header.startswith(",".join(COLUMNS) + ",tissue_mm2,")


def test_summary_row_of_a_complete_slide(tmp_path: Path) -> None:
    row = rows(tmp_path, [complete()])[0]
    assert (row["patches"], row["objects"], row["seconds"], row["reader"]) == ("12", "1500", "4.5", "openslide")
    assert (float(row["tissue_mm2"]), float(row["objects_per_mm2"])) == (0.5, 3000.0)
    assert (row["objects:Nucleus"], row["objects:Mitosis"], row["bad_tiles"]) == ("1400", "100", "0")


def test_summary_of_score_maps_has_fractions(tmp_path: Path) -> None:
    both = [complete("a"), complete("b", objects=None, objects_per_class={}, area_fractions={"DAB": 0.25})]
    first, second = rows(tmp_path, both)
    assert (first["fraction:DAB"], second["fraction:DAB"], second["objects:Nucleus"]) == ("", "0.25", "")


def test_summary_of_class_maps_has_areas_confidence_and_ratio(tmp_path: Path) -> None:
    first, second = rows(tmp_path, [complete("a"), complete("b", **MAP)])
    wanted = {
        "area_mm2:Tumor": "1.5", "area_mm2:Stroma": "0.5", "fraction:Tumor": "0.75", "mean_confidence": "0.875",
        "low_confidence": "0.0625", "tumor_stroma_ratio": "3.0",
    }  # fmt: skip
    assert {name: second[name] for name in wanted} == wanted
    assert {first[name] for name in wanted} == {""}


def test_summary_counts_no_objects_where_none_were_looked_for(tmp_path: Path) -> None:
    record = complete(objects=0, objects_per_class={}, features={"patches": 9, "width": 4})
    with write_summary(tmp_path, [record]).open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["objects"], row["objects_per_mm2"]) == ("", "")


def test_summary_leaves_unknown_numbers_empty(tmp_path: Path) -> None:
    row = rows(tmp_path, [failed("a")])[0]
    assert {row[name] for name in ("patches", "objects", "seconds", "mpp", "bad_tiles", "tissue_mm2")} == {""}


def test_no_tissue_has_no_density(tmp_path: Path) -> None:
    row = rows(tmp_path, [complete(tissue_um2=0.0, objects=0)])[0]
    assert (float(row["tissue_mm2"]), row["objects_per_mm2"]) == (0.0, "")


@given(st.lists(st.text(st.characters(exclude_categories=())), max_size=4))
def test_summary_has_one_line_per_record_whatever_the_names(names: list[str]) -> None:
    texts: list[bytes] = []

    def keep(path: Path, chunks: bytes) -> None:
        texts.append(chunks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "replace_file", keep)
        write_summary(Path(), [failed(name, message=name) for name in names])
    lines = texts[0].decode().split("\n")
    assert len(lines) == len(names) + 2
    assert all(len(row) == 15 for row in csv.reader(lines[:-1]))


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"old")

    def chunks() -> Iterable[bytes]:
        yield b"new"
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError) as caught:
        replace_file(path, chunks())
    assert caught.value.code == "no_space"
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("report.html", b"old")]


def test_output_folder_that_is_missing_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"summary\.csv") as caught:
        write_summary(tmp_path / "missing", [])
    assert caught.value.code == "io_error"
    assert caught.value.remedy


def test_the_template_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled again")

    first = write_report(tmp_path, [complete()]).read_bytes()
    monkeypatch.setattr(jinja2.Environment, "compile", refused)
    assert write_report(tmp_path, [complete()]).read_bytes() == first
