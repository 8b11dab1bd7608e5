"""Selections know their labels without reading a map, and read the maps that zarr-python reads."""

import json
import operator
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

import fmcs_bench as fb
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.store import selection
from fmcs_bench.store.selection import MapSelection


def stored(dataset, chosen):
    """The maps of a selection, by zarr-python, found by run, stage and image id alone."""
    ids_N = np.asarray(dataset.array("image_id")[:])
    maps = {run: np.asarray(dataset.array(f"run-{run}/feature_maps")[:]) for run in np.unique(chosen.runs_M)}
    ids = {run: ids_N[np.asarray(dataset.array(f"run-{run}/image")[:])].tolist() for run in maps}
    places = zip(chosen.runs_M, chosen.stages_M, chosen.image_ids_M, strict=True)
    return np.stack([maps[run][stage, ids[run].index(image)] for run, stage, image in places])


@pytest.mark.parametrize(
    ("options", "runs", "stages", "splits"),
    [
        ({}, [0, 1, 2, 3], [0, 1, 2], SPLITS),
        ({"run": 3}, [3], [0, 1, 2], SPLITS[1:]),
        ({"run": "training", "split": "train"}, [0, 1], [0, 1, 2], ("train",)),
        ({"run": ["test", 0], "stage": 2}, [3, 0], [1], SPLITS),
        ({"stage": [3, 1], "split": ["unseen", "test"]}, [0, 1, 2, 3], [2, 0], ("test", "unseen")),
        ({"run": np.int64(1), "stage": range(1, 3), "split": "validation"}, [1], [0, 1], ("validation",)),
    ],
)
def test_choosing_by_run_stage_and_split(tiny_dataset, options, runs, stages, splits):
    chosen = tiny_dataset.sel(**options)
    assert list(dict.fromkeys(chosen.runs_M.tolist())) == runs
    assert list(dict.fromkeys(chosen.stages_M.tolist())) == stages
    assert {SPLITS[i] for i in chosen.splits_M} == set(splits)
    split_N = dict(zip(tiny_dataset.array("image_id")[:], tiny_dataset.array("split")[:], strict=True))
    label_N = dict(zip(tiny_dataset.array("image_id")[:], tiny_dataset.array("label")[:], strict=True))
    assert [split_N[image] for image in chosen.image_ids_M] == chosen.splits_M.tolist()
    assert [label_N[image] for image in chosen.image_ids_M] == chosen.labels_M.tolist()
    expected = 0
    for run in runs:
        of_run = np.asarray(tiny_dataset.array("split")[:])[np.asarray(tiny_dataset.array(f"run-{run}/image")[:])]
        expected += len(stages) * int(np.isin(of_run, [SPLITS.index(split) for split in splits]).sum())
    assert len(chosen) == expected
    assert len({*zip(chosen.runs_M, chosen.stages_M, chosen.image_ids_M, strict=True)}) == expected
    assert chosen.is_direct
    np.testing.assert_array_equal(chosen.load().maps_MDHW, stored(tiny_dataset, chosen))


def test_a_selection_reads_nothing_until_it_is_indexed(tiny_dataset, tmp_path):
    dataset = fb.open(shutil.copytree(tiny_dataset.path, tmp_path / "copy"))
    chosen = dataset.sel(run="test", split="test")
    for shard in (dataset.path / "maps.zarr/run-3/feature_maps/c").rglob("*"):
        if shard.is_file():
            shard.unlink()
    assert len(chosen) == len(chosen.take([0, 1, 2])) + len(chosen) - 3
    assert chosen.sizes == {"map": len(chosen), "channel": 64, "y": 2, "x": 2}
    assert chosen.shape == tuple(chosen.sizes.values())
    assert f"map: {len(chosen)}, channel: 64" in repr(chosen)
    assert chosen.nbytes == 2 * np.prod(chosen.shape)
    with pytest.raises(DatasetError, match=r"run-3/feature_maps/c/0/0/0/0/0 is missing"):
        chosen[0]


