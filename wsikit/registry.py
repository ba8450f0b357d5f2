"""Names to implementations: ``name -> "module:attribute"``, imported only when used."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from wsikit.errors import ConfigError, UnknownNameError


class Registry(Mapping[str, str]):
    """An ordered table of names. Adding a row is all that it takes to register something.

    Args:
        kind: what the names name, for messages ("predictor", "reader", "sink").
        rows: (name, "module:attribute") in order of preference. A duplicate name is refused.
    """

    def __init__(self, kind: str, rows: list[tuple[str, str]]) -> None:
        self.kind = kind
        self._rows: dict[str, str] = {}
        for name, target in rows:
            if name in self._rows:
                raise ConfigError(f"{kind} {name!r} is registered twice: {self._rows[name]} and {target}")
            self._rows[name] = target

    def __getitem__(self, name: str) -> str:
        try:
            return self._rows[name]
        except KeyError:
            near = difflib.get_close_matches(name, self._rows, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownNameError(
                f"there is no {self.kind} {name!r}; the choices are: {', '.join(self._rows)}.{hint}"
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, name: str) -> Any:
        """Import and return what ``name`` stands for. Raises UnknownNameError, listing the choices."""
        module, _, attribute = self[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
