"""Annotation files from one format to another: one file, or a folder of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wsikit.annotations import AREA_FORMATS, FORMATS, Annotations, read_annotations, suffixes, title, write_annotations
from wsikit.atomic import output_errors
from wsikit.errors import AnnotationError, ConfigError, WsikitError
from wsikit.pipeline.inputs import find_slides, stem
from wsikit.slides import open_slide


@dataclass(frozen=True, slots=True)
class Conversion:
    """What to read and how to write it."""

    source_format: str | None = None
    """Name in ``FORMATS``; None finds it by suffix and content."""
    target_format: str | None = None
    """Name in ``FORMATS``; None finds it by suffix."""
    slide: Path | None = None
    """The slide, or a folder of slides, matched by file name: gives offset, size and resolution."""
    mpp: float | None = None
    """um per level-0 pixel, whatever the slide says; also without a slide."""
    downsample: float = 1.0
    """Level-0 pixels per pixel of label images, read or written."""
    strict: bool = False
    """Refuse what would leave anything out."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file."""

    source: Path
    target: Path
    annotations: Annotations | None = None
    """What was read; None where it failed."""
    left_out: tuple[str, ...] = ()
    """What reading changed and what the target does not hold, a sentence each."""
    error: WsikitError | None = None


def convert_file(source: Path, target: Path, how: Conversion) -> Outcome:
    """Convert one file.

    Raises:
        AnnotationError: the file cannot be read, or not be written as asked.
        SlideOpenError, ResolutionError: the slide cannot be used.
        OutputError: the target cannot be written.
    """
    if source.resolve() == target.resolve():
        raise ConfigError(f"{source} would be replaced by its own conversion; give another name")
    offset, mpp, size = _frame(source, how)
    annotations = read_annotations(
        source, format=how.source_format, bounds_offset=offset, mpp=mpp, size=size, downsample=how.downsample
    )
    if how.strict and annotations.notes:
        raise AnnotationError(
            f"{source.name} was not read whole: {'; '.join(annotations.notes)}", code="not_representable"
        )
    with output_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    written = write_annotations(
        target,
        annotations,
        format=how.target_format,
        bounds_offset=offset,
        mpp=mpp,
        size=size,
        downsample=how.downsample,
        strict=how.strict,
    )
    return Outcome(source, target, annotations, (*annotations.notes, *written))


def _frame(source: Path, how: Conversion) -> tuple[tuple[int, int], float | None, tuple[int, int] | None]:
    """Bounds offset, um per level-0 pixel and size of the slide, as far as they are known."""
    path = how.slide
    if path is None:
        return (0, 0), how.mpp, None
    if path.is_dir():
        found = [entry.path for entry in find_slides(path) if title(source) in (stem(entry.path), entry.path.name)]
        if len(found) != 1:
            raise ConfigError(f"{path} should hold one slide called {title(source)!r}, it holds {len(found)}")
        path = found[0]
    with open_slide(path, how.mpp) as slide:
        return slide.bounds_offset, slide.mpp, (slide.width, slide.height)


def convert_folder(source: Path, target: Path, how: Conversion) -> Iterator[Outcome]:
    """Convert every annotation file of a folder into another one, named by the same titles; one that fails costs only
    itself.

    Tables and label images, which look like anything, are taken only where ``source_format`` says so.

    Raises ConfigError: no target format, no file, or two files with one title.
    """
    if how.target_format is None:
        raise ConfigError("a folder needs a format to convert to", remedy=f"give --to, one of {', '.join(FORMATS)}")
    names = AREA_FORMATS if how.source_format is None else (how.source_format,)
    files = sorted(p for p in source.iterdir() if p.is_file() and p.name.lower().endswith(suffixes(names)))
    if not files:
        raise ConfigError(f"no annotation files in {source}; looked for {' '.join(suffixes(names))}")
    ending: str = FORMATS.load(how.target_format).suffixes[0]
    targets = {file: target / f"{title(file)}{ending}" for file in files}
    twice = [file.name for file in files if list(targets.values()).count(targets[file]) > 1]
    if twice:
        raise ConfigError(f"{' and '.join(twice)} would become the same file {targets[source / twice[0]].name}")
    for file, goal in targets.items():
        try:
            yield convert_file(file, goal, how)
        except WsikitError as error:
            yield Outcome(file, goal, error=error)
