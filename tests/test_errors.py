"""Errors keep what they carry, and are the builtins that callers catch."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest

from wsikit import errors
from wsikit.errors import WsikitError
from wsikit.samples import SampleError

BUILTINS = {
    errors.SlideOpenError: OSError,
    errors.PixelReadError: OSError,
    errors.UnsuitableSlideError: ValueError,
    errors.ResolutionError: ValueError,
    errors.PredictionError: ValueError,
    errors.ConfigError: ValueError,
    errors.AnnotationError: ValueError,
    errors.PluginError: ValueError,
    errors.UnknownNameError: LookupError,
    errors.StainError: ValueError,
    errors.TrainingError: ArithmeticError,
    errors.OutputError: OSError,
    errors.WorkerError: RuntimeError,
    errors.StoppedError: RuntimeError,
    SampleError: FileNotFoundError,
}


def descendants(kind: type[WsikitError]) -> Iterator[type[WsikitError]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


EVERY = sorted(
    # other tests may have children of their own
    {WsikitError, *(kind for kind in descendants(WsikitError) if kind.__module__.startswith("wsikit"))},
    key=lambda kind: kind.__name__,
)


def test_the_table_lists_every_error() -> None:
    assert {WsikitError, *BUILTINS} == set(EVERY)


@pytest.mark.parametrize(("kind", "builtin"), BUILTINS.items())
def test_each_is_its_builtin(kind: type[WsikitError], builtin: type[Exception]) -> None:
    assert issubclass(kind, WsikitError)
    assert issubclass(kind, builtin)


@pytest.mark.parametrize("kind", EVERY)
def test_pickling_keeps_message_code_and_remedy(kind: type[WsikitError]) -> None:
    """Workers are other processes: what they raise arrives pickled."""
    error = kind("it's so", code="own_code", remedy="do this")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is kind
        assert (str(other), other.code, other.remedy) == ("it's so", "own_code", "do this")


@pytest.mark.parametrize("kind", EVERY)
def test_the_message_is_shown_as_given(kind: type[WsikitError]) -> None:
    assert str(kind("it's so")) == "it's so"


@pytest.mark.parametrize("kind", EVERY)
def test_codes_are_lower_snake_case(kind: type[WsikitError]) -> None:
    assert kind.code.isidentifier()
    assert kind.code == kind.code.lower()


def test_an_instance_leaves_the_class_alone() -> None:
    errors.ConfigError("x", code="bad_mask", remedy="draw it")
    assert (errors.ConfigError.code, errors.ConfigError.remedy) == ("bad_config", "")
