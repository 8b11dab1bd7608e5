import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import build_tiny, subprocess_environment

from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.store import RecordStore, predictions_path, unpack_predictions
from fmcs_bench.store import schema
from fmcs_bench.store.reader import all_datasets, open_dataset
from fmcs_bench.training.methods import methods
from fmcs_bench.training_track.options import TrainOptions
from fmcs_bench.training_track.plan import convergence_epochs
from fmcs_bench.training_track.runner import recompute, train_dataset


@pytest.fixture
def workspace(judged, tmp_path):
    return Workspace(shutil.copytree(judged, tmp_path / "ws"))


@pytest.fixture
def dataset(workspace):
    return all_datasets(workspace)[0]


def run(dataset, workspace, *names, **options):
    return train_dataset(dataset, workspace, TrainOptions.make(methods=names, **({"seeds": 2} | options)), device="cpu")


def trained(workspace):
    return {(r.method, r.seed): r for r in RecordStore(workspace.records).all(TrainingRecord)}


def test_metrics_follow_from_the_predictions_and_seeds_are_paired(dataset, workspace):
    board = run(dataset, workspace, "baseline", "ral", "dueheadnet-concat-diversify-ral", rafs=(0.9, 0.5))
    store = RecordStore(workspace.records)
    found = store.all(TrainingRecord)
    assert len(found) == 2 * (1 + 2 + 2)
    images = {}
    for record in found:
        predictions = unpack_predictions(predictions_path(store.path(record)).read_bytes())
        assert recompute(predictions) == record.metrics
        images[record.label if hasattr(record, "label") else record.method] = predictions["test/image"].tolist()
        assert len(record.curve) == record.trial.epochs == convergence_epochs(dataset)
        best = record.curve[record.metrics.epoch - 1].validation  # the first of the highest
        assert best == record.metrics.validation_accuracy == max(epoch.validation for epoch in record.curve)
        assert all(epoch.validation < best for epoch in record.curve[: record.metrics.epoch - 1])
    assert len({tuple(ids) for ids in images.values()}) == 1
    split_of = dict(zip(dataset.array("image_id")[:], dataset.array("split")[:], strict=True))
    assert {split_of[i] for i in next(iter(images.values()))} == {3}  # the source's own test images
    accuracy = {(r.method, r.seed): r.metrics.test_accuracy for r in found}
    row = next(row for row in board.rows if row.family == "ral-norm" or row.family == "ral-conv")
    label = f"{row.family}@{row.chosen.raf:g}"
    expected = np.mean([accuracy[label, seed] - accuracy["baseline", seed] for seed in (100, 101)])
    assert row.difference.estimate.mean == pytest.approx(expected)
    assert {point.raf for point in row.sweep} == {0.9, 0.5}


def test_equal_trainings_are_equal_to_the_bit_and_finished_ones_are_not_repeated(dataset, workspace, judged, tmp_path):
    run(dataset, workspace, "baseline", seeds=1)
    store = RecordStore(workspace.records)
    (first,) = store.all(TrainingRecord)
    stamp = store.path(first).stat().st_mtime_ns
    run(dataset, workspace, "baseline", seeds=1)
    assert store.path(first).stat().st_mtime_ns == stamp
    other = Workspace(shutil.copytree(judged, tmp_path / "other"))
    run(dataset, other, "baseline", seeds=1)
    (again,) = RecordStore(other.records).all(TrainingRecord)
    assert (again.curve, again.predictions_sha256, again.key) == (first.curve, first.predictions_sha256, first.key)


def test_ral_with_raf_one_is_not_a_method_of_its_own(dataset, workspace):
    assert methods(["ral"], [1.0]) == []
    with pytest.raises(ConfigError, match="nothing to train"):
        run(dataset, workspace, "ral", rafs=(1.0,))


def test_the_evaluator_changes_what_ral_learns(dataset, workspace):
    run(dataset, workspace, "baseline", "ral", rafs=(0.5,), seeds=1, evaluator="norm")
    run(dataset, workspace, "ral", rafs=(0.5,), seeds=1, evaluator="conv")
    losses = {r.method: r.curve[0].train_loss for r in RecordStore(workspace.records).all(TrainingRecord)}
    assert set(losses) == {"baseline", "ral-norm@0.5", "ral-conv@0.5"}
    assert len(set(losses.values())) == 3


def test_training_needs_fresh_seeds(tmp_path):
    dataset = build_tiny(tmp_path, seed=99)
    with pytest.raises(ConfigError, match=r"seeds \[100, 101\] are those of runs"):
        run(dataset, Workspace(tmp_path), "baseline")


def test_ral_without_an_evaluator_says_how_to_get_one(dataset, tmp_path):
    with pytest.raises(MissingDataError, match="fmcs-bench evaluate digits-smallcnn-16px-tiny"):
        run(dataset, Workspace(tmp_path / "empty"), "ral")
    run(dataset, Workspace(tmp_path / "empty"), "baseline", seeds=1)  # needs no evaluator


def test_an_evaluator_that_was_not_fitted_is_named(dataset, workspace):
    with pytest.raises(MissingDataError, match=r"evaluator set was fitted .* fitted are .*norm"):
        run(dataset, workspace, "ral", evaluator="set")


def test_other_images_than_the_dataset_s_are_refused(dataset, workspace):
    path = dataset.path / schema.MANIFEST
    value = json.loads(path.read_bytes())
    value["images"]["sha256"] = "0" * 64
    manifest = schema.Manifest.from_json(value)
    value["dataset_digest"] = schema.dataset_digest(manifest.config, manifest.images, manifest.files)
    path.write_text(json.dumps(value))
    with pytest.raises(DatasetError, match=r"are not those that .* was built from"):
        run(open_dataset(dataset.path), workspace, "baseline")


def test_a_killed_training_goes_on_and_keeps_what_was_finished(workspace):
    command = [
        sys.executable, "-m", "fmcs_bench", "train", "--method", "baseline", "--method", "dueheadnet-add-align",
        "--seeds", "3", "--device", "cpu", "--workspace", str(workspace.root),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=subprocess_environment())
    folder = workspace.records / "training"
    while process.poll() is None and len(list(folder.rglob("seed-*.json"))) < 2:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*.json")}
    assert 2 <= len(stamps) < 6
    done = subprocess.run(command, capture_output=True, text=True, env=subprocess_environment(), check=False)
    assert done.returncode == 0, done.stderr
    assert "of 6 were finished before" in done.stderr
    for path, stamp in stamps.items():
        assert path.stat().st_mtime_ns == stamp
    assert len(RecordStore(workspace.records).all(TrainingRecord)) == 6
    assert "dueheadnet-add-align" in done.stdout
