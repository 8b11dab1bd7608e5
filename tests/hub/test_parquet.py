import json
import threading
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pytest
from conftest import build_tiny
from helpers.published_folder import publish
from pyarrow import parquet as pq

from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.hub import parquet
from fmcs_bench.store import map_array
from fmcs_bench.store.publication import CONFIGURATIONS, Part
from fmcs_bench.store.reader import FmcsDataset

SPLITS = [(configuration, split) for configuration, splits in CONFIGURATIONS.items() for split in splits]


@pytest.fixture(scope="module")
def published(tiny_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    return folder, publish(tiny_dataset, folder).parquet


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load_dataset(*args, **kwargs):
    """Without bars; nothing else is changed."""
    datasets.disable_progress_bars()
    return datasets.load_dataset(*args, **kwargs)


def selected(dataset, configuration, split, **options):
    role, image_split = CONFIGURATIONS[configuration][split]
    return dataset.sel(role, split=image_split, **options)


def assert_same_rows(table: pa.Table, selection, manifest):
    assert len(table) == len(selection) > 0
    values = {name: table.column(name).to_numpy() for name in parquet.NUMBERS}
    np.testing.assert_array_equal(values["image_id"], selection.image_ids_M)
    np.testing.assert_array_equal(values["label"], selection.labels_M)
    np.testing.assert_array_equal(values["run"], selection.runs_M)
    np.testing.assert_array_equal(values["stage"], selection.stages_M + 1)
    np.testing.assert_array_equal(values["fmcs"], selection.stages_M)
    epochs = {(run.seed, stage.stage): stage.epoch for run in manifest.runs for stage in run.stages}
    rows = zip(values["run"].tolist(), values["stage"].tolist(), strict=True)
    assert values["epoch"].tolist() == [epochs[row] for row in rows]
    flat = table.column("feature_map").combine_chunks().flatten().to_numpy()
    np.testing.assert_array_equal(flat.reshape(selection.shape).view(np.uint16), selection[:].view(np.uint16))


@pytest.mark.parametrize(("configuration", "split"), SPLITS)
def test_datasets_alone_reads_every_row(published, tiny_dataset, configuration, split):
    folder, _ = published
    rows = load_dataset(str(folder), configuration, split=split)
    assert rows.features == parquet.features(tiny_dataset.manifest)
    assert_same_rows(rows.data.table, selected(tiny_dataset, configuration, split), tiny_dataset.manifest)
    row = rows[1]
    selection = selected(tiny_dataset, configuration, split)
    assert np.array_equal(np.reshape(row["feature_map"], selection.shape[1:]), selection[1])
    assert rows.features["fmcs"].int2str(row["fmcs"]) == str(row["stage"])


def test_all_configurations_are_found_and_no_other_rows(published):
    folder, written = published
    assert set(datasets.get_dataset_config_names(str(folder))) == set(CONFIGURATIONS)
    found = {name: load_dataset(str(folder), name) for name in CONFIGURATIONS}
    for split in written:
        assert found[split.configuration][split.split].num_rows == split.num_rows
    assert sum(map(len, found.values())) == len(written)


def test_bare_parquet_files_have_the_same_features(published, tiny_dataset):
    folder, written = published
    file = str(folder / written[0].files[0])
    rows = load_dataset("parquet", data_files=file, split="train")
    assert rows.features == parquet.features(tiny_dataset.manifest)
    assert rows.features["label"].names == list(tiny_dataset.manifest.images.classes)
    assert rows.features["feature_map"].feature.id == "x".join(map(str, tiny_dataset.manifest.map_shape))
    streamed = next(iter(load_dataset("parquet", data_files=file, split="train", streaming=True)))
    assert streamed == rows[0]


def test_the_features_have_one_meaning_in_card_file_and_code(tiny_dataset):
    manifest = tiny_dataset.manifest
    assert datasets.Features._from_yaml_list(parquet.features_yaml(manifest)) == parquet.features(manifest)
    assert parquet.features(manifest).arrow_schema == parquet.arrow_schema(manifest)


def test_any_parquet_reader_finds_shape_and_dataset(published, tiny_dataset):
    folder, written = published
    file = pq.ParquetFile(folder / written[0].files[0])
    assert json.loads(file.schema_arrow.metadata[b"fmcs_bench"]) == {
        "dataset_id": tiny_dataset.id,
        "map_shape": list(tiny_dataset.manifest.map_shape),
    }
    statistics = {file.schema.column(i).path: file.metadata.row_group(0).column(i).statistics for i in range(7)}
    assert statistics["stage"].min == 1  # readers skip row groups by it
    assert statistics["feature_map.list.element"] is None


def test_what_is_said_of_a_split_is_so(published):
    folder, written = published
    assert [(split.configuration, split.split) for split in written] == SPLITS
    on_disk = {path.relative_to(folder).as_posix() for path in (folder / "parquet").rglob("*") if path.is_file()}
    assert on_disk == {name for split in written for name in split.files}
    for split in written:
        tables = [pq.read_table(folder / name) for name in split.files]
        assert sum(map(len, tables)) == split.num_rows
        assert sum(table.nbytes for table in tables) == pytest.approx(split.memory_bytes, rel=0.01)  # validity bits


def test_equal_data_gives_equal_bytes(published, tiny_dataset, tmp_path):
    folder, written = published
    again = parquet.export(FmcsDataset(tiny_dataset.path), tmp_path, Part.of(tiny_dataset.manifest))
    assert again == written
    for name in (name for split in written for name in split.files):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_many_files_and_row_groups(tiny_dataset, tmp_path, monkeypatch):
    manifest = tiny_dataset.manifest
    monkeypatch.setattr(parquet, "GROUP_BYTES", 7 * parquet.map_bytes(manifest) + 1)
    monkeypatch.setattr(parquet, "FILE_BYTES", 50 * parquet.map_bytes(manifest))
    read = []
    gather = parquet.gather

    def spy(arrays, source_M, *args, **kwargs):
        read.append(len(source_M))
        return gather(arrays, source_M, *args, **kwargs)

    monkeypatch.setattr(parquet, "gather", spy)
    written = publish(tiny_dataset, tmp_path / "out").parquet
    train = written[0]
    assert len(train.files) == -(-train.num_rows // 50) > 2
    assert train.files[-1] == f"parquet/default/train-{len(train.files) - 1:05d}-of-{len(train.files):05d}.parquet"
    assert max(read) == 7  # never more at once: memory does not depend on the number of maps
    metadata = pq.ParquetFile(tmp_path / "out" / train.files[0]).metadata
    assert {metadata.row_group(i).num_rows for i in range(metadata.num_row_groups - 1)} == {7}
    assert all(pq.ParquetFile(tmp_path / "out" / name).metadata.num_rows <= 50 for name in train.files)
    for configuration, split in SPLITS:
        rows = load_dataset(str(tmp_path / "out"), configuration, split=split)
        assert_same_rows(rows.data.table, selected(tiny_dataset, configuration, split), manifest)


def test_a_part_has_its_runs_stages_and_splits_only(tiny_dataset, tmp_path):
    manifest = tiny_dataset.manifest
    seed = tiny_dataset.seeds("training")[1]
    part = Part.of(manifest, runs=[seed, *tiny_dataset.seeds("test")], stages=[1, 3], splits=["train", "test"])
    written = publish(tiny_dataset, tmp_path / "out", part=part).parquet
    assert [(split.configuration, split.split) for split in written] == [
        ("default", "train"), ("default", "test"), ("same_run", "test"),
    ]  # fmt: skip
    rows = load_dataset(str(tmp_path / "out"), split="train")
    assert_same_rows(rows.data.table, tiny_dataset.sel(seed, [1, 3], "train"), manifest)
    assert rows.features["fmcs"].names == ["1", "2", "3"]


def test_a_part_that_gives_no_file(tiny_dataset, tmp_path):
    part = Part.of(tiny_dataset.manifest, runs=tiny_dataset.seeds("validation"), splits=["test"])
    for of in (parquet.export, parquet.estimate):
        arguments = (tiny_dataset, tmp_path) if of is parquet.export else (tiny_dataset.manifest,)
        with pytest.raises(
            ConfigError, match=r"\(validation\) with the splits test .* give no Parquet file: default/tr"
        ):
            of(*arguments, part)
    assert not any(tmp_path.iterdir())


def test_the_values_of_maps_are_packed_by_bytes(published):
    folder, written = published
    for split in written:
        group = pq.ParquetFile(folder / split.files[0]).metadata.row_group(0)
        columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
        assert "BYTE_STREAM_SPLIT" in columns["feature_map.list.element"].encodings
        assert {column.compression for column in columns.values()} == {"ZSTD"}


def test_a_part_of_another_dataset(tiny_dataset, tmp_path):
    part = Part.of(tiny_dataset.manifest).model_copy(update={"dataset_digest": "0" * 64})
    with pytest.raises(ConfigError, match="the part is of the dataset 000000000000, not of"):
        parquet.export(tiny_dataset, tmp_path, part)


@pytest.mark.parametrize("codec", ["q8"])
def test_other_codecs_give_the_values_that_are_read_back(codec, tmp_path):
    dataset = build_tiny(tmp_path / "workspace", codec=codec)
    written = publish(dataset, tmp_path / "published").parquet
    for configuration, split in (("default", "train"), ("unseen", "test")):
        rows = load_dataset(str(tmp_path / "published"), configuration, split=split)
        assert_same_rows(rows.data.table, selected(dataset, configuration, split), dataset.manifest)
    assert_estimate(dataset, tmp_path / "published", written)


def test_the_size_is_known_before(published, tiny_dataset):
    assert_estimate(tiny_dataset, *published)


def assert_estimate(dataset, folder, written):
    size = sum((folder / name).stat().st_size for split in written for name in split.files)
    estimate = parquet.estimate(dataset.manifest, Part.of(dataset.manifest))
    assert size / 1.5 < estimate < size * 1.5
    assert parquet.estimate(dataset.manifest, Part.of(dataset.manifest, stages=[1])) == pytest.approx(
        estimate / dataset.num_stages, rel=0.3
    )


def test_a_failure_leaves_no_half_file_and_ends_the_other_writers(tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_BYTES", 7 * parquet.map_bytes(tiny_dataset.manifest))
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
    assert next(calls) < 100
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fmcs-bench-parquet")]


def test_a_store_that_does_not_hold_what_the_manifest_says(tiny_dataset, tmp_path):
    dataset = FmcsDataset(tiny_dataset.path)
    images = dataset.manifest.images
    more = images.model_copy(update={"num_images": images.num_images | {"test": images.num_images["test"] + 1}})
    dataset.manifest = dataset.manifest.model_copy(update={"images": more})
    with pytest.raises(DatasetError, match="maps for default/test, and its manifest"):
        parquet.export(dataset, tmp_path, Part.of(dataset.manifest))


def test_files_that_are_there_are_kept_where_an_export_goes_on(tiny_dataset, tmp_path):
    part = Part.of(tiny_dataset.manifest)
    written = parquet.export(tiny_dataset, tmp_path, part)
    first, *others = (tmp_path / name for split in written for name in split.files)
    content = first.read_bytes()
    first.unlink()
    times = [path.stat().st_mtime_ns for path in others]
    assert parquet.export(tiny_dataset, tmp_path, part, resume=True) == written
    assert first.read_bytes() == content
    assert [path.stat().st_mtime_ns for path in others] == times
    parquet.export(tiny_dataset, tmp_path, part)
    assert all(path.stat().st_mtime_ns > time for path, time in zip(others, times, strict=True))


def test_progress_counts_every_row_once(tiny_dataset, tmp_path):
    class Counting:
        total = done = 0

        def task(self, description, total):
            assert description
            self.total = total
            return self

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def advance(self, steps=1):
            self.done += steps

    progress = Counting()
    written = parquet.export(tiny_dataset, tmp_path, Part.of(tiny_dataset.manifest), progress=progress)
    assert progress.done == progress.total == sum(split.num_rows for split in written)


def test_largest_file_is_bounded_before_compression(tiny_dataset):
    split = parquet.plan(tiny_dataset.manifest, Part.of(tiny_dataset.manifest))[0]
    planned = replace(split, num_rows=100_001, num_files=7)
    assert [rows.start for rows in map(planned.rows, range(7))][1:] == [
        rows.stop for rows in map(planned.rows, range(6))
    ]
    assert planned.rows(6).stop == 100_001
    assert len(planned.files) == 7
