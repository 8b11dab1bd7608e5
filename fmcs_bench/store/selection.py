"""Some maps of a dataset, chosen by run, stage and split, and read when they are indexed or loaded.

M maps, N images of a run, D channels, H height, W width.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, SupportsIndex

import numpy as np

from fmcs_bench.core.errors import ConfigError
from fmcs_bench.store.map_array import MapIndex, gather
from fmcs_bench.store.torch_dataset import MapBatches


@dataclass(frozen=True)
class MapSet:
    """Feature maps in memory (float16), with their labels as in ``MapIndex``."""

    maps_MDHW: np.ndarray
    stages_M: np.ndarray
    image_ids_M: np.ndarray
    runs_M: np.ndarray

    def __len__(self) -> int:
        return len(self.stages_M)

    @property
    def fmcs_M(self) -> np.ndarray:
        """The FMCS of each map, 1 .. K: ``stages_M`` plus 1."""
        return self.stages_M + 1

    @classmethod
    def concatenate(cls, parts: list[MapSet]) -> MapSet:
        """One set with all maps of the parts, in their order."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class MapSelection(MapIndex):
    """A lazy array [map, channel, y, x] of float16, with labels; ``FmcsDataset.sel`` makes one.

    ``selection[3]`` reads one map, ``selection[2:9]`` and ``selection[[4, 0, 4]]`` several, as NumPy would index them;
    labels are there without reading any map. It can be pickled. Its attributes are those of ``MapIndex``.
    """

    dims: ClassVar = ("map", "channel", "y", "x")
    dtype: ClassVar = np.dtype(np.float16)

    @property
    def fmcs_M(self) -> np.ndarray:
        """The FMCS of each map, 1 .. K: ``stages_M`` plus 1."""
        return self.stages_M + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, D, H, W)."""
        return (len(self), *self.arrays[0].map_shape)

    @property
    def sizes(self) -> dict[str, int]:
        """Size by name of the dimension."""
        return dict(zip(self.dims, self.shape, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes of all maps in memory."""
        return len(self) * self.arrays[0].map_bytes

    @property
    def is_direct(self) -> bool:
        """Whether all maps are read without zarr-python; see ``MapArray``."""
        return all(array.is_direct for array in self.arrays)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{dim}: {size:,}" for dim, size in self.sizes.items())
        return (
            f"MapSelection ({sizes}) float16, {self.nbytes / 1e6:,.1f} MB, not loaded\n"
            f"  runs   {', '.join(map(str, np.unique(self.runs_M)))}\n"
            f"  FMCS   {', '.join(map(str, np.unique(self.fmcs_M)))}\n"
            f"  images {len(np.unique(self.image_ids_M)):,}"
        )

    def __getitem__(self, index: SupportsIndex | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Read maps: one [D, H, W] for a number, several [N, D, H, W] for a slice, a mask or a list of numbers.

        Raises:
            IndexError: a number is out of range, or the index is none of these.
            DatasetError: a file is missing or damaged.
        """
        if isinstance(index, SupportsIndex) and not isinstance(index, np.ndarray):
            m = self._position(index)
            found_DHW: np.ndarray = self.arrays[self.source_M[m]].read_map(int(self.stages_M[m]), int(self.image_M[m]))
            return found_DHW
        index_N = self._positions(index)
        return gather(self.arrays, self.source_M[index_N], self.stages_M[index_N], self.image_M[index_N])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("maps that are not loaded cannot be an array without a copy")
        maps_MDHW = self.load().maps_MDHW
        return maps_MDHW if dtype is None else maps_MDHW.astype(dtype, copy=False)

    def take(self, index: slice | Sequence[int] | np.ndarray) -> MapSelection:
        """A selection of some of these maps, in the order given, still not loaded."""
        index_N = self._positions(index)
        return MapSelection(self.arrays, *(getattr(self, field.name)[index_N] for field in fields(self)[1:]))

    def load(self) -> MapSet:
        """All maps in memory, in the order of the selection; a ``ConfigError`` where they do not fit."""
        _check_memory(self.nbytes)
        return MapSet(self[:], self.stages_M, self.image_ids_M, self.runs_M)

    def torch(self, **options: Any) -> MapBatches:
        """These maps as a ``torch.utils.data.IterableDataset`` of batches; for the options see ``MapBatches``."""
        return MapBatches(self, **options)

    def _position(self, index: SupportsIndex) -> int:
        m = index.__index__()
        if not -len(self) <= m < len(self):
            raise IndexError(f"map {m} of a selection of {len(self):,} maps")
        return m % len(self)

    def _positions(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            return np.arange(len(self))[index]
        index_N = np.asarray(index)
        if index_N.dtype == bool and index_N.shape == (len(self),):
            return np.flatnonzero(index_N)
        if index_N.size == 0 and index_N.ndim == 1:
            return np.zeros(0, np.int64)
        if index_N.ndim != 1 or index_N.dtype.kind not in "iu":
            raise IndexError(
                f"an index of type {index_N.dtype} and shape {index_N.shape}; "
                "allowed are a number, a slice, a list of numbers, or a mask of all maps"
            )
        for extreme in (int(index_N.min()), int(index_N.max())):
            self._position(extreme)
        return index_N.astype(np.int64) % len(self)


def _check_memory(num_bytes: int) -> None:
    try:
        available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return  # the platform does not say
    if num_bytes > 0.8 * available:
        raise ConfigError(
            f"these maps take {num_bytes / 1e9:,.1f} GB in memory and {available / 1e9:,.1f} GB are free; "
            "use --limit, or in Python read them in parts (FmcsDataset.sel)"
        )
