"""Paths at URLs: what ``pathlib.Path`` does, as far as a workspace in a bucket needs it.

Flow: URL -> ``UrlPath``, joined as a path is -> a request of fsspec for each reading, writing and listing, asked again
where a connection drops. A file is written whole, by one request, or not at all.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar

from fmcs_bench.core.errors import ConfigError, FmcsBenchError, HubError, WorkspaceError
from fmcs_bench.store.retries import again

T = TypeVar("T")


def is_url(text: object) -> bool:
    """Whether this names a place by protocol, as ``hf://datasets/owner/name`` does.

    Example:
        >>> is_url("s3://bucket/name"), is_url("./folder")
        (True, False)
    """
    return isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.:-]*://", text) is not None


def without_secrets(text: str) -> str:
    """A text without user, password, query and fragment of the URLs in it.

    Example:
        >>> without_secrets("no https://me:secret@host/data?token=1 there")
        'no https://host/data there'
    """
    return re.sub(r"(://[^\s?#'\"<>]*)[?#][^\s'\"<>)]*", r"\1", re.sub(r"://[^\s/?#'\"]*@", "://", text))


@dataclass(frozen=True, order=True)
class UrlPath:
    """A file or folder at a URL; methods are those of ``pathlib.Path``, and do what they do there.

    It is no ``Path``, and code that needs a file of this machine is told so by ``os.fspath``. Folders exist while there
    is a file in them.

    Attributes:
        url: without a slash at its end.

    Example:
        >>> path = UrlPath("s3://bucket/workspace") / "records" / "seed-0.json"
        >>> str(path.with_suffix(".txt")), path.relative_to(path.parent.parent).parts
        ('s3://bucket/workspace/records/seed-0.txt', ('records', 'seed-0.json'))
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __fspath__(self) -> str:
        raise WorkspaceError(
            f"{self} is not on this machine, and is needed as a file here; use a folder as --workspace"
        )

    def __truediv__(self, name: str | PurePosixPath) -> UrlPath:
        return UrlPath(f"{self.url}/{PurePosixPath(name)}")

    def joinpath(self, *names: str) -> UrlPath:
        """See ``Path``."""
        return UrlPath("/".join([self.url, *names]))

    @property
    def parent(self) -> UrlPath:
        """See ``Path``."""
        return UrlPath(self.url.rpartition("/")[0])

    @property
    def name(self) -> str:
        """See ``Path``."""
        return self.url.rpartition("/")[2]

    def with_suffix(self, suffix: str) -> UrlPath:
        """See ``Path``."""
        return self.parent / PurePosixPath(self.name).with_suffix(suffix)

    def relative_to(self, other: UrlPath) -> PurePosixPath:
        """See ``Path``."""
        return PurePosixPath(self.url).relative_to(PurePosixPath(other.url))

    def as_posix(self) -> str:
        """See ``Path``."""
        return self.url

    def absolute(self) -> UrlPath:
        """See ``Path``."""
        return self

    def exists(self) -> bool:
        """See ``Path``."""
        return bool(self._ask("read", lambda fs, path: fs.exists(path)))

    def is_file(self) -> bool:
        """See ``Path``."""
        return bool(self._ask("read", lambda fs, path: fs.isfile(path)))

    def is_dir(self) -> bool:
        """See ``Path``."""
        return bool(self._ask("read", lambda fs, path: fs.isdir(path)))

    def glob(self, pattern: str) -> Iterator[UrlPath]:
        """See ``Path``; without ``**``."""

        def find(fs: Any, path: str) -> list[str]:
            return [found[len(path) :] for found in fs.glob(f"{path}/{pattern}")]

        return (UrlPath(self.url + name.rstrip("/")) for name in self._ask("listed", find))

    def read_bytes(self) -> bytes:
        """See ``Path``."""
        return bytes(self._ask("read", lambda fs, path: fs.cat_file(path)))

    def open(self, mode: str = "rb") -> BinaryIO:
        """See ``Path``; to read, and whole in memory."""
        if mode != "rb":
            raise ValueError(f"mode = {mode!r}; a file at a URL is opened with 'rb', and written by write_bytes")
        return io.BytesIO(self.read_bytes())

    def write_bytes(self, data: bytes) -> None:
        """See ``Path``; all of it is there, or what was there before."""
        self._ask("written", lambda fs, path: fs.pipe_file(path, data))

    def create(self, data: bytes) -> None:
        """Write a file that is not there yet; of several writers at the same time, one does.

        Raises:
            FileExistsError: it is there.
        """
        self._ask("written", lambda fs, path: fs.pipe_file(path, data, mode="create"))

    def replace(self, target: UrlPath) -> None:
        """See ``Path``; a copy, and then the removal of this one."""
        target.write_bytes(self.read_bytes())
        self.unlink()

    def unlink(self, missing_ok: bool = False) -> None:
        """See ``Path``."""
        try:
            self._ask("removed", lambda fs, path: fs.rm_file(path))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """See ``Path``; nothing is done, as folders come with their files."""

    def _ask(self, done: str, question: Callable[[Any, str], T]) -> T:
        """The answer of the place, asked again where a fault may pass.

        Raises:
            FileNotFoundError, FileExistsError: as the place says.
            ConfigError: the protocol is unknown or needs a package.
            HubError: everything else.
        """
        import fsspec  # heavy, and not needed for a folder

        try:
            fs, path = fsspec.core.url_to_fs(self.url)  # the same connection each time, and a new one after a fork
        except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
            raise ConfigError(f"{self} cannot be used as a workspace: {error}") from None
        try:
            fs.invalidate_cache()  # another machine may have written
            return again(lambda: question(fs, path.rstrip("/")))
        except (FileNotFoundError, FileExistsError, FmcsBenchError):
            raise
        except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
            raise HubError(f"{self} cannot be {done}: {type(error).__name__}: {error}") from None
