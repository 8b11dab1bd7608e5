"""Formats of ``datasets`` in which a feature map is a [D, H, W] array; ``fmcs_bench.load`` chooses one.

Flow: rows of an Arrow table, memory-mapped or streamed -> values of the fixed-size lists, without a copy -> one new
array [B, D, H, W] of the type that was asked for -> NumPy or torch. The ``id`` of the values' feature is the shape.

The formats that ``datasets`` has give flat maps and make float32 of them; their option ``dtype`` makes float16 of the
image ids too. Importing this module adds ours, one for each library and type of number: ``fmcs_torch_float16``, ...
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets import formatting
from datasets.formatting.formatting import TensorFormatter

from fmcs_bench.core.errors import DatasetError
from fmcs_bench.hub.load import DTYPES
from fmcs_bench.hub.parquet import MAPS, parse_shape


def format_name(library: str, dtype: str) -> str:
    """Name of a format, for ``with_format``."""
    return f"fmcs_{library}_{dtype}"


def with_maps(rows: Any, library: str, dtype: str) -> Any:
    """Rows, or a dictionary of splits, in one of the formats of this module.

    Args:
        rows: what ``datasets.load_dataset`` returned.
        library: ``torch`` or ``numpy``.
        dtype: one of ``DTYPES[library]``.
    """
    if isinstance(rows, dict):
        return type(rows)({split: with_maps(of_split, library, dtype) for split, of_split in rows.items()})
    rows = rows.with_format(format_name(library, dtype))
    column = rows.info.features[MAPS]
    column.feature = MapValue(column.feature.dtype, id=column.feature.id)
    return rows


class MapValue(datasets.Value):  # type: ignore[misc]  # the library ships no types
    """The feature of a value of a map; equal to the ``Value`` that is in the files, and written as one.

    Rows that are sent to another process take it along. Reading it there imports this module, which adds the formats.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, datasets.Value) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # as features are


class NumpyMaps(TensorFormatter):  # type: ignore[misc]  # the library ships no types
    """Rows as NumPy arrays: maps as ``dtype``, other numbers as they are stored."""

    dtype: ClassVar[str]

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
            return self._maps(maps_BDHW)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return self._numbers(column.to_numpy())
        values = column.to_pylist()  # of a column that somebody added or changed
        return self._of_python(name, values) if name == MAPS else values

    def _of_python(self, name: str, value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], np.ndarray | np.number | torch.Tensor):
            return self._stack(value)
        if name == MAPS and isinstance(value, list):
            values = np.asarray(value, np.float16)
            is_flat = values.ndim <= 2  # a row or a batch of flat maps
            return self._maps(values.reshape(*values.shape[:-1], *self._shape()) if is_flat else values)
        if isinstance(value, int | float | np.ndarray | np.number) and not isinstance(value, bool):
            return self._numbers(np.asarray(value))
        return value

    def _shape(self) -> tuple[int, int, int]:
        feature = (self.features or {}).get(MAPS)
        shape = parse_shape(getattr(getattr(feature, "feature", None), "id", None))
        if shape is None:
            raise DatasetError(
                f"the shape of the maps is not known: the feature of {MAPS}'s values has no id like '1024x7x7'; load "
                "the data set with fmcs_bench.load, or choose another format"
            )
        return shape

    def _maps(self, maps: np.ndarray) -> Any:
        return maps.astype(self.dtype, copy=False)

    def _numbers(self, numbers: np.ndarray) -> Any:
        return numbers

    def _stack(self, values: list[Any]) -> Any:
        return np.stack(values)


class TorchMaps(NumpyMaps):
    """Rows as tensors: maps as ``dtype``, other numbers as they are stored."""

    def _maps(self, maps: np.ndarray) -> Any:
        return torch.from_numpy(maps).to(getattr(torch, self.dtype))

    def _numbers(self, numbers: np.ndarray) -> Any:
        return torch.tensor(numbers)  # a copy: Arrow's memory cannot be written to

    def _stack(self, values: list[Any]) -> Any:
        return torch.stack([torch.as_tensor(value) for value in values])


def _add_formats() -> None:
    for library, kind in (("torch", TorchMaps), ("numpy", NumpyMaps)):
        for dtype in DTYPES[library]:
            name = format_name(library, dtype)
            formatting._register_formatter(type(f"{kind.__name__}_{dtype}", (kind,), {"dtype": dtype}), name)


_add_formats()
