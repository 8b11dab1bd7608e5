import copy
import json
import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import subprocess_environment
from helpers.published_folder import publish
from torch.utils.data import DataLoader

import fmcs_bench as fb
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError, SupersededWarning
from fmcs_bench.hub import formatting
from fmcs_bench.store.publication import FILE


@pytest.fixture(scope="module")
def published(tiny_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    publish(tiny_dataset, folder)
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_one_line_gives_maps(published, tiny_dataset):
    rows = fb.load(published, split="test")
    selection = tiny_dataset.sel("test", split="test")
    maps_BDHW = rows[:]["feature_map"]
    assert maps_BDHW.dtype == torch.float16
    np.testing.assert_array_equal(maps_BDHW.numpy(), selection[:])
    assert rows[:]["image_id"].tolist() == selection.image_ids_M.tolist()
    assert rows[:]["image_id"].dtype == rows[:]["stage"].dtype == torch.int64
    assert rows[:]["epoch"].dtype == torch.float64
    assert rows[5]["feature_map"].shape == tiny_dataset.manifest.map_shape
    assert torch.equal(rows["feature_map"][3:7], maps_BDHW[3:7])


def test_configurations_and_all_splits(published, tiny_dataset):
    assert list(fb.load(str(published))) == ["train", "validation", "test"]
    found = fb.load(published, "unseen")
    assert isinstance(found, datasets.DatasetDict)
    np.testing.assert_array_equal(found["test"][:]["feature_map"], tiny_dataset.sel("test", split="unseen")[:])
    same = fb.load(published, "same_run", split="test")
    np.testing.assert_array_equal(same[:]["feature_map"], tiny_dataset.sel("training", split="test")[:])


@pytest.mark.parametrize("index", [[7, 0, 7, 30], slice(3, 9), range(20, 4, -3), np.array([2, 1])])
def test_any_rows(published, tiny_dataset, index):
    rows = fb.load(published, split="train", library="numpy")
    selection = tiny_dataset.sel("training", split="train")
    found = rows[index]
    np.testing.assert_array_equal(found["feature_map"], selection[list(index) if isinstance(index, range) else index])
    assert found["feature_map"].dtype == np.float16
    found["feature_map"][:] = 0  # is a copy, and not the file


def test_shuffled_selected_and_concatenated_rows(published, tiny_dataset):
    rows = fb.load(published, split="train")
    selection = tiny_dataset.sel("training", split="train")
    order = np.random.default_rng(3).permutation(len(selection))
    for some, expected in (
        (rows.select(order[:20]), order[:20]),
        (datasets.concatenate_datasets([rows.select(range(4)), rows.select(range(8, 12))]), [0, 1, 2, 3, 8, 9, 10, 11]),
        (rows.shard(4, 1, contiguous=False), range(1, len(selection), 4)),
    ):
        np.testing.assert_array_equal(some[:]["feature_map"], selection[list(expected)])


@pytest.mark.parametrize(
    ("library", "dtype", "expected"),
    [
        ("torch", "float32", torch.float32),
        ("torch", torch.bfloat16, torch.bfloat16),
        ("torch", np.float32, torch.float32),
        ("numpy", "float32", np.float32),
        ("numpy", torch.float16, np.float16),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_types_of_numbers(published, tiny_dataset, library, dtype, expected, streaming):
    row = next(iter(fb.load(published, split="test", library=library, dtype=dtype, streaming=streaming)))
    assert row["feature_map"].dtype == expected
    assert row["image_id"].dtype == (np.int64 if library == "numpy" else torch.int64)
    value = tiny_dataset.sel("test", split="test")[0]
    expected_value = torch.from_numpy(value).to(expected) if library == "torch" else value.astype(expected)
    assert (row["feature_map"] == expected_value).all()


def test_streaming(published, tiny_dataset):
    rows = fb.load(published, split="test", streaming=True)
    assert isinstance(rows, datasets.IterableDataset)
    selection = tiny_dataset.sel("test", split="test")
    found = list(rows)
    np.testing.assert_array_equal(torch.stack([row["feature_map"] for row in found]), selection[:])
    assert [row["image_id"].item() for row in found] == selection.image_ids_M.tolist()
    batches = list(rows.iter(batch_size=16))
    np.testing.assert_array_equal(torch.cat([batch["feature_map"] for batch in batches]), selection[:])
    shuffled = list(rows.shuffle(seed=1, buffer_size=20))
    assert {row["feature_map"].shape for row in shuffled} == {tiny_dataset.manifest.map_shape}
    assert sorted(row["image_id"].item() for row in shuffled) == sorted(selection.image_ids_M.tolist())
    assert [row["image_id"] for row in shuffled] != [row["image_id"] for row in found]
    assert next(iter(rows.skip(4)))["feature_map"].equal(found[4]["feature_map"])


@pytest.mark.parametrize("streaming", [False, True])
def test_functions_get_and_keep_maps(published, tiny_dataset, streaming):
    rows = fb.load(published, split="test", streaming=streaming)
    selection = tiny_dataset.sel("test", split="test")
    means = rows.map(lambda row: {"mean": row["feature_map"].float().mean()})
    row = next(iter(means))
    assert row["feature_map"].shape == tiny_dataset.manifest.map_shape
    assert row["mean"] == pytest.approx(selection[0].astype(np.float32).mean(), rel=1e-5)
    doubled = next(iter(rows.map(lambda row: {"feature_map": row["feature_map"] * 2})))
    assert doubled["feature_map"].dtype == torch.float16
    assert (doubled["feature_map"] == torch.from_numpy(selection[0] * 2)).all()
    kept = rows.filter(lambda row: row["stage"] == 2)
    assert {row["fmcs"].item() for row in kept} == {1}
    assert next(iter(kept))["feature_map"].dtype == torch.float16
    names = next(iter(rows.map(lambda row: {"name": f"image {row['image_id']}"})))
    assert names["name"] == f"image {selection.image_ids_M[0]}"


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(published, tiny_dataset, streaming, workers):
    rows = fb.load(published, split="test", streaming=streaming)
    options = {"multiprocessing_context": "fork"} if workers else {}
    loader = DataLoader(rows, batch_size=16, num_workers=1 if streaming and workers else workers, **options)
    batches = list(loader)
    selection = tiny_dataset.sel("test", split="test")
    np.testing.assert_array_equal(torch.cat([batch["feature_map"] for batch in batches]), selection[:])
    assert torch.cat([batch["fmcs"] for batch in batches]).tolist() == selection.stages_M.tolist()


@pytest.mark.parametrize("streaming", [False, True])
def test_another_process_knows_the_format(published, tiny_dataset, tmp_path, streaming):
    rows = fb.load(published, split="test", streaming=streaming)
    file = tmp_path / "rows.pickle"
    file.write_bytes(pickle.dumps(rows))
    code = f"import pickle; print(next(iter(pickle.load(open({str(file)!r}, 'rb'))))['feature_map'].shape)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=subprocess_environment(), check=False
    )
    assert done.stdout.strip() == str(torch.Size(tiny_dataset.manifest.map_shape))


def test_what_is_saved_is_read_without_this_package(published, tmp_path):
    rows = fb.load(published, split="test")
    assert rows.features == rows.with_format(None).features == copy.deepcopy(rows).features
    rows.save_to_disk(tmp_path / "saved")
    again = datasets.load_from_disk(tmp_path / "saved").with_format(None)
    assert again[3] == rows.with_format(None)[3]
    assert type(again.features["feature_map"].feature) is datasets.Value


def test_a_format_without_a_shape_is_refused(published):
    rows = fb.load(published, split="test").with_format(None)
    rows.info.features["feature_map"].feature = datasets.Value("float16")
    with pytest.raises(DatasetError, match="shape of the maps is not known"):
        rows.with_format(formatting.format_name("torch", "float16"))[0]


def test_slices_of_splits(published, tiny_dataset):
    selection = tiny_dataset.sel("test", split="test")
    np.testing.assert_array_equal(fb.load(published, split="test[4:9]")[:]["feature_map"], selection[4:9])
    both = fb.load(published, split="validation+test")
    assert len(both) == len(selection) + len(tiny_dataset.sel("validation", split="validation"))
    with pytest.raises(ConfigError, match=r"split = 'test\[4:9\]', streaming = True of"):
        fb.load(published, split="test[4:9]", streaming=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"configuration": "defualt"}, "configuration = 'defualt' of .*; did you mean default"),
        (
            {"configuration": "unseen", "split": "train"},
            "split = 'train' of the configuration unseen; allowed are test",
        ),
        ({"split": "dev"}, "split = 'dev' of the configuration default; allowed are train, validation, test"),
        ({"split": "test+dev"}, "allowed are train, validation, test"),
        ({"revision": "main"}, "revision = 'main' of the folder .*; only a repository on the Hub has revisions"),
        ({"library": "jax"}, "library = 'jax'; allowed are torch, numpy"),
        ({"dtype": "int8"}, "dtype = 'int8'; allowed with torch are float16, bfloat16, float32"),
        ({"dtype": torch.bfloat16, "library": "numpy"}, "allowed with numpy are float16, float32"),
        ({"dtype": "half a float"}, "dtype = 'half a float'; allowed"),
    ],
)
def test_wrong_use(published, arguments, message):
    with pytest.raises(ConfigError, match=message):
        fb.load(published, **arguments)


