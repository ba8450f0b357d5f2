"""XML read safely: no document type, so no entities that grow or reach other files, and no endless nesting."""

from __future__ import annotations

import gc
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.parsers import expat

from wsikit.errors import AnnotationError

MAX_DEPTH = 64
"""Deepest nesting; annotation files need 7."""


def read_tree(path: Path) -> ET.Element:
    """The root element of an XML file.

    Raises AnnotationError where it is not well-formed, has a document type or nests more than 64 deep.
    """
    builder = ET.TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise AnnotationError(f"{path.name} nests elements more than {MAX_DEPTH} deep: no annotation file does")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: Any) -> None:
        raise AnnotationError(
            f"{path.name} declares a document type (DOCTYPE), by which XML files can blow up or reach other files",
            remedy="remove the DOCTYPE; annotation files need none",
        )

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    parser.CharacterDataHandler = builder.data
    try:
        with _no_collections():
            parser.Parse(path.read_bytes(), True)
    except AnnotationError:
        raise
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror}") from error
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise AnnotationError(f"{path.name} is not well-formed XML: {error}") from error
    return builder.close()


@contextmanager
def _no_collections() -> Iterator[None]:
    """Keep the garbage collector from looking through a tree that grows: it finds nothing there, and takes longer for
    it than the parser does."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def numbers(path: Path, elements: Iterable[ET.Element], keys: tuple[str, str]) -> list[tuple[float, float]]:
    """(x, y) of elements that have them as attributes. Raises AnnotationError where one is missing or no number."""
    x, y = keys
    found = []
    for element in elements:
        try:
            found.append((float(element.attrib[x]), float(element.attrib[y])))
        except (KeyError, ValueError) as error:
            raise AnnotationError(
                f"{path.name}: a {element.tag} needs numbers {x} and {y}, got {element.attrib}"
            ) from error
    return found


def xml_bytes(root: ET.Element) -> bytes:
    """A tree as a file, UTF-8, one element a line."""
    ET.indent(root, "\t")
    text = ET.tostring(root, "unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'.encode()
