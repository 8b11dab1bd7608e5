"""Every codec gives float16 maps; zstd loses nothing, q8 at most half a step and no zero."""

import json

import numpy as np
import pytest
import zarr
from conftest import build_tiny

from fmcs_bench.store import codecs, schema
from fmcs_bench.store.writer import DatasetWriter

SHAPE = (64, 16, 16)  # 256 maps in a shard
NUM = 256 + 13
SEED = 7


def sample_maps(signed=False):
    """Maps like a backbone's: many zeros, channels of very different size, and a dead channel."""
    generator = np.random.default_rng(0)
    maps = generator.normal(size=(3, NUM, *SHAPE)) * np.exp(generator.normal(size=(SHAPE[0], 1, 1)) * 3)
    maps[:, :, 3] = 0
    return (maps if signed else maps.clip(min=0)).astype(np.float16)


def write(path, codec, maps, dataset):
    with DatasetWriter(path, maps.shape[2:], codec) as writer:
        writer.start_run(SEED, dataset.manifest.runs[0].stages, np.arange(maps.shape[1]))
        for start in writer.missing(SEED, "feature_maps", 0, maps.shape[1]):
            block = np.ascontiguousarray(maps[:, start : start + writer.maps_per_shard])
            writer.write(SEED, "feature_maps", 0, start, block)
        writer.finish(SEED, "feature_maps")
        return writer


def stored(path, name="feature_maps"):
    return np.asarray(codecs.open_array(zarr.open_group(path / schema.MAPS, mode="r"), f"run-{SEED}/{name}")[:])


@pytest.fixture(scope="module", params=["zstd", "q8"])
def of_codec(request, tiny_dataset, tmp_path_factory):
    """The tiny dataset, built with each codec."""
    return tiny_dataset if request.param == "zstd" else build_tiny(tmp_path_factory.mktemp("q8"), codec=request.param)


@pytest.mark.parametrize("signed", [False, True])
def test_the_lossless_codec_keeps_every_bit(tmp_path, tiny_dataset, signed):
    maps = sample_maps(signed)
    maps[0, 0, 0, 0, :3] = [-0.0, 6e-8, 65504]
    writer = write(tmp_path, "zstd", maps, tiny_dataset)
    np.testing.assert_array_equal(stored(tmp_path).view(np.uint16), maps.view(np.uint16))
    assert writer.map_error() is None


@pytest.mark.parametrize("signed", [False, True])
def test_q8_is_within_half_a_step_and_keeps_zeros(tmp_path, tiny_dataset, signed):
    maps = sample_maps(signed)
    writer = write(tmp_path, "q8", maps, tiny_dataset)
    numbers = stored(tmp_path)
    small = {name: stored(tmp_path, f"feature_maps_{name}") for name in ("scale", "zero_point")}
    assert numbers.dtype == small["zero_point"].dtype == np.uint8
    assert small["scale"].dtype == np.float32
    assert small["scale"].shape == small["zero_point"].shape == (3, 2, 64)  # a full shard and the rest
    for shard, part in enumerate((maps[:, :256], maps[:, 256:])):
        values = part.astype(np.float32)
        span = values.max(axis=(1, 3, 4)).clip(min=0) - values.min(axis=(1, 3, 4)).clip(max=0)
        np.testing.assert_allclose(small["scale"][:, shard] * 255, span, rtol=1e-6)
    assert small["zero_point"].any() == signed
    # What any reader of Zarr computes, in float32, as docs/format.md says.
    scale, zero_point = (np.repeat(of, 256, axis=1)[:, :NUM, :, None, None].astype("f4") for of in small.values())
    values = (numbers - zero_point) * scale
    error = np.abs(values - maps.astype(np.float32))
    assert (error <= scale * 0.5001).all()  # float32 has 24 bits
    assert (values[maps == 0] == 0).all()
    assert (values[:, :, 3] == 0).all()
    # What our reader gives: the same, rounded to float16.
    for row in range(3):
        for shard, images in enumerate((slice(256), slice(256, None))):
            read = codecs.dequantise(numbers[row, images], small["scale"][row, shard], small["zero_point"][row, shard])
            np.testing.assert_array_equal(read, values[row, images].astype(np.float16))
    error = np.abs(values.astype(np.float16).astype(np.float64) - maps.astype(np.float64))
    measured = writer.map_error()
    assert measured.largest == pytest.approx(error.max(), rel=1e-6)
    assert measured.mean == pytest.approx(error.mean(), rel=1e-4)
    assert measured.mean > 0


def test_q8_needs_the_whole_range_even_where_both_ends_fall_between_two_numbers():
    """The zero point is rounded, so that the other end may be one number too far and is cut by half a step."""
    generator = np.random.default_rng(0)
    for _ in range(200):
        low, high = -generator.random(), generator.random()
        maps = np.array([low, high, 0], np.float16).reshape(1, 1, 1, 3)
        packed = codecs.quantise(maps)
        values = (packed.numbers_NDHW - packed.zero_point_D.astype(np.float32)) * packed.scale_D
        assert np.abs(values - maps.astype(np.float32)).max() <= 0.5001 * packed.scale_D[0]
        assert values[0, 0, 0, 2] == 0


