"""Every kind of damage is found, by the check that it belongs to, and a whole dataset has no fault."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import zarr
from click.testing import CliRunner
from conftest import build_tiny, subprocess_environment
from safetensors.torch import load_file, save_file

from fmcs_bench.build import verify as build_verify
from fmcs_bench.cli.main import main
from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, MissingDataError
from fmcs_bench.store import codecs, schema
from fmcs_bench.store.verify import excess
from fmcs_bench.store.writer import list_files

CHECKS = ["manifest", "files", "images", "runs", "arrays", "maps", "checkpoints"]


@pytest.fixture
def copied(tiny_dataset, tmp_path):
    return shutil.copytree(tiny_dataset.path, tmp_path / "copy")


@pytest.fixture(scope="module")
def q8_dataset(tmp_path_factory):
    return build_tiny(tmp_path_factory.mktemp("q8"), codec="q8")


def verify(path, **options):
    return build_verify.verify(path, device="cpu", **options)


def faults_by_check(report):
    return {check.name: check.faults for check in report.checks if check.faults}


def edit_manifest(path, change, *, seal=False):
    """Change the manifest's JSON; sealed, it states the sizes and digests of what is there, as a forger would."""
    value = json.loads((path / "dataset.json").read_bytes())
    change(value)
    if seal:
        entries = list_files(path)
        manifest = schema.Manifest.from_json(value)
        value["files"] = {name: entry.to_json() for name, entry in entries.items()}
        value["dataset_digest"] = schema.dataset_digest(manifest.config, manifest.images, entries)
        value["stored_bytes"] = sum(entry.num_bytes for entry in entries.values())
    (path / "dataset.json").write_bytes(files.to_json(value))


def seal(path):
    edit_manifest(path, lambda _: None, seal=True)


def flip(path, position=None):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(data)


def array(path, name):
    return codecs.open_array(zarr.open_group(path / "maps.zarr", mode="a"), name)


def shard(path, name="run-0/feature_maps", row=1):
    return path / f"maps.zarr/{name}/c/{row}/0/0/0/0"


def weights(path, stage=2):
    return path / f"checkpoints/run-1/stage-{stage}.safetensors"


def edit_json(file, change):
    value = json.loads(file.read_bytes())
    change(value)
    file.write_bytes(files.to_json(value))


def swap(file, other):
    content = file.read_bytes()
    file.write_bytes(other.read_bytes())
    other.write_bytes(content)


def assign(path, name, where, value):
    target = array(path, name)
    values = np.asarray(target[...])
    values[where] = value
    target[...] = values


@pytest.mark.parametrize("codec", ["zstd", "q8"])
def test_a_whole_dataset_has_no_fault(codec, tiny_dataset, q8_dataset):
    report = verify({"zstd": tiny_dataset, "q8": q8_dataset}[codec].path, recompute=7)
    assert report.faults == ()
    assert [check.name for check in report.checks] == [*CHECKS, "recompute"]
    lines = str(report).splitlines()
    assert len(lines) == 8
    assert all(line.startswith("ok ") for line in lines)
    assert "84 maps computed again" in lines[-1]  # 7 of each of 3 stages of 4 runs


# Damage in transit: the manifest still states what was there. Text of the fault of the check `files`, and the damage.
IN_TRANSIT = {
    "c/1/0/0/0/0 was changed": lambda p: flip(shard(p)),
    "bytes, not": lambda p: shard(p).write_bytes(shard(p).read_bytes()[:-10]),
    "c/1/0/0/0/0 is missing": lambda p: shard(p).unlink(),
    "notes.txt is not in the manifest": lambda p: (p / "notes.txt").write_text("x"),
    "work/config": lambda p: [(p / "work").mkdir(), (p / "work/config.json").write_text("{}")],
    "link is not in the manifest": lambda p: (p / "link").symlink_to("nowhere"),
    "label/c/0 ": lambda p: assign(p, "label", 0, 3),
    "label/zarr.json is missing": lambda p: (p / "maps.zarr/label/zarr.json").unlink(),
    "maps.zarr/zarr.json has 2 b": lambda p: (p / "maps.zarr/zarr.json").write_text("[]"),
}


