"""How long a download bears with a source: attempts, waits between them, and silence.

Flow: an attempt -> ``Interrupted`` -> wait, longer each time or as long as the server asks -> the next, or the end.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from fmcs_bench.core.errors import ConfigError, DatasetError, HubError
from fmcs_bench.hub.source import Body, Interrupted, Source

T = TypeVar("T")
SLOWEST = 1024
"""Bytes per second; a server that is slower than that for the whole time it may be silent counts as silent."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a download bears with a source.

    Attributes:
        timeout: seconds that a server may be silent.
        tries: attempts in a row that bring nothing.
        first_wait: seconds before the second attempt; doubles from attempt to attempt.
        longest_wait: seconds; a server that asks for more is left.
        parallel: files at the same time.

    Raises:
        ConfigError: a number is out of range.
    """

    timeout: float = 30.0
    tries: int = 6
    first_wait: float = 1.0
    longest_wait: float = 120.0
    parallel: int = 8

    def __post_init__(self) -> None:
        if not 0 < self.timeout <= 3600:
            raise ConfigError(f"timeout = {self.timeout}; it is in seconds, more than 0 and at most 3600")


@dataclass
class Attempts:
    """Counts the attempts at one thing, and waits between them.

    Attributes:
        what: is attempted.
        patience: how many there may be.
        say: tells the person about a wait.
        stop: set when nobody wants the result any more.
    """

    what: str
    patience: Patience
    say: Callable[[str], None]
    stop: threading.Event = field(default_factory=threading.Event)
    failed: int = 0

    def after(self, why: Interrupted, *, progressed: bool = False) -> None:
        """Wait for the next attempt.

        Raises:
            HubError: there have been enough, or the server asks for too long a wait.
        """
        self.failed = 1 if progressed else self.failed + 1
        advice = "type the same command again later, and it goes on where it was"
        if self.failed >= self.patience.tries:
            raise HubError(f"{self.what}: given up after {self.failed} attempts in a row ({why}); {advice}")
        longest = self.patience.longest_wait
        wait = min(self.patience.first_wait * 2 ** (self.failed - 1), longest)
        wait *= random.uniform(0.75, 1)  # noqa: S311  (so that not all files come back at once)
        wait = wait if why.wait is None else why.wait
        if wait > longest:
            raise HubError(f"{self.what}: {why}, and asks to wait {wait:.0f} s; {advice}")
        if wait >= 1:
            self.say(f"{self.what}: {why}; again in {wait:.0f} s")
        self.stop.wait(wait)


def patiently(work: Callable[[], T], attempts: Attempts) -> T:
    """The result of ``work``, which is called again while it raises ``Interrupted``.

    Raises:
        HubError: it never succeeds.
    """
    while True:
        try:
            return work()
        except Interrupted as why:
            attempts.after(why)


def fetch_small(source: Source, name: str, limit: int, patience: Patience, say: Callable[[str], None]) -> bytes:
    """All bytes of a file whose size is not known.

    Args:
        source: to read from.
        name: of the file.
        limit: the most bytes that are read.
        patience: with the source.
        say: tells the person about waits.

    Raises:
        MissingDataError: there is no such file.
        DatasetError: it is larger.
        HubError: it cannot be read.
    """
    where = f"{source.shown}/{name}"

    def attempt() -> bytes:
        found = bytearray()
        with source.open(name) as body:
            for block in steady(body, patience.timeout):
                found += block
                if len(found) > limit:
                    raise DatasetError(f"{where} is larger than {limit / 1e6:,.0f} MB, and is not read")
        if body.total is not None and body.total != len(found):
            raise Interrupted(f"it ended after {len(found):,} of {body.total:,} bytes")
        return bytes(found)

    return patiently(attempt, Attempts(where, patience, say))


def steady(body: Body, timeout: float) -> Iterator[bytes]:
    """The blocks of a body that does not arrive too slowly for ever.

    Raises:
        Interrupted: it does.
    """
    begin, arrived = time.monotonic(), 0
    for block in body.blocks:
        yield block
        arrived += len(block)
        if (seconds := time.monotonic() - begin) >= timeout:
            if arrived < SLOWEST * seconds:
                raise Interrupted(f"only {arrived:,} bytes arrived in {seconds:.0f} s")
            begin, arrived = time.monotonic(), 0
