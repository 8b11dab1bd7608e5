import json
import os
import signal
import subprocess
import threading
import time
from contextlib import nullcontext

import pytest
from conftest import TINY, build_tiny, subprocess_environment
from helpers.building import BUILD

from fmcs_bench.build import runner as builder
from fmcs_bench.build.units import TrainRun
from fmcs_bench.build.verify import verify
from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, ConvergenceError, DatasetError, UnknownNameError, WorkspaceError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.jobs.local import Job, LocalEngine
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.store.schema import WORK
from fmcs_bench.training.recipes import ConvergenceRule


def start_build(workspace):
    command = [*BUILD, "--workspace", str(workspace), "--json"]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=subprocess_environment(), **streams)


def test_an_equal_build_has_the_same_digest_and_a_finished_one_is_not_repeated(tiny_dataset, tmp_path):
    again = build_tiny(tmp_path)
    assert again.id == tiny_dataset.id
    created = again.manifest.created
    files = {path: path.stat().st_mtime_ns for path in again.path.rglob("*") if path.is_file()}
    assert build_tiny(tmp_path).manifest.created == created
    assert files == {path: path.stat().st_mtime_ns for path in again.path.rglob("*") if path.is_file()}


def test_a_build_killed_at_any_moment_goes_on_to_the_same_digest(tiny_dataset, tmp_path):
    """Killed as soon as each of several files appears, so that every phase of the build is hit."""
    moments = [
        "work/run-0/step-1.safetensors",
        "work/run-0/run.json",
        "maps.zarr/run-1/feature_maps/zarr.json",
        "checkpoints/run-2/stage-1.safetensors",
        "maps.zarr/run-3/trajectory_maps/c/3/0/0/0/0",
        "trajectories/run-3.json",
    ]
    path = Workspace(tmp_path).dataset(tiny_dataset.manifest.name)
    (path / "checkpoints/run-0").mkdir(parents=True)
    (path / "checkpoints/run-0/.stage-1.safetensors.x.part").write_text("left by a process killed while writing")
    (path / "work").mkdir()
    (path / "work/config.json").write_bytes(files.to_json(tiny_dataset.manifest.config.to_json()))
    kills = 0
    for moment in moments:
        build = start_build(tmp_path)
        while build.poll() is None and not (path / moment).exists():
            time.sleep(0.001)
        if build.poll() is None:
            os.kill(build.pid, signal.SIGKILL)
            kills += 1
        build.communicate()
    assert kills >= 4  # the last ones may be too short-lived to be caught
    build = start_build(tmp_path)
    output, errors = build.communicate()
    assert build.returncode == 0, errors
    # One thread here and there: sums are the same to the bit.
    assert json.loads(output)["dataset_digest"] == tiny_dataset.manifest.dataset_digest
    assert not list(path.rglob("*.part*"))


@pytest.mark.usefixtures("tiny_dataset")
def test_another_configuration_of_the_same_name_is_refused(tiny_workspace):
    with pytest.raises(ConfigError, match=r"epochs: 6 there, 5 wanted.*--name"):
        build_tiny(tiny_workspace, epochs=5)


def test_an_unfinished_build_is_not_taken_over_by_another_configuration(tmp_path):
    build = start_build(tmp_path)
    path = tmp_path / "datasets/digits-smallcnn-16px-tiny" / WORK / "config.json"
    while build.poll() is None and not path.exists():
        time.sleep(0.001)
    build.kill()
    build.communicate()
    with pytest.raises(ConfigError, match="checkpoints: 12 there, 20 wanted"):
        build_tiny(tmp_path, checkpoints=20)


def test_a_build_killed_before_it_claimed_its_folder_goes_on(tiny_dataset, tmp_path):
    work = tmp_path / "datasets" / tiny_dataset.manifest.name / WORK
    work.mkdir(parents=True)
    (work / "images.json").write_text("{}")
    (work / ".config.json.x.part").write_text("{")
    assert build_tiny(tmp_path).id == tiny_dataset.id


def test_a_foreign_folder_is_left_alone(tmp_path):
    folder = tmp_path / "datasets/digits-smallcnn-16px-tiny"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="holds other files"):
        build_tiny(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_run_that_does_not_converge_is_refused(tiny_dataset, tmp_path):
    with pytest.raises(ConvergenceError, match=r"K = 40 stages need 40 distinct checkpoints.*--checkpoints"):
        build_tiny(tmp_path, stages=40)
    with pytest.raises(ConvergenceError, match="has not converged"):
        build_tiny(tmp_path, convergence=ConvergenceRule(threshold=1e-9))
    # Raising the threshold, as the message says, does not train the run again, and ends as if it had been typed first.
    (trained,) = tmp_path.rglob("run.json")
    stamp = trained.stat().st_mtime_ns
    with pytest.raises(ConvergenceError):
        build_tiny(tmp_path, convergence=ConvergenceRule(threshold=1e-8))
    assert trained.stat().st_mtime_ns == stamp
    assert build_tiny(tmp_path).id == tiny_dataset.id


def test_unknown_names_are_told_before_any_work(tmp_path):
    for wrong, nearest in (({"backbone": "smalcnn"}, "smallcnn"), ({"image_dataset": "digit"}, "digits")):
        with pytest.raises(UnknownNameError, match=f"did you mean {nearest}"):
            build_tiny(tmp_path, **wrong)
    assert not (tmp_path / "datasets").exists()


def test_a_locked_or_unwritable_workspace_is_refused(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        build_tiny(tmp_path / "file")
    with Workspace(tmp_path).locked():
        build = start_build(tmp_path)
        _, errors = build.communicate()
    assert build.returncode == 2
    assert "in use by another fmcs-bench process" in errors
    assert "Traceback" not in errors


def test_the_epoch_markers_are_evenly_spaced_in_time(tmp_path):
    dataset = build_tiny(tmp_path, markers="epoch", checkpoints=40)
    for run in dataset.manifest.runs:
        end = run.stages[-1].step
        for stage in run.stages:
            assert stage.step >= end * stage.stage / 3
            assert stage.step - end * stage.stage / 3 <= 2
    assert TINY["stages"] == 3


class FarEngine(LocalEngine):
    """Its files are seen late, or never."""

    def __init__(self, path, seconds):
        self.path, self.seconds = path, seconds

    def answers(self, job, trials, progress):
        def work(unit):
            done = job.work(unit)
            if not isinstance(unit, TrainRun):
                folder = self.path / WORK / f"run-{unit.seed}/blocks" / unit.array
                hidden = folder.rename(folder.parent.with_name(f"hidden-{unit.array}"))
                if self.seconds is not None:
                    threading.Timer(self.seconds, hidden.rename, [folder]).start()
            return done

        return super().answers(Job(job.find, work), trials, progress)


@pytest.mark.parametrize("seconds", [0.2, None])
def test_files_of_another_machine_may_be_seen_late_but_not_never(seconds, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "SECONDS_UNTIL_SEEN", 5 if seconds else 0.2)
    config = BuildConfig.create(**TINY | {"runs": 1})
    engine = FarEngine(Workspace(tmp_path).dataset(config.dataset_name), seconds)
    monkeypatch.setattr(builder, "engine_of", lambda _: nullcontext(engine))
    if seconds is None:
        with pytest.raises(DatasetError, match=r"1 block of the feature maps of run 0 should be written"):
            builder.build(config, workspace=tmp_path, device="cpu")
        return
    built = builder.build(config, workspace=tmp_path, device="cpu")
    assert not verify(built.path).faults
