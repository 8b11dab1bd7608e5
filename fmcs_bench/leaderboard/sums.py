"""SHA-256 of every published record: whoever changes one of their digits, by accident or not, is told.

Flow: ``records/SHA256SUMS``, a list as ``sha256sum`` writes it -> beside the bytes of each record, when records are
checked and when the page is built -> what differs, is not listed or is gone. Only ``submit`` adds lines.

Much of a record can be computed again, but what it cost and what its curve was cannot. The list is no signature: who
changes a record and its line shows both in a pull request. A record names its predictions by their own SHA-256.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from fmcs_bench.core import files
from fmcs_bench.core.errors import RecordError
from fmcs_bench.results.store import RecordStore

NAME = "SHA256SUMS"
MAX_BYTES = 16_000_000
_LINE = re.compile(r"([0-9a-f]{64})  (\S(?:.*\S)?)")
_DEPTH = 5
"""Parts of an address: track, dataset, settings, method, file."""


def root_of(path: Path) -> Path | None:
    """The folder of published records that a record lies in; None where none of its folders has a list.

    Args:
        path: of a record.
    """
    parents = path.absolute().parents
    root = parents[_DEPTH - 1] if len(parents) >= _DEPTH else None
    return root if root is not None and (root / NAME).is_file() else None


def load(root: Path) -> dict[str, str]:
    """SHA-256 of each record by its address; empty where the folder has no list.

    Args:
        root: folder of records.

    Raises:
        RecordError: the list is none.

    Example:
        >>> load(Path("nowhere"))
        {}
    """
    path = root / NAME
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_BYTES:
        raise RecordError(f"{path} has more than {MAX_BYTES:,} bytes; bring the list that `submit` wrote")
    found: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise RecordError(f"{path} is no text; bring the list that `submit` wrote") from None
    for i, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None or not _is_address(match[2]):
            raise RecordError(f"{path}, line {i}: {line[:80]!r} is no SHA-256, two spaces and the address of a record")
        if match[2] in found:
            raise RecordError(f"{path}, line {i}: {match[2]} stands there twice; keep the line that `sha256sum` gives")
        found[match[2]] = match[1]
    return found


def fault(listed: Mapping[str, str], address: str, data: bytes) -> tuple[str, str, str] | None:
    """What the list says against a record: what, expected and remedy; None where it agrees.

    Args:
        listed: of ``load``.
        address: of the record below the folder of the list.
        data: the bytes of its file.
    """
    own, expected = hashlib.sha256(data).hexdigest(), listed.get(address)
    if expected is None:
        return (
            f"it is not listed in {NAME}",
            "every published record there",
            "type `fmcs-bench leaderboard submit` with this file, which checks it and adds its line",
        )
    if own != expected:
        return (
            f"its file has the SHA-256 {own}",
            f"{expected}, of {NAME}: it was changed after it was published",
            "take the published file back (git checkout), or, to replace a result, remove it and its line first",
        )
    return None


def add(root: Path, records: Mapping[str, bytes]) -> bool:
    """Put records on the list of a folder, which is made where there is none; returns whether it changed.

    Args:
        root: folder of records.
        records: bytes of their files by address.

    Raises:
        RecordError: the list there is none.
    """
    before = load(root)
    after = before | {address: hashlib.sha256(data).hexdigest() for address, data in records.items()}
    if after == before:
        return False
    text = "".join(f"{digest}  {address}\n" for address, digest in sorted(after.items()))
    files.write_atomically(root / NAME, text.encode())
    return True


def changed(store: RecordStore, path: Path, listed: Mapping[str, str]) -> bool:
    """Whether a record of a store is listed with another SHA-256; one that is not listed is new.

    Args:
        store: of the folder.
        path: of the record.
        listed: of ``load``.
    """
    expected = listed.get(path.relative_to(store.root).as_posix())
    return expected is not None and files.sha256_of_file(path) != expected


def _is_address(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and len(path.parts) == _DEPTH and ".." not in path.parts and path.suffix == ".json"
