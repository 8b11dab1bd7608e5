"""A folder with a part of a dataset: what is there reads as in the whole, what is not is told, verify knows it."""

import json
import shutil

import numpy as np
import pytest

import fmcs_bench as fb
from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.store import schema
from fmcs_bench.store.publication import Part


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
    with pytest.raises(MissingDataError, match=r"without stage 3; it has 1, 2; `fmcs-bench download` adds"):
        part.sel(stage=3)
    with pytest.raises(MissingDataError, match=r"without run test; it has 0, 2, training, validation;"):
        part.sel("test")
    with pytest.raises(MissingDataError, match="without split unseen"):
        part.sel(split="unseen")
    with pytest.raises(ConfigError, match=r"stage = 4; allowed are 1, 2, 3"):
        part.sel(stage=4)
    with pytest.raises(MissingDataError, match="without stage 3"):
        part.select(0, "train")  # all K stages are promised
    with pytest.raises(MissingDataError, match=r"without checkpoints/run-1/stage-1\.safetensors"):
        part.read_file(schema.checkpoint_name(1, 1))
    with pytest.raises(MissingDataError, match="without the maps of run 3"):
        part.trajectory_maps(3)


@pytest.mark.parametrize(
    ("chosen", "missing"),
    [
        ({"runs": [0, 2, 3]}, "run 1"),
        ({"stages": [1, 2]}, "stage 3"),
        ({"splits": ["train", "test"]}, "split validation"),
    ],
)
def test_evaluators_are_not_compared_on_a_part(tiny_dataset, tmp_path, chosen, missing):
    part = fb.open(copy_part(tiny_dataset, tmp_path / "part", **chosen))
    with pytest.raises(MissingDataError, match=f"without {missing}"):
        fb.evaluate(part, evaluators=["norm"], seeds=1, workspace=tmp_path / "ws")
    assert not (tmp_path / "ws/records").exists()


def test_maps_cannot_be_read_from_checkpoints(tiny_dataset, tmp_path):
    part = fb.open(copy_part(tiny_dataset, tmp_path / "part", kinds=["checkpoints"]))
    with pytest.raises(MissingDataError, match="without the maps of run 0"):
        part.sel()
    report = fb.verify(part, recompute=1)
    assert report.faults == ("recompute: only checkpoints are there; computing maps again needs maps and checkpoints",)


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


def test_a_whole_dataset_that_lacks_a_shard_stays_refused(tiny_dataset, tmp_path):
    folder = copy_part(tiny_dataset, tmp_path / "part", stages=[1])
    (folder / "part.json").unlink()
    with pytest.raises(DatasetError, match="incomplete"):
        fb.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": [4]}, r"part\.json is damaged: stage = 4; allowed are 1, 2, 3"),
        ({"runs": []}, r"part\.json is damaged: runs = "),
        ({"kinds": ["all"]}, r"part\.json is damaged: kinds"),
        ({"dataset_digest": "0" * 64}, r"part\.json belongs to another dataset"),
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
    with pytest.raises(ConfigError, match="stages 4 were asked for; there are 1, 2, 3"):
        a & c
