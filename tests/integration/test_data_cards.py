"""The committed data cards are those that their manifests give."""

import json
import re
from pathlib import Path

import pytest

import fmcs_bench as fb
from fmcs_bench.results.tables import read
from fmcs_bench.store.schema import Manifest

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "data_cards"
NAMES = sorted(path.name for path in CARDS.iterdir() if path.is_dir() and path.name != "__pycache__")


def test_every_card_is_listed(generate):
    assert NAMES
    assert sorted(generate.repositories()) == NAMES
    table = re.findall(r"\]\(([^/)]+)/README\.md\) \| (.*) \|", (CARDS / "README.md").read_text(encoding="utf-8"))
    assert sorted(name for name, _ in table) == NAMES
    for name, published in table:
        repo = generate.repositories()[name]
        assert published == "not yet" if repo is None else repo in published


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_the_one_that_its_manifest_gives(name, generate):
    committed = (CARDS / name / "README.md").read_text(encoding="utf-8")
    assert generate.card(generate.facts_of(name)) == committed, "type `python data_cards/generate.py`"


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_of_one_dataset(name, generate):
    manifest = Manifest.from_json(json.loads((CARDS / name / "dataset.json").read_bytes()))
    published = json.loads((CARDS / name / "publication.json").read_bytes())
    assert manifest.name == name
    assert manifest.states_its_digest
    assert published["dataset_id"] == manifest.id
    assert published["files"]["dataset.json"] == entry(CARDS / name / "dataset.json", generate)


def entry(path, generate):
    return {"num_bytes": path.stat().st_size, "sha256": generate.files.sha256_of_file(path)}


def test_the_dataset_of_the_committed_records_has_a_card():
    ids = {record.dataset_id for record in read(ROOT / "leaderboard")}
    carded = {Manifest.from_json(json.loads((CARDS / name / "dataset.json").read_bytes())).id for name in NAMES}
    assert ids <= carded


def test_the_cards_are_small():
    assert sum(path.stat().st_size for path in CARDS.rglob("*") if path.is_file()) < 300_000 * len(NAMES)


def test_a_published_folder_becomes_a_card(generate, tiny_dataset, tmp_path, monkeypatch):
    fb.publish(tiny_dataset, to=tmp_path / "folder")
    cards = tmp_path / "cards"
    cards.mkdir()
    (cards / "repositories.json").write_text("{}")
    monkeypatch.setattr(generate, "CARDS", cards)
    monkeypatch.setattr(generate, "REPOSITORIES", cards / "repositories.json")
    for arguments, repo in (["--repo", "owner/name"], "owner/name"), ([], None):
        monkeypatch.setattr("sys.argv", ["generate.py", str(tmp_path / "folder"), *arguments])
        generate.main()
        assert json.loads((cards / "repositories.json").read_bytes()) == {tiny_dataset.manifest.name: repo}
    made = cards / tiny_dataset.manifest.name / "README.md"
    published = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert made.read_text(encoding="utf-8") == re.sub(r"!\[.*\n\n", "", published)  # without figures
