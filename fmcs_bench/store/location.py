"""Where an FMCS dataset is: a folder here, or a place that fsspec reads.

Flow: path or URL -> ``Location`` -> bytes of a file, sizes of all files, a Zarr store. Nothing is ever written.
Messages name URLs without user, password and query.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from fmcs_bench.errors import ConfigError, DatasetError, FmcsBenchError, MissingDataError

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

NOT_LISTED = ("http", "https")
"""Protocols without a listing of a folder; sizes of files are then not compared before they are read."""


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


class Location:
    """A dataset's folder, here or elsewhere.

    Args:
        place: path of a folder, or a URL of any protocol that fsspec knows.

    Attributes:
        local: the folder, where it is on this machine; else None.

    Raises:
        ConfigError: a protocol that is unknown or needs a package, or a URL with a query.
    """

    def __init__(self, place: str | Path) -> None:
        self.local: Path | None = None if is_url(place) else Path(place)
        self._url = ""
        self._secrets: list[str] = []
        if self.local is None:
            self._open_url(str(place).rstrip("/"))

    def _open_url(self, url: str) -> None:
        shown = without_secrets(url)
        self._secrets = secrets_of(url)
        if "?" in url or "#" in url:
            raise ConfigError(f"{shown} was given with a query or a fragment; a folder of files has neither")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise ConfigError(f"{shown} needs a package that is not installed: {self._hide(error)}") from None
        except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
            raise ConfigError(
                f"{shown} cannot be opened: {self._hide(error)}; give a folder, or a URL such as "
                "hf://datasets/owner/name, s3://bucket/name or https://host/name"
            ) from None
        if isinstance(self._fs, LocalFileSystem):
            self.local = Path(self._root)
        else:
            self._url, self._root = url, self._root.rstrip("/")

    def __str__(self) -> str:
        return str(self.local) if self.local is not None else without_secrets(self._url)

    def __repr__(self) -> str:
        return f"Location({str(self)!r})"

    @property
    def place(self) -> str:
        """What it was opened with, secrets included; not for messages."""
        return str(self.local) if self.local is not None else self._url

    def __getstate__(self) -> dict[str, Any]:
        return {"place": self.place}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Location.__init__(self, **state)

    def shown(self, name: str) -> str:
        """A file of the folder, for messages."""
        return f"{self}/{name}"

    def read_bytes(self, name: str) -> bytes:
        """All bytes of a file.

        Args:
            name: path inside the folder, with forward slashes.

        Raises:
            DatasetError: the name leads out of the folder, or the file cannot be read.
            MissingDataError: there is no such file.
        """
        if not stays_inside(name):
            raise DatasetError(f"{self} names a file outside its folder: {name!r}")
        try:
            if self.local is not None:
                return (self.local / name).read_bytes()
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))
        except FileNotFoundError:
            raise MissingDataError(f"{self.shown(name)} does not exist") from None
        except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
            raise self.unreadable(self.shown(name), error) from None

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file, to be read from any position.

        Args:
            name: path inside the folder, with forward slashes.

        Raises:
            MissingDataError: there is no such file.
            DatasetError: it cannot be opened.
        """
        shown = self.shown(name)
        try:
            if self.local is not None:
                stream = (self.local / name).open("rb")
            else:
                stream = self._fs.open(f"{self._root}/{name}", "rb")
        except FileNotFoundError:
            raise MissingDataError(f"{shown} does not exist") from None
        except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
            raise self.unreadable(shown, error) from None
        with stream:
            yield stream

    def sizes(self, names: Collection[str]) -> dict[str, int] | None:
        """Size of these files, by name, without those that are missing; None where the protocol has no listing.

        Elsewhere than here, one listing gives them all, and not one request for each.

        Raises:
            DatasetError: the listing fails.
        """
        if self.local is not None:
            here = {name: self.local / name for name in names}
            return {name: file.stat().st_size for name, file in here.items() if file.is_file()}
        if self._url.split("://", 1)[0] in NOT_LISTED:
            return None
        try:
            found: dict[str, dict[str, Any]] = self._fs.find(self._root, detail=True)
        except NotImplementedError:
            return None
        except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
            raise self.unreadable(str(self), error) from None
        root = self._root.lstrip("/") + "/"
        return {name.lstrip("/").removeprefix(root): int(info["size"]) for name, info in found.items()}

    def zarr_store(self, name: str, expected: Collection[str]) -> Store:
        """A Zarr store to read from; a file that must be there and is not is an error, and not the fill value.

        Args:
            name: of the store's folder inside this one.
            expected: paths inside the store of all files that must be there.
        """
        store: Store
        if self.local is not None:
            store = LocalStore(self.local / name, read_only=True)
        else:
            store = FsspecStore.from_url(f"{self._url}/{name}", read_only=True)
        return _StrictStore(store, self, name, expected)

    def unreadable(self, what: str, error: Exception) -> FmcsBenchError:
        """Our error for one of a library, without secrets; ours stay as they are."""
        if isinstance(error, FmcsBenchError):
            return error
        return DatasetError(f"{what} cannot be read: {type(error).__name__}: {self._hide(error)}")

    def _hide(self, error: Exception) -> str:
        text = without_secrets(str(error))
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class _StrictStore(WrapperStore[Store]):
    """A store that knows which files there must be, and whose errors are ours.

    Args:
        store: does the reading.
        location: of the dataset.
        name: of the store's folder there.
        expected: keys that must be there.
    """

    def __init__(self, store: Store, location: Location, name: str, expected: Collection[str]) -> None:
        super().__init__(store)
        self._location, self._name, self._expected = location, name, frozenset(expected)

    def _with_store(self, store: Store) -> _StrictStore:
        return _StrictStore(store, self._location, self._name, self._expected)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        file = self._location.shown(f"{self._name}/{key}")
        try:
            value = await self._store.get(key, prototype, byte_range)
        except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
            raise self._location.unreadable(file, error) from None
        if value is None and key in self._expected:
            raise DatasetError(f"{file} is missing")
        return value


def stays_inside(name: str) -> bool:
    r"""Whether a name with forward slashes leads to a place below the folder that it is added to.

    Example:
        >>> [stays_inside(name) for name in ("a/b", "../b", "/b", "a/../../b", "", "c:/b", "a\\b")]
        [True, False, False, False, False, False, False]
    """
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and ".." not in path.parts and not re.search(r"[\\:?#%]", name)


def secrets_of(url: str) -> list[str]:
    """User with password, and password, as they stand in a URL: libraries repeat parts of it in their messages."""
    found = re.search(r"://([^/@]*:([^/@]+))@", url)
    return [found[1] + "@", found[2]] if found else []
