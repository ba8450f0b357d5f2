"""Fixtures that every test may use: real data where there is any, the sample slide, a pyramid made of it."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.conformance.qupath import assert_qupath
from wsikit.samples import SampleError, sample
from wsikit.slides.pyramid import write_pyramid

# what an example takes says more of the machine than of the code
settings.register_profile("wsikit", deadline=None)
settings.load_profile("wsikit")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of shared real data."""
    named = os.environ.get("WSIKIT_DATA")
    if not named:
        pytest.skip("needs real files: set WSIKIT_DATA to the folder that holds slides/")
    if not (Path(named) / "slides").is_dir():
        pytest.skip(f"needs real files: WSIKIT_DATA={named} has no folder slides/")
    return Path(named).resolve()


@pytest.fixture(scope="session")
def cmu() -> Path:
    """The sample slide, 2220 x 2967 px at 0.499 um per px, one level. Tests never fetch it."""
    try:
        return sample(network=False).resolve()
    except SampleError as error:
        pytest.skip(f"needs the sample slide (`wsikit samples` fetches it): {error}")


@pytest.fixture(scope="session")
def pyramid(cmu: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 3072 x 3072 px at 0.499 um per px with downsamples 1, 4 and 16; about 60 % of it is tissue."""
    from wsikit.slides import open_slide

    with open_slide(cmu) as slide:
        return write_pyramid(tmp_path_factory.mktemp("pyramid") / "pyramid.svs", slide, size=(3072, 3072), tissue=0.6)


_SEEN: set[bytes] = set()
"""sha256 of the GeoJSON texts that were checked in this session; the same bytes are checked once."""


@pytest.fixture(autouse=True)
def _every_geojson_is_fit_for_qupath(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold every GeoJSON that a test writes in this process to QuPath's contract, when it becomes visible."""
    from wsikit.sinks.geojson import GeoJSONSink

    commit = GeoJSONSink.commit

    def checked(sink: GeoJSONSink) -> None:
        commit(sink)
        for path in sink.paths:
            text = path.read_bytes()
            digest = hashlib.sha256(text).digest()
            if digest not in _SEEN:
                assert_qupath(path)
                _SEEN.add(digest)

    monkeypatch.setattr(GeoJSONSink, "commit", checked)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a shell has switched it off for what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
