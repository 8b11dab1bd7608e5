"""Every way in which a record can be wrong is told, and none of them is an error of a library."""

import json
import re
import time
from datetime import timedelta

import numpy as np
import pytest
from helpers import checking
from helpers.checking import COMMITTED, EVALUATOR, TRAINING, copy, edit, edit_predictions, faults_of, report_of
from safetensors.numpy import save

from fmcs_bench.evaluator_track import runner as evaluation
from fmcs_bench.leaderboard import reading
from fmcs_bench.leaderboard.known import KnownDatasets, find_manifests
from fmcs_bench.results.store import predictions_path, unpack_predictions

UNVERIFIABLE = re.compile(
    r"cost/(seconds|process_peak_bytes|scoring_seconds|num_parameters|flops_per_map)|curve/\d+/(train_loss|score)|"
    r"environment/threads"
)
"""Machine notes; docs/submitting.md lists them, and a test below compares."""


def test_the_committed_records_have_no_fault_and_take_seconds():
    begin = time.monotonic()
    report = report_of(COMMITTED, submission=True)
    assert report.faults == ()
    assert report.num_records >= 50
    assert time.monotonic() - begin < 0.4 * report.num_records
    assert str(report).endswith(f"{report.num_records:,} records checked: no faults")


def leaves(value, path=()):
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def with_digit_changed(value, at):
    """The number with its significant digit number ``at`` one higher, or None if it has no such digit."""
    text = json.dumps(value)
    digits = [i for i, c in enumerate(text) if c.isdigit()]
    while len(digits) > 1 and text[digits[0]] == "0":
        del digits[0]
    if at >= len(digits) or "e" in text:
        return None
    i = digits[at]
    return json.loads(text[:i] + str((int(text[i]) + 1) % 10 or 1) + text[i + 1 :])


def put(value, path, item):
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = item


@pytest.mark.parametrize("record", [EVALUATOR, TRAINING], ids=["evaluator", "training"])
def test_one_digit_changed_anywhere_is_a_fault(record, tmp_path, monkeypatch):
    path = copy(record, tmp_path)
    if record == EVALUATOR:  # the predictions stay as they are, so their metrics are computed once
        again = evaluation.recompute(unpack_predictions(predictions_path(path).read_bytes()))
        monkeypatch.setattr(evaluation, "recompute", lambda _: again)
    original = json.loads(record.read_bytes())
    assert faults_of(path) == []
    missed, passed, tried = [], set(), 0
    for where, number in leaves(original):
        name = "/".join(map(str, where))
        for at in (0, 1, 4):
            changed = with_digit_changed(number, at)
            if changed is None or changed == number:
                continue
            if record == EVALUATOR and re.fullmatch(r"curve/\d+/validation", name) and at == 0:
                continue  # one stage more is a MAE that could be, too
            value = json.loads(record.read_bytes())
            put(value, where, changed)
            path.write_text(json.dumps(value))
            tried += 1
            if UNVERIFIABLE.fullmatch(name):
                passed.add(re.sub(r"\d+", "*", name))
            elif not faults_of(path):
                missed.append((name, number, changed))
    assert missed == []
    assert tried > 60
    assert "curve/*/train_loss" in passed


def test_the_documentation_lists_what_cannot_be_verified():
    text = (checking.ROOT / "docs/submitting.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- not verifiable -->\n\n(.*?)\n\n", text, flags=re.DOTALL)
    listed = set(re.findall(r"`([\w.*]+)`", table))
    for name in ("seconds", "process_peak_bytes", "scoring_seconds", "num_parameters", "flops_per_map"):
        assert f"cost.{name}" in listed
        assert UNVERIFIABLE.fullmatch(f"cost/{name}")
    assert {"curve.*.train_loss", "curve.*.score", "environment.threads"} <= listed


def test_a_number_of_parameters_that_differs_from_the_other_seeds_is_a_fault(tmp_path):
    paths = checking.copy_method(TRAINING, tmp_path)
    edit(paths[2], lambda v: v["cost"].update(num_parameters=v["cost"]["num_parameters"] + 1))
    (fault,) = report_of(tmp_path).faults
    assert "cost.num_parameters" in fault.what
    assert fault.file == str(paths[2])


