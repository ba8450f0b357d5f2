"""What the simpler formats share: objects in single parts, and sentences on what is left out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import shapely

from wsikit.annotations.annotations import Annotations, Item, default_color

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 has no way to write."""

LOSSES: Mapping[str, tuple[str, Callable[[Item], bool]]] = {
    "kind": ("detections, cells, tiles or cores: plain annotations in this format", lambda i: i.kind != "annotation"),
    "class": ("classes: left out", lambda i: i.label is not None),
    "names": ("names: left out", lambda i: bool(i.name)),
    "colors": ("colours of single objects: left out", lambda i: i.color is not None),
    "locks": ("locks: left out", lambda i: i.locked),
    "measurements": ("objects with measurements: these are left out", lambda i: bool(i.measurements)),
    "nuclei": ("nuclei of cells: left out", lambda i: i.nucleus is not None),
}
"""What an object may have -> the sentence where a format cannot hold it, and whether an object has it."""


class LeftOut(Counter[str]):
    """Sentence -> number of objects."""

    def sentences(self) -> tuple[str, ...]:
        """With their numbers."""
        return tuple(f"{n} x {what}" for what, n in self.items() if n)

    def lacking(self, items: Iterable[Item], *features: str) -> None:
        """Count the objects that have what a format lacks: keys of ``LOSSES``."""
        for item in items:
            self.update(LOSSES[key][0] for key in features if LOSSES[key][1](item))

    def class_colors(self, annotations: Annotations) -> None:
        """Count the classes whose colour is more than what a reader would give them anyway."""
        self["colours of classes: left out"] += sum(
            label.color != default_color(label.name) for label in annotations.labels
        )


def single_parts(items: Iterable[Item], left_out: LeftOut, *, multipoints: bool) -> Iterator[Item]:
    """Objects of several parts as several objects; MultiPoints stay where the format has them."""
    for item in items:
        whole = multipoints and isinstance(item.geometry, shapely.MultiPoint)
        parts = [item.geometry] if whole else shapely.get_parts(item.geometry).tolist()
        left_out["objects with several parts: each part is an object now"] += len(parts) > 1
        yield from (replace(item, geometry=part) for part in parts)


def xml_text(text: str, left_out: LeftOut) -> str:
    """Text that XML can hold."""
    clean = _NOT_XML.sub("\ufffd", text)
    left_out["names with characters that XML lacks: replaced"] += clean != text
    return clean