@pytest.mark.parametrize("text", IN_TRANSIT)
def test_damage_in_transit_is_found(copied, text):
    IN_TRANSIT[text](copied)
    report = verify(copied, recompute=1)
    assert any(text in fault for fault in faults_by_check(report)["files"]), report
    assert len(report.checks) == 8


def manifest(change):
    return lambda path: edit_manifest(path, change)


def trajectory(change):
    return lambda path: edit_json(path / "trajectories/run-2.json", change)


def stages_swapped(value):
    stages = value["runs"][0]["stages"]
    stages[0], stages[1] = stages[1], stages[0]


def stages_exchanged_everywhere(path):
    """Steps of stages 1 and 2 exchanged in trajectory file, arrays and manifest alike."""

    def change(stages):
        for key in ("step", "epoch", "train_loss", "validation_accuracy", "progress"):
            stages[0][key], stages[1][key] = stages[1][key], stages[0][key]

    edit_json(path / "trajectories/run-0.json", lambda value: change(value["stages"]))
    for name in ("step", "epoch", "train_loss", "validation_accuracy"):
        values = array(path, f"run-0/{name}")[:]
        assign(path, f"run-0/{name}", slice(0, 2), values[:2][::-1])
    edit_manifest(path, lambda value: change(value["runs"][0]["stages"]))


def another_array(path):
    zarr.open_group(path / "maps.zarr", mode="a").create_array("extra", shape=(2,), dtype="int8")


def recreated(path, name, change, **options):
    """An array written anew, with other values or another type."""
    old = array(path, name)
    values, dimensions = change(old[...]), old.metadata.dimension_names
    group = zarr.open_group(path / "maps.zarr", mode="a")
    group.create_array(name, data=values, dimension_names=options.get("dimensions", dimensions), overwrite=True)


def weights_with_nan(path):
    file = weights(path)
    tensors = load_file(file)
    tensors["head.bias"][0] = torch.nan
    save_file(tensors, file)


def losses_changed(value):
    value["run"]["losses"][40:80] = [3.0] * 40


