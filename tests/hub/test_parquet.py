"""The Parquet files hold the maps of the dataset's own store, whichever reader opens them."""

import json
import threading

import datasets
import numpy as np
import pytest
from conftest import build_tiny
from helpers.published_folder import facts_of
from pyarrow import parquet as pq

from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.hub import parquet
from fmcs_bench.store import map_array
from fmcs_bench.store.publication import CONFIGURATIONS, Part
from fmcs_bench.store.reader import FmcsDataset

SPLITS = [(configuration, split) for configuration, splits in CONFIGURATIONS.items() for split in splits]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def load_files(folder, split):
    files = [str(folder / name) for name in split.files]
    return datasets.load_dataset("parquet", data_files=files, split="train")


def assert_same_rows(dataset, folder, split, **part):
    role, image_split = CONFIGURATIONS[split.configuration][split.split]
    selection = dataset.sel(part.get("runs", role), part.get("stages"), image_split)
    table = load_files(folder, split).data.table
    assert len(table) == len(selection) == split.num_rows > 0
    values = {name: table.column(name).to_numpy() for name in parquet.NUMBERS}
    np.testing.assert_array_equal(values["image_id"], selection.image_ids_M)
    np.testing.assert_array_equal(values["label"], selection.labels_M)
    np.testing.assert_array_equal(values["run"], selection.runs_M)
    np.testing.assert_array_equal(values["stage"], selection.stages_M + 1)
    np.testing.assert_array_equal(values["fmcs"], selection.stages_M)
    epochs = {(run.seed, stage.stage): stage.epoch for run in dataset.manifest.runs for stage in run.stages}
    rows = zip(values["run"].tolist(), values["stage"].tolist(), strict=True)
    assert values["epoch"].tolist() == [epochs[row] for row in rows]
    flat = table.column("feature_map").combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(flat.reshape(selection.shape).view(np.uint16), selection[:].view(np.uint16))


def test_rows_are_the_maps_of_the_store(published, tiny_dataset):
    splits = facts_of(published).publication.parquet
    assert [(split.configuration, split.split) for split in splits] == SPLITS
    for split in splits:
        assert_same_rows(tiny_dataset, published, split)
    on_disk = {path.relative_to(published).as_posix() for path in published.rglob("*.parquet")}
    assert on_disk == {name for split in splits for name in split.files}


def test_a_bare_file_has_features_shape_dataset_and_packing(published, tiny_dataset):
    manifest, split = tiny_dataset.manifest, facts_of(published).publication.parquet[0]
    rows = load_files(published, split)
    assert rows.features["label"].names == list(manifest.images.classes)
    assert rows.features["fmcs"].names == ["1", "2", "3"]
    assert rows.features["feature_map"].feature.id == "x".join(map(str, manifest.map_shape))
    assert rows.features.arrow_schema == parquet.arrow_schema(manifest)
    file = pq.ParquetFile(published / split.files[0])
    assert json.loads(file.schema_arrow.metadata[b"fmcs_bench"]) == {
        "dataset_id": tiny_dataset.id,
        "map_shape": list(manifest.map_shape),
    }
    group = file.metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert columns["stage"].statistics.min == 1  # readers skip row groups by it
    assert columns["feature_map.list.element"].statistics is None
    assert "BYTE_STREAM_SPLIT" in columns["feature_map.list.element"].encodings
    assert {column.compression for column in columns.values()} == {"ZSTD"}


