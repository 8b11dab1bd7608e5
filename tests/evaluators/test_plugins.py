"""Evaluators of other people: by entry point, by file, and the example of the documentation."""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import subprocess_environment

import fmcs_bench as fb
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, MissingDataError, PluginError, UnknownNameError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluator_track.options import EvaluateOptions
from fmcs_bench.evaluator_track.runner import evaluate_dataset
from fmcs_bench.evaluator_track.selection import evaluator_for_training, load_fit
from fmcs_bench.evaluators import base
from fmcs_bench.evaluators.base import Evaluator
from fmcs_bench.evaluators.models.norm import NormEvaluator
from fmcs_bench.evaluators.registry import (
    EVALUATORS,
    create_evaluator,
    evaluator_code,
    find_evaluator,
    parse_evaluators,
    resolve_evaluator,
)
from fmcs_bench.results.records import EvaluatorRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.results.trials import EvaluatorTrial
from fmcs_bench.testing.conformance import tiny_map_set

ROOT = Path(__file__).parents[2]
EXAMPLE = Path(__file__).parents[1] / "example_plugin"
SOURCE = (EXAMPLE / "fmcs_bench_peak.py").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/evaluators.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr("fmcs_bench.evaluators.registry._FROM_FILES", {})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my evaluator.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def workspace(tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset.path, tmp_path / "ws/datasets" / tiny_dataset.path.name)
    return Workspace(tmp_path / "ws")


def command(*arguments, path=(), cwd=None):
    environment = subprocess_environment() | {"PYTHONPATH": os.pathsep.join([*map(str, path), *sys.path])}
    done = subprocess.run(
        [sys.executable, *(["-W", "error"] if arguments[0] != "pip" else []), "-m", *arguments],
        capture_output=True, text=True, env=environment, cwd=cwd, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# ---- a package with an entry point


@pytest.mark.skipif(
    not (importlib.util.find_spec("pip") and importlib.util.find_spec("hatchling")), reason="needs pip and hatchling"
)
def test_an_installed_package_adds_an_evaluator(tmp_path, workspace):
    source, target = tmp_path / "source", tmp_path / "site"
    shutil.copytree(EXAMPLE, source)
    command("pip", "install", "--quiet", "--no-index", "--no-build-isolation", "--no-deps",
            "--disable-pip-version-check", "--target", str(target), str(source))  # fmt: skip
    listed = command("fmcs_bench", "list", "evaluators", path=[target])
    assert re.search(r"^peak +differentiable, channel-invariant, any shape$", listed, flags=re.MULTILINE)
    assert "peak" not in command("fmcs_bench", "list", "evaluators")
    output = command("fmcs_bench", "evaluate", "--evaluator", "peak", "--seeds", "1", "--device", "cpu", "--json",
                     "--workspace", str(workspace.root), path=[target])  # fmt: skip
    (record,) = json.loads(output)
    assert record["unit"]["evaluator"] == "peak"
    assert record["unit"]["code"] == hashlib.sha256((target / "fmcs_bench_peak.py").read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (len, "it is no subclass of"),
        (NormEvaluator, "its name attribute is 'norm'"),
        (Evaluator, "it lacks fit, from_bytes, num_parameters, predict_proba, to_bytes, name, diff"),
        (type("X", (NormEvaluator,), {"name": "extra", "any_shape": 1}), "any_shape must be True or False"),
        (type("X", (NormEvaluator,), {"name": "extra", "control": "no"}), "control must be True or False"),
    ],
)  # fmt: skip
def test_a_package_that_offers_no_evaluator_is_told(monkeypatch, value, message):
    monkeypatch.setitem(EVALUATORS._own, "extra", value)  # as an entry point of that name would
    with pytest.raises(PluginError, match=rf"evaluator plug-in 'extra' cannot be used: .*{message}"):
        find_evaluator("extra")


def test_code_that_no_file_holds_is_told(monkeypatch):
    kind = type("Typed", (NormEvaluator,), {"name": "typed", "__module__": "__console__"})
    monkeypatch.setitem(EVALUATORS._own, "typed", kind)
    with pytest.raises(PluginError, match=r"code of the evaluator 'typed' is in no file.*FILE\.py:Class"):
        evaluator_code("typed")


