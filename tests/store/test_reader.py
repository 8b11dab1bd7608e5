"""A dataset opens whole or in part, selections read what zarr-python reads, and damage is refused by its name."""

import json
import operator
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import zarr

import fmcs_bench as fb
from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.store import schema, selection
from fmcs_bench.store.publication import Part
from fmcs_bench.store.selection import MapSelection


@pytest.fixture
def copied(tiny_dataset, tmp_path):
    return shutil.copytree(tiny_dataset.path, tmp_path / "copy")


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


def test_no_image_stands_on_two_sides_and_no_run_either(tiny_dataset):
    ids = {split: set(tiny_dataset.sel(split=split).image_ids_M.tolist()) for split in SPLITS}
    assert sum(map(len, ids.values())) == len(set.union(*ids.values()))
    roles = {run.seed: run.role for run in tiny_dataset.manifest.runs}
    assert list(roles.values()) == ["training", "training", "validation", "test"]
    for role in ("validation", "test"):
        with pytest.raises(ConfigError, match="no image of the split train"):
            tiny_dataset.select(tiny_dataset.seeds(role)[0], "train")


def restate(path, **values):
    value = json.loads((path / "dataset.json").read_bytes())
    (path / "dataset.json").write_text(json.dumps(value | values))


SHARD = "maps.zarr/run-1/feature_maps/c/0/0/0/0/0"
DAMAGES = {
    f"is incomplete: {SHARD}": lambda path: (path / SHARD).unlink(),
    f"{SHARD} is missing or not of": lambda path: (path / SHARD).write_bytes((path / SHARD).read_bytes()[:-10]),
    "was changed": lambda path: restate(path, dataset_digest="0" * 64),
    "has schema 99": lambda path: restate(path, schema_version=99),
    "unknown option 'raw_byte' of Manifest; did you mean raw_bytes": lambda path: restate(path, raw_byte=1),
    "is damaged": lambda path: (path / "dataset.json").write_text("{"),
    "is unfinished": lambda path: (path / "dataset.json").unlink(),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_damaged_datasets_are_refused(copied, message):
    DAMAGES[message](copied)
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


def stored(dataset, chosen):
    """The maps of a selection, by zarr-python, found by run, stage and image id alone."""
    ids_N = np.asarray(dataset.array("image_id")[:])
    maps = {run: np.asarray(dataset.array(f"run-{run}/feature_maps")[:]) for run in np.unique(chosen.runs_M)}
    ids = {run: ids_N[np.asarray(dataset.array(f"run-{run}/image")[:])].tolist() for run in maps}
    places = zip(chosen.runs_M, chosen.stages_M, chosen.image_ids_M, strict=True)
    return np.stack([maps[run][stage, ids[run].index(image)] for run, stage, image in places])


@pytest.mark.parametrize(
    ("options", "runs", "stages", "splits"),
    [
        ({}, [0, 1, 2, 3], [0, 1, 2], SPLITS),
        ({"run": 3}, [3], [0, 1, 2], SPLITS[1:]),
        ({"run": "training", "split": "train"}, [0, 1], [0, 1, 2], ("train",)),
        ({"run": ["test", 0], "stage": 2}, [3, 0], [1], SPLITS),
        ({"stage": [3, 1], "split": ["unseen", "test"]}, [0, 1, 2, 3], [2, 0], ("test", "unseen")),
        ({"run": np.int64(1), "stage": range(1, 3), "split": "validation"}, [1], [0, 1], ("validation",)),
    ],
)
def test_choosing_by_run_stage_and_split(tiny_dataset, options, runs, stages, splits):
    chosen = tiny_dataset.sel(**options)
    assert list(dict.fromkeys(chosen.runs_M.tolist())) == runs
    assert list(dict.fromkeys(chosen.stages_M.tolist())) == stages
    assert {SPLITS[i] for i in chosen.splits_M} == set(splits)
    split_N = dict(zip(tiny_dataset.array("image_id")[:], tiny_dataset.array("split")[:], strict=True))
    label_N = dict(zip(tiny_dataset.array("image_id")[:], tiny_dataset.array("label")[:], strict=True))
    assert [split_N[image] for image in chosen.image_ids_M] == chosen.splits_M.tolist()
    assert [label_N[image] for image in chosen.image_ids_M] == chosen.labels_M.tolist()
    expected = 0
    for run in runs:
        of_run = np.asarray(tiny_dataset.array("split")[:])[np.asarray(tiny_dataset.array(f"run-{run}/image")[:])]
        expected += len(stages) * int(np.isin(of_run, [SPLITS.index(split) for split in splits]).sum())
    assert len(chosen) == expected
    assert len({*zip(chosen.runs_M, chosen.stages_M, chosen.image_ids_M, strict=True)}) == expected
    assert chosen.is_direct
    np.testing.assert_array_equal(chosen.load().maps_MDHW, stored(tiny_dataset, chosen))


def test_a_selection_reads_nothing_until_it_is_indexed(tiny_dataset, tmp_path):
    dataset = fb.open(shutil.copytree(tiny_dataset.path, tmp_path / "copy"))
    chosen = dataset.sel(run="test", split="test")
    for shard in (dataset.path / "maps.zarr/run-3/feature_maps/c").rglob("*"):
        if shard.is_file():
            shard.unlink()
    assert len(chosen) == len(chosen.take([0, 1, 2])) + len(chosen) - 3
    assert chosen.sizes == {"map": len(chosen), "channel": 64, "y": 2, "x": 2}
    assert chosen.shape == tuple(chosen.sizes.values())
    assert f"map: {len(chosen)}, channel: 64" in repr(chosen)
    assert chosen.nbytes == 2 * np.prod(chosen.shape)
    with pytest.raises(DatasetError, match=r"run-3/feature_maps/c/0/0/0/0/0 is missing"):
        chosen[0]


def test_indexing_is_numpys(tiny_dataset):
    chosen = tiny_dataset.sel(run=[0, 3], split=["test", "unseen"])
    maps = chosen.load().maps_MDHW
    assert maps.dtype == np.float16
    for m in (0, -1, len(chosen) // 2, np.int64(5)):
        np.testing.assert_array_equal(chosen[m], maps[m])
        assert chosen[m].shape == maps[m].shape
    mask = np.random.default_rng(0).random(len(chosen)) < 0.3
    for index in (slice(3, 40, 7), slice(None, None, -1), [4, 0, 4, -1], np.array([7], np.int32), mask, [], slice(0)):
        np.testing.assert_array_equal(chosen[index], maps[index if len(np.atleast_1d(index)) else slice(0, 0)])
        taken = chosen.take(index)
        assert isinstance(taken, MapSelection)
        np.testing.assert_array_equal(taken[:], chosen[index])
        np.testing.assert_array_equal(taken.image_ids_M, chosen.image_ids_M[index if len(taken) else slice(0, 0)])
    np.testing.assert_array_equal(np.asarray(chosen), maps)
    assert len(list(iter(chosen))) == len(chosen)
    for index in (len(chosen), -len(chosen) - 1, [0, len(chosen)], "a", [0.5], [[0]], mask[:-1], None):
        with pytest.raises(IndexError):
            chosen[index]


def test_select_is_sel_in_memory(tiny_dataset):
    selected, chosen = tiny_dataset.select(0, "train", limit=7), tiny_dataset.sel(0, split="train", limit=7)
    assert len(selected) == len(chosen) == 7 * 3
    np.testing.assert_array_equal(selected.maps_MDHW, stored(tiny_dataset, chosen))
    for name in ("stages_M", "image_ids_M", "runs_M"):
        np.testing.assert_array_equal(getattr(selected, name), getattr(chosen, name))
        assert getattr(selected, name).dtype == np.int64
    assert selected.stages_M.tolist() == np.repeat([0, 1, 2], 7).tolist()
    assert selected.fmcs_M.tolist() == chosen.fmcs_M.tolist() == np.repeat([1, 2, 3], 7).tolist()
    assert len(tiny_dataset.sel(0, stage=1, limit=5)) == 5 * len(SPLITS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": 4}, "run = 4; allowed are 0, 1, 2, 3, training, validation, test"),
        ({"run": True}, "run = True"),
        ({"stage": 0}, "stage = 0; allowed are 1, 2, 3"),
        ({"stage": []}, "no stage is chosen"),
        ({"split": "tests"}, "split = 'tests'; allowed are train, validation, test, unseen"),
        ({"limit": 0}, "limit = 0"),
        ({"run": "test", "split": "train"}, "run 3 of .* has no image of the split train"),
    ],
)
def test_wrong_choices_say_what_is_allowed(tiny_dataset, options, message):
    with pytest.raises(ConfigError, match=message):
        tiny_dataset.sel(**options)


def test_maps_that_do_not_fit_in_memory_are_refused(tiny_dataset, monkeypatch):
    chosen = tiny_dataset.sel(0)
    monkeypatch.setattr(selection.os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 1)
    with pytest.raises(ConfigError, match=r"these maps take .* GB in memory"):
        chosen.load()
    assert chosen[0].shape == chosen.shape[1:]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_selection_goes_to_another_process(tiny_dataset, method):
    chosen = tiny_dataset.sel(split="test")
    index = [5, 0, 5, 31]
    expected = chosen[index]
    assert len(pickle.dumps(chosen)) < 200_000  # no maps, no open files
    with ProcessPoolExecutor(1, get_context(method)) as pool:
        np.testing.assert_array_equal(pool.submit(operator.getitem, chosen, index).result(), expected)


def test_files_are_read_with_their_digest(tiny_dataset, tmp_path):
    dataset = fb.open(shutil.copytree(tiny_dataset.path, tmp_path / "copy"))
    name = "checkpoints/run-0/stage-1.safetensors"
    assert dataset.read_file(name) == (tiny_dataset.path / name).read_bytes()
    with pytest.raises(MissingDataError, match=r"stage-4.* is no file of .*; did you mean checkpoints/run-0/stage-"):
        dataset.read_file("checkpoints/run-0/stage-4.safetensors")
    for changed, read in (
        (name, lambda: dataset.read_file(name)),
        ("trajectories/run-1.json", lambda: dataset.run_file(1)),
    ):
        data = bytearray((dataset.path / changed).read_bytes())
        data[len(data) // 2] ^= 1
        (dataset.path / changed).write_bytes(data)
        with pytest.raises(DatasetError, match=f"{changed} was changed"):
            read()


def copy_part(dataset, folder, **chosen):
    """The files of a part of a dataset, in a folder of their own."""
    part = Part.of(dataset.manifest, **chosen)
    for name in [*part.files(dataset.manifest, dataset.maps_per_shard), schema.MANIFEST]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(dataset.path / name, folder / name)
    (folder / "part.json").write_bytes(files.to_json(part.to_json()))
    return folder


PARTS = {
    "stages": {"stages": [1, 3]},
    "runs": {"runs": [0, 3]},
    "splits": {"splits": ["test", "unseen"]},
    "maps": {"kinds": ["maps"]},
    "checkpoints": {"kinds": ["checkpoints"], "runs": [2]},
    "all at once": {"kinds": ["maps"], "runs": [3], "stages": [2], "splits": ["test"]},
}


@pytest.mark.parametrize("chosen", PARTS.values(), ids=PARTS)
def test_a_part_is_opened_read_and_verified(tiny_dataset, tmp_path, chosen):
    part = fb.open(copy_part(tiny_dataset, tmp_path / "part", **chosen))
    assert part.id == tiny_dataset.id
    assert not part.is_whole
    left_out = set(tiny_dataset.manifest.files) - part.files
    assert left_out or list(chosen) == ["splits"]  # all splits of the tiny dataset lie in one shard
    assert fb.verify(part).faults == ()
    assert "  part    " in repr(part)
    if "maps" in part.part.kinds:
        mine, whole = part.sel().load(), tiny_dataset.sel(part.part.runs, part.part.stages, part.part.splits).load()
        np.testing.assert_array_equal(mine.maps_MDHW, whole.maps_MDHW)
        np.testing.assert_array_equal(mine.stages_M, whole.stages_M)
        assert len(mine) > 0


def test_what_a_part_leaves_out_is_told(tiny_dataset, tmp_path):
    part = fb.open(copy_part(tiny_dataset, tmp_path / "part", runs=[0, 2], stages=[1, 2], splits=["train", "test"]))
    for message, read in {
        r"without stage 3; it has 1, 2; .*fmcs-bench download": lambda: part.sel(stage=3),
        r"without run test; it has 0, 2, training, validation;": lambda: part.sel("test"),
        "without split unseen": lambda: part.sel(split="unseen"),
        "without stage 3": lambda: part.select(0, "train"),  # all K stages are promised
        r"without checkpoints/run-1/stage-1\.safetensors": lambda: part.read_file(schema.checkpoint_name(1, 1)),
        "without the maps of run 3": lambda: part.trajectory_maps(3),
    }.items():
        with pytest.raises(MissingDataError, match=message):
            read()
    with pytest.raises(ConfigError, match=r"stage = 4; allowed are 1, 2, 3"):
        part.sel(stage=4)


@pytest.mark.parametrize(("chosen", "missing"), [({"runs": [0, 2, 3]}, "run 1"), ({"stages": [1, 2]}, "stage 3")])
def test_evaluators_are_not_compared_on_a_part(tiny_dataset, tmp_path, chosen, missing):
    part = fb.open(copy_part(tiny_dataset, tmp_path / "part", **chosen))
    with pytest.raises(MissingDataError, match=f"without {missing}"):
        fb.evaluate(part, evaluators=["norm"], seeds=1, workspace=tmp_path / "ws")
    assert not (tmp_path / "ws/records").exists()


def test_maps_cannot_be_read_from_checkpoints(tiny_dataset, tmp_path):
    part = fb.open(copy_part(tiny_dataset, tmp_path / "part", kinds=["checkpoints"]))
    with pytest.raises(MissingDataError, match="without the maps of run 0"):
        part.sel()
    (fault,) = fb.verify(part, recompute=1).faults
    assert "only checkpoints are there" in fault


def test_maps_of_a_part_are_computed_again(tiny_dataset, tmp_path):
    part = fb.open(copy_part(tiny_dataset, tmp_path / "part", runs=[1], stages=[2], splits=["validation"]))
    report = fb.verify(part, recompute=4)
    assert report.faults == ()
    assert "4 maps computed again" in str(report)


def test_a_part_that_lacks_a_file_of_its_own_is_refused(tiny_dataset, tmp_path):
    folder = copy_part(tiny_dataset, tmp_path / "part", stages=[1])
    shard = schema.shard_name("run-0/feature_maps", 0, 0)
    (folder / shard).unlink()
    with pytest.raises(DatasetError, match=f"incomplete: {shard}"):
        fb.open(folder)
    assert f"files: {shard} is missing" in fb.verify(folder).faults


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": [4]}, r"part\.json is damaged: stage = 4; allowed are 1, 2, 3"),
        ({"runs": []}, r"part\.json is damaged: runs = "),
        ({"kinds": ["all"]}, r"part\.json is damaged: kinds"),
        ({"dataset_digest": "0" * 64}, r"part\.json belongs to"),
        ({"stage": [1]}, r"part\.json is damaged: unknown option 'stage' of Part; did you mean stages\?"),
    ],
)
def test_a_damaged_part_file_is_refused(tiny_dataset, tmp_path, change, message):
    folder = copy_part(tiny_dataset, tmp_path / "part", stages=[1])
    value = json.loads((folder / "part.json").read_bytes())
    (folder / "part.json").write_bytes(files.to_json(value | change))
    with pytest.raises(DatasetError, match=message):
        fb.open(folder)
    assert fb.verify(folder).faults