def test_the_error_is_over_all_arrays(tmp_path, tiny_dataset):
    maps = sample_maps()
    along = 100 * maps[:2, :10].clip(max=600)
    with DatasetWriter(tmp_path, SHAPE, "q8") as writer:
        stages = tiny_dataset.manifest.runs[0].stages
        few = np.arange(10)
        writer.start_run(SEED, stages, np.arange(256), num_checkpoints=2, trajectory_image_N=few)
        writer.write(SEED, "feature_maps", 0, 0, np.ascontiguousarray(maps[:, :256]))
        writer.finish(SEED, "feature_maps")
        for row in range(2):
            writer.write(SEED, "trajectory_maps", row, 0, along[row : row + 1])
        writer.finish(SEED, "trajectory_maps")
    total = largest = size = 0
    for name, expected in (("feature_maps", maps[:, :256]), ("trajectory_maps", along)):
        numbers, scale, zero_point = (stored(tmp_path, f"{name}{end}") for end in ("", "_scale", "_zero_point"))
        for row, values in enumerate(expected):
            read = codecs.dequantise(numbers[row], scale[row, 0], zero_point[row, 0])
            error = np.abs(read.astype(np.float64) - values)
            total, largest, size = total + error.sum(), max(largest, error.max()), size + error.size
    assert writer.map_error().largest == pytest.approx(largest, rel=1e-6)
    assert writer.map_error().mean == pytest.approx(total / size, rel=1e-4)


def test_every_codec_is_read_as_float16(of_codec, tiny_dataset):
    (seed,) = of_codec.seeds("test")
    for split in ("validation", "unseen"):
        read, expected = (dataset.select(seed, split) for dataset in (of_codec, tiny_dataset))
        assert read.maps_MDHW.dtype == np.float16
        assert_close(of_codec, read.maps_MDHW, expected.maps_MDHW)
        np.testing.assert_array_equal(read.image_ids_M, expected.image_ids_M)
    along = of_codec.trajectory_maps(seed)
    assert along.dtype == np.float16
    assert_close(of_codec, along, tiny_dataset.trajectory_maps(seed))


def assert_close(dataset, read, expected):
    error = np.abs(read.astype(np.float64) - expected.astype(np.float64))
    assert (read[expected == 0] == 0).all()
    if dataset.manifest.config.codec == "zstd":
        np.testing.assert_array_equal(read.view(np.uint16), expected.view(np.uint16))
    else:
        assert error.max() <= dataset.manifest.map_error.largest
        assert error.max() > 0


def test_the_manifest_and_the_text_tell_codec_size_and_error(of_codec):
    manifest, text = of_codec.manifest, repr(of_codec)
    ratio = manifest.raw_bytes / manifest.bytes_under(schema.MAPS)
    assert f"({manifest.config.codec}; raw " in text
    assert f"{ratio:.2f} times smaller" in text
    assert (manifest.map_error is not None) == ("  loss    at most" in text) == (manifest.config.codec == "q8")
    assert schema.Manifest.from_json(json.loads((of_codec.path / "dataset.json").read_bytes())) == manifest
    assert not (of_codec.path / schema.WORK).exists()


def test_maps_need_no_codec_outside_the_specification(of_codec):
    metadata = json.loads((of_codec.path / "maps.zarr/run-0/feature_maps/zarr.json").read_bytes())
    (sharding,) = metadata["codecs"]
    assert sharding["name"] == "sharding_indexed"
    assert [inner["name"] for inner in sharding["configuration"]["codecs"]] == ["bytes", "zstd"]
    assert [inner["name"] for inner in sharding["configuration"]["index_codecs"]] == ["bytes", "crc32c"]
    codec = of_codec.manifest.config.codec
    assert metadata["data_type"] == {"zstd": "float16", "q8": "uint8"}[codec]
    assert metadata["attributes"].get("scale") == (None if codec == "zstd" else "feature_maps_scale")


def test_another_implementation_of_zarr_reads_equal_values(of_codec):
    tensorstore = pytest.importorskip("tensorstore", reason="the other implementation of Zarr is not installed")

    def read(name):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(of_codec.path / schema.MAPS / name)}}
        return tensorstore.open(spec, read=True).result().read().result()

    for run in of_codec.manifest.runs:
        arrays = ["feature_maps", *(["trajectory_maps"] if run.role == "test" else [])]
        for array in arrays:
            values = read(f"run-{run.seed}/{array}")
            if of_codec.manifest.config.codec == "q8":
                (scale, zero_point) = (read(f"run-{run.seed}/{array}_{name}") for name in ("scale", "zero_point"))
                assert scale.shape[1] == 1  # one shard; the next test has two
                values = (values.astype(np.float32) - zero_point[:, 0, None, :, None, None]) * scale[
                    :, 0, None, :, None, None
                ]
            for row, maps in enumerate(values.astype(np.float16)):
                np.testing.assert_array_equal(maps, of_codec.read_maps(run.seed, array, row))
        np.testing.assert_array_equal(read(f"run-{run.seed}/image"), of_codec.array(f"run-{run.seed}/image")[:])
    np.testing.assert_array_equal(read("image_id"), of_codec.array("image_id")[:])


@pytest.mark.parametrize("codec", ["zstd", "q8"])
def test_a_run_that_is_started_anew_keeps_nothing_of_the_former(tmp_path, tiny_dataset, codec):
    maps = sample_maps()
    with DatasetWriter(tmp_path, SHAPE, codec) as writer:
        writer.start_run(SEED, tiny_dataset.manifest.runs[0].stages, np.arange(NUM))
        writer.write(SEED, "feature_maps", 0, 0, np.full((3, 256, *SHAPE), -60000, np.float16))
    write(tmp_path, codec, maps, tiny_dataset)
    write(tmp_path / "fresh", codec, maps, tiny_dataset)
    np.testing.assert_array_equal(stored(tmp_path), stored(tmp_path / "fresh"))
    if codec == "q8":
        np.testing.assert_array_equal(*(stored(p, "feature_maps_scale") for p in (tmp_path, tmp_path / "fresh")))