WRONG_JSON = {
    "metric": (EVALUATOR, lambda v: v["metrics"]["test_run"].update(mae=0.5), "metrics.test_run.mae 0.5"),
    "column left out": (EVALUATOR, lambda v: v["metrics"].pop("unseen"), "metrics of same_run, test_run"),
    "unknown key": (TRAINING, lambda v: v.update(creatd="x"), "unknown option 'creatd'"),
    "schema of tomorrow": (TRAINING, lambda v: v.update(schema_version=2), "schema_version 2"),
    "track": (TRAINING, lambda v: v.update(track=["training"]), "track ['training']"),
    "code": (TRAINING, lambda v: v["environment"].update(code_digest="0" * 64), "key "),
    "device": (TRAINING, lambda v: v["environment"].update(device="cuda"), "key "),
    "library": (EVALUATOR, lambda v: v["environment"]["libraries"].update(torch="9.9"), "key "),
    "judge": (TRAINING, lambda v: v["unit"].update(evaluator_digest="0" * 64), "key "),
    "tomorrow": (
        TRAINING,
        lambda v: v.update(created=(checking.NOW + timedelta(days=1)).isoformat()),
        "created '20",
    ),
    "before the project": (TRAINING, lambda v: v.update(created="2025-12-31T23:59:59+00:00"), "created '2025"),
    "no zone": (TRAINING, lambda v: v.update(created="2026-11-01T00:00:00"), "created '2026-11-01T00:00:00'"),
    "no date": (TRAINING, lambda v: v.update(created="yesterday"), "created 'yesterday'"),
    "a script": (TRAINING, lambda v: v.update(dataset="<script>alert(1)</script>"), "the text '<script>"),
    "a script as processor": (TRAINING, lambda v: v["environment"].update(processor="<img src=x>"), "the text '<img"),
    "a key that is markup": (TRAINING, lambda v: v["environment"]["libraries"].update({"<b>": "1"}), "the text '<b>'"),
    "a terminal's escape": (TRAINING, lambda v: v["environment"].update(processor="\x1b[2J"), r"the text '\x1b[2J'"),
    "a path as dataset": (TRAINING, lambda v: v.update(dataset="../../x"), "dataset = '../../x'"),
    "endless text": (TRAINING, lambda v: v["environment"].update(processor="x" * 501), "the text 'xxx"),
    "a dataset nobody knows": (TRAINING, lambda v: v.update(dataset_digest="0" * 64), "is unknown here"),
    "a digest that begins alike": (
        TRAINING,
        lambda v: v.update(dataset_digest=v["dataset_digest"][:12] + "0" * 52),
        "is unknown here",
    ),
    "a trait": (EVALUATOR, lambda v: v.update(channel_invariant=True), "channel_invariant is True for conv"),
    "a control": (EVALUATOR, lambda v: v.update(control=True), "control is True for conv"),
    "no such evaluator": (EVALUATOR, lambda v: v["unit"].update(evaluator="better"), "an evaluator 'better' without"),
    "epochs left out": (TRAINING, lambda v: v["curve"].pop(3), "a curve of the epochs [1, 2, 3, 5"),
    "short curve": (TRAINING, lambda v: v["curve"].pop(), "'test/predicted_by_epoch' of the predictions is uint8 [18"),
    "impossible accuracy": (TRAINING, lambda v: v["curve"][0].update(validation=0.5), "curve.validation[0] 0.5"),
    "impossible best": (TRAINING, lambda v: v["metrics"].update(best_test_accuracy=0.5), "best_test_accuracy"),
    "another epoch": (TRAINING, lambda v: v["metrics"].update(epoch=1), "metrics.epoch 1"),
    "a better epoch in the curve": (TRAINING, lambda v: v["curve"][2].update(validation=1.0), "metrics.epoch"),
    "another network": (TRAINING, lambda v: v["unit"].update(backbone="resnet50"), "unit.backbone 'resnet50'"),
    "test on nothing": (
        EVALUATOR,
        lambda v: v.update(test_on={"x@000000000000": v["metrics"]["test_run"]}),
        "lacks 'test_on/x@000000000000/image'",
    ),
    "ragged trajectory": (EVALUATOR, lambda v: v["trajectory"]["score"].pop(), "trajectory lists of"),
    "checkpoints": (EVALUATOR, lambda v: v["trajectory"].update(step=[*range(len(v["trajectory"]["step"]))]), "step"),
    "rank correlation": (EVALUATOR, lambda v: v["trajectory"].update(spearman=None), "trajectory.spearman None"),
}


