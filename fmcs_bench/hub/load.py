"""A published FMCS dataset as rows of Hugging Face's ``datasets``: ``fmcs_bench.load``.

Only ``publication.json`` and Parquet files are read, of one commit, and no code of the repository runs. The formats of
``datasets`` give flat float32 maps; importing this module adds the format ``fmcs``: maps are float16 [D, H, W], and the
``id`` of the values' feature is their shape.
"""

from __future__ import annotations

import glob
import json
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets import formatting
from datasets.formatting.formatting import TensorFormatter

from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError, SupersededWarning, nearest
from fmcs_bench.hub.errors import hub_errors
from fmcs_bench.hub.parquet import MAPS
from fmcs_bench.store import publication
from fmcs_bench.store.location import stays_inside
from fmcs_bench.store.publication import ParquetSplit, Publication

FORMAT = "fmcs"


def load(
    name_or_path: str | os.PathLike[str],
    configuration: str = "default",
    *,
    split: str | None = None,
    streaming: bool = False,
    revision: str | None = None,
) -> datasets.Dataset | datasets.IterableDataset | datasets.DatasetDict | datasets.IterableDatasetDict:
    """Load a published FMCS dataset as tensors, one map in a row.

    A row has ``feature_map`` (float16 [D, H, W]), ``fmcs`` (0 .. K - 1, a class), ``stage`` (1 .. K), ``run`` (seed),
    ``image_id``, ``label`` (a class) and ``epoch``. ``with_format(None)`` gives maps as flat lists, as they are in the
    files. Only the files of the splits that are asked for are fetched.

    Args:
        name_or_path: a published folder, or ``owner/name`` of a dataset repository on the Hub.
        configuration: ``default`` (train on the training runs, test on a run that no evaluator has seen), ``same_run``
            or ``unseen``.
        split: as for ``datasets.load_dataset``: ``train``, ``validation``, ``test``, also ``train[:10%]``; None is a
            dictionary of all.
        streaming: read rows as they are needed, and keep nothing on the disk.
        revision: branch, tag or commit of the repository; None is ``main``. All files come from one commit.

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
    text = os.fspath(name_or_path)
    folder, repo = Path(text).expanduser(), ""
    if not text or not folder.is_dir():
        if not isinstance(name_or_path, str) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text):
            raise MissingDataError(
                f"there is no folder {text!r}, and it is no name of a repository; give a published folder or owner/name"
            )
        repo = text
    elif revision is not None:
        raise ConfigError(f"revision = {revision!r} of the folder {folder}; only a repository on the Hub has revisions")
    source = f"the dataset repository {repo}" + (f" at {revision}" if revision else "") if repo else str(folder)
    file = _from_hub(repo, revision, [publication.FILE], source) if repo else folder
    published = _read_publication(file / publication.FILE, source)
    if published.superseded_by is not None:
        warnings.warn(
            f"{source} is superseded by {published.superseded_by}: load that, unless you repeat former results",
            SupersededWarning,
            stacklevel=2,
        )
    parts = _chosen(published, configuration, split, source)
    names = [name for part in parts for name in part.files]
    for name in names:
        if not stays_inside(name):
            raise DatasetError(f"{publication.FILE} of {source} names a file outside its folder: {name!r}")
    if repo and streaming:
        root = f"hf://datasets/{repo}@{file.name}"
    else:
        root = str(_from_hub(repo, file.name, names, source) if repo else folder)
        for name in names:
            _check(Path(root) / name, name, published, source)
    # ``datasets`` reads paths as patterns; a name with ``[`` is that name
    files = {part.split: [glob.escape(f"{root}/{name}") for name in part.files] for part in parts}
    with hub_errors(source) if repo and streaming else nullcontext():
        try:
            rows = datasets.load_dataset("parquet", data_files=files, split=split, streaming=streaming)
        except (datasets.exceptions.DatasetGenerationError, pa.ArrowInvalid) as error:
            raise DatasetError(f"the Parquet files of {source} are damaged: {error.__cause__ or error}") from None
        except (ValueError, NotImplementedError) as error:  # such as a slice of a split that is streamed
            raise ConfigError(f"split = {split!r}, streaming = {streaming} of {source}: {error}") from None
    return _with_maps(rows)


def _from_hub(repo: str, revision: str | None, names: Sequence[str], source: str) -> Path:
    """Files of a repository, in the Hub's cache; the folder is named after the commit."""
    import huggingface_hub

    with hub_errors(source):
        if list(names) == [publication.FILE]:
            file = huggingface_hub.hf_hub_download(repo, publication.FILE, repo_type="dataset", revision=revision)
            return Path(file).parent
        return Path(
            huggingface_hub.snapshot_download(
                repo, repo_type="dataset", revision=revision, allow_patterns=[glob.escape(name) for name in names]
            )
        )


