"""What ``wsikit run`` and ``wsikit embed`` share: options, and carrying out what they ask for."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from wsikit.config import RunConfig, TissueConfig
    from wsikit.pipeline.planned import Planned
    from wsikit.pipeline.provenance import Repeated

Chosen = TypeVar("Chosen", bound="TissueConfig")

Source = Annotated[
    str | None,
    typer.Option(
        "--input",
        "-i",
        help="Folder (searched recursively), glob, one file or CSV manifest; with -c OUT/run.yaml the slides of that "
        "run if not given.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Output folder; running again does only what is missing. With -c OUT/run.yaml it is OUT if not given, "
        "whose run goes on.",
    ),
]
Mag = Annotated[float | None, typer.Option(help="The same as objective power: 20 means --mpp 0.5.")]
MppOverride = Annotated[
    float | None,
    typer.Option(help="Micrometres per level-0 pixel, for every slide of the input, whatever its file says."),
]
NumWorkers = Annotated[int | None, typer.Option("--num-workers", "-n", help="Processes; one per core if not given.")]
Supertile = Annotated[
    int | None, typer.Option(help="Pixels a side that a task reads at once, 4096 at most if not given.")
]
Tissue = Annotated[
    str | None,
    typer.Option(help="auto (find it on slides, take plain images whole), detect or whole; auto if not given."),
]
TissueClass = Annotated[
    list[str] | None,
    typer.Option(help="Class that is tissue where mask_path is an annotation file; repeatable; all if not given."),
]
Roi = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE_OR_FOLDER",
        help="Annotations (GeoJSON, ASAP, Aperio, DSA) of the slide, or a folder with a file per slide, named like it: "
        "run only windows that touch an area, keep only what lies inside.",
    ),
]
RoiClass = Annotated[
    list[str] | None, typer.Option(help="Class of the annotations that counts; repeatable; all if not given.")
]
Qc = Annotated[
    str | None,
    typer.Option(
        help="Patches good enough to be run: limits on sharpness, pen, fold and saturation, such as "
        '"pen<=0.1,fold<=0.2", or default; all if not given.'
    ),
]
Stain = Annotated[
    str | None,
    typer.Option(
        metavar="METHOD:REFERENCE",
        help="Normalise stains: macenko or reinhard, and an image, profile or slide.json to look like.",
    ),
]
Isolate = Annotated[
    bool | None,
    typer.Option(
        "--isolate",
        help="Read slides in child processes with limits of time and memory, for files that may crash a library.",
    ),
]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda; auto if not given.")]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        help="local (supervised processes), threads, slurm, or a dask scheduler, tcp://host:8786; local if not given.",
    ),
]
ClusterOptions = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="YAML of what SLURM is asked for; `wsikit config init slurm.yaml` writes one."),
]
Gpus = Annotated[
    str | None,
    typer.Option(help="GPUs of this machine, such as 0,1, or all, a worker for each; with a cluster only all."),
]
TaskTimeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Longest that a task may take before it is ended; 1800 if not given."),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Most memory of all processes, such as 4G or 800M: sizes that fit are chosen, or the run is refused.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="YAML (`wsikit config init` writes one), or the run.yaml of a run, to repeat it; --set and flags override "
        "it.",
    ),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any key of the configuration; repeatable.")
]
Limit = Annotated[int | None, typer.Option(help="Only the first so many slides.", min=1)]
Force = Annotated[bool, typer.Option("--force", "-f", help="Redo slides that are done.")]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed", help="Try slides again that failed, whatever the reason; those that are complete are kept."
    ),
]
Walltime = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Stop in good time before so long has passed, such as 3h50m, 45m, 3:50:00 or 13800 seconds, with exit "
        "code 4; the same command goes on.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what would be done and stop; exit code 3 where slides would fail, or are kept and not complete.",
    ),
]


def resolution(mpp: float | None, mag: float | None) -> float | None:
    """The mpp that was asked for, whichever way. Raises ConfigError where it was asked for in both."""
    from wsikit.errors import ConfigError

    if mag is None:
        return mpp
    if mpp is not None or not mag > 0:
        raise ConfigError(f"--mag {mag:g}: give a positive objective power, and not --mpp as well")
    return 10 / mag


def names(text: str | None) -> list[str] | None:
    """The members of a comma-separated list."""
    return None if text is None else [name.strip() for name in text.split(",")]


def gpus(text: str | None) -> str | list[str] | None:
    """The GPUs that were asked for, as the configuration takes them."""
    return "all" if text == "all" else names(text)


def carry_out(
    config: RunConfig,
    file: Path | None,
    source: str | None,
    out: Path | None,
    limit: int | None,
    *,
    force: bool,
    retry_failed: bool,
    walltime: str | None,
    dry_run: bool,
) -> None:
    """Run what a configuration says over slides, or print what would be run. Exit code 3 unless all are complete."""
    from wsikit.pipeline.batch import run_many
    from wsikit.pipeline.plan import plan

    config, again = begun(config, file, source, out, limit)
    options: dict[str, Any] = {"force": force, "retry_failed": retry_failed}
    if dry_run:
        foretold(plan(again.entries, again.out, config, **options), walltime)
        return
    watched(again, partial(run_many, again.entries, again.out, config, source=again.input, **options), walltime)


def begun(
    config: Chosen, file: Path | None, source: str | None, out: Path | None, limit: int | None
) -> tuple[Chosen, Repeated]:
    """The configuration without what it said of another run, and what is run; says which input is taken."""
    from wsikit.pipeline.lettering import printable
    from wsikit.pipeline.provenance import repeated

    again = repeated(config, file, source, out)
    if again.said:
        print(printable(again.said))
    return config.model_copy(update={"provenance": {}}), replace(again, entries=again.entries[:limit])


def foretold(lines: Iterable[Planned], walltime: str | None) -> None:
    """Print what a run would do. Exit code 3 where a slide would not end complete, as that of the run.

    Raises what ``lines`` do, and ConfigError for a wall time that is none, which the run would refuse.
    """
    from wsikit.pipeline.stopping import seconds_of

    if walltime is not None:
        seconds_of(walltime)
    complete = True
    for line in lines:
        print(line.text)
        complete &= line.complete
    if not complete:
        raise typer.Exit(3)


def watched(again: Repeated, work: Callable[..., list[dict[str, Any]]], walltime: str | None) -> None:
    """Show how ``work(observer=..., stop=..., command=...)`` goes on and how it ended.

    Exit code 3 unless all are complete.
    """
    from wsikit.pipeline.each import all_complete

    from .ending import stop_when_asked
    from .progress import observer

    with stop_when_asked(walltime) as stop, observer(sum(entry.part_of is None for entry in again.entries)) as watching:
        command = shlex.join(["wsikit", *sys.argv[1:]])
        records = work(observer=watching, stop=stop, command=command)
    print(closing(records, again.out))
    if not all_complete(records):
        raise typer.Exit(3)


def closing(records: list[dict[str, Any]], out: Path) -> str:
    """How many files ended how, and where the report is."""
    from collections import Counter

    counts = Counter(record["status"] for record in records)
    statuses = ("complete", "partial", "failed", "skipped", "running", "stopped", "waiting")
    listed = ", ".join(f"{counts[name]} {name}" for name in statuses if counts[name])
    return f"{len(records)} file{'s' if len(records) != 1 else ''}: {listed}\nreport: {out / 'report.html'}"