def test_many_files_and_row_groups(tiny_dataset, tmp_path, monkeypatch):
    manifest = tiny_dataset.manifest
    monkeypatch.setattr(parquet, "GROUP_BYTES", 7 * parquet.map_bytes(manifest) + 1)
    monkeypatch.setattr(parquet, "FILE_BYTES", 50 * parquet.map_bytes(manifest))
    written = parquet.export(tiny_dataset, tmp_path, Part.of(manifest))
    train = written[0]
    assert len(train.files) == -(-train.num_rows // 50) > 2
    assert train.files[-1] == f"parquet/default/train-{len(train.files) - 1:05d}-of-{len(train.files):05d}.parquet"
    metadata = pq.ParquetFile(tmp_path / train.files[0]).metadata
    assert {metadata.row_group(i).num_rows for i in range(metadata.num_row_groups - 1)} == {7}
    assert all(pq.ParquetFile(tmp_path / name).metadata.num_rows <= 50 for name in train.files)
    for split in written:
        assert_same_rows(tiny_dataset, tmp_path, split)


def test_a_part_has_its_runs_stages_and_splits_only(tiny_dataset, tmp_path):
    manifest, seed = tiny_dataset.manifest, tiny_dataset.seeds("training")[1]
    part = Part.of(manifest, runs=[seed, *tiny_dataset.seeds("test")], stages=[1, 3], splits=["train", "test"])
    written = parquet.export(tiny_dataset, tmp_path, part)
    assert [(s.configuration, s.split) for s in written] == [*SPLITS[:1], ("default", "test"), ("same_run", "test")]
    assert_same_rows(tiny_dataset, tmp_path, written[0], runs=seed, stages=[1, 3])
    none = Part.of(manifest, runs=tiny_dataset.seeds("validation"), splits=["test"])
    with pytest.raises(ConfigError, match=r"\(validation\) with the splits test .* give no Parquet file"):
        parquet.export(tiny_dataset, tmp_path, none)


def test_a_lossy_codec_gives_the_values_that_are_read_back(tmp_path):
    dataset = build_tiny(tmp_path / "workspace", codec="q8")
    for split in parquet.export(dataset, tmp_path / "out", Part.of(dataset.manifest)):
        assert_same_rows(dataset, tmp_path / "out", split)


def test_a_failure_leaves_no_half_file(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "FILE_BYTES", 50 * parquet.map_bytes(tiny_dataset.manifest))
    read_unit, calls = map_array.MapArray.read_unit, iter(range(10**6))

    def failing(self, *args):
        if next(calls) == 20:
            raise DatasetError("a shard is damaged")
        return read_unit(self, *args)

    monkeypatch.setattr(map_array.MapArray, "read_unit", failing)
    with pytest.raises(DatasetError, match="a shard is damaged"):
        parquet.export(tiny_dataset, tmp_path, Part.of(tiny_dataset.manifest))
    assert not list(tmp_path.rglob("*.part"))
    for path in tmp_path.rglob("*.parquet"):
        assert pq.ParquetFile(path).metadata.num_rows > 0  # those that were finished are whole
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fmcs-bench-parquet")]


def test_a_store_that_does_not_hold_what_the_manifest_states(tiny_dataset, tmp_path):
    dataset = FmcsDataset(tiny_dataset.path)
    images = dataset.manifest.images
    more = images.model_copy(update={"num_images": images.num_images | {"test": images.num_images["test"] + 1}})
    dataset.manifest = dataset.manifest.model_copy(update={"images": more})
    with pytest.raises(DatasetError, match="maps for default/test, and its manifest"):
        parquet.export(dataset, tmp_path, Part.of(dataset.manifest))


def test_an_export_that_goes_on_keeps_files_and_gives_equal_bytes(published, tiny_dataset, tmp_path):
    part = Part.of(tiny_dataset.manifest)
    written = parquet.export(tiny_dataset, tmp_path, part)
    names = [name for split in written for name in split.files]
    (tmp_path / names[0]).unlink()
    times = [(tmp_path / name).stat().st_mtime_ns for name in names[1:]]
    assert parquet.export(tiny_dataset, tmp_path, part, resume=True) == written
    assert [(tmp_path / name).stat().st_mtime_ns for name in names[1:]] == times
    for name in names:
        assert (tmp_path / name).read_bytes() == (published / name).read_bytes()
