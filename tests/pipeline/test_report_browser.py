"""The report in a real browser: nothing goes wrong, nothing is asked of the network, pictures open and zoom."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.pipeline.browser import Tab, tab
from tests.pipeline.test_report import HOSTILE, QUALITY, complete, failed
from wsikit.pipeline.report import write_report

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium on this machine")
ZOOM = "new DOMMatrix(getComputedStyle(document.querySelector('.stage img')).transform)"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with tab(CHROMIUM, tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture
def page(browser: Tab, tmp_path: Path) -> Tab:
    """Fourteen slides, two with pictures, one with a hostile name."""
    records = [complete(f"s{i:02d}", tissue_um2=1e6 + 1e5 * (5 * i % 14), quality=QUALITY) for i in range(12)]
    records += [failed("bad"), complete(HOSTILE.replace("/", "_"), message=HOSTILE)]
    for name, size in (("s00", (1600, 1200)), ("s01", (600, 1200))):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((size[1], size[0], 3), 150, np.uint8)).save(tmp_path / name / "overview.png")
    browser.trouble.clear()
    browser.requests.clear()
    browser.resize(1200, 800)
    browser.open(write_report(tmp_path, records))
    return browser


def names(page: Tab) -> list[str]:
    found: list[str] = page.value(
        "[...document.querySelectorAll('#slides tbody tr')].filter(r => !r.hidden).map(r => r.cells[1].dataset.sort)"
    )
    return found


def sort_by(page: Tab, head: str) -> None:
    page.value(f"[...document.querySelectorAll('#slides th button')].find(b => b.textContent === '{head}').click()")


def test_nothing_goes_wrong_and_nothing_is_fetched(page: Tab) -> None:
    page.value("document.querySelector('a.zoom').click()")
    assert page.trouble == []
    asked = [url for url in page.requests if not url.startswith("data:")]
    assert [Path(url).name for url in asked] == ["report.html"]


def test_text_of_a_record_does_not_run(page: Tab) -> None:
    injected = "const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s)"
    page.value(injected)
    assert page.value("window.ran") is None
    assert any("Content Security Policy" in text for text in page.trouble)


def test_a_click_on_a_head_sorts_and_a_second_one_turns_it_round(page: Tab) -> None:
    areas = {f"s{i:02d}": 5 * i % 14 for i in range(12)}
    sort_by(page, "Tissue mm²")
    up = [name for name in names(page) if name in areas]
    assert up == sorted(areas, key=lambda name: areas[name])
    assert names(page)[-1] == "bad"
    sort_by(page, "Tissue mm²")
    assert [name for name in names(page) if name in areas] == up[::-1]
    assert names(page)[-1] == "bad"


def test_the_field_keeps_rows_that_hold_its_text(page: Tab) -> None:
    page.value(
        "(f => { f.value = 'failed'; f.dispatchEvent(new Event('input')) })(document.querySelector('.filter input'))"
    )
    assert names(page) == ["bad"]
    assert page.value("document.querySelector('.filter output').textContent") == "1 of 14"


def test_a_picture_opens_large_and_zooms_around_the_pointer(page: Tab) -> None:
    page.value("document.querySelector('a.zoom').click()")
    assert page.value("viewer.open")
    before = page.value("document.querySelector('.stage img').getBoundingClientRect().toJSON()")
    x, y = 700, 500
    page.mouse("mouseWheel", x, y, deltaX=0, deltaY=-600)
    after = page.value("document.querySelector('.stage img').getBoundingClientRect().toJSON()")
    assert after["width"] > 1.5 * before["width"]
    for place, side, at in (("left", "width", x), ("top", "height", y)):
        under = (at - before[place]) / before[side]
        assert (at - after[place]) / after[side] == pytest.approx(under, abs=0.005)


def test_a_zoomed_picture_is_dragged_and_never_lost(page: Tab) -> None:
    page.value("document.querySelector('a.zoom').click()")
    for _ in range(3):
        page.press("+")
    start = page.value(f"{ZOOM}.e")
    page.mouse("mousePressed", 600, 400, button="left")
    page.mouse("mouseMoved", 640, 400, button="left", buttons=1)
    assert page.value(f"{ZOOM}.e") == pytest.approx(start + 40, abs=0.5)
    page.mouse("mouseMoved", 9000, 400, button="left", buttons=1)
    page.mouse("mouseReleased", 9000, 400, button="left")
    assert page.value("document.querySelector('.stage img').getBoundingClientRect().left") <= 0.5


def test_two_fingers_zoom(page: Tab) -> None:
    page.value("document.querySelector('a.zoom').click()")
    before = page.value(f"{ZOOM}.a")
    for kind, spread in (("touchStart", 50), ("touchMove", 75), ("touchMove", 100)):
        points = [{"x": 600 - spread, "y": 400, "id": 0}, {"x": 600 + spread, "y": 400, "id": 1}]
        page.ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    page.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    assert page.value(f"{ZOOM}.a") == pytest.approx(2 * before, rel=0.02)


def test_the_keyboard_does_all_of_it(page: Tab) -> None:
    page.value("document.querySelector('a.zoom').focus()")
    page.ask("Input.dispatchKeyEvent", type="keyDown", key="Enter", windowsVirtualKeyCode=13, text="\r")
    assert page.value("viewer.open")
    fitted = page.value(f"{ZOOM}.a")
    page.press("+")
    assert page.value(f"{ZOOM}.a") == pytest.approx(1.5 * fitted)
    page.press("ArrowRight")
    assert page.value(f"{ZOOM}.e") != 0
    page.press("0")
    assert (page.value(f"{ZOOM}.a"), page.value("viewer.querySelector('.caption').textContent")) == (fitted, "s00")
    page.press("PageDown")
    assert page.value("viewer.querySelector('.caption').textContent") == "s01"
    page.ask("Input.dispatchKeyEvent", type="keyDown", key="Escape", windowsVirtualKeyCode=27)
    assert not page.value("viewer.open")
    assert page.value("document.activeElement.className") == "zoom"


def test_a_phone_scrolls_tables_and_not_the_page(page: Tab) -> None:
    page.resize(390, 800)
    assert page.value("document.documentElement.scrollWidth") <= 390


def test_without_a_script_the_picture_is_plain_and_links_to_the_file(page: Tab, tmp_path: Path) -> None:
    page.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open(tmp_path / "report.html")
        assert not page.value("document.querySelector('.filter')")
        assert page.value("document.querySelector('a.zoom').getAttribute('href')") == "s00/overview.png"
        assert page.value("document.querySelector('a.zoom img').naturalWidth") == 1280
        assert page.value("getComputedStyle(viewer).display") == "none"
    finally:
        page.ask("Emulation.setScriptExecutionDisabled", value=False)
