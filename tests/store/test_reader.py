import json
import shutil

import numpy as np
import pytest
import torch
import zarr
from conftest import TINY

import fmcs_bench as fb
from fmcs_bench.backbones.create import create_backbone, map_shape, num_parameters
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.images.load import load_images
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.store import schema
from fmcs_bench.store.writer import DatasetWriter
from fmcs_bench.training.trajectory import load_checkpoint


def all_maps(dataset, seed):
    return np.asarray(dataset.array(f"run-{seed}/feature_maps")[:])


def test_layout_follows_the_schema(tiny_dataset):
    group = zarr.open_group(tiny_dataset.path / "maps.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    for seed, role in tiny_dataset.manifest.config.run_roles.items():
        maps = group[f"run-{seed}/feature_maps"]
        assert maps.metadata.dimension_names == ("stage", "image", "channel", "y", "x")
        assert maps.dtype == np.float16
        splits = np.asarray(group["split"][:])[np.asarray(group[f"run-{seed}/image"][:])]
        assert {SPLITS[i] for i in np.unique(splits)} == set(SPLITS if role == "training" else SPLITS[1:])
        assert maps.shape == (3, len(splits), *tiny_dataset.manifest.map_shape)
        for stage in (1, 2, 3):
            assert (tiny_dataset.path / f"checkpoints/run-{seed}/stage-{stage}.safetensors").is_file()
    assert not (tiny_dataset.path / schema.WORK).exists()


def test_the_store_uses_no_private_codec(tiny_dataset):
    metadata = json.loads((tiny_dataset.path / "maps.zarr/run-0/feature_maps/zarr.json").read_bytes())
    (sharding,) = metadata["codecs"]
    names = [sharding["name"]] + [c["name"] for c in sharding["configuration"]["codecs"]]
    names += [codec["name"] for codec in sharding["configuration"]["index_codecs"]]
    assert set(names) <= {"sharding_indexed", "bytes", "zstd", "crc32c"}
    assert metadata["data_type"] == "float16"


def test_maps_can_be_computed_again_from_images_and_checkpoints(tiny_dataset):
    manifest = tiny_dataset.manifest
    source = load_images("digits", limit=TINY["limit"])
    assert source.sha256 == manifest.images.sha256
    prepare = Preprocessor(source, manifest.config.image_size)
    for run in manifest.runs:
        image_N = np.asarray(tiny_dataset.array(f"run-{run.seed}/image")[:])[:7]
        for stage in run.stages:
            path = tiny_dataset.path / schema.checkpoint_name(run.seed, stage.stage)
            backbone = load_checkpoint(manifest.config, len(manifest.images.classes), path)
            with torch.no_grad():
                maps = backbone.features(prepare(torch.from_numpy(source.images_NCHW[image_N])))
            stored = all_maps(tiny_dataset, run.seed)[stage.stage - 1, :7].astype(np.float32)
            np.testing.assert_allclose(stored, maps.numpy(), rtol=2e-3, atol=1e-3)


def test_stages_come_from_the_trajectory(tiny_dataset):
    for run in tiny_dataset.manifest.runs:
        run_file = tiny_dataset.run_file(run.seed)
        assert run_file.stages == run.stages
        steps = [stage.step for stage in run.stages]
        assert steps == sorted(set(steps))
        assert steps[-1] >= run_file.convergence_step
        by_step = {c.step: c.validation_accuracy for c in run_file.run.checkpoints}
        assert [by_step[stage.step] for stage in run.stages] == [stage.validation_accuracy for stage in run.stages]
        stored = np.asarray(tiny_dataset.array(f"run-{run.seed}/step")[:])
        assert stored.tolist() == steps


def test_trajectory_maps_hold_the_stage_maps_of_the_test_run(tiny_dataset):
    (seed,) = tiny_dataset.seeds("test")
    image_N = np.asarray(tiny_dataset.array(f"run-{seed}/image")[:])
    few_N = np.asarray(tiny_dataset.array(f"run-{seed}/trajectory_image")[:])
    assert set(np.asarray(tiny_dataset.array("split")[:])[few_N]) == {SPLITS.index("test")}
    steps = [checkpoint.step for checkpoint in tiny_dataset.run_file(seed).run.checkpoints]
    along = np.asarray(tiny_dataset.array(f"run-{seed}/trajectory_maps")[:])
    assert along.shape[:2] == (len(steps), len(few_N))
    rows = [int(np.flatnonzero(image_N == i)[0]) for i in few_N]
    for stage in tiny_dataset.manifest.runs[-1].stages:
        expected = all_maps(tiny_dataset, seed)[stage.stage - 1][rows].astype(np.float32)
        np.testing.assert_allclose(along[steps.index(stage.step)].astype(np.float32), expected, rtol=2e-3, atol=1e-3)


def test_raw_bytes_are_those_of_all_map_arrays(tiny_dataset):
    group = tiny_dataset.maps
    arrays = [group[f"run-{seed}/feature_maps"] for seed in range(4)] + [group["run-3/trajectory_maps"]]
    assert tiny_dataset.manifest.raw_bytes == sum(array.nbytes for array in arrays)
    on_disk = sum(path.stat().st_size for path in (tiny_dataset.path / "maps.zarr").rglob("*") if path.is_file())
    assert tiny_dataset.manifest.bytes_under("maps.zarr") == on_disk


def test_select_gives_the_maps_of_one_split_with_their_stages(tiny_dataset):
    (seed,) = tiny_dataset.seeds("test")
    selected = tiny_dataset.select(seed, "unseen")
    ids_N = np.asarray(tiny_dataset.array("image_id")[:])[np.asarray(tiny_dataset.array(f"run-{seed}/image")[:])]
    stored = all_maps(tiny_dataset, seed)
    for position in range(0, len(selected), 11):
        column = int(np.flatnonzero(ids_N == selected.image_ids_M[position])[0])
        np.testing.assert_array_equal(selected.maps_MDHW[position], stored[selected.stages_M[position], column])
    assert set(selected.runs_M) == {seed}
    assert len(tiny_dataset.select(seed, "unseen", limit=5)) == 5 * 3


def test_no_image_stands_on_two_sides_and_no_run_either(tiny_dataset):
    ids = {split: set() for split in SPLITS}
    for run in tiny_dataset.manifest.runs:
        for split in SPLITS if run.role == "training" else SPLITS[1:]:
            ids[split] |= set(tiny_dataset.select(run.seed, split).image_ids_M.tolist())
    for a in SPLITS:
        for b in SPLITS:
            assert a == b or not ids[a] & ids[b]
    seeds = [run.seed for run in tiny_dataset.manifest.runs]
    assert len(set(seeds)) == len(seeds)
    assert [run.role for run in tiny_dataset.manifest.runs] == ["training", "training", "validation", "test"]


def test_held_out_runs_have_no_train_images(tiny_dataset):
    for role in ("validation", "test"):
        with pytest.raises(ConfigError, match="no image of the split train"):
            tiny_dataset.select(tiny_dataset.seeds(role)[0], "train")


@pytest.fixture
def copied(tiny_dataset, tmp_path):
    return shutil.copytree(tiny_dataset.path, tmp_path / "copy")


def test_a_copy_opens_with_the_same_digest(tiny_dataset, copied):
    assert fb.open(copied).id == tiny_dataset.id
    assert tiny_dataset.id in repr(fb.open(copied))


def damage_missing_file(path):
    next((path / "maps.zarr/run-0/feature_maps").rglob("c/0/0/*/*/*")).unlink()


def damage_truncated_shard(path):
    shard = next(p for p in (path / "maps.zarr/run-1/feature_maps").rglob("*") if p.is_file() and p.name == "0")
    shard.write_bytes(shard.read_bytes()[:-10])


def damage_manifest(path):
    value = json.loads((path / "dataset.json").read_bytes())
    value["config"]["seed"] += 1
    (path / "dataset.json").write_text(json.dumps(value))


def damage_schema(path):
    value = json.loads((path / "dataset.json").read_bytes())
    (path / "dataset.json").write_text(json.dumps(value | {"schema_version": 99}))


def damage_unknown_key(path):
    value = json.loads((path / "dataset.json").read_bytes())
    (path / "dataset.json").write_text(json.dumps(value | {"raw_byte": 1}))


def damage_json(path):
    (path / "dataset.json").write_text("{")


def damage_no_manifest(path):
    (path / "dataset.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing_file, "is incomplete: maps.zarr/run-0/feature_maps"),
        (damage_truncated_shard, "is incomplete: maps.zarr/run-1"),
        (damage_manifest, "was changed"),
        (damage_schema, "has schema 99; this version of fmcs-bench reads 1"),
        (damage_unknown_key, "unknown option 'raw_byte' of Manifest; did you mean raw_bytes"),
        (damage_json, "is damaged"),
        (damage_no_manifest, "is unfinished"),
    ],
)
def test_damaged_datasets_are_refused(copied, damage, message):
    damage(copied)
    with pytest.raises(DatasetError, match=message):
        fb.open(copied)


