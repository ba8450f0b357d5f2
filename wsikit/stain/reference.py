"""What ``--stain METHOD:REFERENCE`` names: the profile that slides are to look like."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsikit.errors import ConfigError, SlideOpenError, StainError, WsikitError
from wsikit.slides import Pixels, open_reader
from wsikit.stain import STAINS, StainProfile

MOST_REFERENCE_PIXELS = 100_000_000
"""Largest reference image, px; it is held whole in memory (300 MB)."""
REMEDY = "take an image of 500 x 500 px or more, full of well stained tissue"


@dataclass(frozen=True)
class StainTarget:
    """The profile that slides are to look like, and where it came from."""

    profile: StainProfile
    reference: str
    """Name of the file, or "published"."""
    sha256: str = ""
    """Of the reference image; empty where the profile itself was given, which says all that the file could."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the colours, JSON-ready."""
        return {"profile": self.profile.to_json(), "sha256": self.sha256}


def load_target(spec: str) -> StainTarget:
    """Read a target.

    Args:
        spec: ``METHOD:REFERENCE`` or, where the method has a published target, ``METHOD``. REFERENCE is an image (PNG,
            JPEG, TIFF), or JSON: a profile, or the slide.json of a run with ``--stain``, which stands for that slide.

    Raises:
        UnknownNameError: no such method; the message lists the choices.
        ConfigError: code bad_reference: it is missing, no image, too large, blank, grey or not stained as the method
            expects.
    """
    method, _, reference = spec.partition(":")
    kind: type[StainProfile] = STAINS.load(method)
    if not reference:
        return StainTarget(kind.standard(), "published")
    path = Path(reference).expanduser()
    try:
        content = path.read_bytes()
        if path.suffix.lower() == ".json":
            return StainTarget(kind.from_json(_profile(json.loads(content))), path.name)
        profile = kind.fit(_pixels(path))
    except (StainError, SlideOpenError, OSError, ValueError) as error:
        remedy = REMEDY if isinstance(error, StainError) else error.remedy if isinstance(error, WsikitError) else ""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"the stain reference {reference}: {reason}", code="bad_reference", remedy=remedy) from error
    return StainTarget(profile, path.name, hashlib.sha256(content).hexdigest())


def _profile(values: Any) -> Mapping[str, Any]:
    """The profile in a JSON file: all of it, or what a slide.json says of its slide."""
    found = values
    for key in ("bound", "stain", "profile") if isinstance(values, dict) and "bound" in values else ():
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict) or "method" not in found:
        raise ConfigError("it is neither a stain profile nor the slide.json of a slide that one was fitted to")
    return found


def _pixels(path: Path) -> Pixels:
    reader = open_reader(path)
    try:
        width, height = reader.sizes[0]
        if width * height > MOST_REFERENCE_PIXELS:
            raise ConfigError(
                f"it has {width}x{height} px, at most {MOST_REFERENCE_PIXELS:,} are read",
                remedy="cut a field from it; or run the slide with --stain and give its slide.json as the reference",
            )
        return reader.read(0, 0, 0, width, height)
    finally:
        reader.close()