# ---- a file


def test_a_file_is_an_evaluator_like_any_other(file):
    name = resolve_evaluator(f"{file}:PeakEvaluator")
    assert name == "peak"
    assert evaluator_code("peak") == hashlib.sha256(SOURCE.encode()).hexdigest()
    assert find_evaluator("peak").channel_invariant
    evaluator = create_evaluator(EvaluatorTrial(evaluator="peak", seed=0), (6, 5, 4), 4)
    assert evaluator.predict_proba(tiny_map_set().maps_MDHW).shape == (96, 4)
    assert "peak" not in EVALUATORS
    assert parse_evaluators([f"{file}:PeakEvaluator+corn", "norm"]) == [
        ("peak", "corn", "true"),
        ("norm", "softmax", "true"),
    ]
    assert all(evaluator_code(name) is None for name in EVALUATORS)


def test_two_files_cannot_share_a_name(file):
    other = file.with_name("other.py")
    other.write_text(SOURCE + "\n")
    with pytest.raises(ConfigError, match=r"other\.py:PeakEvaluator' .* have the name 'peak'"):
        parse_evaluators([f"{file}:PeakEvaluator", f"{other}:PeakEvaluator"])
    typed = f"{file}:PeakEvaluator"
    assert parse_evaluators([typed, f"{typed}+corn", "peak"]) == [
        ("peak", "softmax", "true"),
        ("peak", "corn", "true"),
    ]
    assert parse_evaluators([f"{typed}~permuted"]) == [("peak", "softmax", "permuted")]


