"""How maps are compressed: the arrays of each codec, and the arithmetic of the lossy one.

``zstd`` and ``pco`` store float16 and lose nothing. ``q8`` stores whole numbers of 8 bits beside an array
``<array>_scale`` [row, channel] of float32: value = stored number * scale, so that zero stays zero. A row is a stage or
a checkpoint. Numbers are uint8, or int8 where an array has a negative value.
R rows, N images, D channels, H height, W width.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.errors import ZarrUserWarning

from fmcs_bench.errors import ConfigError, DatasetError

ZSTD_LEVEL = 1
PCO_LEVEL = 8
DTYPES = {"zstd": ("float16",), "pco": ("float16",), "q8": ("uint8", "int8")}
"""What maps are stored as, by codec."""


def require(codec: str) -> None:
    """Check that this machine can write and read maps of a codec.

    Raises:
        ConfigError: a package is missing; the message says how to get it.
    """
    if codec == "pco" and find_spec("pcodec") is None:
        raise ConfigError(
            "maps of the codec pco need the package pcodec, which is not installed; "
            "type `pip install 'fmcs-bench[pco]'` (or, for a new build, choose --codec zstd or q8)"
        )


def scale_name(array: str) -> str:
    """Name of the array with the scale of an array of q8."""
    return f"{array}_scale"


def create_maps(
    group: zarr.Group,
    name: str,
    codec: str,
    dtype: str,
    shape: tuple[int, ...],
    *,
    per_shard: int,
    per_chunk: int,
    dimensions: tuple[str, str],
) -> zarr.Array[Any]:
    """Create an array for maps, replacing one of that name.

    Args:
        group: where.
        name: of the array.
        codec: ``zstd``, ``pco`` or ``q8``.
        dtype: one of ``DTYPES[codec]``.
        shape: (R, N, D, H, W).
        per_shard: maps in a shard.
        per_chunk: maps in an inner chunk.
        dimensions: names of the first two.
    """
    settings: Any = {"write_empty_chunks": True}  # looking for empty chunks costs half of zstd's speed
    with _without_specification_warning():
        packing: dict[str, Any] = {"compressors": ZstdCodec(level=ZSTD_LEVEL)}
        if codec == "pco":
            from zarr.codecs.numcodecs import PCodec

            # Neighbouring values are no sequence: differences (delta) add noise, and looking for a mode costs time.
            serializer = PCodec(level=PCO_LEVEL, mode_spec="classic", delta_encoding_order=0)
            packing = {"serializer": serializer, "compressors": None}
        return group.create_array(
            name, shape=shape, dtype=dtype, chunks=(1, per_chunk, *shape[2:]), shards=(1, per_shard, *shape[2:]),
            dimension_names=(*dimensions, "channel", "y", "x"), config=settings, overwrite=True, **packing,
        )  # fmt: skip


def open_array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """An array of any codec, lazy.

    Raises:
        DatasetError: there is none of that name.
    """
    with _without_specification_warning():
        array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise DatasetError(f"{name} is no array of {group.store_path}")
    return array


@contextmanager
def _without_specification_warning() -> Iterator[None]:
    """Zarr warns that PCodec stands outside the Zarr 3 specification.

    Who chose pco was told so by ``--help`` and docs/format.md; at every array that is opened it would tell nobody more.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Numcodecs codecs are not in the Zarr version 3", ZarrUserWarning)
        yield


def choose_scale(low_RD: np.ndarray, high_RD: np.ndarray) -> tuple[str, np.ndarray]:
    """The numbers that q8 uses for an array, and its scale.

    Args:
        low_RD: lowest value of each row and channel.
        high_RD: highest.

    Returns:
        dtype, ``uint8`` (0 .. 255) or, where a value is negative, ``int8`` (-127 .. 127); scale, float32 [R, D], 0
        where all values are 0.

    Example:
        >>> choose_scale(np.array([[0.0]]), np.array([[51.0]]))
        ('uint8', array([[0.2]], dtype=float32))
    """
    dtype, levels = ("int8", 127) if (low_RD < 0).any() else ("uint8", 255)
    largest_RD = np.maximum(np.abs(low_RD.astype(np.float64)), np.abs(high_RD.astype(np.float64)))
    return dtype, (largest_RD / levels).astype(np.float32)


def quantise(maps_NDHW: np.ndarray, scale_D: np.ndarray, dtype: str) -> np.ndarray:
    """The nearest whole multiples of the scale.

    Args:
        maps_NDHW: float16, finite, of one row.
        scale_D: float32, from ``choose_scale``.
        dtype: from ``choose_scale``.
    """
    divisor_D = np.where(scale_D > 0, scale_D, 1)
    levels = 127 if dtype == "int8" else 255
    numbers_NDHW = np.rint(maps_NDHW.astype(np.float32) / divisor_D[:, None, None])
    return np.clip(numbers_NDHW, -levels, levels).astype(dtype)


def dequantise(numbers_NDHW: np.ndarray, scale_D: np.ndarray) -> np.ndarray:
    """The values of q8's numbers, float16 [N, D, H, W]; within half a scale of what was quantised.

    Example:
        >>> dequantise(np.array([[[[0, 255]]]], np.uint8), np.array([0.2], np.float32)).tolist()
        [[[[0.0, 51.0]]]]
    """
    maps_NDHW = np.empty(numbers_NDHW.shape, np.float16)
    # Computed as float32 in NumPy's small buffers, not in an array of twice the size of the result.
    np.multiply(numbers_NDHW, scale_D[:, None, None], out=maps_NDHW, dtype=np.float32, casting="same_kind")
    return maps_NDHW
