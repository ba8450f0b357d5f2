"""What is measured: slides, patches, systems, and what the results must reach."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from figures import Bar, paired_ratio, slope
from inputs import MPP, Input

sys.path.insert(0, str(Path(__file__).with_name("peers")))

from worker import Case

WARM = 2048
"""Side in px of the slide on which jobs are done once before they are timed."""
Benches = dict[str, dict[str, Any]]
"""What a run found: bench key -> title, input, systems."""


@dataclass(frozen=True)
class Sides:
    """Sides in px of the three slides."""

    small: int
    read: int
    large: int

    @property
    def all(self) -> list[int]:
        """Different ones, ascending."""
        return sorted({self.small, self.read, self.large})


@dataclass(frozen=True)
class System:
    """One way to do what a bench asks for."""

    name: str
    env: str
    """"own", or the name of an environment below ``envs``."""
    call: str
    """MODULE:FUNCTION below ``peers``."""
    largest: int = 0
    mean: float = 0.0
    """How far pixels may be from the reference's: largest and mean difference. 0 where they must be equal."""
    gives_pixels: bool = True
    watched: bool = False
    """Whether it has processes of its own, whose memory counts too."""
    own_threads: bool = False
    """Whether the library's own pool does the work (libvips in ``dzsave``), so that it gets all threads."""

    def accepts(self, pixels: dict[str, Any]) -> bool:
        """Whether a difference is within the tolerance."""
        return bool(pixels["equal"]) or (pixels["max"] <= self.largest and pixels["mean"] <= self.mean)


def _reader(name: str, function: str, largest: int = 0, mean: float = 0.0) -> System:
    return System(name, "readers", f"readers:{function}", largest, mean)


def _job(name: str, env: str, call: str, *, watched: bool = False, own_threads: bool = False) -> System:
    return System(name, env, call, gives_pixels=False, watched=watched, own_threads=own_threads)


OURS = "wsikit"
WSIKIT = System(OURS, "own", "own:patches")
FLOOR = System("libjpeg-turbo alone", "own", "own:floor", gives_pixels=False)
OPENSLIDE = _reader("openslide-python", "openslide")
TIFFSLIDE = _reader("tiffslide", "tiffslide")
PYVIPS = _reader("pyvips Region.fetch", "pyvips_fetch")
TIFFFILE = _reader("tifffile segments", "tifffile")
# it spreads subsampled chroma by another rule than libjpeg's default, which all others use
FASTSLIDE = _reader("fastslide", "fastslide", largest=96, mean=3.0)
FASTSLIDE_CACHED = _reader("fastslide, cache", "fastslide_cached", largest=96, mean=3.0)
# equal on JPEG; its JPEG 2000 rounds by another rule
CUCIM = _reader("cuCIM batch", "cucim", largest=1, mean=0.1)
CUCIM_CACHED = _reader("cuCIM batch, cache", "cucim_cached")
BEST = [FASTSLIDE.name, CUCIM.name, CUCIM_CACHED.name]

ALIGNED = (OPENSLIDE, WSIKIT, FLOOR, CUCIM, PYVIPS, FASTSLIDE, TIFFFILE)
UNALIGNED = (OPENSLIDE, WSIKIT, PYVIPS, CUCIM, CUCIM_CACHED, FASTSLIDE, FASTSLIDE_CACHED)
SWEPT = (WSIKIT, PYVIPS, CUCIM, FASTSLIDE, OPENSLIDE)

# JPEG's scaled decode, cv2's and Pillow's resampling, and area averaging all differ by a little
RESAMPLED = {"largest": 160, "mean": 6.0}
AREA = System("wsikit, area average", "own", "own:patches")
SCALED = System(OURS, "own", "own:scaled", **RESAMPLED)
TIATOOLBOX = System("tiatoolbox iterator", "tiatoolbox", "tools:tiatoolbox", **RESAMPLED)
TIATOOLBOX_LOADER = System("tiatoolbox, DataLoader", "tiatoolbox", "tools:tiatoolbox_loader", **RESAMPLED, watched=True)
LAZYSLIDE = System("lazyslide iterator", "lazyslide", "tools:lazyslide", **RESAMPLED)
LAZYSLIDE_FASTSLIDE = System("lazyslide on fastslide", "lazyslide", "tools:lazyslide_fastslide", **RESAMPLED)
ITERATORS = (AREA, SCALED, TIATOOLBOX, TIATOOLBOX_LOADER, LAZYSLIDE, LAZYSLIDE_FASTSLIDE)

