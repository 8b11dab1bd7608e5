"""Maps are what zarr-python reads, in every layout; what is damaged is refused with the name of its file."""

import json
import operator
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import google_crc32c
import numpy as np
import pytest
import zarr
import zstandard
from zarr.codecs import BytesCodec, GzipCodec, ShardingCodec, ZstdCodec

from fmcs_bench.core.errors import DatasetError
from fmcs_bench.store import codecs, map_array
from fmcs_bench.store.location import Location
from fmcs_bench.store.map_array import MapArray, gather

NAME = "run-0/feature_maps"
CODECS = ["zstd", "q8"]
CHUNK, SHARD = (1, 2, 3, 2, 2), (1, 4, 3, 2, 2)
SHARDED = {"chunks": CHUNK, "shards": SHARD}
CODED = [BytesCodec(), ZstdCodec(level=1)]


def sample(num_rows, num, shape, seed=0):
    values = np.random.default_rng(seed).normal(size=(num_rows, num, *shape)).clip(min=0)
    return values.astype(np.float16)


def open_maps(path, codec="zstd"):
    files = frozenset(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return MapArray(Location(path), NAME, codec, files)


def write(path, values, codec="zstd", per_shard=8, per_chunk=2, seed=1):
    """An array of the writer's kind, written by zarr-python; returns the maps that it holds."""
    group = zarr.open_group(path / "maps.zarr", mode="a")
    sizes = {"per_shard": per_shard, "per_chunk": per_chunk, "dimensions": ("stage", "image")}
    array = codecs.create_maps(group, NAME, codec, values.shape, **sizes)
    if codec != "q8":
        array[...] = values
        return values
    generator = np.random.default_rng(seed)
    numbers = generator.integers(0, 256, values.shape, dtype=np.uint8)
    small = (values.shape[0], -(-values.shape[1] // per_shard), values.shape[2])
    scale = generator.random(small, dtype=np.float32)
    zero_point = generator.integers(0, 256, small, dtype=np.uint8)
    array[...] = numbers
    for name, of in ((codecs.scale_name(NAME), scale), (codecs.zero_point_name(NAME), zero_point)):
        group.create_array(name, shape=small, dtype=of.dtype)[...] = of
    shard_N = np.arange(values.shape[1]) // per_shard
    offsets = numbers.astype(np.float32) - zero_point[:, shard_N, :, None, None]
    return (offsets * scale[:, shard_N, :, None, None]).astype(np.float16)


def everything(array):
    rows, num = array.shape[:2]
    row_M, image_M = np.repeat(np.arange(rows), num), np.tile(np.arange(num), rows)
    return gather([array], np.zeros_like(row_M), row_M, image_M).reshape(array.shape)


def by_zarr(path):
    return np.asarray(codecs.open_array(zarr.open_group(path / "maps.zarr", mode="r"), NAME)[...])


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(
    ("per_shard", "per_chunk", "num", "shape"),
    [
        (4, 1, 11, (5, 3, 2)),  # chunks of one map; the last shard is partial
        (12, 3, 29, (4, 2, 2)),  # the last shard and its last chunk are partial
        (8, 8, 16, (3, 1, 1)),  # one chunk in a shard, all full
        (64, 16, 7, (2, 4, 3)),  # one shard, larger than the array
    ],
)
def test_direct_reading_is_what_zarr_reads(tmp_path, codec, per_shard, per_chunk, num, shape):
    expected = write(tmp_path, sample(3, num, shape), codec, per_shard, per_chunk)
    array = open_maps(tmp_path, codec)
    assert array.is_direct
    assert (array.unit, array.dims) == (per_chunk, ("stage", "image", "channel", "y", "x"))
    read = everything(array)
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read.view(np.uint16), expected.view(np.uint16))
    np.testing.assert_array_equal(array.read_map(2, num - 1), expected[2, num - 1])
    if codec != "q8":
        np.testing.assert_array_equal(read, by_zarr(tmp_path))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("seed", range(4))
def test_any_maps_in_any_order(tmp_path, codec, seed, monkeypatch):
    generator = np.random.default_rng(seed)
    per_chunk = int(generator.integers(1, 5))
    per_shard = per_chunk * int(generator.integers(1, 5))
    expected = write(tmp_path, sample(4, int(generator.integers(1, 40)), (3, 2, 2)), codec, per_shard, per_chunk)
    array = open_maps(tmp_path, codec)
    for task_bytes in ((1, 1), map_array.TASK_BYTES):  # many tasks for the threads, or one
        monkeypatch.setattr(map_array, "TASK_BYTES", task_bytes)
        for num in (1, 2, 50):
            row_M, image_M = (generator.integers(0, n, num) for n in array.shape[:2])
            read = gather([array, array], generator.integers(0, 2, num), row_M, image_M, threads=2)
            np.testing.assert_array_equal(read, expected[row_M, image_M])


OTHER_LAYOUTS = {
    "not sharded": {"chunks": CHUNK},
    "gzip": {**SHARDED, "compressors": GzipCodec()},
    "not packed": {**SHARDED, "compressors": None},
    "big endian": {**SHARDED, "serializer": BytesCodec(endian="big")},
    "two rows in a shard": {"chunks": CHUNK, "shards": (2, 4, 3, 2, 2)},
    "parts of maps": {"chunks": (1, 2, 1, 2, 2), "shards": SHARD},
    "flat names": {**SHARDED, "chunk_key_encoding": {"name": "default", "separator": "."}},
    "index first": {
        "chunks": SHARD, "compressors": None,
        "serializer": ShardingCodec(chunk_shape=CHUNK, codecs=CODED, index_location="start"),
    },
    "index without checksum": {
        "chunks": SHARD, "compressors": None,
        "serializer": ShardingCodec(chunk_shape=CHUNK, codecs=CODED, index_codecs=[BytesCodec()]),
    },
    "another fill value": {**SHARDED, "compressors": ZstdCodec(level=1), "fill_value": 7.5},
}  # fmt: skip


@pytest.mark.parametrize("layout", OTHER_LAYOUTS)
def test_zarr_reads_the_layouts_that_are_not_the_writers(tmp_path, layout):
    values = sample(3, 7, (3, 2, 2))
    group = zarr.open_group(tmp_path / "maps.zarr", mode="a")
    names = ("stage", "image", "channel", "y", "x")
    options = OTHER_LAYOUTS[layout]
    group.create_array(NAME, shape=values.shape, dtype=values.dtype, dimension_names=names, **options)[...] = values
    array = open_maps(tmp_path)
    assert not array.is_direct
    assert "by zarr-python" in repr(array)
    np.testing.assert_array_equal(everything(array), values)
    row_M, image_M = np.array([[2, 0, 0, 1, 2], [6, 0, 0, 3, 5]])
    np.testing.assert_array_equal(gather([array], np.zeros(5, int), row_M, image_M), values[row_M, image_M])
    folder = tmp_path / "maps.zarr" / NAME
    next(file for file in folder.rglob("*") if file.is_file() and file.name != "zarr.json").unlink()
    with pytest.raises(DatasetError, match=r"feature_maps/c.* is missing"):
        everything(array)


def shard_file(path, row=0, shard=0):
    return path / "maps.zarr" / NAME / f"c/{row}/{shard}/0/0/0"


def with_index(place, value, num_chunks=4):
    """Damage: a shard with another index, and the right checksum of it."""

    def damage(data):
        end = len(data) - 16 * num_chunks - 4
        index = np.frombuffer(data[end:-4], "<u8").reshape(-1, 2).copy()
        index[place] = value(index) if callable(value) else value
        content = index.tobytes()
        return data[:end] + content + google_crc32c.value(content).to_bytes(4, "little")

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:30], "is damaged: it has 30 bytes, its index alone 68"),
        (lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:], "CRC-32C"),
        (lambda data: data[1:], "is damaged: chunk .* cannot be decoded|lies outside"),
        (with_index((1, 0), 2**63), "lies outside the file"),
        (with_index((3, 0), 2**64 - 1), "lies outside the file"),
        (with_index((0, 1), lambda index: index[0, 1] - 7), "chunk 0 cannot be decoded"),
        (with_index(0, lambda index: (index[1, 0] + 1, index[1, 1] - 1)), "chunk 0 cannot be decoded"),
        (None, "is missing: a shard of the maps"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path, damage, message):
    values = write(tmp_path, sample(2, 20, (3, 4, 4)))
    file = shard_file(tmp_path, 1, 1)
    file.unlink() if damage is None else file.write_bytes(damage(file.read_bytes()))
    array = open_maps(tmp_path)
    with pytest.raises(DatasetError, match=message) as caught:
        everything(array)
    assert str(file) in str(caught.value)
    np.testing.assert_array_equal(array.read_unit(0, 0, np.arange(2)), values[0, :2])


