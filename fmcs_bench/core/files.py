"""Files that are whole or absent, and digests that say what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO


class PendingFile:
    """A file that is written beside its place ``path``, and moved there once it is on the disk.

    Attributes:
        stream: takes the content.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        self._path, self._temporary = path, Path(name)
        self.stream: BinaryIO = os.fdopen(descriptor, "wb")

    def commit(self) -> None:
        """Wait until the content is on the disk, and move it to its place; on an error nothing stays."""
        try:
            with self.stream:
                self.stream.flush()
                os.fsync(self.stream.fileno())
            self._temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
            self._temporary.replace(self._path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what was written."""
        with suppress(OSError):  # a full disk also fails to take what is still in memory
            self.stream.close()
        self._temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either its former content or all of ``data``, whatever happens."""
    file = PendingFile(path)
    try:
        file.stream.write(data)
    except BaseException:
        file.discard()
        raise
    file.commit()


def to_json(value: Any) -> bytes:
    """Readable UTF-8 JSON with sorted keys. NaN and infinities are refused: they are not JSON."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n").encode()


def digest(value: Any) -> str:
    """SHA-256 (hexadecimal) of a JSON value in canonical form: sorted keys, no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