def test_a_manifest_cannot_name_files_outside_its_folder(copied):
    value = json.loads((copied / "dataset.json").read_bytes())
    (copied.parent / "secret").write_text("x")
    value["files"]["../secret"] = {"num_bytes": 1, "sha256": "0" * 64}
    manifest = schema.Manifest.from_json(value)
    value["dataset_digest"] = schema.dataset_digest(manifest.config, manifest.images, manifest.files)
    (copied / "dataset.json").write_text(json.dumps(value))
    with pytest.raises(DatasetError, match=r"outside its folder: '\.\./secret'"):
        fb.open(copied)


def test_a_missing_dataset_says_how_to_build_one(tmp_path):
    with pytest.raises(MissingDataError, match="fmcs-bench build"):
        fb.open(tmp_path / "nothing")


@pytest.mark.parametrize("map_shape", [(3, 2, 2), (64, 16, 16), (512, 12, 12)])
def test_writing_in_shards_and_reading_gives_equal_bits(tmp_path, tiny_dataset, map_shape):
    with DatasetWriter(tmp_path, map_shape) as writer:
        num = writer.maps_per_shard + 5 if map_shape[0] > 3 else 40
        maps = np.random.default_rng(0).normal(size=(num, *map_shape)).astype(np.float16).clip(min=0)
        stages = tiny_dataset.manifest.runs[0].stages
        writer.start_run(7, stages, np.arange(num))
        for start in range(0, num, writer.maps_per_shard):
            writer.write(7, "feature_maps", 1, start, maps[None, start : start + writer.maps_per_shard])
    read = zarr.open_group(tmp_path / "maps.zarr", mode="r")["run-7/feature_maps"]
    np.testing.assert_array_equal(read[1], maps)


def test_the_images_of_a_run_stand_split_by_split(tiny_dataset):
    for run in tiny_dataset.manifest.runs:
        splits = np.asarray(tiny_dataset.array("split")[:])[np.asarray(tiny_dataset.array(f"run-{run.seed}/image")[:])]
        assert splits.tolist() == sorted(splits)
        assert len(np.unique(splits)) == (4 if run.role == "training" else 3)


def test_backbone_of_the_manifest_has_the_stated_size(tiny_dataset):
    backbone = create_backbone("smallcnn", 10, seed=0)
    assert tiny_dataset.manifest.num_backbone_parameters == num_parameters(backbone)
    assert tiny_dataset.manifest.map_shape == map_shape(backbone, TINY["image_size"])