# Damage by a forger: sizes and digests are right again, so that only the content shows it. Check and text, damage.
SEALED = {
    ("images", "labels reach from 0 to 10"): lambda p: assign(p, "label", 0, 10),
    ("images", "1 image"): lambda p: assign(p, "image_id", 0, array(p, "image_id")[1]),
    ("images", "1 images are not in"): lambda p: assign(p, "split", 0, (array(p, "split")[0] + 1) % 3),
    ("images", "the images by split"): manifest(lambda v: v["images"]["num_images"].update(train=61)),
    ("images", "split test by class"): manifest(lambda v: v["images"]["statistics"]["num_images"]["test"].reverse()),
    ("runs", "not those of the manifest"): manifest(stages_swapped),
    ("runs", "do not increase"): stages_exchanged_everywhere,
    ("runs", "run-1/step is not that"): lambda p: assign(p, "run-1/step", 0, 2),
    ("runs", "Convergence|not follow"): trajectory(losses_changed),
    ("runs", "CQI does not"): trajectory(lambda v: v["cqi"].__setitem__(5, 9.0)),
    ("runs", "seed or role"): trajectory(lambda v: v.update(role="test")),
    ("manifest", "runs: "): manifest(lambda v: v["runs"][0].update(role="validation")),
    ("manifest", "name: 'x' is stated"): manifest(lambda v: v.update(name="x")),
    ("manifest", "raw_bytes: 1 is"): manifest(lambda v: v.update(raw_bytes=1)),
    ("manifest", "a map error"): manifest(lambda v: v.update(map_error={"largest": 1.0, "mean": 0.1})),
    ("arrays", "1 train im"): lambda p: assign(p, "run-3/image", 0, int(np.flatnonzero(array(p, "split")[:] == 0)[0])),
    ("arrays", "run 0 .* does not hold"): lambda p: assign(p, "run-0/image", 1, int(array(p, "run-0/image")[0])),
    ("arrays", "trajectory_image"): lambda p: assign(p, "run-3/trajectory_image", 0, 0),
    ("arrays", "has the shape"): lambda p: recreated(p, "run-0/feature_maps", lambda v: v[:, 1:]),
    ("arrays", "has the type float32"): lambda p: recreated(p, "run-0/feature_maps", lambda v: v.astype("f4")),
    ("arrays", "dimensions"): lambda p: recreated(p, "label", lambda v: v, dimensions=("row",)),
    ("arrays", "run-1/epoch is no array"): lambda p: shutil.rmtree(p / "maps.zarr/run-1/epoch"),
    ("arrays", "extra is no array of schema 1"): another_array,
    ("arrays", "c/1/0/0/0/0 is not in"): lambda p: shard(p).unlink(),
    ("maps", "run-2.* position 1"): lambda p: assign(p, "run-2/feature_maps", (1, 17, 3, 0, 1), np.nan),
    ("maps", "trajectory_maps, position 0"): lambda p: assign(p, "run-3/trajectory_maps", (0, 1, 3, 0, 1), np.inf),
    ("maps", "position 1, images from 0: "): lambda p: flip(shard(p), 0),
    ("maps", "position 1"): lambda p: flip(shard(p), -10),
    ("maps", "stage 1 are not"): lambda p: assign(p, "run-3/feature_maps", 0, array(p, "run-3/feature_maps")[1]),
    ("checkpoints", "stage-2.safetensors has weights"): weights_with_nan,
    ("checkpoints", "run-1/stage-2"): lambda p: weights(p).write_bytes(b"x"),
    ("checkpoints", "is not in"): lambda p: weights(p).unlink(),
    ("recompute", "run 1, stage 2: 7"): lambda p: swap(weights(p), weights(p, 3)),
    ("recompute", "Missing key"): lambda p: save_file({"x": torch.zeros(1)}, weights(p)),
    ("recompute", "run 0, stage 1: 7 of 7"): lambda p: swap(shard(p, row=0), shard(p, row=1)),
    ("recompute", "label"): lambda p: assign(p, "label", 0, (array(p, "label")[0] + 1) % 10),
    ("recompute", "another SHA-256"): manifest(lambda v: v["images"].update(sha256="0" * 64)),
}


@pytest.mark.parametrize(("check", "text"), SEALED)
def test_damage_that_was_sealed_is_found_by_its_check(copied, check, text):
    SEALED[check, text](copied)
    seal(copied)
    report = verify(copied, recompute=7)
    found = faults_by_check(report)
    assert check in found, report
    assert any(re.search(text, fault) for fault in found[check]), report
    assert "files" not in found


def test_all_faults_are_listed(copied):
    flip(shard(copied))
    (copied / "extra").write_text("x")
    (copied / "trajectories/run-1.json").unlink()
    report = verify(copied)
    found = faults_by_check(report)
    assert len(found["files"]) == 3
    assert {"runs", "maps"} <= set(found)
    assert str(report).count("FAULT") == len(found)
    assert all(fault.split(": ", 1)[1].splitlines()[0] in str(report) for fault in report.faults)


@pytest.mark.parametrize("part", [lambda v: v["config"].update(seed=5), lambda v: v["images"].update(licence="mine")])
def test_a_changed_manifest_is_found(copied, part):
    edit_manifest(copied, part)
    found = faults_by_check(verify(copied, recompute=1))
    assert "does not have the digest" in found["manifest"][0]
    assert found["recompute"] == ("not done: the manifest was changed",)


@pytest.mark.parametrize(
    ("content", "text"),
    [("{", "is damaged"), ("[]", "has schema None"), ('{"schema_version": 1}', "lacks"), (None, "is unfinished")],
)
def test_a_damaged_manifest_is_a_fault(copied, content, text):
    (copied / "dataset.json").unlink()
    if content is not None:
        (copied / "dataset.json").write_text(content)
    report = verify(copied)
    assert len(report.faults) == 1
    assert text in report.faults[0]


