"""The code that a result's key depends on."""

import shutil
from pathlib import Path

import pytest

import fmcs_bench
from fmcs_bench.core.environment import CODE_OF, WITHOUT_INFLUENCE, code_digest

PACKAGE = Path(fmcs_bench.__file__).parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    target = tmp_path_factory.mktemp("copy") / "fmcs_bench"
    return shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__", "assets"))


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("core/seeding.py", {"build", "evaluator", "training"}),
        ("core/progress.py", set()),
        ("jobs/local.py", set()),
        ("images/load.py", {"build", "training"}),
        ("backbones/create.py", {"build", "training"}),
        ("backbones/gradcam.py", set()),
        ("training/loop.py", {"build", "evaluator", "training"}),
        ("training/losses.py", {"build", "training"}),
        ("store/reader.py", {"build", "evaluator", "training"}),
        ("store/verify.py", set()),
        ("build/extraction.py", {"build"}),
        ("hub/upload.py", set()),
        ("results/metrics.py", {"evaluator", "training"}),
        ("results/records.py", set()),
        ("evaluators/base.py", {"evaluator", "training"}),
        ("evaluator_track/protocol.py", {"evaluator"}),
        ("training_track/networks.py", {"training"}),
        ("leaderboard/claims.py", set()),
        ("testing/conformance.py", set()),
        ("cli/main.py", set()),
    ],
)
def test_a_change_makes_stale_what_it_can_change_and_nothing_else(copy, file, stale):
    kinds = (*CODE_OF, None)
    before = {kind: code_digest(kind, copy) for kind in kinds}
    code_digest.cache_clear()
    with (copy / file).open("a") as stream:
        stream.write("\n# changed\n")
    changed = {kind for kind in kinds if code_digest(kind, copy) != before[kind]}
    assert changed == (stale | {None} if stale else set())


def test_rooms_and_files_that_are_named_exist():
    named = {part for parts in CODE_OF.values() for part in parts} | set(WITHOUT_INFLUENCE)
    assert [name for name in named if not (PACKAGE / name).exists()] == []
