"""What q8 does to the scores of evaluators, from the benchmark's line to the data card."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from helpers import record_factory as factory
from helpers.published_folder import facts_of, tree
from markdown_it import MarkdownIt

import fmcs_bench as fb
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.hub.card import card
from fmcs_bench.store.publication import Fidelity, read_fidelity


def line(manifest, *, evaluators=("norm", "conv+corn")):
    """The benchmark's line about a lossless dataset, with made-up figures."""

    def interval(mean):
        return {"mean": mean, "low": mean - 0.001, "high": mean + 0.002, "std": 0.1, "num": 5}

    scores = {
        name: {
            "mae": interval(1.5 - i),
            "mae_difference": interval(-0.0125 if i else 0.25),
            "changed": interval(0.01234),
            "probability": {"mean": 0.00321, "largest": 0.0456},
        }
        for i, name in enumerate(evaluators)
    }
    return {
        "benchmark": "fidelity",
        "date": "2026-11-22T06:53:39+00:00",
        "environment": factory.environment().to_json(),
        "lossless": {"dataset": manifest.name, "dataset_digest": manifest.dataset_digest, "codec": "zstd"},
        "lossy": {"dataset": f"{manifest.name}-q8", "dataset_digest": "a" * 64, "codec": "q8"},
        "evaluators": scores,
    }


@pytest.fixture
def file(tiny_dataset, tmp_path):
    path = tmp_path / "fidelity.json"
    path.write_text(json.dumps(line(tiny_dataset.manifest)))
    return path


def test_the_card_shows_it_with_its_source(tiny_dataset, file, tmp_path):
    folder = tmp_path / "published"
    made = fb.publish(tiny_dataset, to=folder, fidelity=file).publication
    assert made.fidelity == read_fidelity(file, tiny_dataset.manifest)
    text = (folder / "README.md").read_text(encoding="utf-8")
    section = text.split("## Size and fidelity")[1].split("\n## ")[0]
    rows = [row.split(" | ") for row in section.splitlines() if row.startswith("| `")]
    assert [row[0] for row in rows] == ["| `conv+corn`", "| `norm`"]  # by MAE
    intervals = [r"1.500 \[1.499, 1.502\]", r"+0.2500 \[+0.2490, +0.2520\]"]
    assert rows[1][1:] == [*intervals, "1.234 %", "0.0032", "0.046", "5 |"]
    assert rows[0][2].startswith("-0.0125 ")
    assert "on 2026-11-22, on cpu\n(a processor, 2 logical cores)" in section
    assert f"`{tiny_dataset.id}`" in section
    assert f"`{tiny_dataset.manifest.name}-q8@aaaaaaaaaaaa`" in section
    assert MarkdownIt("gfm-like", {"linkify": False}).render(section).count("<table>") == 1
    assert fb.verify(folder).faults == ()
    assert fb.open(folder).id == tiny_dataset.id


def test_it_can_be_added_to_a_published_folder_and_stays(tiny_dataset, file, tmp_path):
    folder = tmp_path / "published"
    fb.publish(tiny_dataset, to=folder)
    before = tree(folder)
    arguments = ["--to", str(folder), "--fidelity", str(file), "--workspace", str(tmp_path)]
    done = CliRunner().invoke(main, ["publish", str(tiny_dataset.path), *arguments])
    assert done.exit_code == 0, done.output
    after = tree(folder)
    assert {name for name in after if after[name] != before.get(name)} == {"README.md", "publication.json"}
    fb.publish(tiny_dataset, to=folder)  # asked for nothing: what was measured stays
    assert tree(folder) == after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["lossless"].update(dataset_digest="b" * 64), "compares .*@bbbbbbbbbbbb"),
        (lambda v: v["lossless"].update(dataset="other"), r"compares other@"),
        (lambda v: v["lossy"].update(codec="zstd"), "codecs zstd and zstd, not a lossless one and q8"),
        (lambda v: v.update(benchmark="read"), "no line of benchmarks/fidelity.py: benchmark = 'read'"),
        (lambda v: v.update(evaluators={}), "evaluators = "),
        (lambda v: v["evaluators"].update({"a|b": v["evaluators"]["norm"]}), "no line of benchmarks/fidelity.py"),
        (lambda v: v["evaluators"]["norm"].pop("changed"), "lacks 'evaluators.norm.changed'"),
    ],
)
def test_a_file_of_something_else_is_refused_before_anything_is_written(tiny_dataset, tmp_path, change, message):
    value = line(tiny_dataset.manifest)
    change(value)
    (tmp_path / "wrong.json").write_text(json.dumps(value))
    with pytest.raises(ConfigError, match=message):
        fb.publish(tiny_dataset, to=tmp_path / "published", fidelity=tmp_path / "wrong.json")
    assert not (tmp_path / "published").exists()


def test_a_stranger_s_publication_with_the_fidelity_of_others_is_refused(tiny_dataset, file, tmp_path):
    folder = tmp_path / "published"
    fb.publish(tiny_dataset, to=folder, fidelity=file)
    path = folder / "publication.json"
    value = json.loads(path.read_bytes())
    value["fidelity"]["lossless"]["dataset_digest"] = "b" * 64
    path.write_text(json.dumps(value))
    with pytest.raises(DatasetError, match="has the fidelity of other datasets"):
        fb.open(folder)


def test_one_fit_has_no_interval(tiny_dataset, published):
    value = line(tiny_dataset.manifest, evaluators=["norm"])
    for name in ("mae", "mae_difference", "changed"):
        value["evaluators"]["norm"][name] |= {"low": None, "high": None, "std": None, "num": 1}
    found = Fidelity.from_json(value)
    facts = facts_of(published)
    measured = facts.publication.model_copy(update={"fidelity": found})
    assert "| `norm` | 1.500 | +0.2500 | 1.234 % | 0.0032 | 0.046 | 1 |" in card(replace(facts, publication=measured))
