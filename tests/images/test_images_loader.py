"""Worker processes that decode streamed images ahead: their number, order, errors and end."""

import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from conftest import subprocess_environment
from helpers.image_files import both, expected_id, write_classes, write_image, write_mixed, write_parquet

from fmcs_bench.core.errors import FmcsBenchError, ImageError, MissingDataError, ReaderError
from fmcs_bench.images import encoded, loader
from fmcs_bench.images.encoded import Files
from fmcs_bench.images.load import load_images
from fmcs_bench.images.loader import BatchReader, default_num_workers


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def pets(tmp_path):
    return write_mixed(tmp_path / "pets")


def test_the_rule_for_the_number_of_processes(monkeypatch):
    for cores, expected in ((1, 0), (2, 1), (8, 7), (64, 16)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert default_num_workers() == expected


def test_encoded_images_can_be_pickled(pets, tmp_path):
    write_parquet(tmp_path / "farm.parquet", range(60))
    for source in (f"folder:{pets}", f"hub:{tmp_path / 'farm.parquet'}"):
        dataset = load_images(source, image_size=12, stream=True)
        again = pickle.loads(pickle.dumps(dataset.images_NCHW))
        np.testing.assert_array_equal(again[:], dataset.images_NCHW[:])


@pytest.mark.slow
def test_processes_that_are_not_forked_read_the_same(pets, monkeypatch):
    monkeypatch.setattr(loader, "START_METHOD", "spawn")
    held, streamed = both(f"folder:{pets}")
    batches = np.array_split(np.arange(57)[::-1], 5)
    for batch, index_B in zip(BatchReader(streamed.images_NCHW)(batches), batches, strict=True):
        assert torch.equal(batch, torch.from_numpy(held.images_NCHW[index_B]))


def test_paths_are_kept_as_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [Path("a.png"), tmp_path / "é" / "b.png", tmp_path / os.fsdecode(b"\xff.png")]
    files = Files(paths)
    monkeypatch.chdir("/")
    assert files.blobs([2, 0]) == [paths[2], tmp_path / "a.png"]
    assert files.describe(1) == str(paths[1])
    assert len(Files([])._names) == 0


def test_processes_live_over_the_epochs_and_end_with_their_reader(pets):
    streamed = both(f"folder:{pets}")[1]
    reader = BatchReader(streamed.images_NCHW, streamed.indices("train"))
    batches = np.array_split(np.arange(20), 4)
    first = list(reader(batches))
    pids = {child.pid for child in multiprocessing.active_children()}
    assert len(pids) == 2
    half = reader(batches[::-1])
    assert torch.equal(next(half), first[3])  # given up after one batch
    for batch, expected in zip(reader(batches), first, strict=True):
        assert torch.equal(batch, expected)
    assert {child.pid for child in multiprocessing.active_children()} == pids
    with pytest.raises(AssertionError, match="two readings"):
        next(half)
    del half, reader
    assert multiprocessing.active_children() == []


def test_processes_end_at_once_where_the_garbage_collector_finds_their_reader(pets):
    reader = BatchReader(both(f"folder:{pets}")[1].images_NCHW)
    list(reader(np.array_split(np.arange(20), 4)))
    reader.itself = reader
    del reader
    assert len(multiprocessing.active_children()) == 2
    begin = time.monotonic()
    gc.collect()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - begin < 4  # torch waits five seconds for each


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("harm", "kind", "message"),
    [
        (Path.unlink, MissingDataError, r"cat/004\.png cannot be opened \(No such file or directory\)"),
        (lambda path: path.write_bytes(b"x"), ImageError, r"cat/004\.png cannot be read as an image \(no known"),
    ],
    ids=["vanished", "damaged"],
)
def test_an_error_of_a_process_names_the_image(pets, num_workers, harm, kind, message):
    dataset = load_images(f"folder:{pets}", image_size=12, stream=True, num_workers=num_workers)
    (row,) = np.flatnonzero(dataset.ids_N == expected_id("cat/004.png"))
    harm(pets / "cat" / "004.png")
    reader = BatchReader(dataset.images_NCHW)
    found = reader([np.array([0, 1]), np.array([2, row])])
    assert len(next(found)) == 2
    with pytest.raises(kind, match=message) as caught:
        next(found)
    assert isinstance(caught.value, FmcsBenchError)
    assert "Traceback" not in str(caught.value)
    assert len(list(reader([np.array([0, 1])]))) == 1  # it can still be used


def test_an_image_that_has_changed_its_size_is_refused(tmp_path):
    root = write_classes(tmp_path / "same")
    dataset = load_images(f"folder:{root}", stream=True)
    write_image(root / "cat" / "000.png", size=(5, 6))
    with pytest.raises(ImageError, match=r"cat/000\.png .*it has 6 x 5 pixels now, and had 7 x 9"):
        dataset.images_NCHW[:]


def test_a_process_that_dies_is_an_error_and_no_hang(pets, monkeypatch):
    monkeypatch.setattr(encoded.EncodedImages, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    dataset = load_images(f"folder:{pets}", image_size=12, stream=True, num_workers=1)
    with pytest.raises(ReaderError, match=r"decodes images of folder_pets died .*memory is short.*num_workers"):
        list(BatchReader(dataset.images_NCHW)([np.arange(3)]))


def test_an_interrupt_leaves_the_processes_to_their_parent(pets, monkeypatch):
    """A process that an interrupt stops inside a queue keeps its lock, and its parent would wait for that."""
    own = encoded.EncodedImages.__getitem__

    def interrupted(*args):
        os.kill(os.getpid(), signal.SIGINT)
        return own(*args)

    before = set(multiprocessing.active_children())
    images = load_images(f"folder:{pets}", image_size=12, stream=True, num_workers=2).images_NCHW
    expected = images[:6]
    monkeypatch.setattr(encoded.EncodedImages, "__getitem__", interrupted)
    reader = BatchReader(images)
    for batch, index_B in zip(reader([np.arange(3), np.arange(3, 6)]), (slice(3), slice(3, 6)), strict=True):
        np.testing.assert_array_equal(batch, expected[index_B])
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])  # here it still works
    del reader
    assert set(multiprocessing.active_children()) <= before


SCRIPT = """
import sys, numpy as np, torch
from fmcs_bench.images.load import load_images
from fmcs_bench.images.loader import BatchReader
torch.set_num_threads(1)
dataset = load_images(sys.argv[1], image_size=12, stream=True, num_workers=2)
reader = BatchReader(dataset.images_NCHW)
for epoch in range(10**9):
    for batch in reader(np.array_split(np.arange(57), 9)):
        print(len(batch), flush=True)
"""


def test_an_interrupt_ends_everything(pets, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, f"folder:{pets}"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=subprocess_environment() | {"PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip
    assert [process.stdout.readline() for _ in range(3)] == ["7\n", "7\n", "7\n"]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the program and its processes
    try:
        _, stderr = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)  # every process says where its threads are, and ends
        pytest.fail(f"it did not end:\n{process.communicate()[1]}")
    assert process.returncode != 0
    assert "KeyboardInterrupt" in stderr
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("processes are left")
