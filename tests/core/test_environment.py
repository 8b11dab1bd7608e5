"""The code that a result's key depends on."""

import platform
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import fmcs_bench
from fmcs_bench.core import environment
from fmcs_bench.core.environment import CODE_OF, WITHOUT_INFLUENCE, Environment, code_digest

PACKAGE = Path(fmcs_bench.__file__).parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    target = tmp_path_factory.mktemp("copy") / "fmcs_bench"
    return shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__", "assets"))


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("core/seeding.py", {"build", "evaluator", "training"}),
        ("backbones/create.py", {"build", "training"}),
        ("backbones/gradcam.py", set()),
        ("training/loop.py", {"build", "evaluator", "training"}),
        ("training/losses.py", {"build", "training"}),
        ("store/verify.py", set()),
        ("build/extraction.py", {"build"}),
        ("hub/upload.py", set()),
        ("results/metrics.py", {"evaluator", "training"}),
        ("evaluators/base.py", {"evaluator", "training"}),
        ("evaluator_track/protocol.py", {"evaluator"}),
        ("training_track/networks.py", {"training"}),
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


def test_the_environment_is_the_one_we_are_in():
    found = Environment.current("cuda:1", 3)
    assert found.python == platform.python_version()
    assert found.libraries["numpy"] == np.__version__
    assert found.libraries["torch"].split("+")[0] == version("torch").split("+")[0]
    assert found.fmcs_bench == fmcs_bench.__version__
    assert (found.device, found.threads) == ("cuda:1", 3)
    assert found.processor
    assert found == Environment.current("cuda:1", 3) == Environment.from_json(found.to_json())


def test_now_is_utc_to_the_second():
    stamp = datetime.fromisoformat(environment.now())
    assert stamp.utcoffset().total_seconds() == stamp.microsecond == 0
    assert abs((datetime.now(UTC) - stamp).total_seconds()) < 60


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc to compare with")
def test_peak_memory_is_what_the_kernel_says():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    assert environment.process_peak_bytes() == pytest.approx(int(line.split()[1]) * 1024, rel=0.05)
