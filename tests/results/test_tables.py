"""Trials as Parquet and back, and the DataFrame of all trials from everywhere it can come from."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from helpers import record_factory as factory

import fmcs_bench
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import MissingDataError, RecordError, UnknownNameError
from fmcs_bench.results import metrics, tables
from fmcs_bench.results.records import SUBSETS, EvaluatorRecord, TrainingRecord
from fmcs_bench.training.methods import Method

ROOT = Path(fmcs_bench.__file__).parent.parent
K = factory.NUM_STAGES


def evaluator_arrays(seed: int, subsets: tuple[str, ...] = SUBSETS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {"trajectory/score": rng.uniform(1, K, (16, 5)).astype(np.float32)}
    for i, subset in enumerate(subsets):
        num = 4 + i
        arrays[f"{subset}/probs"] = rng.dirichlet(np.full(K, 0.3), (K, num)).astype(np.float32)
        arrays[f"{subset}/image"] = rng.choice(1000, num, replace=False)
        arrays[f"{subset}/run"] = np.full(num, i)
    return arrays


def training_arrays(seed: int, num_epochs: int = 3, num_classes: int = 10) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {"epoch": np.array([2], dtype=np.int32)}
    for split, num in (("validation", 6), ("test", 9)):
        arrays[f"{split}/image"] = rng.choice(1000, num, replace=False)
        for name in ("label", "predicted"):
            arrays[f"{split}/{name}"] = rng.integers(0, num_classes, num).astype(np.int32)
    by_epoch = rng.integers(0, num_classes, (num_epochs, 9))
    return arrays | {"test/predicted_by_epoch": by_epoch.astype(np.uint8 if num_classes <= 256 else np.int16)}


@pytest.fixture(scope="module")
def trials() -> list[tuple[Any, dict[str, np.ndarray]]]:
    other = "mnist-smallcnn-32px-base@0123456789ab"
    epoch = {"curve": [(0.5, 2.0), (0.6, 3.0), (0.4, 3.0)], "epoch": 2}
    return [
        (factory.evaluator_record("set", 1), evaluator_arrays(1)),
        (factory.evaluator_record("conv~permuted", 0, control=True), evaluator_arrays(0)),
        (factory.evaluator_record("set", 0, dataset="other"), evaluator_arrays(2)),
        (factory.evaluator_record("set", 2, test_on={other: 0.5}), evaluator_arrays(3, (*SUBSETS, f"test_on/{other}"))),
        (factory.training_record(0.9, 3, **epoch), training_arrays(4)),
        (factory.training_record(1.0, 3, **epoch), training_arrays(5, num_classes=300)),
        (factory.training_record(seed=3, method=Method(label_smoothing=0.1), **epoch),
         {name: array for name, array in training_arrays(6).items() if "by_epoch" not in name}),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(trials: list[tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("results")
    tables.write(folder, trials)
    return folder


def test_records_come_back_equal_and_predictions_equal_but_for_rounding(folder: Path, trials: Any) -> None:
    records = tables.read(folder)
    assert {record.name: record for record in records} == {record.name: record for record, _ in trials}
    expected = {record.name: arrays for record, arrays in trials}
    for record, found in tables.read_predictions(folder, records):
        arrays = expected.pop(record.name)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            tolerance = {"rtol": 3 / 256, "atol": 1e-7} if array.dtype.kind == "f" else {"rtol": 0}
            np.testing.assert_allclose(found[name], array, **tolerance)
    assert not expected


def test_writing_what_was_read_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    again = tables.write(tmp_path, reversed(list(tables.read_predictions(folder, tables.read(folder)))))
    for path in again:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes()


def test_a_file_of_a_dataset_that_is_gone_is_removed(trials: Any, tmp_path: Path) -> None:
    tables.write(tmp_path, trials)
    tables.write(tmp_path, [pair for pair in trials if pair[0].dataset != "other"])
    assert not [path.name for path in tmp_path.rglob("*other*")]


@pytest.mark.parametrize("spread", [0.05, 0.3, 3, 300])
def test_rounding_keeps_the_predicted_stage_its_ties_and_the_metrics(spread: float) -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(K, spread), 4000).astype(np.float32)
    probs[:500] = probs[:500].round(1) + 0.05
    probs /= probs.sum(axis=1, keepdims=True)
    stored = tables.rounded(probs)
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(tables.rounded(stored), stored)
    np.testing.assert_array_equal(metrics.predicted_stages(stored), metrics.predicted_stages(probs))
    is_top = probs == probs.max(axis=1, keepdims=True)
    np.testing.assert_array_equal(stored == stored.max(axis=1, keepdims=True), is_top)
    assert np.abs(stored.astype(np.float64).sum(axis=1) - 1).max() <= tables.SUM_TOLERANCE
    assert ((stored > 0) == (probs > 4e-12)).all()
    before, after = (metrics.of_answers(each[:3500].astype(np.float64).reshape(K, -1, K)) for each in (probs, stored))
    assert_close(before.to_json(), after.to_json())


def assert_close(stated: dict[str, float], computed: dict[str, float]) -> None:
    for name, value in stated.items():
        assert abs(computed[name] - value) <= tables.TOLERANCES.get(name, 1e-12) * (1 + abs(value)), name


def test_the_repositorys_own_trials_have_the_metrics_of_their_predictions() -> None:
    records = tables.read(ROOT / "leaderboard")
    own = [record for record in records if isinstance(record, EvaluatorRecord)]
    sample = own[:: max(1, len(own) // 30)]
    for record, arrays in tables.read_predictions(ROOT / "leaderboard", sample):
        for subset in SUBSETS:
            assert_close(record.metrics[subset].to_json(), metrics.of_answers(arrays[f"{subset}/probs"]).to_json())
        means = arrays["trajectory/score"].astype(float).mean(axis=1)
        np.testing.assert_allclose(means, record.trajectory.score, atol=tables.SCORE_TOLERANCE)
    trainings = [record for record in records if isinstance(record, TrainingRecord)]
    for record, arrays in tables.read_predictions(ROOT / "leaderboard", trainings):
        for split in ("validation", "test"):
            right = (arrays[f"{split}/predicted"] == arrays[f"{split}/label"]).mean()
            assert right == pytest.approx(getattr(record.metrics, f"{split}_accuracy"), abs=1e-12)


def test_the_repositorys_flat_columns_are_those_of_its_records() -> None:
    frame = fmcs_bench.results()
    rows = {record.name: tables.row_of(record) for record in tables.read(ROOT / "leaderboard")}
    assert set(frame.trial) == set(rows)
    for values in frame.to_dict(orient="records"):
        for name, value in rows[values["trial"]].items():
            assert pd.isna(values[name]) if value is None else values[name] == value, name


def test_the_same_table_comes_from_a_folder_a_workspace_and_a_url(folder: Path, tmp_path: Path) -> None:
    expected = fmcs_bench.results(folder)
    assert list(expected.trial) == [record.name for record in tables.read(folder)]
    for source in (str(folder), folder / "results", f"file://{folder}", f"file://{folder}/results"):
        pd.testing.assert_frame_equal(fmcs_bench.results(source), expected)
    factory.write(tmp_path / "records", tables.read(folder))
    found = fmcs_bench.results(tmp_path).set_index("trial").sort_index()
    pd.testing.assert_frame_equal(
        found, expected.set_index("trial").sort_index(), check_dtype=False, check_like=True, check_index_type=False
    )


def test_the_table_has_a_row_a_trial_with_its_parts_and_numbers(folder: Path) -> None:
    frame = fmcs_bench.results(folder, track="training").set_index("method")
    row = frame.loc["ral-set@0.9"]
    assert (row.network, row.raf, row.evaluator, row.family) == ("single", 0.9, "set", "ral-set")
    assert frame.control.to_dict() == {"ral-set@0.9": False, "baseline": False, "label-smoothing": True}
    evaluators = fmcs_bench.results(folder, track="evaluator", dataset="other")
    record = factory.evaluator_record("set", 0, dataset="other")
    assert list(evaluators.mae_test_run) == [record.metrics["test_run"].mae]


def test_an_unknown_track_or_dataset_is_an_error_that_names_the_nearest(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="training"):
        fmcs_bench.results(folder, track="trainings")
    with pytest.raises(UnknownNameError, match="other"):
        fmcs_bench.results(folder, dataset="othr")


def test_a_source_without_results_is_an_error_that_says_what_to_give(tmp_path: Path) -> None:
    for source in (tmp_path, f"memory://{tmp_path}"):
        with pytest.raises(MissingDataError, match=r"evaluator\.parquet"):
            fmcs_bench.results(source)
    with pytest.raises(MissingDataError, match="results"):
        tables.read(tmp_path)


def test_without_a_checkout_the_default_is_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fmcs_bench, "__file__", str(tmp_path / "site-packages" / "fmcs_bench" / "__init__.py"))
    monkeypatch.setenv("FMCS_BENCH_WORKSPACE", str(tmp_path / "ws"))
    with pytest.raises(MissingDataError, match="give a workspace"):
        fmcs_bench.results()
    factory.write(tmp_path / "ws" / "records", [factory.training_record()])
    assert list(fmcs_bench.results().method) == ["baseline"]


@pytest.mark.parametrize("name", ["results/training", "predictions/training-digits-smallcnn-32px-base"])
def test_a_damaged_or_missing_file_is_refused_by_name(trials: Any, tmp_path: Path, name: str) -> None:
    tables.write(tmp_path, [pair for pair in trials if pair[0].track == "training"])
    records = tables.read(tmp_path)
    (tmp_path / f"{name}.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(RecordError, match="cannot be read"):
        list(tables.read_predictions(tmp_path, tables.read(tmp_path)))
    (tmp_path / f"{name}.parquet").unlink()
    with pytest.raises((RecordError, MissingDataError), match=r"training.*parquet"):
        list(tables.read_predictions(tmp_path, tables.read(tmp_path)))
    other = factory.training_record(seed=77)
    with pytest.raises(RecordError, match=r"seed-77|cannot be read"):
        list(tables.read_predictions(tmp_path, [*records, other]))


def test_the_command_prints_a_table_csv_or_json(folder: Path, tmp_path: Path) -> None:
    def run(*more: str) -> str:
        result = CliRunner().invoke(main, ["results", str(folder), *more])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert len(run().splitlines()) == 8
    assert len(run("--track", "training").splitlines()) == 4
    rows = json.loads(run("--json", "--dataset", "other"))
    assert [(row["method"], row["test_limit"]) for row in rows] == [("set", None)]
    assert "7 trials" in run("--csv", str(tmp_path / "all.csv"))
    for text in (run("--csv", "-"), (tmp_path / "all.csv").read_text()):
        assert {row["trial"] for row in csv.DictReader(io.StringIO(text))} == {r.name for r in tables.read(folder)}


@pytest.mark.parametrize("arguments", [["nowhere"], ["--csv", "-", "--json"], ["--track", "x"]])
def test_the_command_exits_with_2_where_there_is_nothing_or_wrong_use(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, ["results", *arguments]).exit_code == 2
