"""A published FMCS dataset as rows of Hugging Face's ``datasets``: ``fmcs_bench.load``.

Flow: folder or repository -> ``publication.json`` -> Parquet files of the splits that were asked for, fetched into the
Hub's cache at one revision, or streamed -> ``datasets.load_dataset`` -> a format in which maps are [D, H, W].

Nothing but these files is read or fetched, and no code of the repository runs.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError, SupersededWarning, nearest
from fmcs_bench.store import publication
from fmcs_bench.store.location import stays_inside
from fmcs_bench.store.publication import ParquetSplit, Publication

if TYPE_CHECKING:
    import datasets
    import torch

DTYPES = {"torch": ("float16", "bfloat16", "float32"), "numpy": ("float16", "float32")}
"""Types of maps, by the library that holds them."""


def load(
    name_or_path: str | os.PathLike[str],
    configuration: str = "default",
    *,
    split: str | None = None,
    streaming: bool = False,
    revision: str | None = None,
    library: Literal["torch", "numpy"] = "torch",
    dtype: torch.dtype | np.dtype[Any] | type | str = "float16",
) -> datasets.Dataset | datasets.IterableDataset | datasets.DatasetDict | datasets.IterableDatasetDict:
    """Load a published FMCS dataset, one map in a row.

    A row has ``feature_map`` [D, H, W], ``fmcs`` (0 .. K - 1, a class), ``stage`` (1 .. K), ``run`` (seed),
    ``image_id``, ``label`` (a class) and ``epoch``. Another format, as ``with_format(None)``, gives maps as flat lists,
    as they are in the files. Only the files of the splits that are asked for are fetched.

    Args:
        name_or_path: ``owner/name`` of a dataset repository on the Hub, or a published folder. A folder of that name
            comes first.
        configuration: ``default`` (train on the training runs, test on a run that no evaluator has seen), ``same_run``
            or ``unseen``.
        split: as for ``datasets.load_dataset``: ``train``, ``validation``, ``test``, also ``train[:10%]``; None is a
            dictionary of all.
        streaming: read rows as they are needed, and keep nothing on the disk.
        revision: branch, tag or commit of the repository; None is ``main``. All files come from one commit.
        library: that holds maps and numbers.
        dtype: of the maps: ``float16`` as they are stored, ``float32``, or ``bfloat16`` with torch.

    Raises:
        ConfigError: a value that is not allowed; no such configuration or split.
        MissingDataError: there is no such folder, repository or revision, its files are not here and the Hub cannot be
            asked, or the folder has no Parquet files.
        DatasetError: it is no published FMCS dataset, or is damaged.

    Example:
        >>> import fmcs_bench
        >>> rows = fmcs_bench.load("owner/name", split="test")  # doctest: +SKIP
        >>> first = rows[0]  # doctest: +SKIP
        >>> first["feature_map"].shape  # doctest: +SKIP
        torch.Size([1024, 7, 7])
    """
    number = _number(library, dtype)
    folder = _folder(name_or_path)
    if folder is not None and revision is not None:
        raise ConfigError(f"revision = {revision!r} of the folder {folder}; only a repository on the Hub has revisions")
    source: _Folder | _Repository
    source = _Folder(folder) if folder is not None else _Repository(os.fspath(name_or_path), revision)
    published = _read_publication(source)
    if published.superseded_by is not None:
        warnings.warn(
            f"{source} is superseded by {published.superseded_by}: load that, unless you repeat former results",
            SupersededWarning,
            stacklevel=2,
        )
    parts = _chosen(published, configuration, split, source)
    files = source.streamed(parts, published) if streaming else source.here(parts, published)
    return _rows(source, files, split, streaming=streaming, library=library, number=number)


class _Folder:
    """A published folder on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> Path:
        """The file that makes it a published one."""
        return self.path / publication.FILE

    def here(self, parts: Sequence[ParquetSplit], published: Publication) -> dict[str, list[str]]:
        """Paths of the files of each split."""
        for part in parts:
            for name in part.files:
                _check(self.path / name, name, published, self)
        return {part.split: [str(self.path / name) for name in part.files] for part in parts}

    streamed = here


class _Repository:
    """A dataset repository on the Hub, at one commit."""

    def __init__(self, name: str, revision: str | None) -> None:
        self.name, self.revision = name, revision
        self.commit = ""

    def __str__(self) -> str:
        return f"the dataset repository {self.name}" + (f" at {self.revision}" if self.revision else "")

    def read(self) -> Path:
        """The file that makes it a published one; from then on all others come from its commit."""
        import huggingface_hub

        with _explained(self):
            path = Path(
                huggingface_hub.hf_hub_download(
                    self.name, publication.FILE, repo_type="dataset", revision=self.revision
                )
            )
        self.commit = path.parent.name
        return path

    def here(self, parts: Sequence[ParquetSplit], published: Publication) -> dict[str, list[str]]:
        """Paths of the files of each split, once they are in the Hub's cache."""
        import huggingface_hub

        names = [name for part in parts for name in part.files]
        with _explained(self):
            folder = Path(
                huggingface_hub.snapshot_download(
                    self.name, repo_type="dataset", revision=self.commit, allow_patterns=names
                )
            )
        for name in names:
            _check(folder / name, name, published, self)
        return {part.split: [str(folder / name) for name in part.files] for part in parts}

    def streamed(self, parts: Sequence[ParquetSplit], published: Publication) -> dict[str, list[str]]:  # noqa: ARG002  (the Hub tells what is missing)
        """URLs of the files of each split."""
        root = f"hf://datasets/{self.name}@{self.commit}"
        return {part.split: [f"{root}/{name}" for name in part.files] for part in parts}


