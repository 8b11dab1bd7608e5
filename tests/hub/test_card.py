"""The card tells the truth about its dataset, loads it, and cannot be taken over by a name."""

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml
from conftest import build_tiny, subprocess_environment
from helpers.published_folder import changed, publish
from markdown_it import MarkdownIt
from test_markdown import HOSTILE

from fmcs_bench.backbones.options import BackboneOptions
from fmcs_bench.hub.build_command import build_command
from fmcs_bench.hub.card import card, cut, draw_figures, megabytes, percent
from fmcs_bench.hub.metadata import LICENCES, licence_fields, pattern, size_category
from fmcs_bench.hub.parquet import features
from fmcs_bench.store.publication import CONFIGURATIONS, Part
from fmcs_bench.training.recipes import Recipe


@pytest.fixture(scope="module")
def folder(tiny_dataset, tmp_path_factory):
    place = tmp_path_factory.mktemp("published") / "dataset"
    publish(tiny_dataset, place)
    return place


@pytest.fixture(scope="module")
def facts(tiny_dataset, tmp_path_factory):
    return publish(tiny_dataset, tmp_path_factory.mktemp("facts") / "dataset")


def parts(text):
    """The YAML head as values, and the Markdown below it."""
    _, head, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(head), body


def rendered(body):
    return MarkdownIt("gfm-like", {"linkify": False}).render(body)


