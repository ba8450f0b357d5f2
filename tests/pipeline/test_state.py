"""``slide.json`` as others read it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from wsikit.pipeline.state import write_record


def test_a_record_is_json_whatever_a_model_has_bound(tmp_path: Path) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(f"{constant} is no JSON")

    written = write_record(tmp_path, {"bound": {"threshold": math.nan, "limits": (1.5, -math.inf)}})
    assert json.loads((tmp_path / "slide.json").read_text(), parse_constant=refuse) == written
    assert written == {"bound": {"threshold": None, "limits": [1.5, None]}}
