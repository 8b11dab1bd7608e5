"""Builds on a real Ray cluster of two workers: the same digests as here, whatever dies; nothing is done twice."""

import os
import signal
import subprocess
import time
from collections import Counter

import numpy as np
import pytest
from conftest import build_tiny, subprocess_environment
from helpers.building import BUILD, LARGEST_SHARD, Watched
from helpers.desk import Said
from PIL import Image

from fmcs_bench.build import runner as builder
from fmcs_bench.build.verify import verify
from fmcs_bench.core.errors import ConvergenceError, DivergedError, ImageError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.store import schema, writer
from fmcs_bench.training.recipes import ConvergenceRule, Recipe

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'fmcs-bench[cluster]'")
pytestmark = pytest.mark.xdist_group("ray")  # one cluster, not one in every process of the tests


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The tiny dataset in shards so small that a run has several blocks, by the local engine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "LARGEST_SHARD", LARGEST_SHARD)
        return build_tiny(tmp_path_factory.mktemp("local"))


@pytest.fixture
def on_ray(engine, monkeypatch):
    """Options of a build, in such shards, on the two workers, which are watched."""
    engine.room("cpu")  # connects; a build on Ray takes the cluster that its process is connected to
    monkeypatch.setattr(writer, "LARGEST_SHARD", LARGEST_SHARD)
    monkeypatch.setattr(builder, "Workshop", Watched)
    return {"engine": "ray"}


def lines(file):
    return file.read_text().splitlines() if file.exists() else []


def blocks_of(dataset):
    """Every block of a dataset, as ``building`` notes it."""
    found = []
    for run in dataset.manifest.runs:
        found += [f"{run.seed} feature_maps 0 {start}" for start in range(0, run.num_images, 64)]
        if run.role == "test":
            found += [f"{run.seed} trajectory_maps {row} 0" for row in range(run.num_checkpoints)]
    return found


@pytest.mark.parametrize("codec", ["zstd", pytest.param("q8", marks=pytest.mark.slow)])
def test_a_build_is_the_same_on_a_cluster_and_no_block_is_computed_twice(codec, on_ray, here, tmp_path):
    there, said = tmp_path / "ray", Said()
    built = build_tiny(there, codec=codec, progress=said, **on_ray)
    if codec == "q8":
        here = build_tiny(tmp_path / "local", codec=codec)
    assert built.manifest.dataset_digest == here.manifest.dataset_digest
    assert built.manifest.environment == here.manifest.environment
    assert built.manifest.map_error == here.manifest.map_error
    assert all(seconds > 0 for seconds in built.manifest.build_seconds.values())
    assert Counter(lines(there / "blocks")) == Counter(blocks_of(built))
    units = lines(there / "units")
    assert sorted(units)[-4:] == [f"training of run {seed}" for seed in range(4)]
    assert len(units) > 4 + 4 * 3  # a run's blocks are several units
    assert said.advanced > 4 + 4


@pytest.mark.slow
def test_workers_killed_in_a_training_and_in_an_extraction_lose_nothing(on_ray, here, tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "PARTS_PER_PLACE", 1)  # so that units have two blocks
    for mark in ("kill-training", "kill-writing"):
        (tmp_path / mark).touch()
    built = build_tiny(tmp_path, **on_ray)
    assert sorted(lines(tmp_path / "killed")) == ["kill-training", "kill-writing"]
    assert not verify(built.path, recompute=2, device="cpu").faults
    again = Counter(lines(tmp_path / "blocks"))
    assert set(again) == set(blocks_of(built))
    assert sum(again.values()) - len(again) <= 2  # what the dead worker had in hand
    assert built.id == here.id


def kill_when(file, workspace, *options):
    """Build until the file is there."""
    command = [*BUILD, "--workspace", str(workspace), *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    build = subprocess.Popen(command, text=True, env=subprocess_environment(), **streams)
    while build.poll() is None and not file.exists():
        time.sleep(0.005)
    assert build.poll() is None, build.communicate()
    os.kill(build.pid, signal.SIGKILL)
    build.communicate()


@pytest.mark.slow
def test_a_killed_caller_goes_on_with_the_other_engine(engine, tiny_dataset, tmp_path):
    engine.room("cpu")
    address = ray.get_runtime_context().gcs_address
    path = Workspace(tmp_path).dataset(tiny_dataset.manifest.name)
    kill_when(path / "work/run-0/run.json", tmp_path)
    kill_when(path / "work/run-2/run.json", tmp_path, "--engine", "ray", "--address", address)
    assert (path / "work/run-0/run.json").exists() or (path / schema.trajectory_name(0)).exists()
    end = time.monotonic() + 60
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < end:
        time.sleep(0.1)  # Ray ends the workers of the dead caller
    assert build_tiny(tmp_path).id == tiny_dataset.id
    assert not list(path.rglob("*.part"))


@pytest.mark.slow
def test_a_run_that_does_not_converge_is_not_trained_again(on_ray, here, tmp_path):
    with pytest.raises(ConvergenceError, match="has not converged"):
        build_tiny(tmp_path, convergence=ConvergenceRule(threshold=1e-9), **on_ray)
    path = Workspace(tmp_path).dataset(here.manifest.name)
    assert not list(path.rglob("*.part*"))
    trained = [file.parent.name.replace("-", " ") for file in path.rglob("run.json")]
    assert trained
    assert build_tiny(tmp_path, **on_ray).id == here.id
    units = Counter(lines(tmp_path / "units"))
    assert {units[f"training of {run}"] for run in trained} == {1}


def test_the_error_of_a_training_is_its_own(on_ray, tmp_path):
    with pytest.raises(DivergedError, match=r"the training loss is \w+ at step"):
        build_tiny(tmp_path, recipe=Recipe(optimizer="sgd", lr=1e30), **on_ray)
    assert not list(tmp_path.rglob(schema.MANIFEST))


class Spoiling(Watched):
    """Spoils an image once the caller has read it."""

    def __reduce__(self):
        (self.path.parents[2] / "images/a/0.png").write_text("no image")
        return Watched, super().__reduce__()[1]


def test_the_error_of_images_elsewhere_is_its_own(on_ray, tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(60):
            pixels = generator.integers(256, size=(8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"images/{name}/{i}.png")
    monkeypatch.setattr(builder, "Workshop", Spoiling)
    monkeypatch.chdir(tmp_path)  # a relative place means nothing to workers
    with pytest.raises(ImageError, match=r"images/a/0.png cannot be read as an image"):
        build_tiny(tmp_path / "w", image_dataset="folder:images", stream_images=True, **on_ray)
