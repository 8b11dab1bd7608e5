"""Shards have the bytes that zarr-python gives them; blocks are whole or missing; faults are told."""

import errno
import os

import numpy as np
import pytest
import zarr

from fmcs_bench.core import files
from fmcs_bench.core.errors import DatasetError
from fmcs_bench.store import codecs, schema
from fmcs_bench.store.writer import DatasetWriter, is_finite, shard_sizes, write_shard

SHAPE = (64, 16, 16)  # 256 maps in a shard, 4 in an inner chunk
SEED = 3


def sample(num_rows, num):
    generator = np.random.default_rng(1)
    return generator.normal(size=(num_rows, num, *SHAPE)).clip(min=0).astype(np.float16)


@pytest.fixture
def writer(tmp_path, tiny_dataset):
    with DatasetWriter(tmp_path, SHAPE, num_threads=2) as writer:
        writer.start_run(SEED, tiny_dataset.manifest.runs[0].stages, np.arange(300))
        yield writer


@pytest.mark.parametrize("codec", ["zstd", "q8"])
def test_a_full_shard_has_the_bytes_of_zarr_python(tmp_path, codec):
    maps = sample(1, 256)
    data = maps if codec != "q8" else (maps * 20).astype(np.uint8)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    sizes = {"per_shard": 256, "per_chunk": 4}
    codecs.create_maps(group, "maps", codec, data.shape, **sizes, dimensions=("stage", "image"))[...] = data
    write_shard(tmp_path / "ours", data[0], **sizes)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "a.zarr/maps/c/0/0/0/0/0").read_bytes()


@pytest.mark.parametrize("codec", ["zstd", "q8"])
@pytest.mark.parametrize("num", [1, 4, 255, 256, 257, 300])
def test_zarr_python_reads_what_was_written(tmp_path, tiny_dataset, codec, num):
    maps = sample(3, num)
    with DatasetWriter(tmp_path, SHAPE, codec) as writer:
        writer.start_run(SEED, tiny_dataset.manifest.runs[0].stages, np.arange(num))
        for start in range(0, num, 256):
            writer.write(SEED, "feature_maps", 0, start, np.ascontiguousarray(maps[:, start : start + 256]))
    read = codecs.open_array(zarr.open_group(tmp_path / schema.MAPS, mode="r"), f"run-{SEED}/feature_maps")[...]
    if codec == "q8":
        parts = [codecs.quantise(row[start : start + 256]) for row in maps for start in range(0, num, 256)]
        maps = np.concatenate([part.numbers_NDHW for part in parts]).reshape(3, num, *SHAPE)
    np.testing.assert_array_equal(read, maps)


def test_a_block_is_missing_until_its_shards_are_on_the_disk(tmp_path, writer, monkeypatch):
    assert writer.missing(SEED, "feature_maps", 0, 300) == [0, 256]
    block = sample(3, 256)
    writer.write(SEED, "feature_maps", 0, 0, block)
    writer.flush()
    assert writer.missing(SEED, "feature_maps", 0, 300) == [256]
    assert len(list((tmp_path / schema.MAPS / f"run-{SEED}/feature_maps/c").glob("*/0/0/0/0"))) == 3

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    writer.write(SEED, "feature_maps", 0, 256, block[:, :44].copy())
    with pytest.raises(OSError, match="No space left"):
        writer.flush()
    assert writer.missing(SEED, "feature_maps", 0, 300) == [256]
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_value_that_is_not_finite_is_told_with_its_place(writer, value):
    block = sample(3, 256)
    block[2, 255, -1, -1, -1] = value
    writer.write(SEED, "feature_maps", 0, 0, block)
    with pytest.raises(DatasetError, match="run 3, row 2: a feature map is not finite in float16"):
        writer.flush()
    assert writer.missing(SEED, "feature_maps", 0, 300) == [0, 256]


def test_the_error_of_a_block_comes_out_with_the_next(writer):
    block = np.full((3, 256, *SHAPE), np.nan, np.float16)
    writer.write(SEED, "feature_maps", 0, 0, block)
    with pytest.raises(DatasetError, match="not finite"):
        writer.write(SEED, "feature_maps", 0, 256, sample(3, 44))


@pytest.mark.parametrize(("start", "num"), [(0, 100), (100, 200), (256, 40)])
def test_less_than_a_shard_is_refused(writer, start, num):
    with pytest.raises(ValueError, match="no whole shards of 256"):
        writer.write(SEED, "feature_maps", 0, start, sample(3, num))


def test_every_bit_pattern_is_known_to_be_finite_or_not():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    for value in every[np.random.default_rng(0).permutation(2**16)[:3000]]:
        assert is_finite(np.array([1, value], np.float16)) == bool(np.isfinite(value))
    assert is_finite(every[np.isfinite(every)])
    late = np.zeros((3, 2**20), np.float16)
    late[2, -1] = np.inf
    assert not is_finite(late)


@pytest.mark.parametrize("channels", [1, 3, 64, 512, 2048, 100_000])
@pytest.mark.parametrize("side", [1, 2, 7, 14, 56, 224])
def test_shards_stay_below_64_mb_and_hold_whole_chunks(channels, side):
    map_bytes = 2 * channels * side * side
    per_shard, per_chunk = shard_sizes((channels, side, side))
    assert per_shard % per_chunk == 0
    assert per_shard * map_bytes <= 2**26 or per_shard == 1
    assert per_chunk * map_bytes <= 2**17 or per_chunk == 1


def test_the_number_of_threads_and_the_order_do_not_change_a_byte(tmp_path, tiny_dataset):
    maps = sample(3, 300)
    for threads in (1, 4):
        with DatasetWriter(tmp_path / str(threads), SHAPE, "q8", num_threads=threads) as writer:
            writer.start_run(SEED, tiny_dataset.manifest.runs[0].stages, np.arange(300))
            for start in (256, 0):
                writer.write(SEED, "feature_maps", 0, start, np.ascontiguousarray(maps[:, start : start + 256]))
            writer.finish(SEED, "feature_maps")
    trees = [
        {p.relative_to(root): p.read_bytes() for p in (root / schema.MAPS).rglob("*") if p.is_file()}
        for root in (tmp_path / "1", tmp_path / "4")
    ]
    assert trees[0] == trees[1]
    assert len(trees[0]) > 6