@pytest.mark.parametrize("case", WRONG_JSON)
def test_a_changed_record_is_told(case, tmp_path):
    record, change, told = WRONG_JSON[case]
    faults = faults_of(edit(copy(record, tmp_path), change))
    assert any(told in fault.what for fault in faults), [str(fault) for fault in faults]
    for fault in faults:
        assert str(fault).isprintable()  # one line, no escape sequence
        assert fault.file
        assert fault.expected
        assert fault.remedy


def shift(name, by):
    return lambda arrays: arrays.update({name: arrays[name] + by})


def fill(name, index, value):
    def change(arrays):
        arrays[name][index] = value

    return change


WRONG_PREDICTIONS = {
    "other images": (EVALUATOR, shift("test_run/image", 1), "test_run is about other images"),
    "images of another split": (TRAINING, shift("test/image", 1), "test is about other images"),
    "other labels": (TRAINING, lambda a: a.update({"test/label": a["test/predicted"]}), "test predictions with other"),
    "other runs": (EVALUATOR, shift("test_run/run", 1), "images of the runs [4]"),
    "an image twice": (TRAINING, lambda a: fill("test/image", 1, a["test/image"][0])(a), "with an image twice"),
    "fewer images": (
        TRAINING,
        lambda a: a.update({name: a[name][..., :-9] for name in a if name.startswith("test/")}),
        "test predictions of",
    ),
    "fewer images judged": (
        EVALUATOR,
        lambda a: a.update(
            {
                "unseen/probs": a["unseen/probs"][:, 9:],
                "unseen/image": a["unseen/image"][9:],
                "unseen/run": a["unseen/run"][9:],
            }
        ),
        "unseen has 360 images",
    ),
    "NaN": (EVALUATOR, fill("unseen/probs", (0, 0, 0), np.nan), "'unseen/probs' of the predictions holds NaN"),
    "infinity": (EVALUATOR, fill("trajectory/score", (0, 0), np.inf), "'trajectory/score' of the predictions holds"),
    "no probabilities": (
        EVALUATOR,
        lambda a: a.update({"same_run/probs": a["same_run/probs"] * np.float32(0.9)}),
        "must sum to 1",
    ),
    "negative ones": (EVALUATOR, fill("same_run/probs", (0, 0), [-1, 2, 0, 0, 0, 0, 0]), "must lie in [0, 1]"),
    "better ones": (EVALUATOR, lambda a: a.update({"test_run/probs": a["test_run/probs"][::-1]}), "test_run.accuracy"),
    "scores": (EVALUATOR, shift("trajectory/score", 1), "trajectory.score[0]"),
    "scores outside": (EVALUATOR, fill("trajectory/score", (3, 0), 99), "outside the stages"),
    "another type": (
        TRAINING,
        lambda a: a.update({"test/predicted": a["test/predicted"].astype(np.int64)}),
        "'test/predicted' of the predictions is int64",
    ),
    "another shape": (EVALUATOR, lambda a: a.update({"unseen/probs": a["unseen/probs"][:, :, :3]}), "[7, 369, 3]"),
    "nothing": (TRAINING, lambda a: a.update({n: a[n][:0] for n in a if n.startswith("test/")}), "is int64 [0]"),
    "an array more": (TRAINING, lambda a: a.update({"extra": np.zeros(3)}), "has 'extra'"),
    "an array less": (EVALUATOR, lambda a: a.pop("unseen/run"), "lacks 'unseen/run'"),
}


@pytest.mark.parametrize("case", WRONG_PREDICTIONS)
def test_changed_predictions_are_told_even_where_the_record_names_them(case, tmp_path):
    record, change, told = WRONG_PREDICTIONS[case]
    faults = faults_of(edit_predictions(copy(record, tmp_path), change))
    assert any(told in fault.what for fault in faults), [str(fault) for fault in faults]


def test_without_the_images_splits_and_classes_are_still_compared(tmp_path):
    class Elsewhere(KnownDatasets):
        def images(self, manifest):  # noqa: ARG002
            return "they are elsewhere"

    known = Elsewhere(find_manifests([checking.CARDS]))
    for i, (record, change, told) in enumerate([
        (EVALUATOR, None, None),
        (TRAINING, None, None),
        (EVALUATOR, shift("test_run/image", 2), "not of the split test"),
        (TRAINING, shift("validation/image", 2), "not of the split validation"),
        (TRAINING, lambda a: a.update({"test/label": a["test/predicted"]}), "other numbers of images by class"),
        (TRAINING, fill("test/image", 0, 7), "in validation and in test"),
    ]):  # fmt: skip
        path = copy(record, tmp_path / str(i))
        if change is not None:
            edit_predictions(path, change)
        whats = [fault.what for fault in faults_of(path, known)]
        assert any(told in what for what in whats) if told else whats == [], whats