def _read_publication(file: Path, source: str) -> Publication:
    try:
        return Publication.from_json(json.loads(file.read_bytes()))
    except FileNotFoundError:
        raise DatasetError(
            f"{source} is no published FMCS dataset (no {publication.FILE}); one that was built here is opened with "
            "fmcs_bench.open"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, ConfigError) as error:
        raise DatasetError(f"{publication.FILE} of {source} is damaged, or of a later version: {error}") from None


def _chosen(published: Publication, configuration: str, split: str | None, source: str) -> list[ParquetSplit]:
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


def _check(path: Path, name: str, published: Publication, source: str) -> None:
    if not path.is_file():
        raise MissingDataError(f"{name} of {source} is not on this machine; download it, or choose a different split")
    entry = published.files.get(name)
    if entry is None or path.stat().st_size != entry.num_bytes:
        expected = "nothing" if entry is None else f"{entry.num_bytes:,} bytes"
        raise DatasetError(
            f"{name} of {source} has {path.stat().st_size:,} bytes; {publication.FILE} states {expected}"
        )


def _with_maps(rows: Any) -> Any:
    """Rows, or a dictionary of splits, in the format of this module."""
    if isinstance(rows, dict):
        return type(rows)({split: _with_maps(of_split) for split, of_split in rows.items()})
    rows = rows.with_format(FORMAT)
    column = rows.info.features[MAPS]
    column.feature = MapValue(column.feature.dtype, id=column.feature.id)
    return rows


class MapValue(datasets.Value):  # type: ignore[misc]  # the library ships no types
    """A ``Value`` of a map: a process that unpickles such rows imports this module, which adds the format."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, datasets.Value) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # as features are


class TensorMaps(TensorFormatter):  # type: ignore[misc]  # the library ships no types
    """Rows as tensors, numbers as they are stored."""

    def format_row(self, pa_table: pa.Table) -> dict[str, Any]:
        """The first row: a map [D, H, W], and numbers."""
        return {name: values[0] for name, values in self.format_batch(pa_table.slice(0, 1)).items()}

    def format_column(self, pa_table: pa.Table) -> Any:
        """Values of the only column, [B, D, H, W] or [B]."""
        return self._of_arrow(pa_table.column_names[0], pa_table.column(0))

    def format_batch(self, pa_table: pa.Table) -> dict[str, Any]:
        """Maps [B, D, H, W], and numbers [B]."""
        return {name: self._of_arrow(name, pa_table.column(name)) for name in pa_table.column_names}

    def recursive_tensorize(self, data_struct: Mapping[str, Any]) -> dict[str, Any]:
        """A row or a batch that has left Arrow, such as one that a function has changed."""
        return {name: self._of_python(name, value) for name, value in data_struct.items()}

    def _of_arrow(self, name: str, column: pa.ChunkedArray) -> Any:
        if name == MAPS and pa.types.is_fixed_size_list(column.type) and not column.null_count:
            maps_BDHW = np.empty((len(column), *self._shape()), np.float16)
            start, size = 0, column.type.list_size
            for chunk in column.chunks:
                values = chunk.values.slice(chunk.offset * size, len(chunk) * size)  # flatten() would copy
                maps_BDHW[start : start + len(chunk)] = values.to_numpy().reshape(len(chunk), *maps_BDHW.shape[1:])
                start += len(chunk)
            return torch.from_numpy(maps_BDHW)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return torch.tensor(column.to_numpy())  # a copy: Arrow's memory cannot be written to
        values = column.to_pylist()  # of a column that somebody added or changed
        return self._of_python(name, values) if name == MAPS else values

    def _of_python(self, name: str, value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], np.ndarray | np.number | torch.Tensor):
            return torch.stack([torch.as_tensor(one) for one in value])
        if name == MAPS and isinstance(value, list):
            values = np.asarray(value, np.float16)
            is_flat = values.ndim <= 2  # a row or a batch of flat maps
            return torch.from_numpy(values.reshape(*values.shape[:-1], *self._shape()) if is_flat else values)
        if isinstance(value, int | float | np.ndarray | np.number) and not isinstance(value, bool):
            return torch.as_tensor(np.asarray(value))
        return value

    def _shape(self) -> tuple[int, ...]:
        feature = (self.features or {}).get(MAPS)
        shape = re.fullmatch(r"(\d+)x(\d+)x(\d+)", getattr(getattr(feature, "feature", None), "id", None) or "")
        if shape is None:
            raise DatasetError(
                f"the shape of the maps is not known: the feature of {MAPS}'s values has no id like '1024x7x7'; load "
                "the dataset with fmcs_bench.load, or choose a different format"
            )
        return tuple(map(int, shape.groups()))


formatting._register_formatter(TensorMaps, FORMAT)
