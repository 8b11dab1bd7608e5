"""Every digit of a published record counts: the list of their SHA-256, and who reads and writes it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import checking
from helpers.checking import BASELINE, COMMITTED, EVALUATOR, TRAINING, copy, edit, report_of

from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, RecordError
from fmcs_bench.leaderboard import sums
from fmcs_bench.leaderboard.reading import MAX_RECORD_BYTES
from fmcs_bench.leaderboard.sift import sift
from fmcs_bench.leaderboard.submit import submit
from fmcs_bench.results.store import RecordStore, predictions_path

LISTED = sums.load(COMMITTED)


def listed_copy(record: Path, root: Path) -> Path:
    """A copy of a committed record, in a folder whose list has it."""
    path = copy(record, root)
    sums.add(root, {path.relative_to(root).as_posix(): record.read_bytes()})
    return path


def numbers(text: str) -> list[int]:
    """Where the digits of a record's file are that belong to numbers, and not to texts."""
    found, inside = [], False
    for i, c in enumerate(text):
        inside ^= c == '"'  # a record has no escaped quotes
        if c.isdigit() and not inside:
            found.append(i)
    return found


def with_digit_changed(text: str, at: int) -> str:
    return text[:at] + str((int(text[at]) + 1) % 10 or 1) + text[at + 1 :]


def test_every_committed_record_is_on_the_list_and_nothing_else() -> None:
    records = sorted(path.relative_to(COMMITTED).as_posix() for path in COMMITTED.glob("*/*/*/*/*.json"))
    assert sorted(LISTED) == records
    assert all(sums.fault(LISTED, name, (COMMITTED / name).read_bytes()) is None for name in records)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum on this system")
def test_anybody_can_read_the_list_without_us() -> None:
    done = subprocess.run(["sha256sum", "--check", "--quiet", sums.NAME], cwd=COMMITTED, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("record", [EVALUATOR, TRAINING], ids=["evaluator", "training"])
def test_one_digit_changed_in_any_number_of_a_committed_record_is_a_fault(record: Path) -> None:
    text, address = record.read_text(encoding="utf-8"), record.relative_to(COMMITTED).as_posix()
    assert '\\"' not in text
    places = numbers(text)
    assert len(places) > 800
    for at in places:
        told = sums.fault(LISTED, address, with_digit_changed(text, at).encode())
        assert told is not None, text[at - 40 : at + 20]
        assert "changed after it was published" in told[1]


@pytest.mark.parametrize("name", ["seconds", "process_peak_bytes", "train_loss", "score", "threads"])
def test_what_nothing_can_compute_again_is_told_by_the_command(name: str, tmp_path: Path) -> None:
    """Notes of the machine, which the other checks take on trust."""
    path = listed_copy(TRAINING, tmp_path)
    arguments = ["leaderboard", "check", str(path), "--datasets", str(checking.CARDS)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    text = path.read_text(encoding="utf-8")
    at = text.index(f'"{name}": ') + len(name) + 4
    path.write_text(with_digit_changed(text, at), encoding="utf-8")
    assert json.loads(path.read_bytes()) != json.loads(text)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert "of SHA256SUMS: it was changed after it was published" in done.stdout
    assert done.stdout.strip().endswith("1 record checked: 1 fault")


def test_a_record_that_is_not_listed_and_one_that_is_gone_are_told(tmp_path: Path) -> None:
    path = listed_copy(TRAINING, tmp_path)
    new = copy(BASELINE, tmp_path)
    (fault,) = report_of(tmp_path).faults
    assert (fault.file, fault.what) == (str(new), "it is not listed in SHA256SUMS")
    assert "leaderboard submit" in fault.remedy
    assert report_of(path.parent).faults == ()  # only what was asked for
    new.unlink()
    predictions_path(new).unlink()
    path.rename(path.with_suffix(".away"))
    faults = report_of(tmp_path, copy(BASELINE, tmp_path / "other")).faults
    assert [(fault.file, fault.what) for fault in faults] == [(str(path), "it is gone")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("<<<<<<< HEAD\n", "line 1: '<<<<<<< HEAD' is no SHA-256"),
        (f"{'0' * 64}  ../../{'x/' * 2}seed-1.json\n", "line 1"),
        (f"{'0' * 64}  a/b/c/d/e.json\n" * 2, "line 2: a/b/c/d/e.json stands there twice"),
        (f"{'0' * 63}  a/b/c/d/e.json\n", "line 1"),
        (b"\xff\xfe", "is no text"),
    ],
)
def test_a_broken_list_is_told_and_takes_neither_check_nor_page_down(
    content: str | bytes, told: str, tmp_path: Path
) -> None:
    path = copy(TRAINING, tmp_path)
    (tmp_path / sums.NAME).write_bytes(content.encode() if isinstance(content, str) else content)
    (fault,) = report_of(path).faults
    assert told in fault.what
    sifted = sift(RecordStore(tmp_path))
    assert [item.address for item in sifted.left_out] == [sums.NAME]
    assert told in sifted.left_out[0].reason
    assert len(sifted.trainings) == 1


def test_a_changed_record_is_not_on_the_page(tmp_path: Path) -> None:
    path = listed_copy(TRAINING, tmp_path)
    new = copy(BASELINE, tmp_path)
    assert len(sift(RecordStore(tmp_path)).trainings) == 2  # a new one is shown; the check asks for its line
    edit(path, lambda value: value["cost"].update(seconds=1.0))
    sifted = sift(RecordStore(tmp_path))
    assert [item.address for item in sifted.left_out] == [path.relative_to(tmp_path).as_posix()]
    assert "changed after it was published" in sifted.left_out[0].reason
    assert [record.method for record in sifted.trainings] == [new.parent.name]


def test_a_record_that_is_endless_or_too_large_does_not_take_the_page_down(tmp_path: Path) -> None:
    endless, large = copy(TRAINING, tmp_path), copy(BASELINE, tmp_path)
    endless.write_bytes(b'{"a": ' + b"[" * 100_000)
    large.unlink()
    with large.open("wb") as stream:
        stream.truncate(100 * MAX_RECORD_BYTES)
    sifted = sift(RecordStore(tmp_path))
    assert sorted(item.reason for item in sifted.left_out) == [
        "it is nested without end",
        "seed-100.json has 100,000,000 bytes; at most 1,000,000 are read",
    ]


def test_submitting_adds_lines_and_replaces_none(tmp_path: Path) -> None:
    own, clone = tmp_path / "own", tmp_path / "clone"
    first = [*checking.copy_method(BASELINE, own), *checking.copy_method(TRAINING, own)]
    submit([own], clone, datasets=[checking.CARDS])
    root = clone / "leaderboard" / "records"
    assert sums.load(root) == {
        path.relative_to(own).as_posix(): LISTED[path.relative_to(own).as_posix()] for path in first
    }
    assert report_of(root, submission=True).faults == ()
    before = (root / sums.NAME).read_bytes()
    (root / sums.NAME).unlink()
    submit([root], clone, datasets=[checking.CARDS])  # records that were copied by hand
    assert (root / sums.NAME).read_bytes() == before
    for path in first[:5]:
        (root / path.relative_to(own)).unlink()
        edit(path, lambda value: value["cost"].update(seconds=1.0))
    with pytest.raises(ConfigError, match=r"SHA256SUMS lists another record.*not overwritten"):
        submit([own], clone, datasets=[checking.CARDS])
    (root / sums.NAME).write_text("<<<<<<<")
    with pytest.raises(RecordError, match="no SHA-256"):
        submit([own], clone, datasets=[checking.CARDS])
