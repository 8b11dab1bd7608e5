"""Brings files from a ``Source`` to a folder: in parallel, again after faults, on from where they were, and checked.

Flow: name -> bytes appended to ``partial/`` -> all of them there -> SHA-256 -> moved to ``files/NAME``.
What lies in ``files/`` is verified and on the disk; what lies in ``partial/`` is a beginning. A kill leaves both.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fmcs_bench.core import files
from fmcs_bench.core.errors import DatasetError
from fmcs_bench.core.progress import Progress
from fmcs_bench.hub.patience import Attempts, Patience, steady
from fmcs_bench.hub.source import Body, Interrupted, Source, without_links
from fmcs_bench.store.schema import FileEntry

MB = 1_000_000
NEW_BYTES = 1 << 20
"""An attempt that brings so many new bytes does not count as failed: large files may need many attempts."""


class Staging:
    """The folder where files wait until all are there.

    Attributes:
        root: the folder.
        files: verified ones, by their names.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.files, self._partial = root, root / "files", root / "partial"

    @property
    def has_begun(self) -> bool:
        """Whether there is a file, or the beginning of one."""
        return any(path.is_file() for folder in (self.files, self._partial) for path in folder.rglob("*"))

    def has(self, name: str, entry: FileEntry) -> bool:
        """Whether the file is here, verified."""
        path = without_links(self.root, f"files/{name}")
        return path.is_file() and path.stat().st_size == entry.num_bytes

    def partial(self, name: str) -> Path:
        """Where the beginning of a file is kept."""
        return without_links(self.root, f"partial/{hashlib.sha256(name.encode()).hexdigest()[:32]}")

    def bytes_of(self, name: str, entry: FileEntry) -> int:
        """Bytes of the file that need not be fetched any more, as far as is known without reading them."""
        if self.has(name, entry):
            return entry.num_bytes
        partial = self.partial(name)
        return min(partial.stat().st_size, entry.num_bytes) if partial.is_file() else 0

    def arrive(self, name: str, partial: Path) -> None:
        """Keep a file that was verified."""
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        path = without_links(self.root, f"files/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(path)


class Transfer:
    """Fetches files into a staging folder; ``run`` returns when all are there and verified.

    Args:
        source: of the files.
        entries: size and SHA-256 of each file.
        staging: where they go.
        patience: with the source.
        progress: shows megabytes.
    """

    def __init__(
        self, source: Source, entries: Mapping[str, FileEntry], staging: Staging, patience: Patience, progress: Progress
    ) -> None:
        self._source, self._entries, self._staging = source, entries, staging
        self._patience, self._progress = patience, progress
        self._stop = threading.Event()
        self._todo: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._news: queue.SimpleQueue[int | str | BaseException | None] = queue.SimpleQueue()
        self._told_no_ranges = False

    def run(self, description: str) -> None:
        """Fetch all.

        Raises:
            FmcsBenchError: a file cannot be had, or is not what it should be; the others stay for the next time.
            OSError: the disk is full, or cannot be written.
        """
        without_links(self._staging.root, "partial").mkdir(parents=True, exist_ok=True)
        for name in sorted(self._entries, key=lambda name: -self._entries[name].num_bytes):
            self._todo.put(name)
        # Daemons: one that waits for a silent server must not keep the program from ending.
        workers = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(min(self._patience.parallel, len(self._entries)))
        ]
        total = sum(entry.num_bytes for entry in self._entries.values())
        try:
            with self._progress.task(f"{description} (MB)", -(-total // MB)) as task:
                for worker in workers:
                    worker.start()
                done, shown, left = 0, 0, len(workers)
                while left:
                    news = self._news.get()
                    if isinstance(news, BaseException):
                        raise news
                    if isinstance(news, str):
                        self._progress.say(news)
                    elif news is None:
                        left -= 1
                    else:
                        done += news
                        now = -(-done // MB) if done == total else done // MB
                        if now > shown:  # a file that starts again takes bytes back
                            task.advance(now - shown)
                            shown = now
        finally:
            self._stop.set()
            end = time.monotonic() + 1.0
            for worker in workers:
                with suppress(RuntimeError):  # it was not started
                    worker.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    name = self._todo.get_nowait()
                except queue.Empty:
                    break
                self._fetch(name, self._entries[name])
            self._news.put(None)
        except BaseException as error:  # noqa: BLE001  (raised again by the thread that waits)
            self._news.put(error)

    def _fetch(self, name: str, entry: FileEntry) -> None:
        if self._staging.has(name, entry):
            self._news.put(entry.num_bytes)
            return
        partial, where = self._staging.partial(name), f"{self._source.shown}/{name}"
        for is_second in (False, True):
            self._complete(name, entry, partial, where)
            if self._stop.is_set():
                return
            if files.sha256_of_file(partial) == entry.sha256:
                self._staging.arrive(name, partial)
                return
            partial.unlink()
            self._news.put(-entry.num_bytes)
            if is_second:
                raise DatasetError(
                    f"{where} has other content than its SHA-256 says, twice: the file at the source is damaged or was "
                    "exchanged; nothing of it was kept. Tell its owner, or take another source"
                )
            self._news.put(f"{where} arrived with wrong content; once more from the start")

    def _complete(self, name: str, entry: FileEntry, partial: Path, where: str) -> None:
        """Append to the partial file until it has the size that it must have."""
        attempts = Attempts(where, self._patience, self._news.put, self._stop)
        partial.touch()
        if partial.stat().st_size > entry.num_bytes:
            partial.unlink()
            partial.touch()
        most = partial.stat().st_size
        self._news.put(most)
        while (have := partial.stat().st_size) < entry.num_bytes and not self._stop.is_set():
            try:
                with self._source.open(name, have) as body:
                    self._append(body, entry, partial, where, have)
                if (have := partial.stat().st_size) < entry.num_bytes and not self._stop.is_set():
                    raise Interrupted(f"it ended after {have:,} of {entry.num_bytes:,} bytes")
            except Interrupted as why:
                now = partial.stat().st_size
                if why.restart:
                    self._truncate(partial)
                attempts.after(why, progressed=now >= most + NEW_BYTES)
                most = max(most, now)

    def _append(self, body: Body, entry: FileEntry, partial: Path, where: str, have: int) -> None:
        too_long = DatasetError(
            f"{where} is longer than the {entry.num_bytes:,} bytes that it must have; it is not the file that was "
            "published, and nothing of it was kept"
        )
        if body.total is not None and body.total > entry.num_bytes:
            raise too_long
        if body.start != have:
            if not self._told_no_ranges:
                self._told_no_ranges = True
                self._news.put(f"{self._source.shown} gives only whole files: what was interrupted starts again")
            self._truncate(partial)
            have = 0
        with partial.open("ab") as stream:
            for block in steady(body, self._patience.timeout):
                if self._stop.is_set():
                    return
                have += len(block)
                if have > entry.num_bytes:
                    stream.close()
                    partial.unlink()
                    raise too_long
                stream.write(block)
                stream.flush()  # a kill takes what is still in this process
                self._news.put(len(block))

    def _truncate(self, partial: Path) -> None:
        self._news.put(-partial.stat().st_size)
        with partial.open("wb"):
            pass
