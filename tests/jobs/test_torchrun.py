"""The commands under a real `torchrun` with two processes (gloo, CPU) do what one process does."""

import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import subprocess_environment

import fmcs_bench as fb
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, UnitsFailedError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.results.records import EvaluatorRecord, RecordStore, TrainingRecord, unit_key
from fmcs_bench.store.reader import open_dataset
from fmcs_bench.training.loop import choose_device, device_name

pytestmark = pytest.mark.xdist_group("torchrun")  # two processes start once, not once in every process of the tests

EXACT = "single-timm_test_vit"
"""Without batch norm and dropout, so that two processes differ from one by rounding alone."""
METHODS = ["baseline", "single-timm/test_vit", "ral"]
OPTIONS = {"rafs": [0.9], "evaluator": "conv", "seeds": 1, "epochs": 3, "device": "cpu"}
FITS = {
    "evaluators": ["linear", "chance"],
    "seeds": 1,
    "grid": {"lr": [1e-3, 1e38], "optimizer": ["sgd"]},
    "device": "cpu",
}
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
STEPS = 4
"""Of an epoch: 60 images in batches of at most 16."""


def launch(*arguments, **options):
    return subprocess.run(
        [*LAUNCH, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=400,
        env=subprocess_environment(), **options,
    )  # fmt: skip


SCRIPT = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import fmcs_bench as fb
from fmcs_bench.errors import UnitsFailedError
from fmcs_bench.processes import Processes
from test_torchrun import FITS, METHODS, OPTIONS
from conftest import TINY
folder = Path(sys.argv[1])
seen, share = [], Processes.share

def spy(self, index_B):
    seen.append([index_B.tolist(), share(self, index_B).tolist()])
    return share(self, index_B)

Processes.share = spy
answer = {{}}
for name in ("first", "again"):
    board = fb.train(methods=METHODS, workspace=folder / "train", **OPTIONS)
    answer[name], answer["board " + name] = list(seen), [row.family for row in board.rows]
    seen.clear()
answer["failed"] = []
for _ in range(2):
    try:
        fb.train(
            methods=["dueheadnet-add-align", "baseline"], constraint_weight=1e39, workspace=folder / "train",
            **(OPTIONS | {{"epochs": 1}}),
        )
    except UnitsFailedError as error:
        answer["failed"].append([str(error), [row.family for board in error.finished for row in board.rows]])
boards = fb.evaluate(workspace=folder / "evaluate", **FITS)
answer["boards"] = [[row.records[0].method for row in board.rows] for board in boards]
seen.clear()
answer["built"] = fb.build(workspace=folder / "build", device="cpu", **TINY).id
answer["build"] = list(seen)
(folder / f"answer-{{os.environ['RANK']}}.json").write_text(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def two(judged, tmp_path_factory):
    """What two processes answered, and the folder with their workspaces."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("train", "evaluate"):
        shutil.copytree(judged, folder / name)
    (folder / "script.py").write_text(SCRIPT.format(tests=str(__file__.rpartition("/")[0])))
    done = launch(folder / "script.py", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    return [json.loads((folder / f"answer-{rank}.json").read_text()) for rank in range(2)], folder


@pytest.fixture(scope="module")
def one(judged, tmp_path_factory):
    """The workspaces of the same work in this process."""
    folder = tmp_path_factory.mktemp("one")
    for name in ("train", "evaluate"):
        shutil.copytree(judged, folder / name)
    fb.train(methods=METHODS, workspace=folder / "train", **OPTIONS)
    fb.evaluate(workspace=folder / "evaluate", **FITS)
    return folder


def trainings(root):
    store = RecordStore(Workspace(root).records)
    found = {record.method: record for record in store.all(TrainingRecord) if record.unit.epochs == 3}
    return {name: (record, store.predictions(record)) for name, record in found.items()}


def test_no_image_is_lost_or_doubled_in_any_epoch(two):
    first, second = (answer["first"] for answer in two[0])
    assert len(first) == len(second) == 3 * 3 * STEPS  # methods, epochs
    for (batch, left), (same, right) in zip(first, second, strict=True):
        assert batch == same == left + right  # one order, each image in one process
        assert abs(len(left) - len(right)) <= 1
    together = [left + right for (_, left), (_, right) in zip(first, second, strict=True)]
    for start in range(0, len(together), STEPS):
        assert sorted(itertools.chain(*together[start : start + STEPS])) == list(range(60))
    assert first[: 3 * STEPS] == first[3 * STEPS : 6 * STEPS]  # every method sees the same batches


def test_records_of_two_processes_are_those_of_one(two, one):
    (record, predictions), (alone, expected) = (trainings(root / "train")[EXACT] for root in (two[1], one))
    for name in ("validation/image", "test/image", "validation/label", "test/label", "epoch"):
        assert np.array_equal(predictions[name], expected[name])
    assert len(set(predictions["test/image"].tolist())) == record.metrics.num_test == 60
    # Sums in another order, over twelve steps: losses to 1e-3, and of 120 answers at most one.
    for epoch, other in zip(record.curve, alone.curve, strict=True):
        assert epoch.train_loss == pytest.approx(other.train_loss, rel=1e-3)
    for split in ("validation", "test"):
        assert (predictions[f"{split}/predicted"] != expected[f"{split}/predicted"]).sum() <= 1
    assert record.unit == alone.unit
    assert (record.environment.processes, alone.environment.processes) == (2, 1)
    assert record.environment.device == "cpu"
    assert record.key != alone.key


def test_batch_norm_sees_shares_and_is_near(two, one):
    for name in ("baseline", "ral-conv@0.9"):
        (record, predictions), (alone, expected) = (trainings(root / "train")[name] for root in (two[1], one))
        assert np.array_equal(predictions["test/image"], expected["test/image"])
        for epoch, other in zip(record.curve, alone.curve, strict=True):
            assert epoch.train_loss == pytest.approx(other.train_loss, rel=0.1)
        assert record.metrics.test_accuracy == pytest.approx(alone.metrics.test_accuracy, abs=0.15)


def test_all_processes_get_the_answer_and_what_is_finished_is_found(two):
    for answer in two[0]:
        assert answer["board first"] == answer["board again"]
        assert sorted(answer["board first"]) == sorted(["baseline", EXACT, "ral-conv"])
        assert answer["again"] == []
    root = two[1] / "train"
    assert not list((root / "work").rglob("*"))
    assert len(list((root / "records/training").rglob("seed-*.json"))) == 3 + 1
    assert not (root / "records/superseded").exists()


def test_a_training_that_fails_stops_no_other_and_no_process(two):
    for answer in two[0]:
        (now, finished), (before, again) = answer["failed"]
        assert "loss is inf at step 1 of epoch 1" in now
        assert "--retry trains it again" in before
        assert finished == again == ["baseline"]


def test_fits_of_evaluators_are_those_of_one_process(two, one):
    stores = [RecordStore(Workspace(root / "evaluate").records) for root in (two[1], one)]
    for name in ("linear", "chance"):
        record, alone = (
            next(r for r in store.all(EvaluatorRecord) if r.unit.evaluator == name and r.unit.grid) for store in stores
        )
        probs, expected = (
            store.predictions(r)["test_run/probs"] for store, r in zip(stores, (record, alone), strict=True)
        )
        np.testing.assert_allclose(probs, expected, atol=1e-3)
        assert record.metrics["test_run"].mae == pytest.approx(alone.metrics["test_run"].mae, abs=0.02)
        if name == "linear":
            assert [trial.validation_mae is None for trial in record.grid_search.trials] == [False, True]
    assert two[0][0]["boards"] == two[0][1]["boards"]
    assert [sorted(names) for names in two[0][0]["boards"]] == [["chance", "linear"]]


def test_a_data_set_that_two_processes_built_is_whole(two, tiny_dataset):
    answers, folder = two
    dataset = open_dataset(next((folder / "build/datasets").iterdir()))
    assert [answer["built"] for answer in answers] == [dataset.id] * 2
    assert dataset.manifest.environment.processes == 2
    assert not fb.verify(dataset, recompute=2, device="cpu").faults
    together = [left + right for (_, left), (_, right) in zip(*(answer["build"] for answer in answers), strict=True)]
    assert len(together) == 4 * 6 * STEPS  # runs, epochs
    for start in range(0, len(together), STEPS):
        assert sorted(itertools.chain(*together[start : start + STEPS])) == list(range(60))
    for seed in range(4):
        run, alone = dataset.run_file(seed).run, tiny_dataset.run_file(seed).run
        assert np.mean(run.losses) == pytest.approx(np.mean(alone.losses), rel=0.1)  # batch norm sees shares
        assert [c.step for c in run.checkpoints] == [c.step for c in alone.checkpoints]


def test_the_command_prints_once_and_finds_what_is_finished(two):
    options = ["--workspace", two[1] / "train", "--device", "cpu", "--seeds", "1", "--epochs", "3"]
    done = launch("-m", "fmcs_bench", "train", *options, "--method", "baseline", "--method", METHODS[1], "--json")
    assert done.returncode == 0, done.stderr
    assert [record["environment"]["processes"] for record in json.loads(done.stdout)] == [2, 2]
    assert done.stderr.count("2 of 2 were finished before") == 1


ENDING = """
import os, signal, sys
from fmcs_bench.cli import main
from fmcs_bench.errors import ReaderError
from fmcs_bench.processes import Processes
share, calls = Processes.share, []

def spy(self, index_B):
    calls.append(None)
    if self.rank == 1 and len(calls) == 9:  # in the third epoch
        if sys.argv[1] == "fails":
            raise ReaderError("one process alone")
        os.kill(os.getppid(), signal.SIGINT)  # Ctrl-C reaches torchrun
    return share(self, index_B)

Processes.share = spy
options = ["--device", "cpu", "--method", "baseline", "--seeds", "1", "--epochs", "500"]
main(["train", "--workspace", sys.argv[2], *options])
"""


@pytest.mark.parametrize(
    ("how", "words"),
    [("fails", "Error: process 1 of 2 failed: one process alone"), ("stops", "Error: stopped; type the same command")],
)
def test_all_processes_end_with_one_of_them_and_one_says_why(judged, tmp_path, how, words):
    root = shutil.copytree(judged, tmp_path / "ws")
    script = tmp_path / "script.py"
    script.write_text(ENDING)
    done = launch(script, how, root)
    assert done.returncode != 0
    assert done.stderr.count(words) == done.stderr.count("Error: ") - done.stderr.count("ChildFailedError: ") == 1
    assert "SIGKILL" not in done.stderr  # which torchrun sends to what does not end within 30 seconds
    with Workspace(root).locked():
        assert not RecordStore(Workspace(root).records).all(TrainingRecord)
    board = fb.train(methods=["baseline"], workspace=root, **(OPTIONS | {"epochs": 1}))
    assert [row.family for row in board.rows] == ["baseline"]


# ---- without a launch


@pytest.fixture
def launched(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("arguments", [["quickstart"], ["verify", "x"], ["leaderboard", "build"], ["info"]])
def test_other_commands_are_refused(launched, arguments, tmp_path):
    launched.setenv("FMCS_BENCH_WORKSPACE", str(tmp_path / "ws"))
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert f"Error: `{arguments[0]}` is done by one process, and 2 were started; leave out torchrun" in done.stderr
    assert not (tmp_path / "ws").exists()
    launched.setenv("RANK", "1")
    silent = CliRunner().invoke(main, arguments)
    assert (silent.exit_code, silent.output) == (2, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cpu:0"}, "device 'cpu:0' is one, and each of 2 processes has its own"),
        ({"engine": "ray"}, "--engine ray starts processes of its own, and 2 were started"),
    ],
)
def test_what_several_processes_cannot_do_is_told(launched, judged, options, message):  # noqa: ARG001
    with pytest.raises(ConfigError, match=message):
        fb.train(methods=["baseline"], workspace=judged, **options)


def test_a_plan_is_made_by_one_process(launched, judged):  # noqa: ARG001
    done = CliRunner().invoke(main, ["train", "--plan", "--workspace", str(judged)])
    assert (done.exit_code, done.stderr) == (2, "Error: a plan is made by one process; leave out torchrun, or --plan\n")


def test_each_process_has_a_device_of_its_own(launched):
    assert device_name(torch.device("cuda:1")) == "cuda"
    launched.delenv("LOCAL_RANK")  # as some clusters set the others for a process alone
    assert device_name(torch.device("cuda:1")) == "cuda:1"
    assert choose_device("cpu").type == "cpu"


def test_the_number_of_processes_is_in_the_key_where_there_are_several(judged):
    (record, *_) = RecordStore(Workspace(judged).records).all(EvaluatorRecord)
    assert "processes" not in record.to_json()["environment"]
    several = record.environment.model_copy(update={"processes": 2})
    assert unit_key(record.unit, record.dataset_digest, several) != record.key
    assert several.from_json(several.to_json()).processes == 2


def test_a_failure_that_is_known_is_no_unit_of_work(judged, tmp_path):
    root = shutil.copytree(judged, tmp_path / "ws")
    failing = {"methods": ["dueheadnet-add-align"], "constraint_weight": 1e39, "workspace": root}
    for words in ("loss is inf", "--retry trains it again"):
        with pytest.raises(UnitsFailedError, match=words):
            fb.train(**failing, **(OPTIONS | {"epochs": 1}))