def test_a_shard_belongs_to_the_splits_whose_maps_it_holds(tiny_dataset):
    manifest = tiny_dataset.manifest
    num = manifest.images.num_images  # of a training run: train, validation, test, unseen side by side

    def shards(split, size):
        part = Part.of(manifest, runs=[0], stages=[1], splits=[split])
        return {shard for shard in range(40) if part._holds_shard(0, shard, manifest, lambda _: size)}

    begin = 0
    for split in ("train", "validation", "test", "unseen"):
        end = begin + num[split]
        for size in (1, 7, 10):
            assert shards(split, size) == {s for s in range(40) if s * size < end and (s + 1) * size > begin}, split
        begin = end


def test_parts_are_intersected():
    digest = "0" * 64
    a = Part(dataset_digest=digest, kinds=("maps", "parquet"), runs=(0, 1), stages=(1, 2, 3), splits=("train",))
    b = Part(dataset_digest=digest, kinds=("maps",), runs=(1, 2), stages=(3,), splits=("train", "test"))
    assert (a & b) == Part(dataset_digest=digest, kinds=("maps",), runs=(1,), stages=(3,), splits=("train",))
    c = b.model_copy(update={"stages": (4,)})
    with pytest.raises(ConfigError, match="stages 4 are not available; there are 1, 2, 3"):
        a & c
