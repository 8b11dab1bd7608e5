"""What a trial may do to its worker; trials are names. Imported by workers, so it imports little."""

import os
import signal
import time
import warnings
from contextlib import nullcontext

from fmcs_bench.core.errors import EvaluatorError


class Desk:
    """Writes ``unit`` into a file, and each attempt at it into another."""

    def __init__(self, folder):
        self.folder = folder

    def find(self, unit):
        file = self.folder / unit
        return file.read_text() if file.exists() else None

    def attempts(self, unit):
        return (self.folder / f"{unit}.attempts").read_text() if (self.folder / f"{unit}.attempts").exists() else ""

    def work(self, unit):
        with (self.folder / f"{unit}.attempts").open("a") as stream:
            stream.write("x")
        first = self.attempts(unit) == "x"
        if unit.startswith("always dies") or (unit.startswith("dies before") and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if unit.startswith("sleeps"):
            time.sleep(120)
        if unit.startswith("lacks"):
            raise FileNotFoundError(2, "No such file or directory", "/a file")
        if unit.startswith("fails"):
            raise EvaluatorError(f"{unit} fails") from ZeroDivisionError("a cause")
        if unit.startswith("talks"):
            print("some words")
            warnings.warn("a warning", UserWarning, stacklevel=1)
        (self.folder / unit).write_text(f"{unit} is done")
        if unit.startswith("dies after") and first:
            os.kill(os.getpid(), signal.SIGKILL)
        return f"{unit} is done"


class Said:
    """A progress display that remembers."""

    def __init__(self):
        self.lines, self.advanced, self.total = [], 0, None

    def task(self, _description, total):
        self.total = total
        return nullcontext(self)

    def advance(self, steps=1):
        self.advanced += steps

    def say(self, message):
        self.lines.append(message)