def section(text, name):
    return re.split(r"^## ", text.split(f"\n## {name}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def python_blocks(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_the_hub_s_library_reads_the_head(facts):
    from huggingface_hub import DatasetCard

    data = DatasetCard(card(facts)).data
    assert data.license == "cc-by-4.0"
    assert data.size_categories == ["1K<n<10K"]
    assert [config["config_name"] for config in data.configs] == list(CONFIGURATIONS)
    assert [config.get("default") for config in data.configs] == [True, None, None]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_datasets_loads_a_folder_by_its_card(folder, facts, configuration, tmp_path):
    import datasets

    loaded = datasets.load_dataset(str(folder), configuration, cache_dir=str(tmp_path))
    expected = {split.split: split for split in facts.parquet if split.configuration == configuration}
    assert {name: len(rows) for name, rows in loaded.items()} == {s: rows.num_rows for s, rows in expected.items()}
    for rows in loaded.values():
        assert rows.features == features(facts.manifest)
    # The card says the same before any file is read.
    info = datasets.load_dataset_builder(str(folder), configuration, cache_dir=str(tmp_path / "other")).info
    assert info.features == features(facts.manifest)
    assert {name: split.num_bytes for name, split in info.splits.items()} == {
        name: split.memory_bytes for name, split in expected.items()
    }
    assert info.download_size == sum((folder / name).stat().st_size for s in expected.values() for name in s.files)


def test_the_code_of_a_card_runs(folder, tiny_dataset, tmp_path):
    text = (folder / "README.md").read_text(encoding="utf-8")
    blocks = python_blocks(text)
    assert len(blocks) == 5
    script = tmp_path / "card.py"
    check = "print('map', float(map_DHW.astype('float32').sum()), batch.maps_BDHW.shape[1:], len(rows))"
    script.write_text("\n".join([*blocks, check]).replace('"DIR', f'"{folder}'))
    environment = subprocess_environment() | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    first = tiny_dataset.sel(0, 3, "train")[0]
    assert f"map {float(first.astype(np.float32).sum())} torch.Size([64, 2, 2]) 360" in done.stdout


@pytest.mark.parametrize("codec", ["zstd", "q8"])
def test_zarr_alone_gives_the_map_that_the_card_promises(codec, tmp_path, tiny_dataset):
    dataset = tiny_dataset if codec == "zstd" else build_tiny(tmp_path, codec=codec, name="q8")
    facts = publish(dataset, tmp_path / "published")
    for part, (seed, split) in [
        (None, (0, "train")),
        (Part.of(dataset.manifest, runs=[2], splits=["test"], stages=[2]), (2, "test")),
    ]:
        (block,) = (b for b in python_blocks(card(replace(facts, part=part))) if "import zarr" in b)
        found = {}
        exec(block.replace('"DIR', f'"{tmp_path}/published'), found)  # noqa: S102  (our own code is what is tested)
        stage = 3 if part is None else 2
        expected = dataset.sel(seed, stage, split)[0]
        assert np.array_equal(found["map_DHW"].astype(np.float16), expected)


def test_a_repository_is_named_where_there_is_one(facts):
    text = card(replace(facts, repo="owner/name"))
    assert 'load_dataset("owner/name", split="train")' in text
    assert 'fmcs_bench.open("hf://datasets/owner/name")' in text
    assert 'zarr.open_group("hf://datasets/owner/name/maps.zarr", mode="r")' in text
    assert "DIR" not in text


def test_equal_facts_give_equal_bytes_and_read_no_file(facts, folder):
    again = card(facts)
    assert again == (folder / "README.md").read_text(encoding="utf-8")


def test_the_command_is_that_of_the_configuration(facts):
    assert f"```bash\n{build_command(facts.manifest.config)}\n```" in card(facts)
    sgd = changed(facts.manifest, config__recipe=Recipe(optimizer="sgd").to_json(), images__num_broken=3)
    block = section(card(replace(facts, manifest=sgd)), "How it was made")
    assert "import fmcs_bench as fb\nfrom fmcs_bench.training.recipes import ConvergenceRule, Recipe\n" in block
    assert "optimizer='sgd'" in block
    assert "skip_broken=True" in block


def test_every_number_of_a_split_is_that_of_the_files(facts):
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*?) \| (\w+) \| ([\d,]+) \|", card(facts), flags=re.MULTILINE)
    assert [(c, s, int(n.replace(",", ""))) for c, s, _, _, n in rows] == [
        (split.configuration, split.split, split.num_rows) for split in facts.parquet
    ]
    assert rows[0][2:4] == ("training (0, 1)", "train")
    assert rows[-1][2:4] == ("test (3)", "unseen")


def test_every_stage_of_every_run_is_there(facts):
    text = card(facts)
    for run in facts.manifest.runs:
        table = text.split(f"### Run {run.seed} ({run.role})")[1].split("###")[0]
        for stage in run.stages:
            assert f"| {stage.stage} | {stage.epoch:.2f} | {stage.step} | {stage.train_loss:.4f} |" in table


def test_figures_that_are_linked_exist_and_are_the_same_each_time(facts, folder, tiny_dataset, tmp_path):
    linked = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", card(facts))
    drawn = draw_figures(tiny_dataset, tmp_path)
    assert linked == [path.relative_to(tmp_path).as_posix() for path in drawn]
    for name in linked:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_nothing_is_rounded_up():
    generator = np.random.default_rng(0)
    for value in generator.uniform(0, 1000, 500).tolist():
        for digits in (0, 1, 2):
            shown = float(cut(value, digits).replace(",", ""))
            assert 0 <= value - shown < 10.0**-digits
    assert percent(0.293) == "29.30 %"  # 100 * 0.293 is 29.299999999999997
    assert percent(0.99999) == "99.99 %"
    assert megabytes(1_999_999) == "1.9 MB"


def test_sizes_and_ratio_are_those_of_the_manifest(facts):
    text, manifest = card(facts), facts.manifest
    map_bytes = manifest.bytes_under("maps.zarr")
    shown = float(re.search(r": ([\d.]+) times smaller", text)[1])
    assert 0 <= manifest.raw_bytes / map_bytes - shown < 0.01
    assert f"| size | {megabytes(map_bytes)} of maps" in text
    assert "The codec loses nothing" in text
    lossy = changed(manifest, map_error={"largest": 0.0234375, "mean": 0.001})
    text = card(replace(facts, manifest=lossy))
    assert "by 0.001 on average and by 0.0234375 at most" in text
    assert "The maps are lossy" in section(text, "Known limits")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"map_shape": [2048, 1, 1]}, "one position: 2,048 numbers"),
        ({"images__num_broken": 1234}, "1,234 images could not be read"),
        ({"config__backbone_options": BackboneOptions(pretrained=True).to_json()}, "started from published weights"),
        ({"config__recipe": Recipe(precision="bfloat16").to_json()}, "computed in bfloat16"),
    ],
)
def test_limits_follow_from_the_manifest(facts, values, sentence):
    with_it = section(card(replace(facts, manifest=changed(facts.manifest, **values))), "Known limits")
    assert sentence in with_it
    assert sentence not in section(card(facts), "Known limits")


def test_known_limits_of_every_dataset(facts):
    limits = section(card(facts), "Known limits")
    assert "2 training runs, one validation run, one test run" in limits
    assert "At most 60 images of each split" in limits
    accuracies = [run.stages[-1].validation_accuracy for run in facts.manifest.runs]
    assert (
        f"stage 3: {percent(min(accuracies))} to {percent(max(accuracies))}, by run; guessing gives 10.00 %" in limits
    )
    assert "CQI stays under 0.3 nats per epoch" in limits
    assert ("half of the validation images" in limits) == (max(accuracies) < 0.5)


