import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import subprocess_environment

import fmcs_bench
from fmcs_bench.cli.main import main
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.results.records import EvaluatorRecord

# Typed with a workspace of their own; {tiny} is one with a finished dataset, {file} a file, {folder} an empty folder.
WRONG = {
    "build --backbone resnet5O": "unknown backbone 'resnet5O'; did you mean",
    "build --backbone timm/resnet5O": "timm has no network 'resnet5O'; did you mean",
    "build --backbone smallcnn --dataset mnits": "unknown image dataset 'mnits'; did you mean mnist",
    "build --backbone smallcnn --stages 1": "stages = 1",
    "build --backbone smallcnn --name ../x": "name = '../x'",
    "build --backbone smallcnn --cqi-threshold -1": "threshold = -1.0",
    "build --backbone smallcnn --device gpu7": "device 'gpu7' cannot be used here",
    "build --backbone smallcnn --dataset mnist": "--data-dir",
    "build --backbone smallcnn --dataset mnist --data-dir {folder}": "looked in {folder}/MNIST/raw",
    "build --backbone smallcnn --dataset foldr:{folder}": "unknown image source 'foldr:'; did you mean folder",
    "build --backbone smallcnn --dataset folder_x": "--images, as folder:DIR",
    "build --backbone smallcnn --workspace {file}": "{file} cannot be written",
    "build --backbone smallcnn --unit-cpus 2": "add --engine ray",
    "build --backbone smallcnn --codec zip": "'zip' is not one of 'zstd', 'q8'",
    "evaluate": "fmcs-bench build --backbone smallcnn",
    "evaluate --workspace=": "is empty",
    "evaluate digits-smalcnn-16px-tiny --workspace {tiny}": "did you mean digits-smallcnn-16px",
    "evaluate --evaluator sett --workspace {tiny}": "unknown evaluator 'sett'; did you mean set",
    "evaluate --seeds 0 --workspace {tiny}": "seeds = 0",
    "train": "fmcs-bench build",
    "train --workspace {tiny}": "fmcs-bench evaluate digits-smallcnn-16px-tiny",
    "train --method baseline --epochs 0 --workspace {tiny}": "epochs = 0",
    "train --raf 1.2 --workspace {tiny}": "RAF = 1.2 is outside [0, 1]",
    "train --raf 0.9 --raf 0.9 --workspace {tiny}": "one is given twice",
    "train --method rall --workspace {tiny}": "unknown method 'rall'; did you mean ral",
    "info": "fmcs-bench build",
    "verify": "Missing argument 'DATASET'",
    "verify digits-smalcnn-16px-tiny --workspace {tiny}": "did you mean digits-smallcnn-16px",
    "verify digits-smallcnn-16px-tiny --recompute -1 --workspace {tiny}": "recompute = -1",
    "leaderboard build": "fmcs-bench evaluate",
    "biuld": "No such command 'biuld'",
    "list backbone": "'backbone' is not one of",
}


@pytest.fixture
def type_command(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.delenv("FMCS_BENCH_DATA", raising=False)
    monkeypatch.setenv("FMCS_BENCH_WORKSPACE", str(tmp_path / "ws"))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    tiny = shutil.copytree(tiny_dataset.path, tmp_path / "tiny/datasets" / tiny_dataset.path.name).parents[1]

    def places(text):
        for name, path in (("tiny", tiny), ("file", tmp_path / "file"), ("folder", tmp_path / "folder")):
            text = text.replace(f"{{{name}}}", str(path))
        return text

    def type_(command):
        return CliRunner().invoke(main, places(command).split())

    type_.places = places
    return type_


@pytest.mark.parametrize("command", WRONG)
def test_wrong_use_is_one_or_two_lines_and_exits_with_two(type_command, command):
    result = type_command(command)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert type_command.places(WRONG[command]) in result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith(("Usage:", "Try "))]
    assert 1 <= len([line for line in lines if line]) <= 2
    assert "Traceback" not in result.stderr


def test_failed_work_exits_with_one(type_command):
    result = type_command("build --backbone smallcnn --image-size 16 --limit 60 --epochs 2 --stages 3 --device cpu")
    assert result.exit_code == 1
    assert "has not converged" in result.stderr


FAILING = """
from fmcs_bench.evaluators.models.norm import NormEvaluator

class Failing(NormEvaluator):
    name = "failing"

    def predict_proba(self, maps_MDHW):
        raise RuntimeError("out of ideas")
"""


