"""The Croissant metadata is valid, and a reader of somebody else's gets the rows of the Parquet files by it."""

import json
import logging
from collections import Counter
from dataclasses import replace

import mlcroissant
import numpy as np
import pytest
from helpers.hostile import HOSTILE
from helpers.published_folder import changed, facts_of
from pyarrow import parquet as pq

from fmcs_bench.hub import parquet
from fmcs_bench.hub.croissant import FILE, croissant, encode
from fmcs_bench.store.publication import CONFIGURATIONS, Part
from fmcs_bench.store.schema import FileEntry

pytestmark = [
    # mlcroissant 1.1.1 uses what rdflib and pandas are about to remove. Its own remarks go to its log; see `opened`.
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning:rdflib"),
    pytest.mark.filterwarnings("ignore:The inplace keyword:Warning:mlcroissant"),
]
COLUMNS = ("image_id", "label", "run", "stage", "fmcs", "epoch", "feature_map")


@pytest.fixture(scope="module")
def facts(published):
    return facts_of(published)


@pytest.fixture
def opened(caplog):
    """Opens metadata; afterwards there must be no warning of mlcroissant's, and no error."""

    def open_path(path):
        with caplog.at_level(logging.WARNING):
            found = mlcroissant.Dataset(jsonld=path)
        issues = found.metadata.ctx.issues
        assert not issues.errors
        assert not issues.warnings
        return found

    yield open_path
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def rows_of_files(folder, facts, configuration):
    """Split and columns of every row, split by split in the order of their names, as mlcroissant reads files."""
    splits = facts.configurations[configuration]
    return [
        (split.split, *row.values())
        for split in sorted(splits, key=lambda split: split.files[0])
        for name in split.files
        for row in pq.read_table(folder / name, columns=list(COLUMNS)).to_pylist()
    ]


def rows_of_records(dataset, configuration):
    return [
        (record[f"{configuration}/split"].decode(), *(record[f"{configuration}/{name}"] for name in COLUMNS))
        for record in dataset.records(configuration)
    ]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_records_are_the_rows_of_the_files(published, facts, opened, configuration):
    found = rows_of_records(opened(str(published / FILE)), configuration)
    assert found == rows_of_files(published, facts, configuration)
    assert Counter(row[0] for row in found) == {s.split: s.num_rows for s in facts.configurations[configuration]}
    assert {type(value) for row in found for value in row[-1]} == {np.float16}


def test_one_split_can_be_asked_for_and_is_explained(published, facts, opened):
    dataset = opened(str(published / FILE))
    records = list(dataset.records("default", filters={"default/split": "test"}))
    rows = rows_of_files(published, facts, "default")
    assert [record["default/image_id"] for record in records] == [row[1] for row in rows if row[0] == "test"]
    classes = {record["classes/value"]: record["classes/name"] for record in dataset.records("classes")}
    assert classes == dict(enumerate(facts.manifest.images.classes))
    scores = {record["scores/value"]: record["scores/name"] for record in dataset.records("scores")}
    assert all(scores[fmcs] == str(stage) for _, _, _, _, stage, fmcs, *_ in rows)


def test_several_files_of_a_split_are_one(facts, opened, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "FILE_BYTES", 50_000)
    splits = parquet.export(tiny_dataset, tmp_path, Part.of(tiny_dataset.manifest))
    assert len(splits[0].files) > 2
    entries = {name: FileEntry.of(tmp_path / name) for split in splits for name in split.files}
    several = replace(facts, publication=facts.publication.model_copy(update={"parquet": splits, "files": entries}))
    (tmp_path / FILE).write_bytes(encode(croissant(several)))
    assert rows_of_records(opened(str(tmp_path / FILE)), "default") == rows_of_files(tmp_path, several, "default")


def test_every_file_has_its_size_and_hash(published, facts):
    written = json.loads((published / FILE).read_bytes())
    objects = {item["contentUrl"]: item for item in written["distribution"] if item["@type"] == "cr:FileObject"}
    assert set(objects) == {path.relative_to(published).as_posix() for path in published.rglob("*.parquet")}
    for name, item in objects.items():
        entry = FileEntry.of(published / name)
        assert (item["sha256"], item["contentSize"]) == (entry.sha256, f"{entry.num_bytes} B")
    assert facts.manifest.dataset_digest[:12] in written["version"]
    in_repository = croissant(replace(facts, repo="owner/name"))
    assert in_repository.pop("url") == "https://huggingface.co/datasets/owner/name"
    assert in_repository == croissant(facts)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text(facts, opened, tmp_path, text):
    classes = [text, *facts.manifest.images.classes[1:]]
    manifest = changed(facts.manifest, images__classes=classes, images__licence=text, images__citation=text)
    data = encode(croissant(replace(facts, manifest=manifest)))
    assert not set(b"<>&") & set(data)
    (tmp_path / FILE).write_bytes(data)
    records = opened(str(tmp_path / FILE)).records("classes")
    assert {record["classes/value"]: record["classes/name"] for record in records} == dict(enumerate(classes))


def test_the_licence_is_an_address_where_there_is_one(facts):
    for licence, expected in (
        ("CC BY-SA 3.0", "https://creativecommons.org/licenses/by-sa/3.0/"),
        ("MIT", "https://spdx.org/licenses/MIT.html"),
        ("https://example.org/terms", "https://example.org/terms"),
        ("ask Bob", "ask Bob"),
    ):
        manifest = changed(facts.manifest, images__licence=licence)
        assert croissant(replace(facts, manifest=manifest))["license"] == expected
