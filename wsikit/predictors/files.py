"""Predictors that are one Python file of the user's: loaded by path, and sent to workers together with their source.

Nothing is added to ``sys.path``, so two files of one name never meet. A module made from a file is called by a name
that no import statement can find; ``dumps`` therefore writes what is defined in one as its source and a name in it, and
``loads`` makes the module from that source where it is not there yet, on whatever machine that is.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import cloudpickle

from wsikit.errors import ConfigError, PluginError

_PREFIX = "wsikit_file_"
_LOADING = threading.RLock()


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A Python file as it was when it was read."""

    path: str
    """Absolute; for tracebacks and ``__file__``."""
    source: bytes

    @classmethod
    def read(cls, path: str | Path) -> SourceFile:
        """Raises ConfigError where there is no such file."""
        try:
            return cls(str(Path(path).absolute()), Path(path).read_bytes())
        except OSError as error:
            raise ConfigError(
                f"the predictor file {str(path)!r} cannot be read: {error.strerror}",
                code="no_plugin",
                remedy="give the path of a Python file and a class in it: -m path/to/predictor.py:MyPredictor",
            ) from error

    @property
    def sha256(self) -> str:
        """Hex digest of the source."""
        return hashlib.sha256(self.source).hexdigest()

    @property
    def module_name(self) -> str:
        """Of path and source, so that a changed file is another module."""
        return (
            _PREFIX
            + hashlib.sha256(b"\0".join((self.path.encode("utf-8", "surrogateescape"), self.source))).hexdigest()
        )

    def module(self) -> ModuleType:
        """The module, made on first use.

        Raises:
            PluginError: the file's own code raised; the cause carries its traceback.
        """
        with _LOADING:
            found = sys.modules.get(self.module_name)
            return self._executed() if found is None else found

    def _executed(self) -> ModuleType:
        module = ModuleType(self.module_name)
        module.__file__ = self.path
        module.__dict__["__wsikit_source__"] = self
        # dataclasses and pickle look a class's module up there
        sys.modules[self.module_name] = module
        try:
            exec(compile(self.source, self.path, "exec", dont_inherit=True), module.__dict__)
        except BaseException as error:
            del sys.modules[self.module_name]
            if not isinstance(error, Exception | SystemExit):
                raise
            raise PluginError(
                f"{self.path} cannot be loaded: {_place(error, self.path)}{type(error).__name__}: {error}",
                remedy=_remedy(error, Path(self.path).parent),
            ) from error
        return module


def _place(error: BaseException, path: str) -> str:
    """The last line of the file that a traceback went through."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return f"line {lines[-1]}: " if lines else ""


def _remedy(error: BaseException, folder: Path) -> str:
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and (folder / f"{name}.py").exists():
        return f"a predictor file stands alone: put what it needs of {name}.py into it, or install {name} as a package"
    if isinstance(error, ModuleNotFoundError):
        return f"install {name!r} into the environment of wsikit"
    return "mend the file: `python FILE` shows the whole traceback"


def source_of(thing: type | FunctionType) -> SourceFile | None:
    """The file that a class or function was loaded from by ``SourceFile``; None for those of importable modules."""
    module = thing.__module__ or ""
    return getattr(sys.modules.get(module), "__wsikit_source__", None) if module.startswith(_PREFIX) else None


def code_of(kind: type) -> str:
    """Where a class is: its module, or for a user's file the sha256 of its source, so that a changed file counts."""
    source = source_of(kind)
    home = f"sha256 {source.sha256}" if source else kind.__module__
    return f"{home}:{kind.__qualname__}"


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Definitions of predictor files go by source and name; those of ``__main__`` by value, as dask sends them."""

    def reducer_override(self, obj: Any) -> Any:
        source = source_of(obj) if isinstance(obj, type | FunctionType) else None
        if source is not None and "<locals>" not in obj.__qualname__:
            return _definition, (source, obj.__qualname__)
        return super().reducer_override(obj)


def _definition(source: SourceFile, name: str) -> Any:
    return attrgetter(name)(source.module())


def dumps(value: Any) -> bytes:
    """Pickle a predictor for other processes and machines; ``loads`` reads it.

    Raises:
        PluginError: it holds something that cannot be pickled.
    """
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(value)
    except Exception as error:  # pickle, and a plug-in's own __reduce__, may raise anything
        raise PluginError(
            f"a {type(value).__name__} cannot be sent to workers: {error}",
            remedy="keep locks, open files and sessions out of its fields and make them when they are first used; or "
            "run with one worker (-n 1)",
        ) from error
    return buffer.getvalue()


def loads(data: bytes | bytearray) -> Any:
    """What ``dumps`` wrote."""
    return pickle.loads(data)


@lru_cache(maxsize=4)
def loads_once(data: bytes) -> Any:
    """What ``dumps`` wrote; a worker keeps its models from task to task, and with them what they load when used."""
    return loads(data)


NAMED = re.compile(r"(?P<file>.+\.py)(?::(?P<name>[^:/\\]*))?", re.DOTALL)
"""A predictor file and a class in it. The last colon counts: C:\\models\\predictor.py:MyPredictor."""


def load_class(path: str | Path, name: str, is_candidate: Callable[[type], bool]) -> type:
    """The class ``name`` of a Python file.

    Args:
        path: the file.
        name: of a class that it defines or imports; empty lists the choices in the error.
        is_candidate: which of the file's own classes a message should offer.

    Raises:
        ConfigError: no such file.
        PluginError: its code raises, or it has no such class.
    """
    module = SourceFile.read(path).module()
    found = getattr(module, name, None) if name else None
    if isinstance(found, type):
        return found
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    likely = [cls.__name__ for cls in own if is_candidate(cls)]
    offered = f"its predictors are: {', '.join(likely)}" if likely else "nothing in it looks like a predictor"
    asked = f"{path} has no class {name!r}" if name else f"no class of {path} is named"
    asked = asked if found is None else f"{name!r} of {path} is a {type(found).__name__}, not a class"
    raise PluginError(f"{asked}; {offered}", remedy=f"-m {path}:{likely[0] if likely else 'MyPredictor'}")
