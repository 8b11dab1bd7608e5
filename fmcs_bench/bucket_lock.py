"""The lock of a workspace in a bucket: an object that only one writer can create.

Flow: host, process, time -> created where there is none (``If-None-Match``) -> the block -> removed.
A bucket cannot know that a process died, so the object of a killed one stays until a person removes it.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from fmcs_bench.core import files
from fmcs_bench.core.errors import HubError, WorkspaceError
from fmcs_bench.urls import UrlPath


@contextmanager
def held(path: UrlPath) -> Iterator[None]:
    """Hold the lock while the block runs.

    Args:
        path: of the object.

    Raises:
        WorkspaceError: another process holds it, or it cannot be written.
    """
    mine = files.to_json(
        {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "holder": uuid.uuid4().hex,
        }
    )
    try:
        path.create(mine)
    except FileExistsError:
        _require(mine, path)
    except (HubError, FileNotFoundError) as error:
        raise WorkspaceError(
            f"the workspace {path.parent} cannot be written ({error}); choose another with --workspace or "
            "FMCS_BENCH_WORKSPACE"
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _require(mine: bytes, path: UrlPath) -> None:
    """The lock that is there is ours: the answer to its creation was lost, and it was asked for again."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = b"{}"
    if found == mine:
        return
    try:
        holder = json.loads(found)
        who = f"by process {holder['process']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        who = "by another fmcs-bench process"
    raise WorkspaceError(
        f"the workspace {path.parent} is in use {who}; wait until it ends, or choose another with --workspace. If that "
        f"process was killed, remove {path}"
    )
