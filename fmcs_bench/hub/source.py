"""Where a download comes from: a folder here, a web server, the Hub, or another place that fsspec reads.

Flow: what was typed -> ``find_source`` -> a ``Source`` -> ``open(name, start)`` -> ``Body``: blocks of bytes.
A source makes one attempt; what may pass with time is ``Interrupted``, and who calls decides how often to come back.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.store.location import Location, is_url

BLOCK_BYTES = 1 << 20
REPOSITORY = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*?)(?:@([^@\s]+))?")
HUB_URL = re.compile(
    r"hf://datasets/([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(refs/(?:pr|convert)/[^/@\s]+|[^/@\s]+))?(?:/(.+))?"
)
HUB_PAGE = re.compile(r"https://(?:huggingface\.co|hf\.co)/datasets/([\w.-]+/[\w.-]+)(?:/tree/([^/?#\s]+))?/?")


class Interrupted(Exception):  # noqa: N818  (nothing is wrong yet: the same question may be answered a little later)
    """An attempt that failed and may succeed later.

    Attributes:
        wait: seconds that the server asks to wait, if it does.
        restart: whether the file has to be read from its start then.
    """

    def __init__(self, message: str, wait: float | None = None, *, restart: bool = False) -> None:
        super().__init__(message)
        self.wait, self.restart = wait, restart


@dataclass(frozen=True)
class Body:
    """Bytes of a file, as they arrive.

    Attributes:
        start: position of the first; 0 where the rest was asked for and the source gives only whole files.
        total: size of the whole file as the source states it, or None.
        blocks: the bytes.
    """

    start: int
    total: int | None
    blocks: Iterator[bytes]


class Source(Protocol):
    """A place with the files of one published or built FMCS dataset.

    Attributes:
        shown: its name for messages and ``download.json``, without secrets.
        is_here: no network is needed.
        asked: the revision that was asked for, if any.
        revision: the commit that ``pin`` found; None where a place has no versions.
    """

    shown: str
    is_here: bool
    asked: str | None
    revision: str | None

    def pin(self) -> None:
        """Fix the revision, so that all files are of one version.

        Raises:
            Interrupted: try again later.
            FmcsBenchError: there is no such place, or it may not be read.
        """

    def open(self, name: str, start: int = 0) -> AbstractContextManager[Body]:
        """Read a file from a position on.

        Raises:
            Interrupted: try again later; also while the blocks are read.
            MissingDataError: there is no such file.
            FmcsBenchError: it may not be read.
        """


class FolderSource:
    """A folder on this machine; symbolic links in it are refused, as they may lead anywhere."""

    is_here = True
    asked: str | None = None
    revision: str | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown = str(folder)

    def pin(self) -> None:
        """See ``Source``: a folder has no versions."""

    @contextmanager
    def open(self, name: str, start: int = 0) -> Iterator[Body]:
        """See ``Source``."""
        path = without_links(self.folder, name)
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode):
                raise DatasetError(f"{path} is not a file")
            stream = path.open("rb")
        except (FileNotFoundError, NotADirectoryError):
            raise MissingDataError(f"{path} does not exist") from None
        except PermissionError:
            raise DatasetError(f"{path} may not be read") from None
        with stream:
            stream.seek(start)
            yield Body(start, about.st_size, _blocks(stream))


class FsspecSource:
    """A place of any other protocol that fsspec knows."""

    is_here = False
    asked: str | None = None
    revision: str | None = None

    def __init__(self, url: str) -> None:
        self._location = Location(url)
        self.shown = str(self._location)

    def pin(self) -> None:
        """See ``Source``: fsspec does not tell versions."""

    @contextmanager
    def open(self, name: str, start: int = 0) -> Iterator[Body]:
        """See ``Source``. fsspec does not tell which faults pass with time, so all but a missing file may."""
        with ExitStack() as stack:
            with self._network(name):
                stream = stack.enter_context(self._location.open(name))
                stream.seek(start)
            yield Body(start, None, self._blocks(name, stream))

    def _blocks(self, name: str, stream: BinaryIO) -> Iterator[bytes]:
        with self._network(name):
            yield from _blocks(stream)

    @contextmanager
    def _network(self, name: str) -> Iterator[None]:
        try:
            yield
        except MissingDataError:
            raise
        except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
            raise Interrupted(str(self._location.unreadable(self._location.shown(name), error))) from None


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(BLOCK_BYTES):
        yield block


def without_links(root: Path, name: str) -> Path:
    """The path of a file below a folder, after a look at every step of the way.

    Raises:
        DatasetError: a step is a symbolic link.
    """
    path = root
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            raise DatasetError(f"{path} is a symbolic link, which may lead out of {root}; put the file itself there")
    return path


def find_source(typed: str, *, revision: str | None = None, timeout: float = 30.0) -> tuple[Source, str]:
    """The source that was typed, and a sentence about a choice that had to be made, or nothing.

    Args:
        typed: an existing folder, ``owner/name`` or ``owner/name@revision`` of the Hub, or a URL.
        revision: branch, tag or commit of a repository of the Hub.
        timeout: seconds that a server may be silent.

    Raises:
        ConfigError: it is none of them, or a revision is given twice or for a place that has none.
    """
    # Heavy, and not needed for a folder.
    from fmcs_bench.hub.web import HubSource, WebSource

    if (found := HUB_URL.fullmatch(typed) or HUB_PAGE.fullmatch(typed)) is not None:
        repository, asked, *folder = found.groups()
        return HubSource(repository, _one(asked, revision, typed), *folder, timeout=timeout), ""
    is_repository = None if is_url(typed) else REPOSITORY.fullmatch(typed)
    if not is_url(typed) and Path(typed).is_dir():
        source: Source = FolderSource(Path(typed))
        note = f"taking the folder {typed}; for the Hub's, type hf://datasets/{typed}" if is_repository else ""
    elif is_repository:
        return HubSource(is_repository[1], _one(is_repository[2], revision, typed), timeout=timeout), ""
    elif not is_url(typed):
        raise MissingDataError(
            f"{typed!r} is no folder here, and no owner/name of a repository of the Hub; a URL such as "
            "https://host/folder or s3://bucket/folder is a third way"
        )
    elif typed.startswith("hf://"):
        raise ConfigError(f"{typed} is no data set of the Hub; write hf://datasets/owner/name")
    elif typed.lower().startswith(("http://", "https://")):
        source, note = WebSource(typed, timeout=timeout), ""
    else:
        source, note = _other(typed), ""
    if revision is not None:
        raise ConfigError(f"revision = {revision!r}: {source.shown} has no revisions; only the Hub's repositories do")
    return source, note


def _other(typed: str) -> Source:
    location = Location(typed)
    return FolderSource(location.local) if location.local is not None else FsspecSource(typed)


def _one(inside: str | None, beside: str | None, typed: str) -> str | None:
    if inside is not None and beside is not None and inside != beside:
        raise ConfigError(f"{typed} names the revision {inside}, and --revision {beside}; give one of them")
    return inside or beside
