"""Files of patch features: what is in them, read back as others read them, and flat memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from tests.conformance.test_sinks import CONTEXT
from wsikit.errors import ConfigError, PredictionError
from wsikit.features import Instances
from wsikit.geometry import Level
from wsikit.sinks import InstanceLayout, SinkContext
from wsikit.sinks.features_h5 import FeaturesH5Sink
from wsikit.sinks.features_zarr import FeaturesZarrSink
from wsikit.slides.resolution import power

LEVELS = (Level(0, 3000, 1800, 1.0, 0.25), Level(1, 1500, 900, 2.0, 0.5))


def context(count: int, *, mpp: float = 0.5, slide_mpp: float = 0.25, patch: int = 224) -> SinkContext:
    layout = InstanceLayout(count, 8, patch, 32, {"architecture": "resnet18", "sha256": "ab"})
    return replace(CONTEXT, instances=layout, mpp=mpp, slide_mpp=slide_mpp, levels=LEVELS, model="resnet18")


def table(count: int, seed: int = 0) -> Instances:
    random = np.random.default_rng(seed)
    corners = random.integers(0, 1000, (count, 2))
    return Instances(corners, random.normal(size=(count, 8)).astype(np.float32))


def written(kind: Any, path: Path, rows: Instances, how: SinkContext, step: int = 4096) -> Path:
    sink = kind(path)
    sink.begin(how)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        sink.write(Instances(rows.corners[part], rows.features[part]))
    sink.commit()
    return path


def test_zarr_holds_rows_coordinates_and_where_they_come_from(tmp_path: Path) -> None:
    rows = table(100)
    group: Any = zarr.open_group(written(FeaturesZarrSink, tmp_path / "f.zarr", rows, context(100)), mode="r")
    assert np.array_equal(group["features"][:], rows.features)
    assert np.array_equal(group["coords"][:], rows.corners * 2.0)
    assert np.array_equal(group["corners"][:], rows.corners)
    attributes = dict(group.attrs)
    assert attributes["encoder"] == {"name": "resnet18", "architecture": "resnet18", "sha256": "ab"}
    assert (attributes["mpp"], attributes["patch"], attributes["patch_size_level0"]) == (0.5, 224, 448)
    assert (attributes["level0_mpp"], attributes["bounds_offset"], attributes["overlap"]) == (0.25, [100, 50], 32)
    assert group.metadata.consolidated_metadata is not None


def test_h5_is_what_clam_and_trident_read(tmp_path: Path) -> None:
    rows = table(50)
    with h5py.File(written(FeaturesH5Sink, tmp_path / "f.h5", rows, context(50))) as file:
        # as CLAM's Whole_Slide_Bag and its training, then as TRIDENT's read_coords
        coords, features = file["coords"], file["features"]
        assert (features.dtype, coords.dtype, len(features)) == (np.float32, np.int64, len(coords))
        assert np.array_equal(features[:], rows.features)
        assert np.array_equal(coords[:], rows.corners * 2)
        assert (coords.attrs["patch_level"], coords.attrs["patch_size"]) == (1, 224)
        assert coords.attrs["downsample"].tolist() == [2, 2]
        assert coords.attrs["downsampled_level_dim"].tolist() == [1500, 900]
        assert (coords.attrs["level0_magnification"], coords.attrs["target_magnification"]) == (40, 20)
        assert (coords.attrs["patch_size_level0"], coords.attrs["overlap"], coords.attrs["name"]) == (448, 32, "case 1")
        assert (coords.attrs["level0_width"], coords.attrs["level0_height"]) == (3000, 1800)
        assert not coords.attrs["rounded"]
        assert json.loads(file.attrs["wsikit"])["encoder"]["sha256"] == "ab"


def test_h5_rounds_corners_between_level_0_pixels_says_so_and_keeps_the_exact_ones(tmp_path: Path) -> None:
    rows = table(50)
    with h5py.File(written(FeaturesH5Sink, tmp_path / "f.h5", rows, context(50, mpp=0.6))) as file:
        assert np.abs(file["coords"][:] - rows.corners * 2.4).max() <= 0.5
        assert file["coords"].attrs["rounded"]
        assert np.array_equal(file["corners"][:], rows.corners)
        # no stored level has this mpp: CLAM, which reads patches of a level, must not read another
        assert "patch_level" not in file["coords"].attrs


@pytest.mark.parametrize(("mpp", "want"), [(0.25, 40), (0.2527, 40), (0.499, 20), (1.0, 10), (8.0, 1.25)])
def test_magnification_is_whole_where_it_is_nearly(mpp: float, want: float) -> None:
    assert power(mpp) == want


def digest(path: Path) -> dict[str, str]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.mark.parametrize("kind", [FeaturesZarrSink, FeaturesH5Sink])
def test_the_bytes_do_not_depend_on_the_size_of_the_parts(kind: Any, tmp_path: Path) -> None:
    rows = table(5000)
    paths = [written(kind, tmp_path / f"{step}{kind.filename}", rows, context(5000), step) for step in (4096, 1000, 37)]
    assert digest(paths[0]) == digest(paths[1]) == digest(paths[2])


@pytest.mark.parametrize("kind", [FeaturesZarrSink, FeaturesH5Sink])
@pytest.mark.parametrize(("announced", "width"), [(9, 8), (11, 8), (10, 7)])
def test_other_rows_than_announced_are_refused(kind: Any, tmp_path: Path, announced: int, width: int) -> None:
    rows = table(10)
    sink = kind(tmp_path / "f")

    def write() -> None:
        sink.begin(context(announced))
        sink.write(Instances(rows.corners, rows.features[:, :width]))
        sink.commit()

    with pytest.raises(PredictionError, match="announced"):
        write()
    sink.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [FeaturesZarrSink, FeaturesH5Sink])
def test_a_model_without_features_is_refused(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no features"):
        kind(tmp_path / "f").begin(CONTEXT)


FULL = """
import resource, signal, sys, numpy as np
from pathlib import Path
from wsikit.pipeline.resident import peak_rss_mb
from tests.sinks.test_features import *
from wsikit.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
kind = {"zarr": FeaturesZarrSink, "h5": FeaturesH5Sink}[sys.argv[1]]
sink = kind(Path(sys.argv[2]))
sink.begin(context(20000))
rows = table(20000)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    sink.write(rows)
    sink.commit()
