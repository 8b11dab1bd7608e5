"""Submitting records, the commands around it, and the schema that is published."""

import json

import pytest
from click.testing import CliRunner
from helpers import checking
from helpers.checking import BASELINE, COMMITTED, TRAINING, copy_method, edit

from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, RecordError
from fmcs_bench.leaderboard import sums
from fmcs_bench.leaderboard.submit import submit
from fmcs_bench.results import schema
from fmcs_bench.results.store import predictions_path


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def own(tmp_path):
    """Records of a baseline and of RAL, as a workspace has them."""
    return copy_method(BASELINE, tmp_path / "own") + copy_method(TRAINING, tmp_path / "own")


@pytest.mark.usefixtures("own")
def test_records_and_predictions_are_gathered_and_only_once(tmp_path):
    found = submit([tmp_path / "own"], tmp_path / "clone", datasets=[checking.CARDS])
    gathered = tree(tmp_path / "clone" / "leaderboard" / "records")
    assert {name: data for name, data in gathered.items() if name != sums.NAME} == tree(tmp_path / "own")
    assert len(found.added) == len(gathered) - 1 == 20
    text = str(found)
    assert "10 records with predictions" in text
    for line in ("git add leaderboard/records", "fmcs-bench leaderboard check --submission leaderboard/records"):
        assert line in text
    again = submit([tmp_path / "own"], tmp_path / "clone", datasets=[checking.CARDS])
    assert again.added == ()
    assert "nothing to add" in str(again)
    assert tree(tmp_path / "clone" / "leaderboard" / "records") == gathered


@pytest.mark.usefixtures("own")
def test_a_method_may_join_the_baseline_that_is_there_already(tmp_path):
    submit([BASELINE.parent], tmp_path / "clone", datasets=[checking.CARDS])
    alone = tmp_path / "own" / TRAINING.relative_to(COMMITTED).parent
    with pytest.raises(RecordError, match="no baseline"):
        submit([alone], tmp_path / "elsewhere", datasets=[checking.CARDS])
    assert not (tmp_path / "elsewhere").exists()
    assert len(submit([alone], tmp_path / "clone", datasets=[checking.CARDS]).added) == 10


def test_faults_and_missing_seeds_are_refused_and_nothing_is_written(own, tmp_path):
    edit(own[0], lambda value: value["metrics"].update(test_accuracy=1.0))
    with pytest.raises(RecordError, match=r"(?s)metrics.test_accuracy 1.0.*nothing was gathered"):
        submit([tmp_path / "own"], tmp_path / "clone", datasets=[checking.CARDS])
    with pytest.raises(RecordError, match="no record of the seeds"):
        submit(own[1:], tmp_path / "clone", datasets=[checking.CARDS])
    assert not (tmp_path / "clone").exists()


def test_a_published_result_is_not_overwritten(own, tmp_path):
    submit([tmp_path / "own"], tmp_path / "clone", datasets=[checking.CARDS])
    before = tree(tmp_path / "clone")
    edit(own[0], lambda value: value["cost"].update(seconds=0.1))
    with pytest.raises(ConfigError, match=r"seed-100.json is there already.*1 of 20"):
        submit([tmp_path / "own"], tmp_path / "clone", datasets=[checking.CARDS])
    assert tree(tmp_path / "clone") == before


def test_the_commands(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FMCS_BENCH_DATA", raising=False)
    monkeypatch.setenv("FMCS_BENCH_WORKSPACE", str(tmp_path / "ws"))

    def type_(*arguments):
        return CliRunner().invoke(main, ["leaderboard", *arguments])

    nothing = type_("check")
    assert nothing.exit_code == 2
    assert "there is no ws" in nothing.stderr.replace(f"{tmp_path}/", "")
    cards = ["--datasets", str(checking.CARDS)]
    done = type_("submit", "own", *cards)
    assert done.exit_code == 0, done.output
    assert "open a pull request" in done.stdout
    checked = type_("check", "--submission", "--json", *cards)  # of this folder's leaderboard/records
    assert checked.exit_code == 0
    assert json.loads(checked.stdout) == {"ok": True, "num_records": 10, "faults": [], "notes": []}
    predictions_path(own[0]).unlink()
    faulty = type_("check", "own", *cards)
    assert faulty.exit_code == 1
    assert "predictions.safetensors cannot be read" in faulty.stdout
    assert faulty.stdout.strip().endswith("10 records checked: 1 fault")
    refused = type_("submit", "own", "--to", "elsewhere", *cards)
    assert refused.exit_code == 1
    assert "nothing was gathered" in refused.stderr
    unknown = type_("check", str(COMMITTED))
    assert unknown.exit_code == 1
    assert "--allow-unknown-dataset" in unknown.stdout
    assert type_("check", str(COMMITTED), "--allow-unknown-dataset").exit_code == 0


def test_the_committed_schema_is_that_of_the_models():
    printed = CliRunner().invoke(main, ["leaderboard", "schema"]).stdout
    committed = (checking.ROOT / "leaderboard/schema.json").read_text(encoding="utf-8")
    assert printed == committed, "type `fmcs-bench leaderboard schema > leaderboard/schema.json`"


def test_the_schema_is_strict_and_versioned():
    value = schema.record_schema()
    assert value["$schema"].endswith("2020-12/schema")
    assert {part["additionalProperties"] for part in value["$defs"].values()} == {False}
    for kind in ("EvaluatorRecord", "TrainingRecord"):
        assert value["$defs"][kind]["properties"]["schema_version"]["const"] == 1
        assert {"schema_version", "track", "key", "predictions_sha256"} <= set(value["$defs"][kind]["required"])


def test_committed_records_follow_the_published_schema():
    """By a walk of our own over the keys, so that it does not lean on the models."""
    value = json.loads((checking.ROOT / "leaderboard/schema.json").read_bytes())

    def walk(found, rule):
        rule = value["$defs"][rule["$ref"].rpartition("/")[2]] if "$ref" in rule else rule
        if isinstance(found, dict) and "properties" in rule:
            assert found.keys() <= rule["properties"].keys()
            assert set(rule.get("required", ())) <= found.keys()
            for name, item in found.items():
                walk(item, rule["properties"][name])
        elif isinstance(found, list):
            for item in found:
                walk(item, rule.get("items", {}))

    for path in sorted(COMMITTED.rglob("seed-*.json")):
        record = json.loads(path.read_bytes())
        walk(record, {"$ref": f"#/$defs/{record['track'].title()}Record"})
