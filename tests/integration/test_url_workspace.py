"""A workspace at a URL: what is finished lies there, one process at a time writes it, and nothing is lost."""

import os

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import TINY
from fsspec.implementations.memory import MemoryFileSystem

import fmcs_bench as fb
from fmcs_bench.cli.main import main
from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, HubError, WorkspaceError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.hub import bucket
from fmcs_bench.results.records import EvaluatorRecord, RecordStore
from fmcs_bench.store import retries
from fmcs_bench.store.location import Location
from fmcs_bench.urls import UrlPath


@pytest.fixture
def url(monkeypatch, tmp_path):
    monkeypatch.setenv("FMCS_BENCH_SCRATCH", str(tmp_path / "scratch"))
    memory = fsspec.filesystem("memory")
    memory.pipe("/ws/other", b"")
    yield "memory://ws"
    memory.rm("/ws", recursive=True)


@pytest.fixture
def filled(url, tiny_dataset):
    """With the tiny dataset."""
    bucket.copy(tiny_dataset.path, Location(f"{url}/datasets/{tiny_dataset.path.name}"))
    return url


def below(folder):
    memory = fsspec.filesystem("memory")
    return sorted(name.removeprefix(f"/ws/{folder}/") for name in memory.find(f"/ws/{folder}"))


def test_evaluate_train_and_the_page(filled, tiny_dataset, tmp_path):
    (board,) = fb.evaluate(workspace=filled, evaluators=["norm"], seeds=1, device="cpu")
    (record,) = board.rows[0].records
    assert RecordStore(Workspace(filled).records).all(EvaluatorRecord) == [record]
    (again_board,) = fb.evaluate(workspace=filled, evaluators=["norm"], seeds=1, device="cpu")
    assert list(again_board.rows[0].records) == [record]
    fitted = fb.load_evaluator(dataset=tiny_dataset, evaluator="norm", workspace=filled)
    maps = tiny_dataset.select(3, "test", limit=2)
    assert fitted.predict_proba(maps.maps_MDHW).shape == (6, 3)

    options = {"methods": ["baseline"], "seeds": 1, "epochs": 1, "device": "cpu", "keep_weights": True}
    trained = fb.train(workspace=filled, **options)
    (network,) = below("networks")
    assert network.endswith(".safetensors")
    assert fb.train(workspace=filled, **options) == trained
    page = fb.build_leaderboard(workspace=filled)
    assert page.is_relative_to(tmp_path / "scratch")
    assert "norm" in page.read_text()
    assert not Workspace(filled).root.joinpath(".lock").exists()

    listed = CliRunner().invoke(main, ["list", "datasets", "--workspace", filled])
    assert f"FMCS datasets in {filled}/datasets\n  {tiny_dataset.manifest.name}\n" in listed.output
    shown = CliRunner().invoke(main, ["info", "--workspace", filled])
    assert tiny_dataset.id in shown.output


def test_a_record_that_is_replaced_is_kept(filled):
    fb.evaluate(workspace=filled, evaluators=["norm"], seeds=1, device="cpu")
    store = RecordStore(Workspace(filled).records)
    (record,) = store.all(EvaluatorRecord)
    data = (store.path(record).with_suffix(".predictions.safetensors")).read_bytes()
    store.write(record.model_copy(update={"created": "2000-01-01T00:00:00+00:00"}), data)
    assert store.all(EvaluatorRecord)[0].created.startswith("2000")
    assert [name.rsplit("/", 1)[1] for name in below("records/superseded")] == [
        "predictions.safetensors",
        "record.json",
    ]


