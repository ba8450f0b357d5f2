"""Results as text: the table that a run prints."""

from __future__ import annotations

from typing import Any


def table(result: dict[str, Any]) -> str:
    return "\n".join(f"{b['bench']} {b['what']}: {b['figure']} need {b['need']} {b['passed']}" for b in result["bars"])
