"""Names of files that a stranger gives: which of them may become files here."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from fmcs_bench.core.errors import DatasetError
from fmcs_bench.store.location import stays_inside

RESERVED = re.compile(r"(\.git|con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Parts of a name that Windows reads as a device, and the folder in which git finds programs to run."""


def is_portable(name: str) -> bool:
    r"""Whether a name is that of a file below a folder on every system, written in one way only.

    Example:
        >>> [is_portable(name) for name in ("a/b.json", "../b", "a//b", "./a", "a\\b", "a/nul.txt", "a\n", "a. /b")]
        [True, False, False, False, False, False, False, False]
    """
    parts = name.split("/")
    return (
        stays_inside(name)
        and len(name) <= 1000
        and name.isprintable()
        and re.search(r'[<>|"*]', name) is None
        and all(0 < len(part.encode()) <= 255 and part[0] != " " and part[-1] not in " ." for part in parts)
        and not any(RESERVED.fullmatch(part) for part in parts)
    )


def check_names(names: Iterable[str], where: str) -> None:
    """Refuse names that cannot all be files below one folder, on any file system.

    Args:
        names: with forward slashes.
        where: they stand, for the message.

    Raises:
        DatasetError: a name leads out, is not portable, or two are one where case or accents are written differently.

    Example:
        >>> check_names(["a/B.json", "a/b.json"], "dataset.json")
        Traceback (most recent call last):
        fmcs_bench.core.errors.DatasetError: ... # doctest: +ELLIPSIS
    """
    seen: dict[str, str] = {}
    for name in names:
        if not is_portable(name):
            raise DatasetError(
                f"{where} names a file that would lie outside its folder or that not every system can hold: "
                f"{name[:200]!r}; nothing was downloaded"
            )
        other = seen.setdefault(_one_form(name), name)
        if other is not name:
            raise DatasetError(f"{where} names {other[:200]!r} and {name[:200]!r}, which are one file on some systems")
    for name in seen.values():
        parts = name.split("/")
        for end in range(1, len(parts)):
            if (file := seen.get(_one_form("/".join(parts[:end])))) is not None:
                raise DatasetError(f"{where} names {file[:200]!r} as a file and, for {name[:200]!r}, as a folder")


def _one_form(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