except OutputError as error:
    print(error.code, error)
    sink.abort()
"""


@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_a_disk_that_refuses_in_the_middle_is_an_output_error_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, kind, str(tmp_path / "f")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot be written: File too large" in answer.stdout
    assert list(tmp_path.iterdir()) == []


PEAK = """
import sys, numpy as np
from dataclasses import replace
from pathlib import Path
from wsikit.pipeline.resident import peak_rss_mb
from tests.sinks.test_features import *
kind = {"zarr": FeaturesZarrSink, "h5": FeaturesH5Sink}[sys.argv[1]]
count = int(sys.argv[3])
sink = kind(Path(sys.argv[2]))
how = context(count)
sink.begin(replace(how, instances=replace(how.instances, width=256)))
random = np.random.default_rng(0)
for start in range(0, count, 4000):
    sink.write(Instances(np.zeros((4000, 2), np.int64), random.normal(size=(4000, 256)).astype(np.float32)))
sink.commit()
print(peak_rss_mb())
"""


def peaks(kind: str, folder: Path) -> Iterator[float]:
    for count in (12_000, 100_000):
        command = [sys.executable, "-c", PEAK, kind, str(folder / str(count)), str(count)]
        yield float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zarr", "h5"])
def test_memory_does_not_grow_with_the_rows(kind: str, tmp_path: Path) -> None:
    few, many = peaks(kind, tmp_path)
    assert many < few + 15, f"{few:.0f} MB for 12,000 rows, {many:.0f} MB for 100,000 of 100 MB"