@pytest.mark.parametrize("as_json", ["", " --json"])
def test_an_evaluator_that_fails_leaves_the_board_of_the_others(type_command, tmp_path, as_json):
    (tmp_path / "failing.py").write_text(FAILING)
    result = type_command(
        f"evaluate --workspace {{tiny}} --evaluator {tmp_path / 'failing.py'}:Failing --evaluator norm --seeds 2 "
        f"--device cpu{as_json}"
    )
    assert result.exit_code == 1
    assert "failing" not in result.stdout
    if as_json:
        assert [EvaluatorRecord.from_json(value).method for value in json.loads(result.stdout)] == ["norm", "norm"]
    else:
        assert " norm " in result.stdout
    assert "failing" in result.stderr
    assert "RuntimeError: out of ideas (seed 0, 1)" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_road_by_commands(type_command):
    workspace = "--workspace {tiny}"
    evaluated = type_command(f"evaluate {workspace} --evaluator norm --evaluator set --seeds 2 --device cpu")
    assert evaluated.exit_code == 0, evaluated.output
    assert "norm" in evaluated.stdout
    trained = type_command(f"train {workspace} --method baseline --method ral --raf 0.9 --seeds 2 --device cpu --json")
    assert trained.exit_code == 0, trained.output
    assert len(json.loads(trained.stdout)) == 4
    page = type_command(f"leaderboard build {workspace}")
    assert page.exit_code == 0, page.output
    assert "ral-" in Path(page.stdout.strip()).read_text(encoding="utf-8")
    again = type_command(f"evaluate {workspace} --evaluator norm --seeds 2 --device cpu --json")
    assert "2 of 2 were finished before" in again.stderr
    assert [EvaluatorRecord.from_json(value).seed for value in json.loads(again.stdout)] == [0, 1]


def test_info(type_command, tiny_dataset, tmp_path):
    shown = type_command("info --workspace {tiny}")
    assert shown.exit_code == 0
    assert tiny_dataset.id in shown.stdout
    assert "K = 3 stages" in shown.stdout
    for run in tiny_dataset.manifest.runs:
        for stage in run.stages:
            assert f"{stage.train_loss:.3f}" in shown.stdout
    value = json.loads(type_command("info digits-smallcnn-16px-tiny --workspace {tiny} --json").stdout)
    assert value == tiny_dataset.manifest.to_json()
    shown = type_command(f"info {tiny_dataset.path} --plot {tmp_path / 'plots'}")
    assert shown.exit_code == 0, shown.output
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["run-0.svg", "run-1.svg", "run-2.svg", "run-3.svg"]
    assert all(name in shown.stdout for name in names)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("backbones", ["smallcnn", "resnet50", "shufflenet_v2", "seresnet152", "timm/NAME", "torchvision/NAME"]),
        ("datasets", ["digits", "mnist", "flowers102", "folder:DIR", "digits-smallcnn-16px-tiny", "half (unfinished"]),
        ("evaluators", ["norm", "conv", "set", "channel-invariant"]),
        ("methods", ["baseline", "ral", "dueheadnet-concat-diversify-ral"]),
    ],
)
def test_list(type_command, what, expected):
    (Workspace(type_command.places("{tiny}")).datasets / "half").mkdir()
    result = type_command(f"list {what} --workspace {{tiny}}")
    assert result.exit_code == 0
    for name in expected:
        assert name in result.stdout


def test_a_pipe_gets_whole_lines_without_colour(type_command):
    type_command("evaluate --workspace {tiny} --evaluator norm --seeds 1 --device cpu")
    command = [sys.executable, "-m", "fmcs_bench", "evaluate", "--evaluator", "norm", "--seeds", "1", "--device", "cpu"]
    environment = subprocess_environment() | {"COLUMNS": "40", "FMCS_BENCH_WORKSPACE": type_command.places("{tiny}")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    (row,) = [line for line in done.stdout.splitlines() if "norm" in line]
    assert len(row.split()) >= 6
    assert "…" not in done.stdout


def test_the_installed_program_starts():
    program = shutil.which("fmcs-bench", path=str(Path(sys.executable).parent))
    assert program, "the console script is not installed beside this Python"
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"fmcs-bench, version {fmcs_bench.__version__}"


def test_every_public_function_is_there():
    assert all(callable(getattr(fmcs_bench, name)) for name in fmcs_bench.__all__ if name != "__version__")