@pytest.mark.parametrize("place", ["nowhere", "./owner/name", "a/b/c", "", Path("owner/name")])
def test_a_place_that_is_none(place):
    with pytest.raises(MissingDataError, match=r"there is no folder .*give a published folder or owner/name"):
        fb.load(place)


def test_a_folder_that_was_not_published(tiny_dataset, tmp_path):
    with pytest.raises(DatasetError, match=r"is no published FMCS dataset \(no publication.json\)"):
        fb.load(tiny_dataset.path)
    for content in ("{", "[]", '{"schema_version": 2}', "\xff"):
        (tmp_path / FILE).write_text(content, encoding="latin-1")
        with pytest.raises(DatasetError, match=r"publication.json of .* is damaged, or of a later version"):
            fb.load(tmp_path)


def test_files_that_are_missing_cut_off_or_elsewhere(published, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(published, folder)
    file = folder / "parquet/default/test-00000-of-00001.parquet"
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    with pytest.raises(DatasetError, match=r"test-00000-of-00001.parquet of .* bytes; publication.json says"):
        fb.load(folder, split="test")
    file.unlink()
    with pytest.raises(MissingDataError, match=r"test-00000-of-00001.parquet of .* is not on this machine"):
        fb.load(folder, split="test")
    assert len(fb.load(folder, split="validation"))  # others are there
    file.write_bytes(bytes(len(data)))
    with pytest.raises(DatasetError, match=r"the Parquet files of .* are damaged"):
        fb.load(folder, split="test")
    value = json.loads((folder / FILE).read_bytes())
    (folder / FILE).write_text(json.dumps(value | {"parquet": []}))
    with pytest.raises(MissingDataError, match="was published without Parquet files"):
        fb.load(folder)


def test_a_successor_is_named(published, tiny_dataset, tmp_path):
    publish(tiny_dataset, tmp_path / "old", superseded_by="owner/name-2")
    with pytest.warns(SupersededWarning, match="is superseded by owner/name-2: load that") as caught:
        fb.load(tmp_path / "old", split="test")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fb.load(published, split="test")


@pytest.mark.parametrize("streaming", [False, True])
def test_the_hub_is_not_asked_where_that_is_forbidden(monkeypatch, streaming):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        MissingDataError, match=r"repository owner/name at v1 is not in the Hub's cache .*HF_HUB_OFFLINE"
    ):
        fb.load("owner/name", revision="v1", streaming=streaming)


def test_importing_does_not_load_the_hub_library():
    code = "import fmcs_bench; fmcs_bench.load; import sys; print('datasets' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=subprocess_environment(), check=True
    )
    assert done.stdout.strip() == "False"
