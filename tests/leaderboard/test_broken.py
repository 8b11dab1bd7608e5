"""A record that cannot be shown is left out and named, and all others are shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import record_factory as factory
from helpers.page_reader import Page

from fmcs_bench.cli.main import main
from fmcs_bench.leaderboard import build as leaderboard
from fmcs_bench.leaderboard import markdown
from fmcs_bench.leaderboard.sift import LeftOutError, sift
from fmcs_bench.results.store import pack_predictions, predictions_path


def _rewrite(path: Path, change: Callable[[dict[str, Any]], object], predictions: bytes | None = None) -> None:
    record = json.loads(path.read_bytes())
    change(record)
    if predictions is not None:
        predictions_path(path).write_bytes(predictions)
        record["predictions_sha256"] = hashlib.sha256(predictions).hexdigest()
    path.write_text(json.dumps(record))


def _misspell(path: Path) -> str:
    path.write_text(path.read_text().replace('"mae"', '"mea"', 1))
    return "did you mean mae?"


def _lose_predictions(path: Path) -> str:
    predictions_path(path).unlink()
    return "is missing or not the predictions file"


def _swap_predictions(path: Path) -> str:
    _rewrite(path, dict, pack_predictions({"test_run/probs": np.ones((3, 2, 3), np.float32)}))
    return "test_run/probs of shape (3, 2, 3)"


def _no_safetensors(path: Path) -> str:
    _rewrite(path, dict, b"<script>alert(1)</script>")
    return "the predictions are no safetensors file"


def _other_steps(path: Path) -> str:
    _rewrite(path, lambda record: record["trajectory"]["step"].__setitem__(-1, 700))
    return "up to step 700, but 20 records of the same dataset and settings have 7 stages"


def _uneven_trajectory(path: Path) -> str:
    _rewrite(path, lambda record: record["trajectory"]["score"].pop())
    return "they must be equally long"


def _one_column_less(path: Path) -> str:
    _rewrite(path, lambda record: record["metrics"].pop("unseen"))
    return "it has no metrics of unseen"


def _folder(path: Path) -> str:
    path.unlink()
    path.mkdir()
    return "Is a directory"


DAMAGES = {
    function.__name__.strip("_"): function
    for function in (
        _misspell, _lose_predictions, _swap_predictions, _no_safetensors, _other_steps, _uneven_trajectory,
        _one_column_less, _folder,
    )
}  # fmt: skip


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_a_broken_record_is_left_out_with_its_reason(tmp_path: Path, damage: str) -> None:
    store = factory.write(tmp_path / "records", [*factory.evaluator_records(3), *factory.training_records(2)])
    before = sift(store)
    assert before.left_out == ()
    broken = next(store.root.rglob("set/seed-1.json"))
    reason = DAMAGES[damage](broken)
    sifted = sift(store)
    (left_out,) = sifted.left_out
    assert left_out.address == broken.relative_to(store.root).as_posix()
    assert reason in left_out.reason
    assert str(tmp_path) not in left_out.reason
    assert sifted.trainings == before.trainings
    others = [record for record in before.evaluators if (record.method, record.seed) != ("set", 1)]
    assert list(sifted.evaluators) == others


def test_the_page_standard_error_and_the_exit_code_say_what_is_left_out(tmp_path: Path) -> None:
    store = factory.write(tmp_path / "records", factory.training_records(2))
    broken = next(store.root.rglob("baseline/seed-1.json"))
    broken.write_text("<script>alert(1)</script>")
    done = CliRunner().invoke(main, ["leaderboard", "build", "--workspace", str(tmp_path)])
    assert done.exit_code == 1
    path = tmp_path / "leaderboard/index.html"
    assert done.stdout == f"{path}\n"
    address = broken.relative_to(store.root).as_posix()
    assert f"1 record is left out of {path}:\n- {address}: {address} is no JSON" in done.stderr
    assert address in path.read_text(encoding="utf-8")
    assert markdown.code(address) in path.with_name("README.md").read_text(encoding="utf-8")
    rows = Page(path).table("Training methods on").named_rows()
    assert [row["Seeds"].text for row in rows if "baseline" in row["Method"].text] == ["1"]
    assert not (tmp_path / "leaderboard/records" / address).exists()


def test_where_every_record_is_broken_the_page_says_only_that(tmp_path: Path) -> None:
    factory.write(tmp_path / "records", [factory.training_record()])
    next((tmp_path / "records").rglob("seed-0.json")).write_text("{}")
    with pytest.raises(LeftOutError) as caught:
        leaderboard.build(tmp_path / "records", tmp_path / "out")
    assert Page(caught.value.page).tables == []
