"""Reads the shards of a Zarr v3 array directly: no event loop, no copy where none is needed, threads that run at once.

Flow: zarr.json -> layout, or why zarr-python must read this array -> shard file, mapped -> index, checked -> a chunk.
What is read is what zarr-python reads, but for two things: a missing shard is an error, and not the fill value; and
what follows a Zstandard frame inside its chunk, which zarr-python refuses, is not looked at.
N maps in a chunk, R rows of the array.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zstandard
from numcodecs.abc import Codec
from numcodecs.registry import get_codec

from fmcs_bench.core.errors import DatasetError
from fmcs_bench.store.shard_file import MISSING

MAX_OPEN = 64
"""Shard files of one array that a process keeps open."""
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


class _UnknownLayoutError(Exception):
    """Why a layout is not read directly."""


@dataclass(frozen=True)
class ShardLayout:
    """How a Zarr v3 array lies on disk, for the layout that ``ShardReader`` knows.

    That is: one row of the first axis in a shard; shards and inner chunks that cover all axes from the third on;
    little-endian numbers packed by ``zstd`` or ``numcodecs.pcodec``; the index at the end of a shard, with CRC-32C.

    Attributes:
        shape: of the array, [R, images, ...].
        dtype: of the stored numbers, as NumPy writes it.
        per_shard: maps in a shard.
        per_chunk: maps in an inner chunk.
        codec: configuration of the decoder for numcodecs.
        fill_value: of chunks that were left out.
    """

    shape: tuple[int, ...]
    dtype: str
    per_shard: int
    per_chunk: int
    codec: dict[str, Any]
    fill_value: float

    @classmethod
    def parse(cls, metadata: Any) -> tuple[ShardLayout | None, str]:
        """The layout in the content of a ``zarr.json``, or None with the reason why this is another layout.

        Example:
            >>> ShardLayout.parse({"zarr_format": 2})
            (None, 'zarr_format is 2, not 3')
        """
        try:
            return cls._parse(metadata), ""
        except _UnknownLayoutError as unknown:
            return None, str(unknown)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            return None, f"zarr.json is not as expected ({type(error).__name__}: {error})"

    @classmethod
    def _parse(cls, metadata: Any) -> ShardLayout:
        def require(what: str, found: object, expected: object) -> None:
            if found != expected:
                raise _UnknownLayoutError(f"{what} is {found!r}, not {expected!r}")

        require("zarr_format", metadata["zarr_format"], 3)
        require("node_type", metadata["node_type"], "array")
        require("storage_transformers", metadata.get("storage_transformers") or [], [])
        key = metadata["chunk_key_encoding"]
        require("chunk_key_encoding", key["name"], "default")
        require("separator", key.get("configuration", {}).get("separator", "/"), "/")
        require("chunk_grid", metadata["chunk_grid"]["name"], "regular")
        if metadata["data_type"] not in ("float16", "uint8"):
            raise _UnknownLayoutError(f"data_type is {metadata['data_type']!r}, not float16 or uint8")
        dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        if len(metadata["codecs"]) != 1 or metadata["codecs"][0]["name"] != "sharding_indexed":
            raise _UnknownLayoutError("the array is not sharded, or packed around its shards")
        sharding = metadata["codecs"][0]["configuration"]
        require("index_codecs", sharding["index_codecs"], [LITTLE, {"name": "crc32c"}])
        require("index_location", sharding.get("index_location", "end"), "end")
        shape, shard, chunk = (
            tuple(int(n) for n in sizes)
            for sizes in (
                metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"], sharding["chunk_shape"]
            )
        )  # fmt: skip
        if not len(shape) == len(shard) == len(chunk) >= 2 or min(*shape[2:], *shard, *chunk) < 1:
            raise _UnknownLayoutError(f"shape {shape}, shards {shard} and chunks {chunk} do not fit together")
        require("length of shards and chunks along the first axis", (shard[0], chunk[0]), (1, 1))
        require("shape of shards and chunks from the third axis on", (shard[2:], chunk[2:]), (shape[2:], shape[2:]))
        require("rest of a shard that no chunk fills", shard[1] % chunk[1], 0)
        return cls(
            shape, dtype.str, shard[1], chunk[1], _decoder(sharding["codecs"], dtype), float(metadata["fill_value"])
        )


def _decoder(codecs: list[dict[str, Any]], dtype: np.dtype[Any]) -> dict[str, Any]:
    """Configuration of the only codec between numbers and bytes."""
    names = [codec["name"] for codec in codecs]
    if names == ["numcodecs.pcodec"]:
        return {"id": "pcodec", **codecs[0].get("configuration", {})}
    endian = codecs[0].get("configuration", {}).get("endian", "little" if dtype.itemsize == 1 else None)
    if names != ["bytes", "zstd"] or (dtype.itemsize > 1 and endian != "little"):
        raise _UnknownLayoutError(
            f"the codecs are {', '.join(names)}, not little-endian bytes and zstd, or numcodecs.pcodec"
        )
    return {"id": "zstd"}


class _Shard:
    """An open shard: its bytes, and where its chunks are.

    Args:
        file: the shard file.
        num_chunks: chunks in a shard.

    Raises:
        DatasetError: the file is missing or damaged.
    """

    def __init__(self, file: Path, num_chunks: int) -> None:
        index_bytes = 16 * num_chunks + 4
        try:
            with file.open("rb") as stream:
                num_bytes = os.fstat(stream.fileno()).st_size
                if num_bytes < index_bytes:
                    raise DatasetError(
                        f"{file} is damaged: it has {num_bytes:,} bytes, its index alone {index_bytes:,}"
                    )
                self.data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            raise DatasetError(f"{file} is missing: a shard of the maps") from None
        except OSError as error:
            raise DatasetError(f"{file} cannot be read: {error.strerror or error}") from None
        end = len(self.data) - index_bytes
        index = bytes(self.data[end:-4])
        if google_crc32c.value(index) != int.from_bytes(self.data[-4:], "little"):
            raise DatasetError(f"{file} is damaged: the index of its chunks does not have its CRC-32C")
        spans = np.frombuffer(index, "<u8").reshape(num_chunks, 2)
        offsets, lengths = spans.T
        inside = (offsets <= end) & (lengths <= end - np.minimum(offsets, end))
        if not (inside | (spans == MISSING).all(axis=1)).all():
            raise DatasetError(f"{file} is damaged: a chunk of its index lies outside the file")
        self.spans: list[tuple[int, int]] = [(begin, length) for begin, length in spans.tolist()]


class ShardReader:
    """Reads inner chunks of one array; threads may share one, and it can be pickled.

    Args:
        folder: of the array, with its ``zarr.json``.
        layout: of this array.
        max_open: shard files that stay open.
    """

    def __init__(self, folder: Path, layout: ShardLayout, *, max_open: int = MAX_OPEN) -> None:
        self.folder, self.layout, self.max_open = folder, layout, max_open
        self._codec: Codec = get_codec(layout.codec)
        self._unpack = _unpack_zstd if self._codec.codec_id == "zstd" else _unpack_pco
        self._chunks_per_shard = layout.per_shard // layout.per_chunk
        self._chunk_shape = (layout.per_chunk, *layout.shape[2:])
        self._chunk_bytes = math.prod(self._chunk_shape) * np.dtype(layout.dtype).itemsize
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._open: dict[tuple[int, int], _Shard] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "layout": self.layout, "max_open": self.max_open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ShardReader.__init__(self, **state)

    @property
    def num_open(self) -> int:
        """Shard files that are open now."""
        return len(self._open)

    def read_chunk(self, row: int, chunk: int, out: np.ndarray | None = None) -> np.ndarray:
        """The stored numbers of one inner chunk; where it is the last of the array, only those inside the array.

        Args:
            row: position on the first axis.
            chunk: position of the chunk along the second axis, counted over all shards.
            out: where the numbers go, [N, ...], contiguous, of the array's type; None makes a new array.

        Returns:
            ``out``, or the new array.

        Raises:
            DatasetError: the shard is missing or damaged; the message names its file.
        """
        layout = self.layout
        number, place = divmod(chunk, self._chunks_per_shard)
        shard = self._shard(row, number)
        begin, length = shard.spans[place]
        per_chunk = layout.per_chunk
        num = min(per_chunk, layout.shape[1] - chunk * per_chunk)
        if begin == MISSING:
            numbers = out if out is not None else np.empty((num, *layout.shape[2:]), layout.dtype)
            numbers[...] = layout.fill_value
            return numbers
        target = out if num == per_chunk else None
        try:
            decoded = self._decode(shard.data[begin : begin + length], target)
        except Exception as error:  # noqa: BLE001  (which error a codec raises over damaged bytes, only it knows)
            raise DatasetError(
                f"{self._file(row, number)} is damaged: chunk {place} cannot be decoded ({error})"
            ) from None
        if target is not None:
            return decoded
        if out is None:
            return decoded[:num]
        out[...] = decoded[:num]
        return out

    def _decode(self, data: memoryview, out: np.ndarray | None) -> np.ndarray:
        target = np.empty(self._chunk_shape, self.layout.dtype) if out is None else out
        if self._unpack(data, target):
            return target
        decoded = np.frombuffer(self._codec.decode(data), np.uint8)
        if len(decoded) != self._chunk_bytes:
            raise ValueError(f"it has {len(decoded):,} bytes, not {self._chunk_bytes:,}")
        target[...] = decoded.view(self.layout.dtype).reshape(self._chunk_shape)
        return target

    def _file(self, row: int, shard: int) -> Path:
        return self.folder.joinpath("c", str(row), str(shard), *("0" for _ in self.layout.shape[2:]))

    def _shard(self, row: int, shard: int) -> _Shard:
        if self._process != os.getpid():
            self._start()  # after a fork: another thread of the parent may have held the lock
        key = (row, shard)
        opened = self._open.get(key)
        if opened is not None:
            return opened
        opened = _Shard(self._file(row, shard), self._chunks_per_shard)
        with self._lock:
            self._open[key] = opened
            while len(self._open) > self.max_open:
                del self._open[next(iter(self._open))]  # closed when the last thread that decodes from it is done
        return opened


class _Decompressors(threading.local):
    """One for each thread: making a new one for each map takes as long as decoding 10 KB."""

    def __init__(self) -> None:
        self.own = zstandard.ZstdDecompressor()


_DECOMPRESSORS = _Decompressors()


def _unpack_zstd(data: memoryview, out: np.ndarray) -> bool:
    """Decode a frame that says that it holds so many bytes, and ends without a checksum; False where it is another."""
    try:
        header = zstandard.get_frame_parameters(data)
    except zstandard.ZstdError:
        return False
    if header.content_size != out.nbytes or header.has_checksum:
        return False
    with _DECOMPRESSORS.own.stream_reader(data) as frame:  # what follows the frame is not looked at
        num_bytes = frame.readinto(out.data)
    if num_bytes < out.nbytes:
        raise ValueError("the frame ends too early")
    return True


def _unpack_pco(data: memoryview, out: np.ndarray) -> bool:
    """Decode as many numbers as there is room for; False where it is another number."""
    from pcodec import standalone

    progress = standalone.simple_decompress_into(bytes(data), out.reshape(-1))
    return bool(progress.finished and progress.n_processed == out.size)