def test_indexing_is_numpys(tiny_dataset):
    chosen = tiny_dataset.sel(run=[0, 3], split=["test", "unseen"])
    maps = chosen.load().maps_MDHW
    assert maps.dtype == np.float16
    for m in (0, -1, len(chosen) // 2, np.int64(5)):
        np.testing.assert_array_equal(chosen[m], maps[m])
        assert chosen[m].shape == maps[m].shape
    mask = np.random.default_rng(0).random(len(chosen)) < 0.3
    for index in (
        slice(3, 40, 7),
        slice(None, None, -1),
        [4, 0, 4, -1],
        np.array([7], np.int32),
        mask,
        [],
        slice(0, 0),
    ):
        np.testing.assert_array_equal(chosen[index], maps[index if len(np.atleast_1d(index)) else slice(0, 0)])
        taken = chosen.take(index)
        assert isinstance(taken, MapSelection)
        np.testing.assert_array_equal(taken[:], chosen[index])
        np.testing.assert_array_equal(taken.image_ids_M, chosen.image_ids_M[index if len(taken) else slice(0, 0)])
    np.testing.assert_array_equal(np.asarray(chosen), maps)
    assert len(list(iter(chosen))) == len(chosen)
    for index in (len(chosen), -len(chosen) - 1, [0, len(chosen)], "a", [0.5], [[0]], mask[:-1], None):
        with pytest.raises(IndexError):
            chosen[index]


def test_select_is_sel_in_memory(tiny_dataset):
    selected, chosen = tiny_dataset.select(0, "train", limit=7), tiny_dataset.sel(0, split="train", limit=7)
    assert len(selected) == len(chosen) == 7 * 3
    np.testing.assert_array_equal(selected.maps_MDHW, stored(tiny_dataset, chosen))
    for name in ("stages_M", "image_ids_M", "runs_M"):
        np.testing.assert_array_equal(getattr(selected, name), getattr(chosen, name))
        assert getattr(selected, name).dtype == np.int64
    assert selected.stages_M.tolist() == np.repeat([0, 1, 2], 7).tolist()
    assert len(tiny_dataset.sel(0, stage=1, limit=5)) == 5 * len(SPLITS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": 4}, "run = 4; allowed are 0, 1, 2, 3, training, validation, test"),
        ({"run": "train"}, "run = 'train'; allowed are"),
        ({"run": True}, "run = True"),
        ({"stage": 0}, "stage = 0; allowed are 1, 2, 3"),
        ({"stage": [1, 4]}, "stage = 4"),
        ({"stage": []}, "no stage is chosen"),
        ({"split": "tests"}, "split = 'tests'; allowed are train, validation, test, unseen"),
        ({"limit": 0}, "limit = 0"),
        ({"run": "test", "split": "train"}, "run 3 of .* has no image of the split train"),
    ],
)
def test_wrong_choices_say_what_is_allowed(tiny_dataset, options, message):
    with pytest.raises(ConfigError, match=message):
        tiny_dataset.sel(**options)


def test_maps_that_do_not_fit_in_memory_are_refused(tiny_dataset, monkeypatch):
    chosen = tiny_dataset.sel(0)
    monkeypatch.setattr(selection.os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 1)
    with pytest.raises(ConfigError, match=r"these maps take .* GB in memory"):
        chosen.load()
    assert chosen[0].shape == chosen.shape[1:]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_selection_goes_to_another_process(tiny_dataset, method):
    chosen = tiny_dataset.sel(split="test")
    index = [5, 0, 5, 31]
    expected = chosen[index]
    assert len(pickle.dumps(chosen)) < 200_000  # no maps, no open files
    with ProcessPoolExecutor(1, get_context(method)) as pool:
        np.testing.assert_array_equal(pool.submit(operator.getitem, chosen, index).result(), expected)


def test_files_are_read_with_their_digest(tiny_dataset, tmp_path):
    dataset = fb.open(shutil.copytree(tiny_dataset.path, tmp_path / "copy"))
    name = "checkpoints/run-0/stage-1.safetensors"
    assert dataset.read_file(name) == (tiny_dataset.path / name).read_bytes()
    with pytest.raises(MissingDataError, match=r"stage-4.* is no file of .*; did you mean checkpoints/run-0/stage-"):
        dataset.read_file("checkpoints/run-0/stage-4.safetensors")
    for changed, read in (
        (name, lambda: dataset.read_file(name)),
        ("trajectories/run-1.json", lambda: dataset.run_file(1)),
    ):
        data = bytearray((dataset.path / changed).read_bytes())
        data[len(data) // 2] ^= 1
        (dataset.path / changed).write_bytes(data)
        with pytest.raises(DatasetError, match=f"{changed} was changed"):
            read()
    assert json.loads((tiny_dataset.path / "trajectories/run-1.json").read_bytes())