def test_a_build_comes_whole_or_not_at_all(url, tiny_dataset, monkeypatch, tmp_path):
    put, names = Location.put, []

    def stop_after_five(self, file, name):
        if len(names) == 5:
            raise KeyboardInterrupt
        names.append(name)
        put(self, file, name)

    monkeypatch.setattr(Location, "put", stop_after_five)
    monkeypatch.setattr(bucket, "PARALLEL", 1)
    with pytest.raises(KeyboardInterrupt):
        fb.build(**TINY, workspace=url, device="cpu")
    name = tiny_dataset.path.name
    assert not Workspace(url).root.joinpath(".lock").exists()
    assert f"{name} (unfinished" in CliRunner().invoke(main, ["list", "datasets", "--workspace", url]).output
    monkeypatch.setattr(Location, "put", lambda self, file, name: names.append(name) or put(self, file, name))
    built = fb.build(**TINY, workspace=url, device="cpu")
    assert len(names) == len(set(names)) == len(built.manifest.files) + 1
    assert names[-1] == "dataset.json"
    assert str(built.location) == f"{url}/datasets/{name}"
    assert not list(tmp_path.glob(f"scratch/*/datasets/{name}"))
    np.testing.assert_array_equal(built.sel().load().maps_MDHW, tiny_dataset.sel().load().maps_MDHW)
    assert fb.build(**TINY, workspace=url, device="cpu").id == built.id
    with pytest.raises(ConfigError, match="with other options"):
        fb.build(**TINY | {"epochs": 7}, workspace=url, device="cpu")


def test_one_process_at_a_time(url):
    with Workspace(url).locked():
        message = rf"memory://ws is in use by process {os.getpid()} on .* since .*; wait .* remove memory://ws/.lock"
        with pytest.raises(WorkspaceError, match=message), Workspace(url).locked():
            pass
    with Workspace(url).locked():  # and it was released
        pass


def drop_first(monkeypatch, name, *, after):
    """The first answer of a method gets lost, before or after it was done."""
    method, calls = getattr(MemoryFileSystem, name), []

    def dropping(self, *args, **options):
        calls.append(args)
        if len(calls) > 1:
            return method(self, *args, **options)
        if after:
            method(self, *args, **options)
        raise ConnectionResetError

    monkeypatch.setattr(retries, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(MemoryFileSystem, name, dropping)
    return calls


def test_a_lock_whose_answer_was_lost_is_ours(url, monkeypatch):
    calls = drop_first(monkeypatch, "pipe_file", after=True)
    with Workspace(url).locked():
        assert len(calls) == 2


@pytest.mark.parametrize("name", ["pipe_file", "cat_file"])
def test_a_dropped_connection_is_asked_again(url, monkeypatch, name):
    calls = drop_first(monkeypatch, name, after=False)
    path = UrlPath(url) / "file"
    path.write_bytes(b"data")
    assert path.read_bytes() == b"data"
    assert len(calls) == 2


def test_a_connection_that_always_drops_is_one_line(url, monkeypatch):
    def dropping(*_, **__):
        raise ConnectionResetError("gone")

    monkeypatch.setattr(retries, "WAITS", (0.0, 0.0))
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", dropping)
    with pytest.raises(HubError, match=r"memory://ws/file cannot be written: ConnectionResetError: gone"):
        files.write_atomically(UrlPath(url) / "file", b"")
    with pytest.raises(WorkspaceError, match=r"the workspace memory://ws cannot be written"), Workspace(url).locked():
        pass


def test_paths_do_what_those_of_a_folder_do(url):
    root = UrlPath(url)
    for name in ("a/b/seed-0.json", "a/c/seed-1.json", "a/c/seed-1.txt"):
        (root / name).write_bytes(b"x")
    assert [path.relative_to(root).as_posix() for path in sorted(root.glob("*/*/seed-*.json"))] == [
        "a/b/seed-0.json",
        "a/c/seed-1.json",
    ]
    path = root / "a" / "b" / "seed-0.json"
    assert (path.is_file(), path.is_dir(), path.parent.is_dir(), (root / "z").exists()) == (True, False, True, False)
    path.replace(root / "moved")
    assert (path.exists(), (root / "moved").read_bytes()) == (False, b"x")
    (root / "moved").unlink()
    (root / "moved").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (root / "moved").read_bytes()
    with pytest.raises(WorkspaceError, match="is not on this machine"):
        os.fspath(root)


def test_what_needs_a_folder_says_so(url):
    for command in (["download", "me/x"], ["quickstart"]):
        done = CliRunner().invoke(main, [*command, "--workspace", url])
        assert done.exit_code == 2, done.output
        assert f"needs a folder, and the workspace is {url}" in done.output.replace("\n", " ")
    with pytest.raises(ConfigError, match=r"s3://bucket/ws was given with a password or a query"):
        Workspace("s3://me:secret@bucket/ws")
