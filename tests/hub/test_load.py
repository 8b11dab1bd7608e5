"""``fmcs_bench.load``: rows as arrays, in place or from a Hub on this machine."""

import copy
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import subprocess_environment
from helpers.hub_server import HubServer, use
from torch.utils.data import DataLoader

import fmcs_bench as fb
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError, SupersededWarning
from fmcs_bench.hub import load

FIRST, SECOND = "1" * 40, "2" * 40
PARQUET = "parquet/default/test-00000-of-00001.parquet"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    with HubServer() as server:
        use(server, monkeypatch, tmp_path)
        server.add("me/tiny", published, FIRST)
        yield server


def test_one_line_gives_maps(published, tiny_dataset):
    rows = fb.load(published, split="test")
    selection = tiny_dataset.sel("test", split="test")
    maps_BDHW = rows[:]["feature_map"]
    assert maps_BDHW.dtype == torch.float16
    np.testing.assert_array_equal(maps_BDHW.numpy(), selection[:])
    assert rows[:]["image_id"].tolist() == selection.image_ids_M.tolist()
    assert rows[:]["image_id"].dtype == rows[:]["stage"].dtype == torch.int64
    assert rows[5]["feature_map"].shape == tiny_dataset.manifest.map_shape
    assert torch.equal(rows["feature_map"][3:7], maps_BDHW[3:7])
    assert list(fb.load(str(published))) == ["train", "validation", "test"]
    unseen = fb.load(published, "unseen")["test"]
    np.testing.assert_array_equal(unseen[:]["feature_map"], tiny_dataset.sel("test", split="unseen")[:])


def test_any_rows_in_any_order(published, tiny_dataset):
    rows = fb.load(published, split="train")
    selection = tiny_dataset.sel("training", split="train")
    order = np.random.default_rng(3).permutation(len(selection))
    for found, expected in (
        (rows[[7, 0, 7, 30]], [7, 0, 7, 30]),
        (rows[range(20, 4, -3)], range(20, 4, -3)),
        (rows.select(order[:20])[3:9], order[3:9]),
        (datasets.concatenate_datasets([rows.select(range(4)), rows.select(range(8, 10))])[:], [0, 1, 2, 3, 8, 9]),
        (rows.shard(4, 1, contiguous=False)[:], range(1, len(selection), 4)),
        (fb.load(published, split="train[4:9]")[:], range(4, 9)),
    ):
        np.testing.assert_array_equal(found["feature_map"], selection[list(expected)])
        found["feature_map"][:] = 0  # is a copy, and not the file


def test_streaming(published, tiny_dataset):
    rows = fb.load(published, split="test", streaming=True)
    selection = tiny_dataset.sel("test", split="test")
    found = list(rows)
    np.testing.assert_array_equal(torch.stack([row["feature_map"] for row in found]), selection[:])
    batches = list(rows.iter(batch_size=16))
    np.testing.assert_array_equal(torch.cat([batch["feature_map"] for batch in batches]), selection[:])
    shuffled = list(rows.shuffle(seed=1, buffer_size=20))
    assert sorted(row["image_id"].item() for row in shuffled) == sorted(selection.image_ids_M.tolist())
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
    assert (doubled["feature_map"] == torch.from_numpy(selection[0] * 2)).all()
    kept = rows.filter(lambda row: row["stage"] == 2)
    assert {row["fmcs"].item() for row in kept} == {1}


@pytest.mark.parametrize(("streaming", "workers"), [(False, 0), (False, 2), (True, 1)])
def test_data_loader(published, tiny_dataset, streaming, workers):
    rows = fb.load(published, split="test", streaming=streaming)
    options = {"multiprocessing_context": "fork"} if workers else {}
    batches = list(DataLoader(rows, batch_size=16, num_workers=workers, **options))
    selection = tiny_dataset.sel("test", split="test")
    np.testing.assert_array_equal(torch.cat([batch["feature_map"] for batch in batches]), selection[:])
    assert torch.cat([batch["fmcs"] for batch in batches]).tolist() == selection.stages_M.tolist()


def test_another_process_knows_the_format(published, tiny_dataset, tmp_path):
    file = tmp_path / "rows.pickle"
    file.write_bytes(pickle.dumps(fb.load(published, split="test")))
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
    again.info.features["feature_map"].feature = datasets.Value("float16")
    with pytest.raises(DatasetError, match="shape of the maps is not known"):
        again.with_format(load.FORMAT)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"configuration": "defualt"}, "configuration = 'defualt' of .*; did you mean default"),
        ({"configuration": "unseen", "split": "train"}, "split = 'train' .*; allowed are test"),
        ({"split": "test+dev"}, "allowed are train, validation, test"),
        ({"split": "test[4:9]", "streaming": True}, r"split = 'test\[4:9\]', streaming = True"),
        ({"revision": "main"}, "revision = 'main' of the folder"),
    ],
    ids=str,
)
def test_wrong_use(published, arguments, message):
    with pytest.raises(ConfigError, match=message):
        fb.load(published, **arguments)


