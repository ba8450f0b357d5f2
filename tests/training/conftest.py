"""Trainings of these tests draw no curves, which would take most of their time; ``test_curves.py`` does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from wsikit.training import kept


@pytest.fixture(autouse=True, scope="session")
def _quick_curves() -> Iterator[None]:
    """In place of the picture all that it would show."""

    def text(rows: list[dict[str, float]], **facts: Any) -> bytes:
        return repr((rows, facts["monitor"], facts["best"])).encode()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept, "draw_curves", text)
        yield