def test_a_file_that_was_changed_is_read_again(file):
    resolve_evaluator(f"{file}:PeakEvaluator")
    before = find_evaluator("peak"), evaluator_code("peak")
    times = file.stat()
    file.write_text(SOURCE.replace("any_shape = True", "any_shape = None").replace("None", "1 > 2"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # what a cache of compiled code goes by
    resolve_evaluator(f"{file}:PeakEvaluator")
    assert (before[0].any_shape, find_evaluator("peak").any_shape) == (True, False)
    assert evaluator_code("peak") != before[1]


@pytest.mark.parametrize(
    ("source", "typed", "error", "message"),
    [
        (SOURCE, ":Peak", ConfigError, "no class 'Peak'; known are: PeakEvaluator"),
        (SOURCE, "", ConfigError, r"is a file; name the evaluator's class too: .*my evaluator\.py:Class"),
        (SOURCE, ":nn", ConfigError, "nn of .* cannot be used: it is no subclass of .*Evaluator"),
        (SOURCE, ":NetworkEvaluator", ConfigError, "it lacks make_network, name, channel_invariant, any_shape"),
        (SOURCE.replace('"peak"', '"conv"'), ":PeakEvaluator", ConfigError, "has the name 'conv', which is taken"),
        (SOURCE.replace('"peak"', '"a/b"'), ":PeakEvaluator", ConfigError, "its name 'a/b' is no name"),
        (SOURCE.replace("any_shape = True", "any_shape = 1"), ":PeakEvaluator", ConfigError, "any_shape must be True"),
        ("import not_there", ":X", PluginError, "my evaluator.py raises ModuleNotFoundError"),
        ("this is no Python", ":X", PluginError, "raises SyntaxError"),
        (None, ":X", MissingDataError, "my evaluator.py cannot be read: No such file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(file, source, typed, error, message):
    file.unlink() if source is None else file.write_text(source)
    modules = set(sys.modules)
    with pytest.raises(error, match=message) as caught:
        resolve_evaluator(f"{file}{typed}")
    assert len(str(caught.value).splitlines()) == 1
    if error is PluginError:
        assert caught.value.__cause__ is not None
        assert not {name for name in set(sys.modules) - modules if name.startswith("fmcs_bench_file_")}


def test_a_name_is_not_taken_for_a_file():
    assert [resolve_evaluator(name) for name in ("conv", "a.b-c", "conv+corn~permuted")] == [
        "conv",
        "a.b-c",
        "conv+corn~permuted",
    ]
    with pytest.raises(UnknownNameError, match=r"unknown evaluator 'convv'; did you mean conv\?"):
        parse_evaluators(["convv"])


def test_a_file_is_on_the_board_and_in_training(file, workspace, monkeypatch):
    name = f"{workspace.datasets}/{next(workspace.datasets.iterdir()).name}"
    dataset = fb.open(name)
    typed = f"{file}:PeakEvaluator"
    board = evaluate_dataset(dataset, workspace, EvaluateOptions(evaluators=[typed, "norm"], seeds=1), device="cpu")
    assert {row.evaluator for row in board.rows} == {"peak", "norm"}
    (first,) = next(row for row in board.rows if row.evaluator == "peak").records
    record = evaluator_for_training(dataset, workspace, typed)
    assert record == first
    maps = dataset.select(dataset.seeds("test")[0], "test").maps_MDHW
    evaluator = load_fit(workspace, record, device=torch.device("cpu"))
    probs = evaluator.log_probs(torch.from_numpy(maps).float()).exp()
    np.testing.assert_allclose(probs.detach(), evaluator.predict_proba(maps), atol=1e-5)

    file.write_text(SOURCE + "\n# changed\n")
    with pytest.raises(ConfigError, match="code of the evaluator peak was changed since this fit; type `fmcs-bench ev"):
        load_fit(workspace, evaluator_for_training(dataset, workspace, typed), device=torch.device("cpu"))
    (again,) = (
        evaluate_dataset(dataset, workspace, EvaluateOptions(evaluators=[typed], seeds=1), device="cpu").rows[0].records
    )
    assert again.key != first.key
    assert again.trial.code != first.trial.code
    assert again.evaluator_digest == first.evaluator_digest
    assert len(RecordStore(workspace.records).all(EvaluatorRecord)) == 2
    assert len(list((workspace.records / "superseded").rglob("record.json"))) == 1

    arguments = ["evaluate", "--workspace", str(workspace.root), "--evaluator", f"{file}:Peak"]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.output.splitlines()[-1:]) == (
        2, [f"Error: {file} has no class 'Peak'; known are: PeakEvaluator"],
    )  # fmt: skip

    monkeypatch.setattr("fmcs_bench.evaluators.registry._FROM_FILES", {})
    with pytest.raises(ConfigError, match=r"peak is a plug-in that is missing; .*--evaluator FILE\.py:Class"):
        load_fit(workspace, again, device=torch.device("cpu"))


def test_heads_on_the_board_and_in_training(workspace):
    dataset = fb.open(next(workspace.datasets.iterdir()))
    result = CliRunner().invoke(
        main,
        ["evaluate", "--workspace", str(workspace.root), "--device", "cpu", "--seeds", "1", "--json",
         "--evaluator", "norm", "--evaluator", "set+softmax", "--head", "coral"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = {record.method: record for record in RecordStore(workspace.records).all(EvaluatorRecord)}
    assert set(found) == {"norm+coral", "set"}
    assert found["norm+coral"].settings == found["set"].settings
    board = fb.train(
        dataset, methods=["baseline", "ral"], rafs=[0.9], seeds=1, evaluator="norm+coral", epochs=1,
        workspace=workspace.root, device="cpu",
    )  # fmt: skip
    assert {row.family for row in board.rows} == {"baseline", "ral-norm+coral"}


# ---- the page of the documentation


def test_the_page_has_the_example_and_it_passes_the_suite(tmp_path):
    example, suite = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert re.sub(r'^""".*?"""\n+', "", SOURCE, flags=re.DOTALL) == example
    assert textwrap.indent(example, "    ") in base.__doc__
    test = tmp_path / "test_peak.py"
    test.write_text(f"{example}\n\n{suite}")
    output = command("pytest", "-q", "-p", "no:cacheprovider", test.name, cwd=tmp_path)
    assert re.search(r"^1\d passed", output, flags=re.MULTILINE)


def test_the_page_lists_every_evaluator_with_its_traits():
    rows = re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \| (yes|no) \| (yes|no) \|", PAGE, flags=re.MULTILINE)
    kinds = [EVALUATORS[name] for name in EVALUATORS._own]
    traits = [(kind.channel_invariant, kind.any_shape, kind.differentiable) for kind in kinds]
    assert [(name, *(value == "yes" for value in values)) for name, *values in rows] == [
        (kind.name, *values) for kind, values in zip(kinds, traits, strict=True)
    ]
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    assert block in (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
