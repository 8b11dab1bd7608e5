"""Errors that a caller can act on.

Every message names the value, what is allowed and what to do next. ``exit_code`` is that of the command line: 2 where
the call was wrong, 1 where the work failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class FmcsBenchError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""  # KeyError would print its repr


class ConfigError(FmcsBenchError, ValueError):
    """An option has a value that is not allowed."""

    exit_code = 2


class UnknownNameError(FmcsBenchError, KeyError):
    """A backbone, image dataset, evaluator, method or key that does not exist."""

    exit_code = 2


class MissingDataError(FmcsBenchError, FileNotFoundError):
    """Files or FMCS datasets that a command needs are not there."""

    exit_code = 2


class ImageError(FmcsBenchError, ValueError):
    """An image cannot be decoded, or labelled images are not what an image dataset needs."""

    exit_code = 2


class ReaderError(FmcsBenchError, RuntimeError):
    """A process that decodes images ahead of a training died."""


class WorkspaceError(FmcsBenchError, OSError):
    """The workspace cannot be written, or another process is using it."""

    exit_code = 2


class DatasetError(FmcsBenchError, ValueError):
    """An FMCS dataset is unfinished, damaged, or of a schema that this version does not read."""


class HubError(FmcsBenchError, ConnectionError):
    """The Hugging Face Hub, or another server, refused a request or could not be reached."""


class RecordError(FmcsBenchError, ValueError):
    """A record does not follow its schema, or its predictions file is not the one it names."""


class ConvergenceError(FmcsBenchError, ValueError):
    """A loss sequence has no convergence point, or too few checkpoints for the stages asked for."""


class DivergedError(FmcsBenchError, ArithmeticError):
    """A training loss became NaN or infinite, in ``epoch``, from 1; None where it is not known."""

    def __init__(self, message: str, epoch: int | None = None) -> None:
        super().__init__(message, epoch)
        self.epoch = epoch


class EvaluatorError(FmcsBenchError, RuntimeError):
    """An evaluator failed while it was made, fitted, asked or saved; its own error is the cause."""


class ProtocolError(EvaluatorError):
    """An evaluator broke its contract (wrong shape, rows that are no probabilities, a changed input)."""


class UnitsFailedError(FmcsBenchError, RuntimeError):
    """Some trials failed; all others are done and written.

    Attributes:
        errors: one for each failure, with its own cause.
        finished: what came of the others: boards.
    """

    def __init__(self, message: str, errors: Sequence[FmcsBenchError], finished: Sequence[Any]) -> None:
        super().__init__(message, tuple(errors), tuple(finished))
        self.errors, self.finished = tuple(errors), tuple(finished)


class EngineError(FmcsBenchError, RuntimeError):
    """Trials cannot be done on Ray: no cluster answers, or its workers lack what they need."""


class PluginError(FmcsBenchError, ImportError):
    """A third-party plug-in could not be loaded; its own error is the cause."""


class SupersededWarning(UserWarning):
    """A published FMCS dataset names a later version of itself."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence with the known names closest to ``name``, or all of them where none is close.

    Example:
        >>> nearest("resnet5", ["resnet50", "smallcnn"])
        'did you mean resnet50?'
        >>> nearest("x", ["a", "b"])
        'known are: a, b'
    """
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known are: {', '.join(choices)}" if choices else "none are known"