def _folder(name_or_path: str | os.PathLike[str]) -> Path | None:
    """The folder that is meant; None is a repository."""
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if text and path.is_dir():
        return path
    if isinstance(name_or_path, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text):
        return None
    raise MissingDataError(
        f"there is no folder {text!r}, and it is no name of a repository; give a published folder or owner/name"
    )


def _number(library: str, dtype: Any) -> str:
    if library not in DTYPES:
        raise ConfigError(f"library = {library!r}; allowed are {', '.join(DTYPES)}")
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES["torch"]:
        try:
            name = np.dtype(dtype).name  # of np.float16, which is a class
        except TypeError:
            name = str(dtype)
    if name not in DTYPES[library]:
        raise ConfigError(f"dtype = {dtype!r}; allowed with {library} are {', '.join(DTYPES[library])}")
    return name


def _read_publication(source: _Folder | _Repository) -> Publication:
    file = source.read()
    try:
        value = json.loads(file.read_bytes())
        return Publication.from_json(value)
    except FileNotFoundError:
        raise DatasetError(
            f"{source} is no published FMCS dataset (no {publication.FILE}); one that was built here is opened with "
            "fmcs_bench.open"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise DatasetError(f"{publication.FILE} of {source} is damaged, or of a later version: {error}") from None


def _chosen(
    published: Publication, configuration: str, split: str | None, source: _Folder | _Repository
) -> list[ParquetSplit]:
    """The splits that are asked for."""
    if not published.parquet:
        raise MissingDataError(f"{source} was published without Parquet files; its maps are read with fmcs_bench.open")
    names = list(dict.fromkeys(part.configuration for part in published.parquet))
    if configuration not in names:
        raise ConfigError(f"configuration = {configuration!r} of {source}; {nearest(configuration, names)}")
    parts = {part.split: part for part in published.parquet if part.configuration == configuration}
    if split is None:
        return list(parts.values())
    asked = [one.split("[")[0].strip() for one in str(split).split("+")]
    for one in asked:
        if one not in parts:
            raise ConfigError(f"split = {split!r} of the configuration {configuration}; allowed are {', '.join(parts)}")
    return [part for name, part in parts.items() if name in asked]


def _check(path: Path, name: str, published: Publication, source: _Folder | _Repository) -> None:
    if not stays_inside(name):
        raise DatasetError(f"{publication.FILE} of {source} names a file outside its folder: {name!r}")
    if not path.is_file():
        raise MissingDataError(f"{name} of {source} is not on this machine; download it, or choose another split")
    entry = published.files.get(name)
    if entry is None or path.stat().st_size != entry.num_bytes:
        expected = "nothing" if entry is None else f"{entry.num_bytes:,} bytes"
        raise DatasetError(f"{name} of {source} has {path.stat().st_size:,} bytes; {publication.FILE} says {expected}")


def _rows(
    source: _Folder | _Repository,
    files: dict[str, list[str]],
    split: str | None,
    *,
    streaming: bool,
    library: str,
    number: str,
) -> Any:
    import datasets

    from fmcs_bench.hub import formatting

    with _explained(source):
        try:
            rows = datasets.load_dataset("parquet", data_files=files, split=split, streaming=streaming)
        except (datasets.exceptions.DatasetGenerationError, pa.ArrowInvalid) as error:
            raise DatasetError(f"the Parquet files of {source} are damaged: {error.__cause__ or error}") from None
        except (ValueError, NotImplementedError) as error:  # such as a slice of a split that is streamed
            raise ConfigError(f"split = {split!r}, streaming = {streaming} of {source}: {error}") from None
    return formatting.with_maps(rows, library, number)


@contextmanager
def _explained(source: _Folder | _Repository) -> Iterator[None]:
    """Turns what the Hub's library raises into our errors."""
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise MissingDataError(f"{source} is gated: ask for access on its page, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise MissingDataError(
            f"{source} does not exist, or needs a login (`hf auth login`); give the name as owner/name"
        ) from None
    except errors.RevisionNotFoundError:
        raise MissingDataError(f"{source}: there is no such revision") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = "HF_HUB_OFFLINE is set" if _is_offline() else f"the Hub cannot be reached: {_root_cause(error)}"
        raise MissingDataError(f"{source} is not in the Hub's cache on this machine, and {why}") from None
    except errors.EntryNotFoundError:
        raise DatasetError(
            f"{source} is no published FMCS dataset: a file is missing, {publication.FILE} above all"
        ) from None
    except errors.HFValidationError as error:
        raise ConfigError(f"{source}: {error}") from None
    except (errors.HfHubHTTPError, ConnectionError) as error:
        raise DatasetError(f"{source} cannot be read: {error}") from None


def _is_offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
