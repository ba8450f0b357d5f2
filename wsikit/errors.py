"""Errors of wsikit. Each also subclasses the builtin that a caller would catch.

Every error carries a stable ``code`` (what ``slide.json`` and ``summary.csv`` record as the reason) and, where one is
known, a ``remedy``: what the user can do about it. Messages say what was given and what is allowed.
"""

from __future__ import annotations

from typing import ClassVar


class WsikitError(Exception):
    """Base of all errors that wsikit raises on purpose.

    Attributes:
        code: stable reason code, lower_snake_case.
        remedy: what to do about it, a sentence, or the empty string.
    """

    code: str = "internal"
    remedy: str = ""

    def __init__(self, message: str, *, code: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if remedy is not None:
            self.remedy = remedy


class SlideOpenError(WsikitError, OSError):
    """No reader opens the file. Codes: unreadable, bad_header, unsupported_pixels, not_a_file, too_large.

    In a child process also reader_crash, reader_timeout, reader_memory.
    """

    code = "unreadable"
    remedies: ClassVar[dict[str, str]] = {
        "bad_header": "copy the file again: what it says of itself cannot be true",
        "unreadable": "check that the file is whole (copy it again), or convert it to a tiled pyramidal TIFF",
        "unsupported_pixels": "export the image as 8-bit RGB",
        "not_a_file": "give the path of the slide's own file",
        "reader_crash": "copy the file again; if it still crashes its reader, it is damaged or hostile",
        "reader_timeout": "copy the file to a local disk; if it still hangs its reader, it is damaged or hostile",
        "reader_memory": "copy the file again, or convert it to a tiled pyramidal TIFF",
    }
    """Code -> what to do where the place of the error knows nothing better."""

    def __init__(self, message: str, *, code: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message, code=code, remedy=remedy)
        if remedy is None:
            self.remedy = self.remedies.get(self.code, "")


class PixelReadError(WsikitError, OSError):
    """The file opened, but some pixels cannot be decoded.

    Codes: unreadable_pixels; in a child process also reader_crash, reader_timeout, reader_memory.
    """

    code = "unreadable_pixels"
    remedy = "copy or scan the slide again"


class UnsuitableSlideError(WsikitError, ValueError):
    """The pixels are there, but not of a kind that is worked on. Codes: not_brightfield."""

    code = "not_brightfield"


class ResolutionError(WsikitError, ValueError):
    """The slide's mpp is missing, absurd or anisotropic, or the slide does not hold the resolution asked for.

    Codes: missing_mpp, absurd_mpp, anisotropic_mpp, resolution_unavailable.
    """

    code = "missing_mpp"


class PredictionError(WsikitError, ValueError):
    """A predictor broke its contract: NaN, wrong number, wrong shape, wrong region."""

    code = "bad_predictions"


class ConfigError(WsikitError, ValueError):
    """A configuration, manifest or command-line value is wrong."""

    code = "bad_config"


class AnnotationError(WsikitError, ValueError):
    """An annotation file cannot be read, or does not hold what is needed.

    Codes: bad_annotations, unknown_class, invalid_geometry, outside_slide, no_annotations, not_representable, and where
    a model is measured by them no_truth, ambiguous_truth, wrong_shape, not_comparable.
    """

    code = "bad_annotations"


class PluginError(ConfigError):
    """Code that a user or an installed package adds cannot be loaded, or does not keep its contract.

    The user's own exception is the cause.
    """

    code = "bad_plugin"


class UnknownNameError(WsikitError, KeyError):
    """A name that no registry entry has; the message lists the choices.

    A KeyError, since a registry is a mapping: ``name in registry`` and ``registry.get(name)`` rely on it.
    """

    code = "unknown_name"
    __str__ = Exception.__str__  # KeyError shows its message in quotes


class StainError(WsikitError, ValueError):
    """Pixels do not show the stains that a method needs. Codes: blank, one_stain, not_he, colourless."""

    code = "blank"


class TrainingError(WsikitError, ArithmeticError):
    """A loss or a gradient is no finite number, or no epoch can be called the best. Codes: diverged."""

    code = "diverged"
    remedy = (
        "lower the learning rate, or look at the images of that step; the same command goes on after the last epoch"
    )


class OutputError(WsikitError, OSError):
    """An output cannot be written.

    Codes: io_error, no_space, foreign_files, id_taken (by results of another slide), busy (another run writes there).
    """

    code = "io_error"


class WorkerError(WsikitError, RuntimeError):
    """The process that a task ran in is gone. Codes: worker_crash, worker_timeout, worker_memory, worker_lost."""

    code = "worker_lost"
    remedies: ClassVar[dict[str, str]] = {
        "worker_crash": "copy the file again; if it still crashes its reader, it is damaged: see `wsikit doctor`",
        "worker_timeout": "copy the file to a local disk; give --task-timeout more seconds where it is just slow",
        "worker_memory": "give --max-memory more, or a smaller --supertile or --batch-size",
        "worker_lost": "run again; a reader may have crashed, memory run out, or a machine been switched off",
    }

    def __init__(self, message: str, *, code: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message, code=code, remedy=remedy)
        if remedy is None:
            self.remedy = self.remedies[self.code]


class StoppedError(WsikitError, RuntimeError):
    """A run ended before its end and kept what it had done. Codes: interrupt, terminated, walltime, lease_lost."""

    code = "interrupt"
    remedy = "run the same command again: it goes on where this run stopped"
    messages: ClassVar[dict[str, str]] = {
        "interrupt": "interrupted",
        "terminated": "stopped by SIGTERM",
        "walltime": "stopped before the end of --walltime",
        "lease_lost": "stopped: another run has taken over the output folder",
    }
    """Code -> what to say where the place of the error knows nothing better."""
