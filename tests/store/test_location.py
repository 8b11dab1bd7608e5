"""Data sets open by URL, read-only, with the same maps; messages never show a password."""

import functools
import http.server
import json
import pickle
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import build_tiny
from safetensors.torch import load

import fmcs_bench as fb
from fmcs_bench.core.errors import ConfigError, DatasetError, FmcsBenchError, MissingDataError
from fmcs_bench.store import location, schema
from fmcs_bench.store.location import Location, stays_inside


@pytest.fixture
def memory(tiny_dataset):
    """The tiny dataset in fsspec's memory; gives its URL."""
    files = fsspec.filesystem("memory")
    files.put(str(tiny_dataset.path), "/data/tiny", recursive=True)
    yield "memory://data/tiny"
    files.rm("/data", recursive=True)


@pytest.fixture
def server(tiny_dataset):
    """A real web server for the tiny dataset; gives its URL."""
    if find_spec("aiohttp") is None:
        pytest.skip("fsspec reads http with the package aiohttp, which is not installed")

    class Handler(http.server.SimpleHTTPRequestHandler):
        """Python's own server does not answer requests for a range of bytes, as real ones do."""

        def log_message(self, *args):
            pass

        def do_GET(self):
            asked = self.headers.get("Range")
            file = Path(self.translate_path(self.path))
            if asked is None or not file.is_file():
                super().do_GET()
                return
            data = file.read_bytes()
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin = int(first) if first else max(0, len(data) - int(last))
            end = min(len(data), int(last) + 1) if first and last else len(data)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            self.wfile.write(data[begin:end])

    handler = functools.partial(Handler, directory=str(tiny_dataset.path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}/{tiny_dataset.path.name}"
        web.shutdown()
        thread.join()


def assert_same(dataset, local):
    assert dataset.id == local.id
    assert dataset.manifest == local.manifest
    everything = dataset.sel()
    assert not everything.is_direct
    here = local.sel().load()
    np.testing.assert_array_equal(everything.load().maps_MDHW, here.maps_MDHW)
    index = [7, 0, 7, len(everything) - 1]
    np.testing.assert_array_equal(everything[index], here.maps_MDHW[index])
    np.testing.assert_array_equal(everything[5], here.maps_MDHW[5])
    batches = list(everything.take(slice(0, 40)).torch(shuffle=True))
    assert sum(len(batch.stages_B) for batch in batches) == 40
    np.testing.assert_array_equal(dataset.trajectory_maps(3), local.trajectory_maps(3))
    assert dataset.run_file(1) == local.run_file(1)
    weights = load(dataset.read_file(schema.checkpoint_name(0, 1)))
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()}
    with pytest.raises(ConfigError, match="is not on this machine"):
        _ = dataset.path
    assert fb.verify(dataset, device="cpu").faults == ()


def test_a_dataset_in_memory_is_the_local_one(tiny_dataset, memory):
    dataset = fb.open(memory)
    assert_same(dataset, tiny_dataset)
    assert f"path    {memory}" in repr(dataset)
    chosen = pickle.loads(pickle.dumps(dataset.sel(run=3, split="test")))
    np.testing.assert_array_equal(chosen[:], tiny_dataset.select(3, "test").maps_MDHW)


def test_a_dataset_on_a_web_server_is_the_local_one(tiny_dataset, server):
    assert_same(fb.open(server), tiny_dataset)
    with pytest.raises(MissingDataError, match="there is no finished FMCS dataset at http"):
        fb.open(server + "-other")


def test_another_codec_by_url(tmp_path):
    local = build_tiny(tmp_path, codec="q8")
    files = fsspec.filesystem("memory")
    files.put(str(local.path), "/q8", recursive=True)
    assert_same(fb.open("memory://q8"), local)
    files.rm("/q8", recursive=True)


def test_a_file_url_is_a_folder(tiny_dataset):
    dataset = fb.open(f"file://{tiny_dataset.path}")
    assert dataset.path == tiny_dataset.path
    assert dataset.sel().is_direct


def drop(files, name):
    files.rm(f"/data/tiny/{name}")


def shorten(files, name):
    files.pipe(f"/data/tiny/{name}", files.cat(f"/data/tiny/{name}")[:-2])


def flip(files, name):
    data = files.cat(f"/data/tiny/{name}")
    files.pipe(f"/data/tiny/{name}", data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])