STORE = _job(OURS, "own", "own:store", watched=True)
WRITERS = (
    STORE,
    _job("openslide + Pillow, JPEG", "readers", "scripts:openslide_jpeg"),
    _job("openslide + Pillow, PNG", "readers", "scripts:openslide_png"),
    _job("pyvips dzsave", "readers", "scripts:dzsave", own_threads=True),
    _job("tiatoolbox", "tiatoolbox", "tools:tiatoolbox_store"),
    _job("lazyslide", "lazyslide", "tools:lazyslide_store"),
    _job("lazyslide on fastslide", "lazyslide", "tools:lazyslide_fastslide_store"),
)
POOL = _job("thread pool", "own", "own:pooled")
CHILDREN = _job(OURS, "own", "own:scheduled")


@dataclass(frozen=True)
class Bench:
    """Some systems on one slide."""

    key: str
    title: str
    slide: Input
    systems: tuple[System, ...]
    threads: int = 2
    patches: dict[str, Any] = field(default_factory=dict)
    """Fields of ``Case`` that are not as usual."""
    writes: bool = False
    most_rounds: int = 99

    @property
    def ours(self) -> str:
        """The system that the others are compared with."""
        return OURS if any(system.name == OURS for system in self.systems) else self.systems[0].name

    @property
    def checked(self) -> bool:
        """Whether pixels are compared."""
        return any(system.gives_pixels for system in self.systems)

    @property
    def pixels(self) -> int:
        """Of one patch."""
        return int(self.patches.get("size", 256)) ** 2

    def rounds(self, asked: int) -> int:
        """How often each system takes its turn."""
        return min(asked, self.most_rounds)

    def told(self) -> dict[str, Any]:
        """The case as a worker is told it."""
        side = self.slide.side
        place = {"path": str(self.slide.path()), "mpp": MPP, "width": side, "height": side}
        return place | {"threads": self.threads} | self.patches

    def small(self) -> dict[str, Any]:
        """What is different when the same is done on a small slide."""
        slide = replace(self.slide, side=WARM)
        return {"path": str(slide.path()), "width": WARM, "height": WARM}

    def case(self, told: dict[str, Any]) -> Case:
        """The same as a value."""
        return Case(**told)


def BENCHES(sides: Sides) -> Iterator[Bench]:  # noqa: N802 a table, made for some sizes
    """All benches, in the order in which they are run: those with bars first."""
    mosaic, small = Input(sides.read), Input(sides.small)
    yield Bench("R1", "all patches, aligned, 256 px", mosaic, (*ALIGNED, TIFFSLIDE))
    yield Bench("R1-one", "R1 with one thread", small, ALIGNED, threads=1)
    yield Bench("R2", "unaligned, +128 px", mosaic, UNALIGNED, patches={"offset": 128})
    yield Bench("R3", "50 % overlap", small, UNALIGNED, patches={"stride": 128})
    yield Bench("R4", "224 px on tiles of 256 px", mosaic, UNALIGNED, patches={"size": 224, "stride": 224})
    single = System(OURS, "own", "own:single")
    scattered = (OPENSLIDE, single, *UNALIGNED[2:])
    yield Bench("R5", "2,000 random reads of 256 px", mosaic, scattered, patches={"random": 2000})
    yield Bench("R6", "at 0.5 from levels of 0.25 and 1 um per px", small, ITERATORS, patches={"wanted_mpp": 2 * MPP})
    tiled = Input(sides.read, tissue=0.3)
    cut = Input(sides.large, tissue=0.3, tile=240)
    yield Bench("T1", "tissue to a patch store, tiles cut and encoded", cut, WRITERS, writes=True, most_rounds=3)
    yield Bench("T1-pass", "the same where patches are tiles", tiled, WRITERS, writes=True, most_rounds=3)
    yield Bench(
        "T2",
        "passthrough store alone against R1",
        mosaic,
        (WSIKIT, _job("passthrough", "own", "own:store_all")),
        writes=True,
    )
    for side in sides.all:
        yield Bench(f"G-read-{side}", f"growth: read {side} px", Input(side), (WSIKIT,), patches={"offset": 128})
    for side in sides.all:
        slide = Input(side, tissue=0.3)
        yield Bench(f"G-tile-{side}", f"growth: tile {side} px", slide, (STORE,), writes=True)
    yield Bench("S", "super-tiles in supervised children and in a thread pool", Input(sides.large), (POOL, CHILDREN))
    others = {
        "R1-444": Input(sides.read, codec="jpeg444", quality=90),
        "R1-240": Input(sides.read, tile=240),
        "R1-j2k": Input(sides.small, codec="jpeg2000", quality=36),
    }
    told = {"R1-444": "R1 on JPEG 4:4:4 Q90", "R1-240": "R1 on tiles of 240 px", "R1-j2k": "R1 on JPEG 2000"}
    for key, slide in others.items():
        systems = (OPENSLIDE, WSIKIT, CUCIM) if key == "R1-j2k" else (OPENSLIDE, WSIKIT, CUCIM, PYVIPS, FASTSLIDE)
        yield Bench(key, told[key], slide, systems, most_rounds=3)
    for offset in (0, 32, 64, 128):
        yield Bench(
            f"P-offset-{offset}", f"offset {offset} px", small, SWEPT, patches={"offset": offset}, most_rounds=3
        )
    for stride in (224, 192, 128):
        overlap = 100 * (256 - stride) // 256
        patches = {"stride": stride}
        yield Bench(f"P-overlap-{overlap}", f"overlap {overlap} %", small, SWEPT, patches=patches, most_rounds=3)


