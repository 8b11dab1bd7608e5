"""The cost of the published grid: the page shows what the script prints, and the sums are right."""

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    yield importlib.import_module("grid_cost")
    sys.modules.pop("grid_cost", None)


def test_the_page_shows_what_the_script_prints(script, capsys):
    script.main([])
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    assert page.split("<!-- benchmarks/grid_cost.py -->\n\n")[1] == capsys.readouterr().out
    assert "No figure of a GPU has been measured" in page


def rows(text):
    return {line.split(" | ")[0].removeprefix("| "): line.strip("| ").split(" | ")[1:] for line in text.splitlines()}


def test_hours_and_bytes_follow_from_the_figures(script, capsys, tmp_path):
    record = {"environment": {"device": "cuda", "processor": "a CPU"}, "a": {"b": 1000.0}}
    (tmp_path / "gpu.json").write_text(json.dumps(record))
    rates = [f"{name}={tmp_path / 'gpu.json'}#a/b" for name in ("resnet50", "shufflenet_v2")]
    numbers = ["--ral", "1", "--epochs", "10", "--smaller", "2"]
    script.main([*(x for rate in rates for x in ("--forward", rate, "--training", rate)), *numbers])
    found = rows(capsys.readouterr().out)
    assert found["part"] == ["trainings", "GPU-hours", "GB of maps"]
    assert found["resnet50: images a second, training"][1:] == ["measured: `gpu.json`, `a/b`", "cuda (cuda)"]
    trained = sum(10 * 0.9 * source + 10_000 for source in (60_000, 60_000, 50_000, 50_000)) / 1000 / 3600
    assert found["resnet50: baseline and RAL, ten RAF"] == ["200", f"{50 * trained:,.0f}"]
    maps = 9 * sum(2 * (n + 10_000) + 2 * (0.2 * n + 10_000) for n in (60_000, 60_000, 50_000, 50_000))
    made = 4 * trained + maps / 1000 / 3600
    assert found["resnet50: FMCS datasets: four runs each, maps of nine stages"] == [
        "16",
        f"{made:,.0f}",
        f"{maps * 2048 * 49 / 1e9:,.0f}",
    ]


def test_an_unknown_backbone_is_told(script):
    with pytest.raises(SystemExit, match="unknown backbone 'resnet18'"):
        script.main(["--forward", "resnet18=3"])