@pytest.mark.parametrize("place", ["nowhere", "./owner/name", "a/b/c", "", Path("owner/name")])
def test_a_place_that_is_none(place):
    with pytest.raises(MissingDataError, match=r"there is no folder .*give a published folder or owner/name"):
        fb.load(place)


def test_folders_that_are_damaged_or_not_published(published, tiny_dataset, tmp_path):
    with pytest.raises(DatasetError, match=r"is no published FMCS dataset \(no publication.json\)"):
        fb.load(tiny_dataset.path)
    folder = shutil.copytree(published, tmp_path / "[c]o*py")  # a path, and no pattern
    file, value = folder / PARQUET, json.loads((folder / "publication.json").read_bytes())
    data = file.read_bytes()
    assert len(fb.load(folder, split="test"))
    for content, error, message in (
        (data[:-1], DatasetError, r" bytes; publication.json states"),
        (bytes(len(data)), DatasetError, "Parquet files of .* are damaged"),
        (None, MissingDataError, "is not on this machine"),
    ):
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(error, match=message):
            fb.load(folder, split="test")
        file.touch()
    assert len(fb.load(folder, split="validation"))  # others are there
    (folder / "publication.json").write_text(json.dumps(value | {"parquet": []}))
    with pytest.raises(MissingDataError, match="was published without Parquet files"):
        fb.load(folder)
    for content in ("{", "[]", '{"schema_version": 9}', "\xff"):
        (folder / "publication.json").write_text(content, encoding="latin-1")
        with pytest.raises(DatasetError, match=r"publication.json of .* is damaged, or of a later version"):
            fb.load(folder)


def test_a_successor_is_named(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "old")
    value = json.loads((folder / "publication.json").read_bytes()) | {"superseded_by": "owner/name-2"}
    (folder / "publication.json").write_text(json.dumps(value))
    with pytest.warns(SupersededWarning, match="is superseded by owner/name-2: load that") as caught:
        fb.load(folder, split="test")
    assert caught[0].filename == __file__


# From a Hub


def asked_files(hub):
    return {one.path.split("/")[-1] for one in hub.requests(r"/resolve/")}


@pytest.mark.parametrize("streaming", [False, True])
def test_only_what_is_asked_for_is_fetched(hub, tiny_dataset, streaming):
    rows = list(fb.load("me/tiny", split="test", streaming=streaming))
    maps = torch.stack([row["feature_map"] for row in rows])
    np.testing.assert_array_equal(maps, tiny_dataset.sel("test", split="test")[:])
    assert asked_files(hub) == {"publication.json", "test-00000-of-00001.parquet"}
    assert not hub.requests("/resolve/.*(same_run|unseen)")


def test_all_files_come_from_one_commit(hub, tiny_dataset, tmp_path):
    fb.publish(tiny_dataset, to=tmp_path / "second", stages=[3])
    hub.add("me/tiny", tmp_path / "second", SECOND)
    assert set(fb.load("me/tiny", split="test")["stage"][:].tolist()) == {3}
    assert len(set(fb.load("me/tiny", split="test", revision=FIRST)["stage"][:].tolist())) == 3
    assert all(FIRST in one.path or SECOND in one.path or "main" in one.path for one in hub.requests("/resolve/"))


def test_offline_gives_what_was_fetched_at_that_revision_only(hub, monkeypatch):
    from huggingface_hub import constants

    expected = fb.load("me/tiny", split="test")
    hub.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision in (None, FIRST):
        assert fb.load("me/tiny", split="test", revision=revision)[:]["image_id"].equal(expected[:]["image_id"])
    for options in ({"split": "test", "revision": SECOND}, {"split": "train"}):
        with pytest.raises(MissingDataError, match=r"is not on this machine|HF_HUB_OFFLINE is set"):
            fb.load("me/tiny", **options)
    assert hub.requests() == []


def test_what_is_not_there(hub, tmp_path):
    (tmp_path / "README.md").write_text("A card.")
    hub.add("me/plain", tmp_path)
    for name, revision, text in (
        ("me/other", None, "me/other does not exist"),
        ("me/tiny", "v9", "no such revision"),
        ("me/plain", None, "lacks a file of a published FMCS dataset"),
    ):
        with pytest.raises(MissingDataError, match=text):
            fb.load(name, revision=revision)