@pytest.mark.parametrize("shape", [(3, 4, 2), (3, 4, 8)])
def test_a_chunk_of_another_size_is_refused(tmp_path, shape):
    """The decoder itself takes chunks that are too small, or too large."""
    write(tmp_path, sample(1, 8, (3, 4, 4)))
    write(tmp_path / "other", sample(1, 8, shape))
    shard_file(tmp_path).write_bytes(shard_file(tmp_path / "other").read_bytes())
    with pytest.raises(DatasetError, match=r"c/0/0/0/0/0 is damaged: chunk 0 .* bytes, not 192"):
        everything(open_maps(tmp_path))


CONTENT = sample(1, 2, (3, 2, 2)) + 1
PLAIN = zstandard.ZstdCompressor(level=1).compress(CONTENT.tobytes())
CHECKED = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(CONTENT.tobytes())
SKIPPABLE = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
HALVES = b"".join(zstandard.compress(half.tobytes()) for half in CONTENT[0])


def with_chunk(path, data):
    """An array of one chunk, which holds these bytes."""
    write(path, CONTENT, per_shard=2)
    index = np.array([0, len(data)], "<u8").tobytes()
    shard_file(path).write_bytes(data + index + google_crc32c.value(index).to_bytes(4, "little"))


@pytest.mark.parametrize(
    "chunk",
    {
        "without size": zstandard.ZstdCompressor(write_content_size=False).compress(CONTENT.tobytes()),
        "with checksum": CHECKED,
        "wrong checksum": CHECKED[:-1] + bytes([CHECKED[-1] ^ 1]),
        "half a checksum": CHECKED[:-2],
        "cut": PLAIN[:-1],
        "header alone": PLAIN[:9],
        "five bytes": PLAIN[:5],
        "nothing": b"",
        "two halves": HALVES,
        "more than it says": PLAIN[:5] + bytes([PLAIN[5] - 1]) + PLAIN[6:],
        "less than it says": PLAIN[:5] + bytes([PLAIN[5] + 1]) + PLAIN[6:],
        "skipped before": SKIPPABLE + PLAIN,
        "skipped behind": PLAIN + SKIPPABLE,
    }.items(),
    ids=operator.itemgetter(0),
)
def test_a_chunk_is_read_or_refused_as_by_zarr(tmp_path, chunk):
    """The decoder itself takes frames with half a checksum without a word."""
    with_chunk(tmp_path, chunk[1])
    try:
        expected = by_zarr(tmp_path)
    except (RuntimeError, ValueError):
        with pytest.raises(DatasetError, match="is damaged: chunk 0 cannot be decoded"):
            everything(open_maps(tmp_path))
    else:
        np.testing.assert_array_equal(expected, CONTENT)
        np.testing.assert_array_equal(everything(open_maps(tmp_path)), CONTENT)


