"""Where an FMCS dataset is: a folder, or a URL that fsspec reads.

Requests are repeated where a connection fails. Messages show URLs without user, password and query, and no secret of
the storage options. Only ``put`` writes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, DatasetError, FmcsBenchError, MissingDataError, WorkspaceError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

T = TypeVar("T")
NOT_LISTED = ("http", "https")
"""Protocols that cannot list a folder; sizes of files are then not compared before they are read."""
EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
"""Protocols whose package is an extra of this one."""
S3_KEYS = "keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile; FSSPEC_S3_ANON=true needs none"
RETRY_THEMSELVES = ("s3", "s3a", "gs", "gcs")
"""Protocols whose package repeats a request itself where a connection fails."""
WAITS = (0.5, 2.0)
"""Seconds before the second and the third attempt."""
CONNECTION_ERRORS = (
    ("aiohttp", "ClientConnectionError"), ("aiohttp", "ClientPayloadError"), ("httpx", "TransportError"),
)  # fmt: skip
"""What the packages of protocols raise where a connection fails, beside Python's own errors."""
SECRET = re.compile("key|secret|token|pass|cred|auth|sas", re.IGNORECASE)
"""In the name of a storage option: no message shows its value."""
BLOCK_BYTES = 1 << 23
"""Bytes of one request of a file that is read in order."""


def is_url(text: object) -> bool:
    """Whether this is a URL, and not a path."""
    return isinstance(text, str) and re.match(r"[A-Za-z][A-Za-z0-9+.:-]*://", text) is not None


def without_secrets(text: str) -> str:
    """A text without user, password, query and fragment of the URLs in it."""
    return re.sub(r"(://[^\s?#'\"<>]*)[?#][^\s'\"<>)]*", r"\1", re.sub(r"://[^\s/?#'\"]*@", "://", text))


