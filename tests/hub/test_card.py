"""The card describes its dataset correctly, loads it, and cannot be taken over by a name."""

import re
import shlex
import subprocess
import sys
from dataclasses import replace

import datasets
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from conftest import build_tiny, subprocess_environment
from helpers.hostile import HOSTILE
from helpers.published_folder import changed, facts_of
from markdown_it import MarkdownIt

import fmcs_bench as fb
from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.build import runner
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.hub.card import build_command, card, draw_figures, licence_fields, megabytes, percent
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.store.publication import CONFIGURATIONS, Part
from fmcs_bench.training.recipes import ConvergenceRule, Recipe


@pytest.fixture(scope="module")
def facts(published):
    return facts_of(published)


def parts(text):
    """The YAML head as values, and the Markdown below it."""
    _, head, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head), body


def section(text, name):
    return re.split(r"^## ", text.split(f"\n## {name}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_equal_facts_give_equal_bytes_and_a_repository_is_named(facts, published):
    assert card(facts) == (published / "README.md").read_text(encoding="utf-8")
    text = card(replace(facts, repo="owner/name"))
    assert 'load_dataset("owner/name", split="train")' in text
    assert 'fmcs_bench.open("hf://datasets/owner/name")' in text
    assert "DIR" not in text


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_datasets_loads_a_folder_by_its_card(published, facts, tiny_dataset, configuration, tmp_path):
    loaded = datasets.load_dataset(str(published), configuration, cache_dir=str(tmp_path))
    expected = {split.split: split.num_rows for split in facts.configurations[configuration]}
    assert {name: len(rows) for name, rows in loaded.items()} == expected
    if configuration == "default":
        rows = loaded["test"].with_format("numpy", dtype=np.float16)
        maps = tiny_dataset.sel("test", split="test").load().maps_MDHW
        np.testing.assert_array_equal(rows["feature_map"][:].reshape(maps.shape), maps)
    for rows in loaded.values():
        assert rows.features["label"].names == list(facts.manifest.images.classes)
        assert rows.features["feature_map"].feature.id == "x".join(map(str, facts.manifest.map_shape))


def test_the_code_of_a_card_runs(published, tiny_dataset, tmp_path):
    blocks = python_blocks((published / "README.md").read_text(encoding="utf-8"))
    assert len(blocks) == 5
    script = tmp_path / "card.py"
    check = "print('map', float(map_DHW.astype('float32').sum()), batch.maps_BDHW.shape[1:], len(rows))"
    script.write_text("\n".join([*blocks, check]).replace('"DIR', f'"{published}'))
    environment = subprocess_environment() | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    first = tiny_dataset.sel(0, 3, "train")[0]
    assert f"map {float(first.astype(np.float32).sum())} torch.Size([64, 2, 2]) 360" in done.stdout


def test_zarr_alone_gives_the_map_of_the_card_of_lossy_maps(tmp_path):
    folder, dataset = tmp_path / "published", build_tiny(tmp_path, codec="q8", name="q8")
    fb.publish(dataset, to=folder)
    facts = facts_of(folder)
    part = Part.of(dataset.manifest, runs=[2], splits=["test"], stages=[2])
    for of, (seed, split, stage) in ((facts, (0, "train", 3)), (replace(facts, part=part), (2, "test", 2))):
        (block,) = (b for b in python_blocks(card(of)) if "import zarr" in b)
        found = {}
        exec(block.replace('"DIR', f'"{folder}'), found)  # noqa: S102  (our own code is what is tested)
        assert np.array_equal(found["map_DHW"].astype(np.float16), dataset.sel(seed, stage, split)[0])


def test_numbers_are_those_of_files_and_manifest(facts):
    text, manifest = card(facts), facts.manifest
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*?) \| (\w+) \| ([\d,]+) \|", text, flags=re.MULTILINE)
    assert [(c, s, int(n.replace(",", ""))) for c, s, _, _, n in rows] == [
        (split.configuration, split.split, split.num_rows) for split in facts.publication.parquet
    ]
    assert rows[0][2:4] == ("training (0, 1)", "train")
    for run in manifest.runs:
        table = text.split(f"### Run {run.seed} ({run.role})")[1].split("###")[0]
        for stage in run.stages:
            assert f"| {stage.stage} | {stage.epoch:.2f} | {stage.step} | {stage.train_loss:.4f} |" in table
    map_bytes = manifest.bytes_under("maps.zarr")
    assert f"{manifest.raw_bytes / map_bytes:.2f} times smaller" in text
    assert f"| size | {megabytes(map_bytes)} of maps" in text
    assert "The codec loses nothing" in text
    assert (percent(0.293), megabytes(1_960_000), megabytes(999)) == ("29.30 %", "2.0 MB", "0.0010 MB")


def test_figures_that_are_linked_exist_and_are_the_same_each_time(facts, published, tiny_dataset, tmp_path):
    linked = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", card(facts))
    assert linked == [path.relative_to(tmp_path).as_posix() for path in draw_figures(tiny_dataset, tmp_path)]
    for name in linked:
        assert (published / name).read_bytes() == (tmp_path / name).read_bytes()
    assert "![" not in card(replace(facts, figures=False))


def test_limits_follow_from_the_manifest(facts):
    usual = section(card(facts), "Known limits")
    assert "2 training runs, one validation run, one test run" in usual
    assert "At most 60 images of each split" in usual
    for values, sentence in (
        ({"map_shape": [2048, 1, 1]}, "one position: 2,048 numbers"),
        ({"images__num_broken": 1234}, "1,234 images could not be read"),
        ({"config__backbone_options": BackboneOptions(pretrained=True).to_json()}, "started from published weights"),
        ({"config__recipe": Recipe(precision="bfloat16").to_json()}, "computed in bfloat16"),
        ({"map_error": {"largest": 0.0234375, "mean": 0.001}}, "The maps are lossy"),
    ):
        assert sentence not in usual
        assert sentence in section(card(replace(facts, manifest=changed(facts.manifest, **values))), "Known limits")


def test_a_part_states_what_it_leaves_out(facts):
    manifest = facts.manifest
    part = Part.of(manifest, kinds=["parquet"], runs=[2, 3], stages=[1, 3], splits=["validation", "test"])
    rows = facts.publication.parquet
    rows = tuple(split for split in rows if split.split != "train" and split.configuration == "default")
    text = card(replace(facts, part=part, publication=facts.publication.model_copy(update={"parquet": rows})))
    assert "**This is a part of the dataset**" in text
    assert "- kinds of files: here parquet; left out maps, checkpoints" in text
    assert "- runs (seeds): here 2, 3; left out 0, 1" in text
    assert "- splits of the images: here validation, test; left out train, unseen" in text
    assert [block.count("fmcs_bench.open") for block in python_blocks(text)] == [0, 0]
    assert "a part of the dataset" not in card(facts)
    none = facts.publication.model_copy(update={"parquet": ()})
    text = card(replace(facts, part=Part.of(manifest, kinds=["maps"]), publication=none))
    assert "configs" not in parts(text)[0]
    assert "load_dataset" not in text
    assert "croissant.json" not in text


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_stays_text(facts, text):
    manifest = changed(
        facts.manifest,
        images__classes=[text, *facts.manifest.images.classes[1:]],
        images__citation=f"x {text}",
        images__licence=f"x {text}",
        environment__processor=text,
        config__backbone_options=BackboneOptions(layer=text).to_json(),
    )
    usual = changed(facts.manifest, config__backbone_options=BackboneOptions(layer="layer3").to_json())
    head, body = parts(card(replace(facts, manifest=manifest)))
    plain_head, plain_body = parts(card(replace(facts, manifest=usual)))
    assert head["license"] == "other"
    assert re.fullmatch(r"[a-z0-9.-]+", head["license_name"])
    assert set(head) - set(plain_head) == {"license_name", "license_details"}
    # The same headings, links, pictures and blocks as the card of an ordinary dataset, and no other markup.
    tags = re.compile(r"<(?!/?(?:p|li)\b)[^>]*>")
    render = MarkdownIt("gfm-like", {"linkify": False}).render
    assert tags.findall(render(body)) == tags.findall(render(plain_body))


def test_licences_and_citations(facts):
    assert licence_fields("CC BY-SA 3.0") == {"license": "cc-by-sa-3.0"}
    url = "https://example.org/terms"
    about = {"license_name": "https-example.org-terms", "license_details": url, "license_link": url}
    assert licence_fields(url) == {"license": "other"} | about
    assert licence_fields("\n")["license_name"] == "unnamed"
    unknown = changed(facts.manifest, images__licence="unknown")
    assert "states no licence" in section(card(replace(facts, manifest=unknown)), "Licence")
    assert "CC BY 4.0" in section(card(facts), "Licence")
    bibtex = "@misc{x,\n title = {```a```}\n}"
    text = card(replace(facts, manifest=changed(facts.manifest, images__citation=bibtex)))
    assert f"````bibtex\n{bibtex}\n````" in text


# The command that builds the dataset again

CONFIGS = [
    {},
    {"image_dataset": "cifar10", "image_size": 32, "stages": 7, "epochs": 20, "backbone": "resnet50"},
    {"image_dataset": "hub_uoft-cs_cifar10", "image_size": 64},
    {"image_dataset": "hub_train.parquet"},
    {"image_dataset": "folder_My_Flowers", "limit": 100},
    {"backbone": "timm/vit_tiny_patch16_224", "codec": "q8", "markers": "epoch", "name": "other_1.0"},
    {"runs": 1, "checkpoints": 12, "recipe": Recipe(batch_size=16, lr=1 / 3, precision="bfloat16")},
    {"convergence": ConvergenceRule(threshold=0.3), "seed": 7},
    {"backbone_options": BackboneOptions(layer="a b'; rm -rf ~ #", output_stride=8, pretrained=True)},
]


class ReachedBuilderError(Exception):
    """Ends a command where the work would start."""


@pytest.mark.parametrize("options", CONFIGS, ids=str)
def test_a_command_gives_its_configuration(options, tmp_path, monkeypatch):
    built = []

    def note(config, _path, images, *_):
        built.append((config, images.skip_broken))
        raise ReachedBuilderError

    monkeypatch.setattr(runner, "_Build", note)
    config = BuildConfig.create(**({"backbone": "smallcnn"} | options))
    for skip_broken in (False, True):
        words = shlex.split(build_command(config, skip_broken=skip_broken))
        assert words[0] == "fmcs-bench"
        result = CliRunner().invoke(main, [*words[1:], "--workspace", str(tmp_path)])
        assert isinstance(result.exception, ReachedBuilderError), result.output
    assert built == [(config, False), (config, True)]


def test_only_what_differs_from_the_defaults_is_typed(facts):
    config = BuildConfig.create(backbone="resnet50", image_dataset="mnist", stages=9, image_size=32)
    assert build_command(config) == "fmcs-bench build --backbone resnet50 --image-size 32 --dataset mnist"
    assert f"```bash\n{build_command(facts.manifest.config)}\n```" in card(facts)
    named = changed(facts.manifest, config__recipe=Recipe(name="mine").to_json())
    with pytest.raises(ConfigError, match=r"recipe\.name"):
        build_command(named.config)
    assert "recipe.name" in section(card(replace(facts, manifest=named)), "How it was made")
