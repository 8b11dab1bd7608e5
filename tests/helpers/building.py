"""A build's workshop that writes down what it does and, where it is asked to, kills its worker. Workers import it."""

import os
import signal
import sys
from contextlib import contextmanager
from functools import cached_property

from fmcs_bench.build.units import Workshop
from fmcs_bench.store import writer
from fmcs_bench.store.writer import DatasetWriter

BUILD = [
    sys.executable, "-m", "fmcs_bench", "build", "--backbone", "smallcnn", "--image-size", "16", "--stages", "3",
    "--epochs", "6", "--limit", "60", "--checkpoints", "12", "--name", "tiny", "--batch-size", "16", "--lr", "3e-3",
    "--cqi-threshold", "0.3", "--device", "cpu",
]  # fmt: skip
"""The command that builds the tiny dataset."""
LARGEST_SHARD = 2**15
"""64 of the tiny dataset's maps in a shard, so that a run has several blocks."""


class Watched(Workshop):
    """Files beside the folder of datasets tell it when to die, once for each: ``kill-training``, ``kill-writing``."""

    @property
    def root(self):
        return self.path.absolute().parents[1]

    def work(self, unit):
        note(self.root / "units", unit)
        progress, self.progress = self.progress, Deadly(self.root)
        try:
            return super().work(unit)
        finally:
            self.progress = progress

    @cached_property
    def writer(self):
        writer.LARGEST_SHARD = LARGEST_SHARD  # of this worker; the caller's tests do the same
        return WatchedWriter(self.root, self.path, self.map_shape, self.config.codec, num_threads=1)


class WatchedWriter(DatasetWriter):
    def __init__(self, root, *args, **options):
        super().__init__(*args, **options)
        self.root = root

    def write(self, seed, array, first_row, start, block_KNDHW):
        note(self.root / "blocks", f"{seed} {array} {first_row} {start}")
        super().write(seed, array, first_row, start, block_KNDHW)
        if start:  # not the first, so that threads may still be at an earlier one
            die_once(self.root / "kill-writing")


class Deadly:
    """A progress display under which a training dies in its third epoch."""

    def __init__(self, root):
        self.root, self.epochs = root, None

    @contextmanager
    def task(self, description, _total):
        self.epochs = 0 if "training" in description else None
        yield self

    def advance(self, _steps=1):
        if self.epochs is not None:
            self.epochs += 1
            if self.epochs == 3:
                die_once(self.root / "kill-training")

    def say(self, message):
        print(message)


def note(path, line):
    with path.open("a") as stream:
        stream.write(f"{line}\n")


def die_once(mark):
    try:
        mark.unlink()
    except FileNotFoundError:
        return
    note(mark.with_name("killed"), mark.name)
    os.kill(os.getpid(), signal.SIGKILL)
