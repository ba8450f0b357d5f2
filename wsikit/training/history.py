"""What a training did, epoch by epoch, as files: CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

Row = Mapping[str, float]


def as_csv(rows: Sequence[Row]) -> bytes:
    """A line per epoch; a cell is empty where an epoch does not have what others have."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_json(rows: Sequence[Row], **facts: Any) -> bytes:
    """The facts, then the epochs; what is no number is null."""
    return orjson.dumps({**facts, "history": rows}, option=orjson.OPT_INDENT_2)