def test_a_part_says_what_it_leaves_out(facts):
    manifest = facts.manifest
    part = Part.of(manifest, kinds=["parquet"], runs=[2, 3], stages=[1, 3], splits=["validation", "test"])
    rows = tuple(split for split in facts.parquet if split.split != "train" and split.configuration == "default")
    text = card(replace(facts, part=part, parquet=rows))
    assert "**This is a part of the dataset**" in text
    assert "- kinds of files: here parquet; left out maps, checkpoints" in text
    assert "- runs (seeds): here 2, 3; left out 0, 1" in text
    assert "- stages: here 1, 3; left out 2" in text
    assert "- splits of the images: here validation, test; left out train, unseen" in text
    assert [block.count("fmcs_bench.open") for block in python_blocks(text)] == [0, 0]
    assert 'split="validation"' in text
    assert "a part of the dataset" not in card(facts)
    assert "a part of the dataset" not in card(replace(facts, part=Part.of(manifest)))


def test_without_parquet_files_nothing_promises_them(facts):
    part = Part.of(facts.manifest, kinds=["maps", "checkpoints"])
    text = card(replace(facts, part=part, parquet=(), files={}))
    head, _ = parts(text)
    assert not {"configs", "dataset_info", "size_categories"} & set(head)
    assert "load_dataset" not in text
    assert "croissant.json" not in text
    assert len(python_blocks(text)) == 3


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_name_stays_text(facts, text):
    classes = [text, *facts.manifest.images.classes[1:]]
    manifest = changed(
        facts.manifest,
        images__classes=classes,
        images__citation=f"x {text}",
        images__licence=f"x {text}",
        environment__processor=text,
        config__backbone_options=BackboneOptions(layer=text).to_json(),
    )
    usual = changed(facts.manifest, config__backbone_options=BackboneOptions(layer="layer3").to_json())
    head, body = parts(card(replace(facts, manifest=manifest)))
    plain_head, plain_body = parts(card(replace(facts, manifest=usual)))
    names = head["dataset_info"][0]["features"][1]["dtype"]["class_label"]["names"]
    assert list(names.values()) == classes
    assert head["license"] == "other"
    assert re.fullmatch(r"[a-z0-9.-]+", head["license_name"])
    assert set(head) - set(plain_head) == {"license_name", "license_details"}
    # The same headings, links, pictures and blocks as the card of an ordinary dataset, and no other markup.
    tags = re.compile(r"<(?!/?(?:p|li)\b)[^>]*>")
    assert tags.findall(rendered(body)) == tags.findall(rendered(plain_body))


def test_a_hostile_head_is_found_by_the_hub_s_own_pattern(facts):
    from huggingface_hub import DatasetCard

    classes = ["a\n---\nlicense: mit", "b: [c", *facts.manifest.images.classes[2:]]
    data = DatasetCard(card(replace(facts, manifest=changed(facts.manifest, images__classes=classes)))).data
    assert data.license == "cc-by-4.0"
    names = data.dataset_info[0]["features"][1]["dtype"]["class_label"]["names"]
    assert list(names.values()) == classes


def test_licences_are_the_hub_s():
    assert licence_fields("CC BY-SA 3.0") == {"license": "cc-by-sa-3.0"}
    assert licence_fields("MIT") == {"license": "mit"}
    assert licence_fields("unknown") == {"license": "unknown"}
    assert licence_fields("https://example.org/terms") == {
        "license": "other",
        "license_name": "https-example.org-terms",
        "license_details": "https://example.org/terms",
        "license_link": "https://example.org/terms",
    }
    assert "other" not in LICENCES
    assert licence_fields("\n")["license_name"] == "unnamed"


def test_an_unknown_licence_is_said(facts):
    text = card(replace(facts, manifest=changed(facts.manifest, images__licence="unknown")))
    assert "states no licence" in section(text, "Licence")
    assert "CC BY 4.0" in section(card(facts), "Licence")


def test_citation_is_text_or_bibtex(facts):
    assert "Images: E. Alpaydin, C. Kaynak" in card(facts)
    bibtex = "@misc{x,\n title = {```a```}\n}"
    text = card(replace(facts, manifest=changed(facts.manifest, images__citation=bibtex)))
    assert f"````bibtex\n{bibtex}\n````" in text


def test_sizes_are_the_hub_s():
    assert [size_category(n) for n in (0, 1000, 99_999, 10**6)] == ["n<1K", "1K<n<10K", "10K<n<100K", "1M<n<10M"]


def test_a_pattern_names_all_files_of_a_split_and_no_others():
    names = [f"parquet/default/train-{i:05d}-of-00012.parquet" for i in range(12)]
    assert pattern(names) == "parquet/default/train-*-of-00012.parquet"
    assert pattern(names[:1]) == names[0]


def test_many_classes_are_counted(facts):
    classes = [f"class {i}" for i in range(101)]
    manifest = changed(facts.manifest, images__classes=classes)
    assert "class 29 and 71 more, in the manifest." in card(replace(facts, manifest=manifest))