@pytest.mark.parametrize("behind", [b"x", PLAIN, PLAIN[:8], SKIPPABLE[:6]])
def test_what_follows_a_frame_is_not_looked_at(tmp_path, behind):
    with_chunk(tmp_path, PLAIN + behind)
    with pytest.raises((RuntimeError, ValueError)):
        by_zarr(tmp_path)
    np.testing.assert_array_equal(everything(open_maps(tmp_path)), CONTENT)


def test_chunks_that_were_left_out_are_zero(tmp_path):
    values = sample(2, 8, (3, 2, 2)) + 1
    values[1, 2:4] = 0
    write(tmp_path, values)
    array = codecs.open_array(zarr.open_group(tmp_path / "maps.zarr", mode="a"), NAME)
    array.with_config({"write_empty_chunks": False})[...] = values
    assert (np.frombuffer(shard_file(tmp_path, 1).read_bytes()[-68:-4], "<u8") == 2**64 - 1).sum() == 2
    assert open_maps(tmp_path).is_direct
    np.testing.assert_array_equal(everything(open_maps(tmp_path)), values)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("codec", ["zstd", "q8"])
def test_another_process_reads_the_same(tmp_path, method, codec):
    expected = write(tmp_path, sample(2, 9, (3, 2, 2)), codec)
    array = open_maps(tmp_path, codec)
    np.testing.assert_array_equal(everything(array), expected)  # files are open when the other process starts
    assert pickle.loads(pickle.dumps(array)).is_direct
    with ProcessPoolExecutor(1, get_context(method)) as pool:
        call = operator.methodcaller("read_unit", 1, 2, np.arange(2))
        np.testing.assert_array_equal(pool.submit(call, array).result(), expected[1, 4:6])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"data_type": "float32"}, "5 axes of float32, not 5 of float16"),
        (lambda m: m | {"shape": [2, 9]}, "2 axes"),
        (lambda m: {k: m[k] for k in m if k != "shape"}, "is damaged"),
    ],
)
def test_damaged_metadata_is_refused(tmp_path, change, message):
    write(tmp_path, sample(2, 9, (3, 2, 2)))
    file = tmp_path / "maps.zarr" / NAME / "zarr.json"
    file.write_text(json.dumps(change(json.loads(file.read_bytes()))))
    with pytest.raises(DatasetError, match=message):
        open_maps(tmp_path)


def test_a_scale_of_another_shape_is_refused(tmp_path):
    write(tmp_path, sample(2, 9, (3, 2, 2)), "q8")
    group = zarr.open_group(tmp_path / "maps.zarr", mode="a")
    group.create_array(codecs.scale_name(NAME), data=np.ones((2, 1, 3), np.float32), overwrite=True)
    with pytest.raises(DatasetError, match=r"feature_maps_scale has the shape \(2, 1, 3\), not \(2, 2, 3\)"):
        everything(open_maps(tmp_path, "q8"))
