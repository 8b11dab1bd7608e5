"""Hyperparameter grids: how they are written, what is fitted and kept, and what the record has of it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from helpers import record_factory as factory

from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, UnitsFailedError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluator_track.options import EvaluateOptions
from fmcs_bench.evaluator_track.protocol import SIDES
from fmcs_bench.evaluator_track.runner import evaluate_dataset
from fmcs_bench.evaluator_track.selection import evaluator_for_training
from fmcs_bench.evaluators.checkpoint import load_fitted
from fmcs_bench.evaluators.models.chance import ChanceEvaluator
from fmcs_bench.evaluators.registry import EVALUATORS
from fmcs_bench.results.evaluator_board import evaluator_boards
from fmcs_bench.results.records import SUBSETS, EvaluatorRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.results.trials import Attempt, EvaluatorTrial, GridSearch, best_attempt, parse_grid
from fmcs_bench.training.recipes import Recipe


def config(**options):
    return EvaluatorTrial.make(evaluator="norm", seed=0, **options)


# ---- what is typed


def test_the_digest_and_the_settings_of_stored_records_do_not_change():
    assert config().digest == "21a027c3255a5a8063ae73020986f1c6a4b3a4ae23170e866ba6a6dc99a1ce5c"
    assert config().settings == "12ep-199dc323"  # of the committed records


def test_a_grid_is_part_of_the_settings_however_it_was_typed():
    one = config(grid={"lr": (1e-3, 3e-4), "batch_size": (256, 128)})
    other = config(grid={"batch_size": (128, 256), "lr": (3e-4, 1e-3)})
    assert one == other
    assert one.settings == other.settings != config().settings
    assert config(grid={"lr": (1,)}).settings == config(grid={"lr": (1.0,)}).settings
    assert EvaluatorTrial.from_json(one.to_json()) == one
    assert one.combinations == tuple({"batch_size": size, "lr": lr} for size in (128, 256) for lr in (3e-4, 1e-3))
    assert one.with_recipe(one.combinations[1]).recipe == Recipe(name="evaluator", batch_size=128, lr=1e-3)
    assert one.with_recipe({}) == config()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lrr": (0.1,)}, r"lrr.*did you mean lr\?"),
        ({"lr": (0.1, -1.0)}, r"lr = -1\.0"),
        ({"batch_size": (12.5,)}, r"batch_size = 12\.5"),
        ({"lr": ()}, "lr needs one or more"),
        ({"lr": (0.1, "x")}, "of one kind"),
        ({"lr": tuple(i / 100 for i in range(1, 8)), "batch_size": (64, 128)}, "14 combinations; at most 12"),
        ({"momentum": (0.5, 0.9), "optimizer": ("adam", "sgd")}, "momentum"),
    ],
)
def test_a_grid_with_an_unknown_field_or_value_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        config(grid=values)


def test_what_is_typed_is_parsed():
    assert parse_grid(["lr = 1e-3, 0.0003", "batch_size=128"]) == {"lr": (1e-3, 3e-4), "batch_size": (128,)}
    assert parse_grid([]) == {}
    for wrong in (["lr"], ["=1"], ["lr="], ["lr=1", "lr=2"]):
        with pytest.raises(ConfigError, match="give each field of the recipe once, as in lr="):
            parse_grid(wrong)
    for text in ("NaN", "true", "[1]", "null"):
        with pytest.raises(ConfigError, match="lr = "):
            config(grid=parse_grid([f"lr={text}"]))


# ---- what is fitted and kept


def run(dataset, place, *names, values=None, seeds=1, test_on=()):
    options = EvaluateOptions.make(evaluators=names, seeds=seeds, grid=values)
    return evaluate_dataset(dataset, Workspace(place), options, test_on=test_on, device="cpu")


class Counted(EVALUATORS["norm"]):  # type: ignore[misc]
    """Keeps which fits were asked about how many maps."""

    name = "counted"
    asked: list[tuple[float, int]] = []  # noqa: RUF012  (of one test)

    def predict_proba(self, maps_MDHW):
        Counted.asked.append((self.config.recipe.lr, len(maps_MDHW)))
        return super().predict_proba(maps_MDHW)


def test_only_the_kept_combination_is_asked_about_test_sides(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(EVALUATORS._own, "counted", Counted)
    monkeypatch.setattr(Counted, "asked", [])
    rates = (1e-5, 0.03, 1e-4)
    (row,) = run(tiny_dataset, tmp_path, "counted", values={"lr": rates}).rows
    (record,) = row.records
    search = record.grid_search
    kept = search.attempts[search.kept]
    assert [attempt.combination for attempt in search.attempts] == [{"lr": lr} for lr in sorted(rates)]
    assert kept.validation_mae == min(attempt.validation_mae for attempt in search.attempts)
    assert kept.validation_mae == record.metrics["validation_run"].mae
    assert kept.num_epochs == len(record.curve)
    assert record.cost.seconds == sum(attempt.seconds for attempt in search.attempts)
    per_fit = {lr: [num for rate, num in Counted.asked if rate == lr] for lr in rates}
    num_validation = record.metrics["validation_run"].num_maps
    for lr, asked in per_fit.items():
        if lr == kept.combination["lr"]:
            assert len(asked) == len(SUBSETS) + 1  # each column once, and the trajectory
        else:
            assert asked == [num_validation]
    # The kept fit is the one that its recipe alone gives.
    fitted = load_fitted(Workspace(tmp_path).fitted(tiny_dataset.id, record.settings, "counted", 0))
    assert fitted.info.config.recipe.lr == kept.combination["lr"]
    alone = EVALUATORS["norm"](tiny_dataset.manifest.map_shape, 3, fitted.info.config)
    alone.fit(
        *(tiny_dataset.sel(role, split=split).load() for role, split in (SIDES["train"], SIDES["validation_run"]))
    )
    assert alone.to_bytes() == fitted.evaluator.to_bytes()


def test_a_search_is_on_a_board_of_its_own_and_is_found_again(tiny_dataset, tmp_path):
    values = {"lr": [0.001, 0.01], "batch_size": [64]}
    plain = run(tiny_dataset, tmp_path, "norm")
    searched = run(tiny_dataset, tmp_path, "norm", "chance", values=values, seeds=2)
    store = RecordStore(Workspace(tmp_path).records)
    boards = {board.settings: board for board in evaluator_boards(store.all(EvaluatorRecord))}
    assert set(boards) == {plain.settings, searched.settings}
    assert plain.grid == ""
    assert searched.grid == "batch_size = 64; lr = 0.001, 0.01 (not of chance, which use no recipe)"
    stamps = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.json")}
    run(tiny_dataset, tmp_path, "norm", "chance", values={"batch_size": (64,), "lr": (0.01, 0.001)}, seeds=2)
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*.json")} == stamps
    # Training takes its evaluator from the usual settings.
    assert evaluator_for_training(tiny_dataset, Workspace(tmp_path)).settings == plain.settings


def test_a_grid_does_not_apply_to_evaluators_without_a_recipe(tiny_dataset, tmp_path, monkeypatch):
    without = {name for name, kind in EVALUATORS._own.items() if not kind.uses_recipe}
    assert without == {"chance", "logistic", "boosting"}
    fits = []
    monkeypatch.setattr(ChanceEvaluator, "fit", lambda *_: fits.append(1) or [])
    (row,) = run(tiny_dataset, tmp_path, "chance", values={"lr": (0.1, 0.2)}).rows
    assert row.records[0].grid_search == GridSearch(attempts=(), kept=None)
    assert fits == [1]
    (row,) = run(tiny_dataset, tmp_path, "chance").rows
    assert "grid_search" not in row.records[0].to_json()


def test_of_equal_combinations_the_first_is_kept(tiny_dataset, tmp_path):
    # Steps this small change no answer, so every fit has the MAE of its first weights.
    (row,) = run(tiny_dataset, tmp_path, "linear", values={"lr": (3e-12, 1e-12, 2e-12)}).rows
    search = row.records[0].grid_search
    assert len({attempt.validation_mae for attempt in search.attempts}) == 1
    assert search.kept == 0


def test_a_combination_that_diverges_is_listed_and_never_kept(tiny_dataset, tmp_path):
    values = {"lr": (0.001, 1e38), "optimizer": ("sgd",)}
    (row,) = run(tiny_dataset, tmp_path, "linear", values=values).rows
    search = row.records[0].grid_search
    assert [attempt.validation_mae is None for attempt in search.attempts] == [False, True]
    assert search.kept == 0
    with pytest.raises(UnitsFailedError, match=r"evaluator linear on training run \(fit\): .*so did every other"):
        run(tiny_dataset, tmp_path, "linear", values={"lr": (1e38, 2e38), "optimizer": ("sgd",)})


# ---- what a record may say


def record(**changes):
    trials = tuple(
        Attempt(combination=one, validation_mae=mae, num_epochs=2, seconds=1.0)
        for one, mae in zip(config(grid={"lr": (0.1, 0.2, 0.3)}).combinations, (0.7, 0.5, 0.5), strict=True)
    )
    found = factory.evaluator_record().to_json()
    found["unit"]["grid"] = {"lr": [0.1, 0.2, 0.3]}
    found["metrics"]["validation_run"]["mae"] = 0.5
    found["grid_search"] = GridSearch(attempts=trials, kept=1).to_json()
    for place, value in changes.items():
        *outer, last = place.split("__")
        target = found
        for key in outer:
            target = target[int(key) if key.isdigit() else key]
        target[last] = value
    return EvaluatorRecord.from_json(found)


def test_a_record_lists_every_combination_and_the_kept_one_is_the_best():
    assert EvaluatorRecord.from_json(record().to_json()) == record()
    assert record().grid_search.kept == best_attempt(record().grid_search.attempts) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid_search": None}, "has a grid_search"),
        ({"unit__grid": {}}, "has a grid_search"),
        ({"grid_search__kept": 2}, "keeps the attempt 2, and 1"),
        ({"unit__grid": {"lr": [0.1, 0.2]}}, "are not the combinations"),
        ({"grid_search__attempts__0__validation_mae": 0.1}, "keeps the attempt 1, and 0"),
        ({"metrics__validation_run__mae": 0.4}, "is not the fit that was tested"),
    ],
)
def test_a_record_that_does_not_hold_together_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        record(**changes)


# ---- the command


def test_the_command(tiny_dataset, tmp_path):
    arguments = ["evaluate", str(tiny_dataset.path), "--evaluator", "norm", "--seeds", "1", "--device", "cpu"]
    arguments += ["--workspace", str(tmp_path), "--grid", "lr=0.001,0.0003", "--grid", "batch_size=128"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "tried, best on the validation run kept: batch_size = 128; lr = 0.0003, 0.001" in done.stdout
    (found,) = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert [trial["combination"]["lr"] for trial in found["grid_search"]["attempts"]] == [0.0003, 0.001]
    assert CliRunner().invoke(main, [*arguments, "--grid", "lrr=1"]).exit_code == 2