SHARD = "maps.zarr/run-0/feature_maps/c/1/0/0/0/0"


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (drop, "dataset.json", "there is no finished FMCS dataset at memory://data/tiny"),
        (drop, SHARD, "is incomplete: maps.zarr/run-0/feature_maps/c/1/0/0/0/0 is missing"),
        (shorten, "dataset.json", "dataset.json is damaged"),
    ],
)
def test_an_incomplete_dataset_is_refused(memory, damage, name, message):
    damage(fsspec.filesystem("memory"), name)
    with pytest.raises(FmcsBenchError, match=message):
        fb.open(memory)


def test_what_is_damaged_later_is_found_when_it_is_read(memory):
    files, dataset = fsspec.filesystem("memory"), fb.open(memory)
    flip(files, "trajectories/run-0.json")
    with pytest.raises(DatasetError, match=r"trajectories/run-0.json was changed: its SHA-256"):
        dataset.run_file(0)
    flip(files, SHARD)  # in its index, which has a checksum
    with pytest.raises(DatasetError, match=r"run-0/feature_maps is damaged, or its server .*: row 1"):
        dataset.sel(run=0, stage=2)[0]
    drop(files, SHARD)
    with pytest.raises(DatasetError, match=rf"{SHARD} is missing"):  # Zarr alone would give zeros
        dataset.sel(run=0, stage=2)[0]


def test_without_a_listing_files_are_looked_at_when_they_are_read(memory, monkeypatch):
    monkeypatch.setattr(location, "NOT_LISTED", ("memory",))
    drop(fsspec.filesystem("memory"), SHARD)
    dataset = fb.open(memory)
    assert dataset.sel(run=0, stage=1)[0].any()
    with pytest.raises(DatasetError, match=rf"{SHARD} is missing"):
        dataset.sel(run=0, stage=2)[:]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://place", "nosuch://place cannot be opened: .*hf://datasets/owner/name"),
        ("https://host/data?token=SECRET", "https://host/data was given with a query"),
        ("memory://nothing/there", "there is no finished FMCS dataset at memory://nothing/there"),
        ("hf://", "hf:"),
    ],
)
def test_bad_urls_say_what_is_wrong(url, message):
    with pytest.raises(FmcsBenchError, match=message) as caught:
        fb.open(url)
    assert "SECRET" not in str(caught.value)


def test_a_missing_package_of_a_protocol_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    message = r"s3://bucket/name needs a package that is not installed: .*s3fs.*; type pip install 'fmcs-bench\[s3\]'"
    with pytest.raises(ConfigError, match=message):
        fb.open("s3://bucket/name")


def test_a_host_that_cannot_be_reached_is_told_without_the_password():
    if find_spec("aiohttp") is None:
        with pytest.raises(ConfigError, match="aiohttp") as caught:
            fb.open("http://me:SECRET@127.0.0.1:9/data")
    else:
        with pytest.raises(DatasetError, match=r"http://127.0.0.1:9/data/dataset.json cannot be read") as caught:
            fb.open("http://me:SECRET@127.0.0.1:9/data")
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


class Failing(fsspec.AbstractFileSystem):
    """A place that answers with its own kind of error, and tells everything that it knows."""

    protocol = "failing"

    def cat_file(self, path, *_args, **_options):
        raise RuntimeError(f"403 for https://me:SECRET@host/{path}?signature=SECRET, go away; no SECRET for me")


def test_errors_of_a_place_are_ours_and_keep_no_secret():
    fsspec.register_implementation("failing", Failing, clobber=True)
    with pytest.raises(DatasetError, match=r"cannot be read: RuntimeError: 403 for https://host/") as caught:
        fb.open("failing://me:SECRET@host/data")
    assert "SECRET" not in str(caught.value)
    assert "SECRET" not in repr(Location("failing://me:SECRET@host/data"))


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../b", "c:/b", "a\\..\\b", "http://elsewhere/x", "a?b", ""]
)
def test_names_stay_inside(memory, name):
    assert not stays_inside(name)
    with pytest.raises(DatasetError, match="outside its folder"):
        Location(memory).read_bytes(name)
    files = fsspec.filesystem("memory")
    value = json.loads(files.cat("/data/tiny/dataset.json"))
    value["files"][name] = {"num_bytes": 1, "sha256": "0" * 64}
    manifest = schema.Manifest.from_json(value)
    value["dataset_digest"] = schema.dataset_digest(manifest.config, manifest.images, manifest.files)
    files.pipe("/data/tiny/dataset.json", json.dumps(value).encode())
    with pytest.raises(DatasetError, match="outside its folder"):
        fb.open(memory)
