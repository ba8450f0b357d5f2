"""Names to implementations: ``name -> "module:attribute"`` or ``"module"``, imported only when used.

Installed packages add names of their own through an entry-point group. The group is looked up when a name is asked for
that no own row has, or when the names are listed; the packages themselves are imported when one of theirs is used.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint
from typing import Any

from wsikit.errors import ConfigError, PluginError, UnknownNameError


class Registry(Mapping[str, str]):
    """An ordered table of names. Adding a row is all that it takes to register something.

    Args:
        kind: what the names name, for messages ("predictor", "reader", "sink").
        rows: (name, "module:attribute" or "module") in order of preference. A duplicate name is refused.
        group: entry-point group of the packages that add to the table, after its rows. A row's name cannot be taken
            over, and a name that two packages give is refused when it is used.
    """

    def __init__(self, kind: str, rows: list[tuple[str, str]], *, group: str = "") -> None:
        self.kind = kind
        self.group = group
        self._rows: dict[str, str] = {}
        for name, target in rows:
            if name in self._rows:
                raise ConfigError(f"{kind} {name!r} is registered twice: {self._rows[name]} and {target}")
            self._rows[name] = target

    @cached_property
    def _plugins(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        """name -> the entry points that give it, by name; those of own rows are left out."""
        from importlib.metadata import entry_points

        found: dict[str, tuple[EntryPoint, ...]] = {}
        for entry in entry_points(group=self.group) if self.group else ():
            # a package that is found by two ways to the same folder is one package
            if entry.name not in self._rows and entry not in found.get(entry.name, ()):
                found[entry.name] = (*found.get(entry.name, ()), entry)
        return {name: tuple(sorted(found[name], key=_described)) for name in sorted(found)}

    def __getitem__(self, name: str) -> str:
        if name in self._rows:
            return self._rows[name]
        if name in self._plugins:
            return self._plugins[name][0].value
        near = difflib.get_close_matches(name, self, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(f"there is no {self.kind} {name!r}; the choices are: {', '.join(self)}.{hint}")

    def __iter__(self) -> Iterator[str]:
        yield from self._rows
        yield from self._plugins

    def __len__(self) -> int:
        return len(self._rows) + len(self._plugins)

    @property
    def plugins(self) -> tuple[str, ...]:
        """The names that installed packages add."""
        return tuple(self._plugins)

    def origin(self, name: str) -> str:
        """Who gives a name: wsikit, or the package and its version. Raises UnknownNameError."""
        self[name]
        return "wsikit" if name in self._rows else " and ".join(_described(entry) for entry in self._plugins[name])

    def load(self, name: str) -> Any:
        """Import and return what ``name`` stands for.

        Raises:
            UnknownNameError: no such name; the message lists the choices.
            PluginError: two packages give the name, or the one that does cannot be imported.
        """
        target = self[name]
        if name not in self._rows:
            return self._load_plugin(name)
        module, _, attribute = target.partition(":")
        loaded = importlib.import_module(module)
        return getattr(loaded, attribute) if attribute else loaded

    def _load_plugin(self, name: str) -> Any:
        entry, *others = self._plugins[name]
        if others:
            raise PluginError(
                f"the {self.kind} {name!r} is registered twice: by {self.origin(name)}",
                remedy="uninstall one of them",
            )
        try:
            return entry.load()
        except Exception as error:  # a package may raise anything when it is imported
            raise PluginError(
                f"the {self.kind} {name!r} of {_described(entry)} cannot be imported: {type(error).__name__}: {error}",
                remedy="mend, update or uninstall that package",
            ) from error


def _described(entry: EntryPoint) -> str:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unknown package"
    return f"{package} ({entry.value})"