def test_a_file_that_is_too_large_is_not_even_read(tmp_path, monkeypatch):
    path = copy(TRAINING, tmp_path)
    for victim in (predictions_path(path), path):
        victim.unlink()
        with victim.open("wb") as stream:
            stream.truncate(100_000_000)
        monkeypatch.setattr(type(path), "read_bytes", pytest.fail)
        if victim == path:
            (fault,) = faults_of(path)
            assert "has 100,000,000 bytes" in fault.what
            assert "at most 1,000,000" in fault.expected
        monkeypatch.undo()
    small = copy(TRAINING, tmp_path / "small")
    monkeypatch.setattr(reading, "MAX_PREDICTIONS_BYTES", 1_000)
    (fault,) = faults_of(small)
    assert "predictions.safetensors has" in fault.what


HOSTILE = {
    "nesting": b'{"a": ' + b"[" * 100_000,
    "nesting that closes": b'{"schema_version": 1, "track": "training", "a": ' + b"[" * 9_000 + b"]" * 9_000 + b"}",
    "two metrics": b'{"schema_version": 1, "schema_version": 1}',
    "a number without end": b'{"schema_version": ' + b"9" * 5_000 + b"}",
    "infinity": b'{"schema_version": 1, "track": "training", "cost": Infinity}',
    "overflow": b'{"schema_version": 1, "track": "training", "cost": 1e999}',
    "half a character": b'{"schema_version": 1, "track": "training", "key": "\\ud800"}',
    "not Unicode": b"\xff\xfe{}",
    "UTF-16": '{"schema_version": 1}'.encode("utf-16"),
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_json_is_a_fault(case, tmp_path):
    path = copy(TRAINING, tmp_path)
    path.write_bytes(HOSTILE[case])
    assert faults_of(path)
    assert report_of(path).faults


@pytest.mark.parametrize("record", [EVALUATOR, TRAINING], ids=["evaluator", "training"])
def test_random_damage_is_a_fault_and_never_an_error(record, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(60):
        path = copy(record, tmp_path / str(i))
        victim = path if i % 3 == 0 else predictions_path(path)
        data = bytearray(victim.read_bytes())
        cut = bool(rng.integers(2))
        if cut:
            del data[rng.integers(len(data)) :]
        else:
            where = rng.integers(min(len(data), 2_000), size=8)  # the head of a safetensors file is where it breaks
            for at in where:
                data[at] ^= 1 << rng.integers(8)
        if i % 3 == 2:  # somebody who also makes the record name the damaged file: it may not crash
            checking.replace_predictions(path, bytes(data))
            faults_of(path)
            continue
        victim.unlink()
        victim.write_bytes(data)
        assert faults_of(path), (i, cut)


def test_types_that_numpy_does_not_know_are_a_fault(tmp_path):
    data = save({"test/predicted": np.zeros(4, np.int32)}).replace(b'"I32"', b'"F8_E4M3"')
    path = checking.replace_predictions(copy(TRAINING, tmp_path), data)
    assert faults_of(path)


def test_links_and_other_files_do_not_come_in(tmp_path):
    path = copy(TRAINING, tmp_path / "a")
    other = copy(TRAINING, tmp_path / "b")
    other.unlink()
    other.symlink_to(path)
    (fault,) = faults_of(other)
    assert "is a link" in fault.what
    (path.parent / "page.html").write_text("<script>")
    report = report_of(tmp_path / "a")
    assert [note.file for note in report.notes if "no record and" in note.what] == [str(path.parent / "page.html")]
    assert any("no record and no predictions" in f.what for f in report_of(tmp_path / "a", submission=True).faults)


def test_a_record_elsewhere_than_its_content_says_is_told(tmp_path):
    path = copy(TRAINING, tmp_path)
    moved = path.with_name("seed-9.json")
    path.rename(moved)
    predictions_path(path).rename(predictions_path(moved))
    (fault,) = faults_of(moved)
    assert "seed-100.json" in fault.expected