def test_a_manifest_may_not_name_files_outside(copied):
    entry = {"num_bytes": 1, "sha256": "0" * 64}
    edit_manifest(copied, lambda v: v["files"].update({"../secret": entry}))
    assert "'../secret' lies outside the folder" in faults_by_check(verify(copied))["files"]


def scale_changed(path):
    scale = array(path, "run-0/feature_maps_scale")
    scale[0] = scale[0] * np.float32(1.1)


OF_Q8 = {
    "scale has values that are not": lambda p: assign(p, "run-0/feature_maps_scale", (0, 0), np.nan),
    "not finite or are below 0": lambda p: assign(p, "run-0/feature_maps_scale", (0, 0), -1.0),
    "state a largest error of": manifest(lambda v: v["map_error"].update(largest=1.0)),
    "of 5 maps differ": scale_changed,
}


@pytest.mark.parametrize("text", OF_Q8)
def test_damage_of_q8_is_found(q8_dataset, tmp_path, text):
    path = shutil.copytree(q8_dataset.path, tmp_path / "copy")
    OF_Q8[text](path)
    seal(path)
    found = faults_by_check(verify(path, recompute=5))
    check = "recompute" if OF_Q8[text] is scale_changed else "maps"
    assert re.search(text, found[check][0]), found


def test_recomputing_draws_the_same_maps_for_the_same_seed(copied):
    """One damaged map of 240 in each stage is found by some seeds and always by the same."""
    name = "run-0/feature_maps"
    assign(copied, name, (slice(None), 5), 0)
    seal(copied)
    found = {seed: "recompute" in faults_by_check(verify(copied, recompute=60, seed=seed)) for seed in range(4)}
    assert found == {seed: "recompute" in faults_by_check(verify(copied, recompute=60, seed=seed)) for seed in found}
    assert faults_by_check(verify(copied, recompute=10**6))["recompute"]


def test_what_is_allowed():
    again = np.array([1.0, 0.5, 0.0, 0.25], np.float32).reshape(1, 4, 1, 1)
    none = np.zeros((1, 1, 1), np.float32)
    assert excess(again, again, none) == 0
    assert 0 < excess(again.astype(np.float16) * np.float16(1.001), again, none) < 1
    assert excess(again + np.float32(0.02), again, none) > 1
    assert excess(again + np.float32(0.02), again, np.full((4, 1, 1), 0.02, np.float32)) < 1
    assert excess(np.full_like(again, 1e-6), np.zeros_like(again), none) == np.inf
    assert excess(np.full_like(again, np.nan), again, none) == np.inf
    assert excess(np.zeros_like(again), np.zeros_like(again), none) == 0


def test_wrong_use_is_an_error_not_a_fault(tiny_dataset, tmp_path, monkeypatch):
    with pytest.raises(MissingDataError, match="there is no FMCS dataset"):
        verify(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="recompute = -1"):
        verify(tiny_dataset.path, recompute=-1)

    def gone(*_arguments, **_options):
        raise MissingDataError("no files here")

    monkeypatch.setattr("fmcs_bench.store.reader.load_images", gone)
    with pytest.raises(MissingDataError, match="no files here"):
        verify(tiny_dataset.path, recompute=1)
    assert not verify(tiny_dataset.path).faults


def test_the_command_prints_a_line_per_check_and_exits_with_one_on_a_fault(tiny_workspace, tiny_dataset, copied):
    name = tiny_dataset.manifest.name
    done = CliRunner().invoke(main, ["verify", name, "--workspace", str(tiny_workspace), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["ok", check] for check in CHECKS]
    (copied / "extra").write_text("x")
    arguments = ["verify", str(copied), "--device", "cpu"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "FAULT  files" in done.stdout
    value = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert value["ok"] is False
    assert [check["faults"] for check in value["checks"] if check["faults"]] == [["extra is not in the manifest"]]


def test_a_real_process_tells_of_a_damaged_manifest_without_a_traceback(copied):
    (copied / "dataset.json").write_text("{")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fmcs_bench", "verify", str(copied), "--recompute=1", "--device=cpu"],
        capture_output=True, text=True, env=subprocess_environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "FAULT  manifest" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
