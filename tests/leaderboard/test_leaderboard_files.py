"""What a build of the leaderboard writes, replaces, removes and leaves alone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest
from helpers import record_factory as factory
from helpers.page_reader import Page, build, tree

from fmcs_bench.core.errors import ConfigError, MissingDataError
from fmcs_bench.leaderboard import build as leaderboard


def test_without_any_record_the_error_names_both_commands(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"fmcs-bench evaluate.*fmcs-bench train"):
        leaderboard.build(tmp_path / "records", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    records = [*factory.evaluator_records(2), *factory.training_records(2)]
    first = tree(build(tmp_path / "a", records).parent)
    second = tree(build(tmp_path / "b", records[::-1]).parent)
    assert first == second
    leaderboard.build(tmp_path / "a" / "records", tmp_path / "a" / "out")
    assert tree(tmp_path / "a" / "out") == first


def test_what_an_earlier_build_wrote_does_not_linger_and_other_files_stay(tmp_path: Path) -> None:
    out = build(tmp_path, [*factory.evaluator_records(2), *factory.training_records(2)]).parent
    (out / "notes.txt").write_text("mine")
    (out / "records" / "mine.json").write_text("{}")
    shutil.rmtree(tmp_path / "records" / "training")
    leaderboard.build(tmp_path / "records", out)
    fresh = tmp_path / "fresh"
    leaderboard.build(tmp_path / "records", fresh)
    assert tree(out) == tree(fresh) | {"notes.txt": b"mine", "records/mine.json": b"{}"}
    assert not (out / "records" / "training").exists()


def test_files_that_no_build_wrote_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"README\.md, which no earlier build"):
        build(tmp_path, factory.evaluator_records(1))
    assert tree(tmp_path / "out") == {"README.md": b"mine"}


@pytest.mark.parametrize("content", ['["../precious"]', '["/etc/passwd"]', "{}", "[1]", "no JSON", '[""]'])
def test_a_list_of_files_that_no_build_wrote_removes_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "files.json").write_text(content)
    with pytest.raises(ConfigError, match=r"files\.json"):
        build(tmp_path, factory.evaluator_records(1))
    assert (tmp_path / "precious").read_text() == "mine"


def test_the_page_can_lie_beside_the_records_it_shows(tmp_path: Path) -> None:
    store = factory.write(tmp_path / "records", factory.evaluator_records(2))
    records = tree(store.root)
    path = leaderboard.build(store.root, tmp_path)
    assert tree(store.root) == records
    assert all((tmp_path / unquote(href)).is_file() for href in Page(path).hrefs if href.startswith("records/"))
    # Even copies of an earlier build are records now, and stay when they are the source.
    other = factory.write(tmp_path / "other", factory.evaluator_records(2))
    out = tmp_path / "out"
    leaderboard.build(other.root, out)
    leaderboard.build(out / "records", out)
    assert tree(out / "records") == records


def test_a_build_that_is_killed_leaves_the_old_page_and_the_next_one_goes_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = build(tmp_path, factory.evaluator_records(1)).parent
    before = (out / "index.html").read_bytes()
    factory.write(tmp_path / "records", factory.training_records(2))
    whole, replace = iter(range(12)), os.replace

    def killed(*args: str) -> None:
        if next(whole, None) is None:
            raise KeyboardInterrupt
        replace(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "replace", lambda self, target: killed(str(self), str(target)))
        with pytest.raises(KeyboardInterrupt):
            leaderboard.build(tmp_path / "records", out)
    assert (out / "index.html").read_bytes() == before
    leaderboard.build(tmp_path / "records", out)
    leaderboard.build(tmp_path / "records", tmp_path / "fresh")
    assert tree(out) == tree(tmp_path / "fresh")