def bars(found: Benches) -> Iterator[Bar]:
    """What must be reached, of the benches that were run."""
    yield from _against(found, "R1", [OPENSLIDE.name], "x openslide-python", 5)
    yield from _against(found, "R1", [CUCIM.name], "x cuCIM batch", 0.9, 1.0)
    for key in ("R2", "R3", "R4"):
        yield from _against(found, key, BEST, "x the best of cuCIM and fastslide", 2.5, 4)
        yield from _against(found, key, [PYVIPS.name], "x pyvips Region.fetch", 0.9, 1.0)
        yield from _against(
            found, key, [FASTSLIDE_CACHED.name], "x fastslide with a cache of 512 MB, other pixels", None
        )
    yield from _against(found, "R6", [TIATOOLBOX.name, TIATOOLBOX_LOADER.name], "x tiatoolbox", 2)
    yield from _against(found, "R6", [LAZYSLIDE.name, LAZYSLIDE_FASTSLIDE.name], "x lazyslide", 2)
    for key in ("R1", "R1-one"):
        yield from _against(found, key, [FLOOR.name], "of libjpeg-turbo alone", 0.8, 0.95)
    peers = [system.name for system in WRITERS[1:]]
    for key in ("T1", "T1-pass"):
        yield from _against(found, key, peers, "x the fastest peer that writes patches", 5, 10)
    if "T2" in found:
        ratio = _ratio(found["T2"], "passthrough", [OURS])
        yield Bar("T2", "x R1 in wall time", ratio, 5, 10)
    for key, what in (("G-read", "reading"), ("G-tile", "tiling")):
        yield from _growth(found, key, what)
    if "S" in found:
        ratio = _ratio(found["S"], POOL.name, [CHILDREN.name])
        yield Bar("S", "of wall for the scheduler", None if ratio is None else ratio - 1, 0.07, 0.02, at_most=True)


def _against(
    found: Benches, key: str, peers: Sequence[str], what: str, need: float | None, aim: float | None = None
) -> Iterator[Bar]:
    if key in found:
        yield Bar(key, what, _ratio(found[key], OURS, peers), need, aim)


def _ratio(bench: dict[str, Any], ours: str, peers: Sequence[str]) -> float | None:
    """Seconds for each patch of the fastest peer over our own, turn by turn; None where one side has no time."""
    times = {
        name: [turn["wall"] / turn["patches"] for turn in system["turns"]]
        for name, system in bench["systems"].items()
        if "error" not in system and "turns" in system
    }
    there = [times[name] for name in peers if name in times]
    if ours not in times or not there:
        return None
    return min(paired_ratio(times[ours], theirs) for theirs in there)


def _growth(found: Benches, key: str, what: str) -> Iterator[Bar]:
    points = []
    for name, bench in found.items():
        if name.startswith(key):
            system = bench["systems"][OURS]
            if "error" not in system:
                points.append((int(name.rsplit("-", 1)[1]) ** 2, system["wall"], system["peak_mb"]))
    if len(points) < 2:
        return
    areas, walls, peaks = zip(*points, strict=True)
    yield Bar(key, f"log-log slope of time, {what}", slope(areas, walls), 1.05, at_most=True)
    yield Bar(key, f"log-log slope of peak memory, {what}", slope(areas, peaks), 0.1, at_most=True)
