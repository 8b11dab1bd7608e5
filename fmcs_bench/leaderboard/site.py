"""A folder of generated files: no half file is seen, none of an earlier build lingers, nobody else's is touched.

``files.json`` in the folder names what builds wrote there; only those files are ever replaced or removed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError

MANIFEST = "files.json"


def publish(out: Path, contents: Mapping[str, bytes | Path], *, leave: Iterable[str]) -> None:
    """Write the files of one build and remove what an earlier build wrote and this one does not.

    Args:
        out: the folder.
        contents: relative address to bytes, or to a file to copy; written in this order, so the page comes last.
        leave: files below these relative folders are never removed.

    Raises:
        ConfigError: a file that no build wrote is in the way, or ``files.json`` is not the list of a build.
    """
    left = tuple(f"{folder}/" for folder in leave)
    owned = {name for name in _read_manifest(out) if not name.startswith(left)}
    foreign = sorted(name for name in contents if name not in owned and (out / name).exists())
    if foreign:
        raise ConfigError(
            f"{out} holds {foreign[0]}, which no earlier build of the leaderboard wrote; choose another folder, or "
            "move that file away"
        )
    # The list comes first, so that the next build knows the files of one that was killed.
    _write_manifest(out, owned | set(contents))
    for name, content in contents.items():
        files.write_atomically(out / name, content.read_bytes() if isinstance(content, Path) else content)
    for name in owned - set(contents):
        _remove(out, name)
    _write_manifest(out, contents)


def _remove(out: Path, name: str) -> None:
    path = out / name
    path.unlink(missing_ok=True)
    for folder in path.parents:
        if folder == out or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()


def _write_manifest(out: Path, names: Iterable[str]) -> None:
    files.write_atomically(out / MANIFEST, files.to_json(sorted(names)))


def _read_manifest(out: Path) -> list[str]:
    path = out / MANIFEST
    if not path.exists():
        return []
    try:
        names = json.loads(path.read_bytes())
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and _is_inside(name) for name in names):
        raise ConfigError(f"{path} is not the list of files that a build writes; choose another folder or remove it")
    return names


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and bool(path.parts) and ".." not in path.parts
