"""Where a run looks, as somebody has drawn it: regions of interest and tissue from annotation files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsikit.annotations import AREA_FORMATS, Annotations, read_annotations, suffixes, title
from wsikit.config import TissueConfig
from wsikit.errors import AnnotationError, ConfigError
from wsikit.pipeline.inputs import SlideEntry, stem
from wsikit.slides import Slide
from wsikit.tissue import TissueMask


def is_annotation_file(path: Path) -> bool:
    """Whether a file holds drawn areas, by its suffix; otherwise it is an image."""
    return path.name.lower().endswith(suffixes(AREA_FORMATS))


def content_hash(path: Path | None) -> str | None:
    """sha256 of a file, or None where there is none: what a result depends on, wherever the file lies."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path is not None else None
    except OSError:
        return None


def roi_file(entry: SlideEntry, config: TissueConfig) -> Path | None:
    """The slide's region of interest: from the manifest, or the run's; None where the whole slide is run.

    Raises ConfigError, code missing_roi, where there should be one and is none, or several.
    """
    if entry.roi_path is not None or config.roi is None:
        return entry.roi_path
    if not config.roi.is_dir():
        return config.roi
    found = _called_like(entry, _by_title(config.roi))
    if len(found) == 1:
        return found[0]
    listed = f"{len(found)} files: {', '.join(path.name for path in found)}" if found else "none"
    raise ConfigError(
        f"the folder {config.roi} should hold one region of interest for {entry.slide_id}, it holds {listed}",
        code="missing_roi",
        remedy=f"call it {stem(entry.path)}.geojson, or name it in a manifest column 'roi_path'",
    )


def _by_title(folder: Path) -> Mapping[str, Sequence[Path]]:
    """Title -> annotation files of a folder that have it: one, unless they differ in their suffix."""
    found: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if is_annotation_file(path):
            found.setdefault(title(path), []).append(path)
    return found


def _called_like(entry: SlideEntry, files: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Those of the files of ``_by_title`` that are called like a slide: by its id, or like its file."""
    wanted = {entry.slide_id, stem(entry.path), entry.path.name}
    return sorted(path for name in wanted for path in files.get(name, ()))


def check_roi(entries: Sequence[SlideEntry], config: TissueConfig) -> None:
    """Raise ConfigError where one file would serve several slides: coordinates of one mean nothing on another."""
    if config.roi is None:
        return
    if not config.roi.exists():
        raise ConfigError(f"--roi {config.roi}: there is no such file or folder")
    served = [entry for entry in entries if entry.part_of is None and entry.roi_path is None]
    if config.roi.is_dir():
        _check_folder(served, config.roi)
    elif len(served) > 1:
        raise ConfigError(
            f"--roi {config.roi} is one file, and {_would_be_cut(served)}",
            remedy="give a folder with one file per slide, or a manifest with a column 'roi_path'",
        )


def _check_folder(entries: Sequence[SlideEntry], folder: Path) -> None:
    """The same of a folder: slides of several folders may have files of one name."""
    files, serving = _by_title(folder), dict[Path, list[SlideEntry]]()
    for entry in entries:
        found = _called_like(entry, files)
        # a slide that has none or several of its own fails by itself
        if len(found) == 1:
            serving.setdefault(found[0], []).append(entry)
    for path, slides in serving.items():
        if len(slides) > 1:
            raise ConfigError(
                f"--roi {folder}: {path.name} is one file, and {_would_be_cut(slides)}",
                remedy=f"call each file by the slide's id ({slides[0].slide_id}.geojson, {slides[1].slide_id}.geojson) "
                f"instead of {path.name}, or give a manifest with a column 'roi_path'",
            )


def _would_be_cut(slides: Sequence[SlideEntry]) -> str:
    """By one file, in words."""
    named = ", ".join(entry.slide_id for entry in slides[:2])
    return f"{len(slides)} slides would be cut by it ({named}{', ...' if len(slides) > 2 else ''})"


def drawn_tissue(path: Path, slide: Slide, config: TissueConfig) -> TissueMask:
    """Tissue from a file: annotations (those of ``tissue_class``), or an image of the whole slide.

    Raises AnnotationError or ConfigError where it does not fit the slide.
    """
    if not is_annotation_file(path):
        if config.tissue_class:
            raise ConfigError(f"tissue_class chooses among annotations, and {path.name} is an image of tissue")
        return TissueMask.from_image(path, slide)
    annotations = _of_slide(path, slide)
    info = {"method": "annotations", "path": str(path), "sha256": content_hash(path) or ""}
    return TissueMask.from_polygons(_areas(annotations, path, config.tissue_class), slide, info)


def limited_to_roi(mask: TissueMask, path: Path, slide: Slide, config: TissueConfig) -> TissueMask:
    """The mask inside the region of interest that a file holds (annotations of ``roi_class``).

    Raises AnnotationError where the file cannot be used for this slide.
    """
    annotations = _of_slide(path, slide)
    polygons = _areas(annotations, path, config.roi_class)
    info = {"roi": str(path), "roi_sha256": content_hash(path) or "", "roi_class": ", ".join(config.roi_class)}
    return mask.limited(polygons, slide, info, annotations.areas(config.roi_class))


def _of_slide(path: Path, slide: Slide) -> Annotations:
    return read_annotations(path, bounds_offset=slide.bounds_offset, mpp=slide.mpp, size=(slide.width, slide.height))


def _areas(annotations: Annotations, path: Path, classes: Sequence[str]) -> NDArray[np.object_]:
    try:
        return annotations.polygons(classes)
    except AnnotationError as error:
        raise AnnotationError(f"{path.name}: {error}", code=error.code, remedy=error.remedy) from error
