"""Checked trials are added to a folder of results, and published ones are never overwritten."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import committed_trials as committed
from helpers.committed_trials import CARDS, edited
from helpers.page_reader import tree

from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, MissingDataError, RecordError
from fmcs_bench.leaderboard.check import check
from fmcs_bench.leaderboard.load import Trial
from fmcs_bench.leaderboard.submit import add
from fmcs_bench.results import tables
from fmcs_bench.results.store import RecordStore, pack_predictions


def workspace(root: Path, *trials: Trial) -> Path:
    """Trials as a workspace has them: JSON with predictions beside it."""
    store = RecordStore(root / "records")
    for trial in trials:
        data = pack_predictions(trial.arrays)
        digest = hashlib.sha256(data).hexdigest()
        store.write(trial.record.model_copy(update={"predictions_sha256": digest}), data)
    return root


def board(folder: Path, *trials: Trial) -> Path:
    tables.write(folder, [(trial.record, trial.arrays) for trial in trials])
    return folder


NORM, CHANCE, BASELINE = (
    committed.trials(*name) for name in (("evaluator", "norm"), ("evaluator", "chance"), ("training", "baseline"))
)


def test_trials_of_a_workspace_are_added_once_and_the_others_stay(tmp_path: Path) -> None:
    to = board(tmp_path / "leaderboard", *CHANCE)
    source = workspace(tmp_path / "ws", *NORM, *BASELINE)
    added = add(source, to, methods=["norm"], datasets=[CARDS])
    assert added.names == tuple(trial.record.name for trial in NORM)
    assert "git add" in str(added)
    methods = [record.method for record in tables.read(to)]
    assert methods == ["chance"] * 5 + ["norm"] * 5
    assert check(to, datasets=[CARDS]).faults == []
    before = tree(to)
    assert "nothing to add" in str(add(source, to, methods=["norm"], datasets=[CARDS]))
    assert tree(to) == before
    add(source, to, datasets=[CARDS])
    assert len(tables.read(to)) == 15


def test_faults_and_missing_seeds_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    to = tmp_path / "leaderboard"
    wrong = edited(NORM[0], lambda value: value["metrics"]["test_run"].update(mae=0.5))
    for name, trials, words in (
        ("wrong", (wrong, *NORM[1:]), "metrics.test_run.mae 0.5"),
        ("seeds", NORM[:4], "no seeds [4]"),
        ("baseline", committed.trials("training", "dueheadnet-add-none"), "no baseline"),
    ):
        with pytest.raises(RecordError, match="nothing was added") as caught:
            add(workspace(tmp_path / name, *trials), to, datasets=[CARDS])
        assert words in str(caught.value)
    assert not to.exists()


def test_a_method_may_join_the_baseline_that_is_there_already(tmp_path: Path) -> None:
    to = board(tmp_path / "leaderboard", *BASELINE)
    heads = committed.trials("training", "dueheadnet-add-none")
    assert len(add(workspace(tmp_path / "ws", *heads), to, datasets=[CARDS]).names) == 5


def test_a_published_result_is_not_overwritten(tmp_path: Path) -> None:
    to = board(tmp_path / "leaderboard", *NORM)
    before = tree(to)
    slower = [replace(t, record=edited(t, lambda value: value["cost"].update(seconds=9.0)).record) for t in NORM]
    with pytest.raises(ConfigError, match="not overwritten"):
        add(board(tmp_path / "other", *slower), to, datasets=[CARDS])
    assert tree(to) == before


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(committed.ROOT)
    source, to = str(board(tmp_path / "mine", *NORM)), str(tmp_path / "leaderboard")
    done = CliRunner().invoke(main, ["leaderboard", "add", source, "--to", to])
    assert done.exit_code == 0, done.output
    assert "5 trials" in done.stdout
    done = CliRunner().invoke(main, ["leaderboard", "add", source, "--to", to, "--method", "absent"])
    assert done.exit_code == MissingDataError.exit_code
    assert "norm" in done.stderr
