"""Features as GeoJSON that QuPath 0.4 and newer opens: one FeatureCollection, written feature by feature.

What QuPath asks for and is kept here: ``objectType`` inside ``properties``, ids that are UUIDs, a colour with every
classification, finite measurements, rings that stay valid on QuPath's grid of 0.01 px, one Polygon per detection or
cell, ``nucleusGeometry`` beside ``geometry``, and no null, NaN, ``crs``, GeometryCollection or indentation.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, ClassVar, Literal

from isal.igzip import IGzipFile

from wsikit.annotations.geojson_text import GZIP_LEVEL, feature_texts
from wsikit.atomic import output_errors, sync, temporary
from wsikit.errors import ConfigError, OutputError
from wsikit.features import Features
from wsikit.sinks import SinkContext, part_names

CHUNK = 4096
"""Features turned to text at once; bounds the memory of ``write`` whatever it is given."""
BLOCK = 1 << 18
"""Bytes handed to a file at once: what ISA-L makes of a text depends on where it is cut."""

_HEAD = b'{"type":"FeatureCollection","features":[\n'
_TAIL = b"\n]}\n"


class GeoJSONSink:
    """Writes features to ``.geojson`` or, gzipped, ``.geojson.gz``.

    Coordinates are (x, y) in level-0 pixels of the full plane less ``context.bounds_offset`` (QuPath crops to the
    bounds), rounded to 0.01 px. Outlines that rounding makes invalid are repaired on that grid; a detection, cell or
    tile stays one Polygon (the largest part), only annotations may be MultiPolygons. The bytes depend only
    on the features and their order; gzipped, on the kind of processor too.

    Args:
        path: the final path.
        split: with more features than this, write ``<stem>-001``, ``-002``, ... of at most so many features each
            instead of the one file. The sink then owns these names and removes those that an earlier run left.

    Attributes:
        written: features written so far.
        repaired: of these, the ones whose outline had to be mended or cut to its largest part.
        dropped: features not written, since nothing is left of them on the grid of 0.01 px.
        paths: the files, after commit.

    Raises:
        ConfigError: another suffix, or a split below 1.
        OutputError: from begin, write and commit, where the disk refuses.
        PredictionError: from write, where features break their contract.
    """

    takes: ClassVar[Literal["features"]] = "features"
    filename: ClassVar[str] = "objects.geojson.gz"

    def __init__(self, path: str | Path, *, split: int | None = None) -> None:
        self.path = Path(path)
        if not self.path.name.endswith((".geojson", ".geojson.gz")):
            raise ConfigError(f"a GeoJSON path must end in .geojson or .geojson.gz, got {str(path)!r}")
        if split is not None and split < 1:
            raise ConfigError(f"split is a number of features per file, at least 1, got {split}")
        self.split = split
        self._context: SinkContext | None = None
        self._parts: list[_Part] = []
        self.written = self.repaired = self.dropped = 0
        self.paths: tuple[Path, ...] = ()

    def begin(self, context: SinkContext) -> None:
        """Open the temporary output."""
        self.abort()
        self.written = self.repaired = self.dropped = 0
        self.paths = ()
        with output_errors(self.path):
            for left in self._numbered(".", f".{os.getpid()}.tmp"):  # by a process that died and had our id
                left.unlink()
        self._open_part()
        self._context = context

    def write(self, features: Features) -> None:
        """Append features."""
        context = self._begun()
        features.check(len(context.labels))
        for start in range(0, len(features), CHUNK):
            part = features[start : start + CHUNK]
            texts, repaired = feature_texts(
                part, context.labels, slide_id=context.slide_id, offset=context.bounds_offset
            )
            self._append(texts)
            self.repaired += repaired
            self.dropped += len(part) - len(texts)

    def commit(self) -> None:
        """Finish, flush to disk and rename to the final path or paths."""
        self._begun()
        finals = (self.path,) if len(self._parts) == 1 else tuple(map(self._part_path, range(1, len(self._parts) + 1)))
        with output_errors(self.path):
            for part in self._parts:
                part.finish()
            for part, final in zip(self._parts, finals, strict=True):
                part.path.replace(final)
            for stale in self._stale(finals):
                stale.unlink()
            sync(self.path.parent)
        self._parts, self._context, self.paths = [], None, finals

    def abort(self) -> None:
        """Remove everything written."""
        for part in self._parts:
            part.discard()
        self._parts, self._context = [], None

    def _begun(self) -> SinkContext:
        if self._context is None:
            raise OutputError(f"{self.path}: call begin before write or commit", code="internal")
        return self._context

    def _open_part(self) -> None:
        with output_errors(self.path):
            self._parts.append(_Part(temporary(self._part_path(len(self._parts) + 1))))

    def _part_path(self, number: int) -> Path:
        stem, suffix = self._stem()
        return self.path.with_name(f"{stem}-{number:03d}{suffix}")

    def _stem(self) -> tuple[str, str]:
        cut = self.path.name.rindex(".geojson")
        return self.path.name[:cut], self.path.name[cut:]

    def _stale(self, finals: Sequence[Path]) -> list[Path]:
        """What an earlier run left. Numbered names are ours only where split is used or the file name is wsikit's own:
        elsewhere ``case-001.geojson`` beside ``case.geojson`` may be another slide's."""
        stale = [self.path] if self.path not in finals and self.path.exists() else []
        if self.split is not None or self.path.name == self.filename:
            stale += [path for path in self._numbered() if path not in finals]
        return stale

    def _numbered(self, before: str = "", after: str = "") -> list[Path]:
        """The files in the folder that have the name of a part, between ``before`` and ``after``."""
        stem, suffix = self._stem()
        name = re.compile(part_names(before + stem, suffix + after))
        return [path for path in self.path.parent.iterdir() if name.fullmatch(path.name)]

    def _append(self, texts: list[bytes]) -> None:
        with output_errors(self.path):
            while texts:
                room = len(texts) if self.split is None else self.split - self._parts[-1].count
                if room == 0:
                    self._parts[-1].finish()
                    self._open_part()
                    continue
                self._parts[-1].append(texts[:room])
                self.written += len(texts[:room])
                texts = texts[room:]


class _Part:
    """One FeatureCollection on its way, under a temporary name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._raw: IO[bytes] = path.open("wb")
        self._out: IO[bytes] | IGzipFile = self._raw
        if ".geojson.gz." in path.name:
            # without name and time in the header: the same bytes every time
            self._out = IGzipFile("", "wb", GZIP_LEVEL, self._raw, mtime=0)
        self._pending = bytearray(_HEAD)

    def append(self, texts: list[bytes]) -> None:
        """Add features; at least one."""
        self._pending += b",\n" if self.count else b""
        self._pending += b",\n".join(texts)
        self.count += len(texts)
        whole = len(self._pending) // BLOCK * BLOCK
        for start in range(0, whole, BLOCK):
            self._out.write(self._pending[start : start + BLOCK])
        del self._pending[:whole]

    def finish(self) -> None:
        """Close the collection and flush it to disk; a second call does nothing."""
        if self._raw.closed:
            return
        self._out.write(self._pending + _TAIL)
        if self._out is not self._raw:
            self._out.close()
        self._raw.flush()
        os.fsync(self._raw.fileno())
        self._raw.close()

    def discard(self) -> None:
        """Remove the file. A disk that is full refuses the last flush too, which no longer matters."""
        # the gzip stream first: left open, it would write to the closed file when it is collected
        for stream in (self._out, self._raw):
            # close() releases the descriptor even where its flush fails
            with suppress(OSError):
                stream.close()
        self.path.unlink(missing_ok=True)
