from conftest import TINY

from fmcs_bench.cli import quickstart
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.store.config import BuildConfig


class Spoken:
    """A progress display that keeps what was said."""

    def __init__(self):
        self.lines = []

    def task(self, description, total):
        self.lines.append(f"{description}: {total}")
        return quickstart.SILENT.task(description, total)

    def say(self, message):
        self.lines.append(message)


def test_the_road_ends_in_a_page_and_is_walked_once(tmp_path):
    workspace = Workspace(tmp_path)
    first = Spoken()
    result = quickstart.run(workspace, config=BuildConfig.create(**TINY), num_seeds=2, device="cpu", progress=first)
    store = RecordStore(workspace.records)
    evaluated, trained = store.all(EvaluatorRecord), store.all(TrainingRecord)
    assert {(record.method, record.seed) for record in evaluated} == {
        (n, s) for n in quickstart.EVALUATORS for s in (0, 1)
    }
    judge = result.evaluators.chosen.evaluator
    (swept,) = (row for row in result.training.rows if row.family == f"ral-{judge}")
    assert [point.raf for point in swept.sweep] == [0.95, 0.9, 0.75]
    (due,) = (row for row in result.training.rows if row.family == f"dueheadnet-add-align-ral-{judge}")
    assert [point.raf for point in due.sweep] == [swept.chosen.raf]  # the RAF that RAL chose on validation images
    assert len(trained) == 2 * (1 + 3 + 2 + 1)
    assert [line for line in first.lines if line[1:3] == "/4"] == [
        "1/4  build: four runs of smallcnn on digits",
        "2/4  evaluate: three evaluators, 2 seeds each",
        "3/4  train: RAL with the chosen evaluator, and DueHeadNet, 2 paired seeds",
        "4/4  leaderboard",
    ]
    page = result.page.read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in workspace.records.rglob("*.json")}
    again = Spoken()
    quickstart.run(workspace, config=BuildConfig.create(**TINY), num_seeds=2, device="cpu", progress=again)
    assert any("6 of 6 were finished before" in line for line in again.lines)
    assert any("12 of 12 were finished before" in line for line in again.lines)
    assert {path: path.stat().st_mtime_ns for path in workspace.records.rglob("*.json")} == stamps
    assert result.page.read_bytes() == page