def stays_inside(name: str) -> bool:
    """Whether a name with forward slashes leads to a place below the folder that it is added to."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and not re.search(r"[\\:?#%]", name)


class Location:
    """A dataset's folder, on this machine (``local``) or at a URL; names of files in it have forward slashes.

    A protocol that is unknown or needs a package, a URL with a query, and options of a folder are a ``ConfigError``.
    A file that is missing is a ``MissingDataError``, and one that cannot be read a ``DatasetError``.
    """

    def __init__(self, place: str | Path, storage_options: Mapping[str, Any] | None = None) -> None:
        self.local: Path | None = None if is_url(place) else Path(place)
        self.storage_options = dict(storage_options or {})
        self._url = ""
        self._secrets: list[str] = []
        if self.local is None:
            self._open_url(str(place).rstrip("/"))
        elif self.storage_options:
            raise ConfigError(f"storage_options were given for the folder {place}; they belong to a URL")

    def _open_url(self, url: str) -> None:
        shown = without_secrets(url)
        if found := re.search(r"://([^/@]*:([^/@]+))@", url):  # libraries repeat parts of it in their messages
            self._secrets = [found[1] + "@", found[2]]
        self._secrets += _secret_values(self.storage_options)
        if "?" in url or "#" in url:
            raise ConfigError(f"{shown} was given with a query or a fragment; a folder of files has neither")
        try:
            self._connect(url)
        except ImportError as error:
            extra = EXTRAS.get(_protocol(url))
            do = f"; type pip install 'fmcs-bench[{extra}]'" if extra else ""
            raise ConfigError(f"{shown} needs a package that is not installed: {self._hide(error)}{do}") from None
        except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
            raise ConfigError(
                f"{shown} cannot be opened: {self._hide(error)}; give a folder, or a URL such as "
                "hf://datasets/owner/name, s3://bucket/name or https://host/name"
            ) from None
        if isinstance(self._connected, LocalFileSystem):
            self.local, self.storage_options = Path(self._root), {}
        else:
            self._url = url

    def _connect(self, url: str) -> None:
        self._connected, root = fsspec.core.url_to_fs(url, **self.storage_options)
        self._root, self._process = root.rstrip("/"), os.getpid()

    @property
    def _fs(self) -> Any:
        if self._process != os.getpid():  # connections do not outlive a fork
            self._connect(self._url)
        return self._connected

    def __str__(self) -> str:
        return without_secrets(self.place)

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"

    @property
    def place(self) -> str:
        """What it was opened with, secrets included; not for messages."""
        return str(self.local) if self.local is not None else self._url

    def __reduce__(self) -> tuple[type[Location], tuple[Any, ...]]:
        return Location, (self.place, self.storage_options)

    def shown(self, name: str) -> str:
        """A file of the folder, for messages."""
        return f"{self}/{name}"

    def keeps_inside(self, name: str) -> bool:
        """Whether a name leads to a place in the folder, also where a part of it is a link."""
        if not stays_inside(name):
            return False
        return self.local is None or (self.local / name).resolve().is_relative_to(self.local.resolve())

    def read_bytes(self, name: str) -> bytes:
        """All bytes of a file; a name that leads out of the folder is a ``DatasetError``."""
        if not stays_inside(name):
            raise DatasetError(f"{self} names a file outside its folder: {name!r}")
        if self.local is not None:
            return self._request(self.shown(name), (self.local / name).read_bytes)
        return self._request(self.shown(name), lambda: bytes(self._fs.cat_file(f"{self._root}/{name}")))

    def sha256(self, name: str) -> str:
        """SHA-256 (hexadecimal) of a file's bytes, read in blocks."""

        def read() -> str:
            if self.local is not None:
                return files.sha256_of_file(self.local / name)
            digest = hashlib.sha256()
            with self._stream(name) as stream:
                while block := stream.read(BLOCK_BYTES):
                    digest.update(block)
            return digest.hexdigest()

        return self._request(self.shown(name), read)

    def open(self, name: str) -> BinaryIO:
        """A file, to be read from any position; its reader repeats what fails."""
        return self._request(self.shown(name), lambda: self._stream(name), attempts=1)

    def _stream(self, name: str) -> BinaryIO:
        if self.local is not None:
            return (self.local / name).open("rb")
        stream: BinaryIO = self._fs.open(f"{self._root}/{name}", "rb", block_size=BLOCK_BYTES)
        return stream

    @property
    def attempts(self) -> int:
        """How often a request is made where a connection fails."""
        return 1 if _protocol(self._url) in RETRY_THEMSELVES else len(WAITS) + 1

    def _request(self, what: str, ask: Callable[[], T], *, attempts: int | None = None) -> T:
        """The answer to a request, repeated after faults that may pass; its errors as ours."""
        try:
            for wait in WAITS[: (attempts or self.attempts) - 1]:
                try:
                    return ask()
                except Exception as error:
                    if not may_pass(error):
                        raise
                time.sleep(wait)
            return ask()
        except FileNotFoundError:
            raise MissingDataError(f"{what} does not exist") from None
        except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
            raise self.unreadable(what, error) from None

    def sizes(self) -> dict[str, int] | None:
        """Size of all files by their names, -1 of a link to nothing; None where the protocol cannot list files."""
        if self.local is not None:
            here = [(file.relative_to(self.local), file) for file in self.local.rglob("*") if not file.is_dir()]
            return {name.as_posix(): file.stat().st_size if file.exists() else -1 for name, file in here}
        if _protocol(self._url) in NOT_LISTED:
            return None

        def find() -> dict[str, dict[str, Any]] | None:
            try:
                found: dict[str, dict[str, Any]] = self._fs.find(self._root, detail=True)
            except NotImplementedError:
                return None
            except FileNotFoundError:
                return {}
            return found

        self._fs.invalidate_cache()  # what was listed before may have changed
        listed = self._request(str(self), find)
        if listed is None:
            return None
        root = self._root.lstrip("/") + "/"
        return {name.lstrip("/").removeprefix(root): int(info["size"]) for name, info in listed.items()}

    def put(self, file: Path, name: str) -> None:
        """Copy a file of this machine to the URL, over what is there; ``WorkspaceError`` where that fails."""
        try:
            self._request(self.shown(name), lambda: self._fs.put_file(str(file), f"{self._root}/{name}"))
        except MissingDataError:
            raise WorkspaceError(f"{self.shown(name)} cannot be written: its bucket or folder does not exist") from None
        except DatasetError as error:
            raise WorkspaceError(str(error).replace(" cannot be read: ", " cannot be written: ", 1)) from None

    def zarr_store(self, name: str, expected: Collection[str]) -> Store:
        """The Zarr store in a folder, read-only; an expected file that is missing is an error, not the fill value."""
        store: Store
        if self.local is not None:
            store = LocalStore(self.local / name, read_only=True)
        else:
            store = FsspecStore.from_url(f"{self._url}/{name}", dict(self.storage_options), read_only=True)
        return _StrictStore(store, self, name, expected)

    def unreadable(self, what: str, error: Exception) -> FmcsBenchError:
        """Our error for one of a library, without secrets; ours stay as they are."""
        if isinstance(error, FmcsBenchError):
            return error
        hint = f"; {S3_KEYS}" if isinstance(error, PermissionError) and EXTRAS.get(_protocol(self._url)) == "s3" else ""
        return DatasetError(f"{what} cannot be read: {type(error).__name__}: {self._hide(error)}{hint}")

    def _hide(self, error: Exception) -> str:
        text = without_secrets(str(error))
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class _StrictStore(WrapperStore[Store]):
    """A store whose expected keys must be there, which repeats requests, and raises our errors."""

    def __init__(self, store: Store, location: Location, name: str, expected: Collection[str]) -> None:
        super().__init__(store)
        self._location, self._name, self._expected = location, name, frozenset(expected)

    def _with_store(self, store: Store) -> _StrictStore:
        return _StrictStore(store, self._location, self._name, self._expected)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        file = self._location.shown(f"{self._name}/{key}")
        try:
            value = await _repeated(lambda: self._store.get(key, prototype, byte_range), self._location.attempts)
        except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
            raise self._location.unreadable(file, error) from None
        if value is None and key in self._expected:
            raise DatasetError(f"{file} is missing")
        return value


async def _repeated(ask: Callable[[], Awaitable[T]], attempts: int) -> T:
    for wait in WAITS[: attempts - 1]:
        try:
            return await ask()
        except Exception as error:
            if not may_pass(error):
                raise
        await asyncio.sleep(wait)
    return await ask()


def may_pass(error: Exception) -> bool:
    """Whether the same request may succeed a little later."""
    found = (getattr(sys.modules.get(module), name, None) for module, name in CONNECTION_ERRORS)
    return isinstance(error, (ConnectionError, TimeoutError, HTTPException, *filter(None, found)))


def _secret_values(options: Mapping[str, Any]) -> list[str]:
    nested = [_secret_values(value) for value in options.values() if isinstance(value, Mapping)]
    own = [value for name, value in options.items() if isinstance(value, str) and value and SECRET.search(name)]
    return own + [value for values in nested for value in values]


def _protocol(url: str) -> str:
    return url.split("://", 1)[0].lower()
