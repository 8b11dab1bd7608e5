"""What long work reports while it runs; who shows it, and how, is decided by the command line."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Progress(Protocol):
    """Receives the progress of nested pieces of work."""

    def task(self, description: str, total: int) -> AbstractContextManager[Task]:
        """Start a piece of work of ``total`` steps; it ends with the ``with`` block."""

    def say(self, message: str) -> None:
        """Show the person one line."""


class Task(Protocol):
    """One running piece of work."""

    def advance(self, steps: int = 1) -> None:
        """``steps`` more of the total are done."""


class _Silent:
    def task(self, description: str, total: int) -> AbstractContextManager[Task]:  # noqa: ARG002
        return nullcontext(self)

    def advance(self, steps: int = 1) -> None:
        pass

    def say(self, message: str) -> None:
        pass


class _Printed(_Silent):
    def say(self, message: str) -> None:
        print(message, flush=True)


SILENT: Progress = _Silent()
"""The default in Python: nothing is printed."""
PRINTED: Progress = _Printed()
"""Lines only, on standard output: for a process whose output somebody else shows."""
