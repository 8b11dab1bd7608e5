"""Methods, controls, weights, watcher and failures of the training track, on a tiny dataset."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import build_tiny, subprocess_environment
from safetensors.torch import load_file

from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError, UnitsFailedError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluator_track.options import EvaluateOptions
from fmcs_bench.evaluator_track.runner import evaluate_dataset
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.store import FailedStore, FailedTraining, RecordStore
from fmcs_bench.store import schema
from fmcs_bench.store.reader import all_datasets, open_dataset
from fmcs_bench.training.loop import accuracy
from fmcs_bench.training.losses import Objective
from fmcs_bench.training.methods import METHODS, Method
from fmcs_bench.training.recipes import Recipe
from fmcs_bench.training.trajectory import checkpoint_key, image_batches, initial_backbone
from fmcs_bench.training_track import runner
from fmcs_bench.training_track.estimate import MEASURED, plan_dataset
from fmcs_bench.training_track.networks import make_network
from fmcs_bench.training_track.options import TrainOptions
from fmcs_bench.training_track.plan import convergence_epochs, plan_trials
from fmcs_bench.training_track.runner import recompute, train_dataset

CPU = torch.device("cpu")
ALL = (*METHODS, "single-smallcnn/8", "single-smallcnn/8-ral", "dueheadnet-add-none-ral-random")
DIVERGING = {"constraint_weight": 1e39}
"""More than float32 holds: the loss of ``align`` and ``diversify`` is infinite."""


@pytest.fixture
def workspace(evaluated, tmp_path):
    return Workspace(shutil.copytree(evaluated, tmp_path / "ws"))


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
    images = set()
    for record in found:
        predictions = store.predictions(record)
        assert recompute(predictions) == record.metrics
        images.add(tuple(predictions["test/image"].tolist()))
        assert len(record.curve) == record.trial.epochs == convergence_epochs(dataset)
        best = record.curve[record.metrics.epoch - 1].validation  # the first of the highest
        assert best == record.metrics.validation_accuracy == max(epoch.validation for epoch in record.curve)
        assert all(epoch.validation < best for epoch in record.curve[: record.metrics.epoch - 1])
    assert len(images) == 1
    split_of = dict(zip(dataset.array("image_id")[:], dataset.array("split")[:], strict=True))
    assert {split_of[i] for i in next(iter(images))} == {3}  # the source's own test images
    accuracy = {(r.method, r.seed): r.metrics.test_accuracy for r in found}
    row = next(row for row in board.rows if row.family in ("ral-norm", "ral-conv"))
    label = f"{row.family}@{row.chosen.raf:g}"
    expected = np.mean([accuracy[label, seed] - accuracy["baseline", seed] for seed in (100, 101)])
    assert row.difference.estimate.mean == pytest.approx(expected)
    assert {point.raf for point in row.sweep} == {0.9, 0.5}


def test_equal_trainings_are_equal_to_the_bit_and_are_not_repeated(dataset, workspace, evaluated, tmp_path):
    run(dataset, workspace, "baseline", seeds=1)
    store = RecordStore(workspace.records)
    (first,) = store.all(TrainingRecord)
    stamp = store.path(first).stat().st_mtime_ns
    run(dataset, workspace, "baseline", seeds=1)
    assert store.path(first).stat().st_mtime_ns == stamp
    other = Workspace(shutil.copytree(evaluated, tmp_path / "other"))
    run(dataset, other, "baseline", seeds=1)
    (again,) = RecordStore(other.records).all(TrainingRecord)
    assert (again.curve, again.predictions_sha256, again.key) == (first.curve, first.predictions_sha256, first.key)


def test_ral_with_raf_one_is_not_a_method_of_its_own(dataset, workspace):
    with pytest.raises(ConfigError, match="nothing to train"):
        run(dataset, workspace, "ral", rafs=(1.0,))


def test_training_needs_fresh_seeds(tmp_path):
    dataset = build_tiny(tmp_path, seed=99)
    with pytest.raises(ConfigError, match=r"seeds \[100, 101\] are those of runs"):
        run(dataset, Workspace(tmp_path), "baseline")


def test_ral_without_an_evaluator_says_how_to_get_one(dataset, workspace, tmp_path):
    with pytest.raises(MissingDataError, match="fmcs-bench evaluate digits-smallcnn-16px-tiny"):
        run(dataset, Workspace(tmp_path / "empty"), "ral")
    run(dataset, Workspace(tmp_path / "empty"), "baseline", seeds=1)  # needs no evaluator
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


def planned(dataset, workspace, *names, **options):
    return plan_trials(dataset, workspace, TrainOptions.make(methods=names, **options), CPU)[1]


def test_every_method_is_trained_paired_and_watched(dataset, workspace, monkeypatch):
    seen: dict = {}

    class Recorded(Objective):
        def __call__(self, model, images_BCHW, labels_B):
            batches = seen.setdefault((self.method, torch.initial_seed()), [])
            batches.append((images_BCHW.clone(), labels_B.clone()))
            return super().__call__(model, images_BCHW, labels_B)

    monkeypatch.setattr(runner, "Objective", Recorded)
    options = {"epochs": 1, "seeds": 1, "rafs": (0.5, 0.0), "evaluator": "norm"}
    board = run(dataset, workspace, *ALL, **options, augmentation="flip")
    records = trained(workspace)
    assert {row.family for row in board.rows} >= {
        "baseline", "ral-norm", "ral-random-norm", "ral-permuted-norm", "fmcs-only-norm", "label-smoothing",
        "longer-norm", "equal-parameters-smallcnn_23", "single-smallcnn_8", "single-smallcnn_8-ral-norm",
        "dueheadnet-add-none-ral-random-norm", "dueheadnet-concat-diversify-ral-norm",
    }  # fmt: skip
    assert next(row for row in board.rows if row.family == "ral-norm").chosen.raf == 0.5
    # Order and augmentation of the first epoch: the same for all methods.
    orders = {key[0]: value for key, value in seen.items() if key[1] == next(iter(seen))[1]}
    first = orders.pop(Method())
    (plain,) = planned(dataset, workspace, "baseline", epochs=1, seeds=1)
    assert len(orders) == len({record.trial.method for record in records.values()}) - 1
    assert not torch.equal(first[0][0], torch.zeros_like(first[0][0]))
    for method, batches in orders.items():
        for (images, labels), (own_images, own_labels) in zip(first, batches, strict=True):
            assert torch.equal(labels, own_labels), method.family
            assert torch.equal(images, own_images), method.family
    # Weights: those of the baseline wherever the network begins with its layers.
    baseline = make_network(plain, 10).state_dict()
    for record in records.values():
        if record.trial.method.backbone is None:
            own = make_network(record.trial, 10).state_dict()
            heads = {name.removeprefix("first."): value for name, value in own.items()}
            for name, value in baseline.items():
                assert torch.equal(heads.get(name, value), value), record.method
            assert len(heads.keys() & baseline.keys()) >= len(baseline) - 2
        assert all(1 <= epoch.score <= 3 for epoch in record.curve)  # every one has maps that the watcher takes
        assert record.trial.watcher in ("norm", "conv")
        assert record.metrics.epoch is not None
    # What they learn differs; without its base loss (RAF 0) a network learns the same under every constraint.
    losses = [record.curve[0].train_loss for record in records.values() if record.trial.method.raf > 0]
    assert len(set(losses)) == len(losses) - (records["longer-norm", 100].curve[0] == records["baseline", 100].curve[0])


def test_longer_costs_ral_s_compute_and_says_so(dataset, workspace):
    run(dataset, workspace, "longer", epochs=2, seeds=1, evaluator="conv")
    (record,) = trained(workspace).values()
    extra = record.trial.longer
    assert extra.flops_ratio > 1
    assert len(record.curve) == extra.epochs == int(np.ceil(2 * extra.flops_ratio)) > record.trial.epochs == 2
    baseline = planned(dataset, workspace, "baseline", epochs=2, seeds=1)[0]
    assert record.settings == baseline.settings  # on one board


def test_a_random_control_has_other_weights_and_the_evaluator_s_scale(dataset, workspace):
    options = TrainOptions(methods=["ral-random"], rafs=[0.9], seeds=2, evaluator="conv")
    trainings, trials = plan_trials(dataset, workspace, options, CPU)
    controls = [trainings.evaluators.of_loss(trial).__self__ for trial in trials]
    fitted = trainings.evaluators.load(trainings.evaluators.fitted)
    for control in controls:
        assert torch.equal(control.network.scale, fitted.network.scale)
        assert not any(parameter.requires_grad for parameter in control.network.parameters())
    first, second, own = (next(evaluator.network.parameters()) for evaluator in (*controls, fitted))
    assert not torch.equal(first, own)
    assert not torch.equal(first, second)


def test_a_permuted_control_is_the_evaluator_s_own_fit_but_for_labels(dataset, workspace):
    options = TrainOptions(methods=["ral-permuted"], seeds=1, evaluator="norm")
    trainings, trials = plan_trials(dataset, workspace, options, CPU)
    fitted, control = trainings.evaluators.fitted, trainings.evaluators.permuted
    assert control.trial == fitted.trial.model_copy(update={"labels": "permuted"})
    assert trials[0].evaluator == "norm~permuted"
    assert trials[0].evaluator_digest == control.evaluator_digest != fitted.evaluator_digest
    with pytest.raises(
        MissingDataError, match=r"evaluate digits-smallcnn-16px-tiny --evaluator conv~permuted --seeds 1"
    ):
        planned(dataset, workspace, "ral-permuted", evaluator="conv")


def test_other_networks_need_an_evaluator_for_any_shape(dataset, workspace):
    options = {"base": "smallcnn/8", "epochs": 1, "seeds": 1, "rafs": (0.9,)}
    with pytest.raises(ConfigError, match=r"32 x 2 x 2 .* conv was fitted on maps of 64 x 2 x 2"):
        run(dataset, workspace, "dueheadnet-add-none-ral", evaluator="conv", **options)
    assert trained(workspace) == {}  # refused before anything ran
    run(dataset, workspace, "dueheadnet-add-none", "dueheadnet-add-none-ral", evaluator="norm", **options)
    assert {record.trial.family for record in trained(workspace).values()} == {
        "dueheadnet-smallcnn_8-add-none", "dueheadnet-smallcnn_8-add-none-ral-norm",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"smallcnn is this dataset's own network; name --method baseline"):
        planned(dataset, workspace, "single-smallcnn")
    assert planned(dataset, workspace, "dueheadnet-add-none", base="smallcnn")[0].method.backbone is None


def test_an_evaluator_without_a_gradient_is_refused_before_anything_runs(dataset, workspace):
    evaluate_dataset(dataset, workspace, EvaluateOptions(evaluators=["logistic"], seeds=1), device="cpu")
    with pytest.raises(ConfigError, match="logistic is not differentiable"):
        run(dataset, workspace, "baseline", "ral", evaluator="logistic")
    assert trained(workspace) == {}


def test_same_run_starts_where_the_runs_of_the_dataset_started(dataset, workspace):
    trials = planned(dataset, workspace, "baseline", "dueheadnet-add-none", seeds=3, init="same-run")
    runs = dataset.seeds("training")
    assert [trial.run for trial in trials] == [runs[0], runs[0], runs[1], runs[1], runs[0], runs[0]]
    for unit in trials:
        weights = initial_backbone(dataset.manifest.config, 10, seed=unit.run).state_dict()
        own = make_network(unit, 10).state_dict()
        prefix = "first." if unit.method.network == "dueheadnet" else ""
        assert all(torch.equal(own[prefix + name], value) for name, value in weights.items())
    board = run(dataset, workspace, "baseline", "ral", seeds=1, rafs=(0.9,), epochs=1, init="same-run")
    assert "same-run" in board.settings
    assert run(dataset, workspace, "baseline", seeds=1, epochs=1).settings != board.settings


def test_the_watcher_is_the_board_s_choice_and_disturbs_nothing(dataset, workspace, tmp_path):
    options = {"epochs": 2, "seeds": 1, "rafs": (0.9,)}
    run(dataset, workspace, "baseline", "ral", evaluator="norm", **options)
    run(dataset, workspace, "ral", evaluator="conv", **options)
    watched = trained(workspace)
    assert len(watched) == 3  # one baseline for both evaluators
    assert len({record.trial.watcher_digest for record in watched.values()}) == 1
    alone = Workspace(tmp_path / "alone")
    run(dataset, alone, "baseline", **options)
    plain, own = trained(alone)["baseline", 100], watched["baseline", 100]
    assert plain.trial.watcher is None
    assert [epoch.score for epoch in plain.curve] == [None, None]
    assert [epoch.model_copy(update={"score": None}) for epoch in own.curve] == list(plain.curve)
    assert own.predictions_sha256 == plain.predictions_sha256
    assert own.key != plain.key
    assert own.settings == plain.settings


def test_the_best_epoch_on_test_is_recorded_beside_the_chosen_one(dataset, workspace):
    options = {"epochs": 3, "seeds": 1, "lr": 0.05}
    run(dataset, workspace, "baseline", **options)
    (plain,) = trained(workspace).values()
    run(dataset, workspace, "baseline", **options, best_epoch_on_test=True)
    (record,) = trained(workspace).values()
    store = RecordStore(workspace.records)
    predictions = store.predictions(record)
    by_epoch = predictions["test/predicted_by_epoch"]
    assert (by_epoch.shape, by_epoch.dtype) == ((3, record.metrics.num_test), np.uint8)
    accuracies = (by_epoch == predictions["test/label"]).mean(axis=1)
    assert record.metrics.best_test_accuracy == accuracies.max()
    assert record.metrics.test_accuracy == accuracies[record.metrics.epoch - 1]
    assert recompute(predictions) == record.metrics
    # Nothing else changes, and the record that has more is found where less is asked for.
    assert plain.metrics == record.metrics.model_copy(update={"best_test_accuracy": None})
    assert (plain.key, plain.curve) == (record.key, record.curve)
    stamp = store.path(record).stat().st_mtime_ns
    run(dataset, workspace, "baseline", **options)
    assert store.path(record).stat().st_mtime_ns == stamp


def test_kept_weights_give_the_record_and_are_kept_again_where_they_are_missing(dataset, workspace):
    options = {"epochs": 2, "seeds": 1}
    run(dataset, workspace, "baseline", **options)
    (plain,) = trained(workspace).values()
    assert not (workspace.root / "networks").exists()
    run(dataset, workspace, "baseline", **options, keep_weights=True)
    (record,) = trained(workspace).values()
    assert (record.key, record.metrics, record.curve) == (plain.key, plain.metrics, plain.curve)
    path = workspace.network(dataset.id, record.settings, record.method, record.seed)
    assert checkpoint_key(path) == record.key
    model = make_network(record.trial, 10)
    model.load_state_dict(load_file(path))
    images = dataset.load_images()
    prepare = Preprocessor(images, dataset.manifest.config.image_size)
    unseen = image_batches(images, prepare, "unseen", device=CPU)
    assert accuracy(model, unseen) == pytest.approx(record.metrics.test_accuracy, abs=1e-9)
    path.write_bytes(path.read_bytes()[:100])
    run(dataset, workspace, "baseline", **options, keep_weights=True)
    assert checkpoint_key(path) == record.key


def test_recipes_have_names_lengths_and_changes(dataset, workspace):
    own = planned(dataset, workspace, "baseline")[0]
    assert own.recipe == dataset.manifest.config.recipe
    trial = planned(dataset, workspace, "baseline", recipe="dueheadnet-code", lr=0.05)[0]
    assert trial.recipe == Recipe(name="dueheadnet-code", optimizer="sgd", lr=0.05, weight_decay=5e-4, batch_size=128)
    assert trial.epochs == 200
    assert trial.settings != own.settings
    assert planned(dataset, workspace, "baseline", recipe="fmce")[0].epochs == own.epochs


# ---- failures and the plan


def test_a_diverged_training_is_noted_and_stops_no_other(dataset, workspace):
    names, options = ("baseline", "dueheadnet-add-align"), {"epochs": 1, "seeds": 2} | DIVERGING
    with pytest.raises(
        UnitsFailedError, match=r"2 of 4 trainings on .* failed; the others are done:\n- dueheadnet"
    ) as e:
        run(dataset, workspace, *names, **options)
    assert "loss is inf at step 1 of epoch 1" in str(e.value)
    (board,) = e.value.finished
    assert [row.family for row in board.rows] == ["baseline"]
    assert set(trained(workspace)) == {("baseline", 100), ("baseline", 101)}
    notes = sorted((workspace.records / "failed").rglob("*.json"))
    failure = FailedTraining.from_json(json.loads(notes[0].read_bytes()))
    assert (failure.epoch, failure.trial.family) == (1, "dueheadnet-add-align-w1e+39")
    assert not list((workspace.root / "work").glob("*"))

    # Known failures are shown and not trained again, unless that is asked for.
    stamps = [path.stat().st_mtime_ns for path in notes]
    with pytest.raises(UnitsFailedError, match="--retry trains it again"):
        run(dataset, workspace, *names, **options)
    assert [path.stat().st_mtime_ns for path in notes] == stamps
    plan = plan_dataset(dataset, workspace, TrainOptions.make(methods=names, **options), device="cpu")
    assert [(row["done"], row["failed"], row["left"]) for row in plan.rows] == [(2, 0, 0), (0, 2, 0)]
    with pytest.raises(UnitsFailedError):
        run(dataset, workspace, *names, **options, retry=True)
    assert all(path.stat().st_mtime_ns > stamp for path, stamp in zip(notes, stamps, strict=True))


def test_a_note_of_a_failure_goes_when_the_training_succeeds(dataset, workspace):
    run(dataset, workspace, "baseline", epochs=1, seeds=1)
    store = FailedStore(workspace.records)
    plan = planned(dataset, workspace, "baseline", epochs=1, seeds=1)
    (unit,), (record,) = plan, trained(workspace).values()
    names = ("key", "dataset", "dataset_digest", "environment", "trial", "created")
    failure = FailedTraining(**{name: getattr(record, name) for name in names}, reason="a test", epoch=None)
    RecordStore(workspace.records).path(record).unlink()
    path = store.write(failure)
    assert store.find(dataset.id, unit, "0" * 64) is None  # of other code
    run(dataset, workspace, "baseline", epochs=1, seeds=1, retry=True)
    assert not path.exists()


def train_command(workspace, *arguments):
    return CliRunner().invoke(main, ["train", "--workspace", str(workspace.root), "--device", "cpu", *arguments])


def test_the_command_shows_the_others_and_exits_with_one(workspace):
    arguments = ["--epochs", "1", "--seeds", "1", "--method", "baseline", "--method", "dueheadnet-add-align",
                 "--constraint-weight", "1e39"]  # fmt: skip
    result = train_command(workspace, *arguments)
    assert result.exit_code == 1
    assert "baseline" in result.stdout
    assert "dueheadnet" not in result.stdout
    assert "loss is inf" in result.stderr


def test_the_plan_says_what_is_left_and_how_long_it_may_take(dataset, workspace):
    arguments = ["--epochs", "2", "--seeds", "2", "--method", "baseline", "--method", "ral", "--raf", "0.9",
                 "--raf", "0", "--evaluator", "norm"]  # fmt: skip
    before = train_command(workspace, *arguments, "--plan", "--json")
    assert before.exit_code == 0, before.output
    value = json.loads(before.stdout)
    assert [(row["method"], row["raf"], row["seeds"], row["left"]) for row in value["rows"]] == [
        ("baseline", 1.0, [100, 101], 2), ("ral-norm", 0.9, [100, 101], 2), ("fmcs-only-norm", 0.0, [100, 101], 2),
    ]  # fmt: skip
    assert all(row["basis"] == MEASURED and row["seconds"] > 0 for row in value["rows"])
    assert trained(workspace) == {}
    run(dataset, workspace, "baseline", epochs=2, seeds=1)
    (record,) = trained(workspace).values()
    options = TrainOptions(methods=["baseline"], epochs=4, seeds=1)
    (row,) = plan_dataset(dataset, workspace, options, device="cpu").rows
    assert row["basis"] == "1 finished training"
    assert row["seconds"] == pytest.approx(2 * record.cost.seconds)
    lines = train_command(workspace, *arguments, "--plan").stdout.splitlines()
    assert lines[0].startswith(f"Plan for {dataset.id}, settings 2ep-")
    (baseline,) = [line for line in lines if line.startswith("baseline ")]
    assert baseline.split()[:7] == ["baseline", "1", "2", "100-101", "1", "0", "1"]
    assert lines[-1].startswith("5 of 6 trainings are left, about ")
