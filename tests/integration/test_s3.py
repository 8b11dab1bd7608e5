"""Buckets: datasets read, verified, published and downloaded in place, on a server that speaks S3."""

import pickle

import fsspec
import numpy as np
import pytest
from click.testing import CliRunner
from helpers.bucket_server import BucketServer
from helpers.published_folder import tree
from torch.utils.data import DataLoader

import fmcs_bench as fb
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, DatasetError, FmcsBenchError, SupersededWarning, WorkspaceError
from fmcs_bench.store.location import Location

URL = "s3://private/data/tiny"


@pytest.fixture(scope="session")
def server(tiny_dataset):
    """The tiny dataset in a bucket that needs a key, and in one that everybody may read."""
    with BucketServer() as server:
        server.fill("private", "data/tiny", tiny_dataset.path)
        server.fill("public", "tiny", tiny_dataset.path, public=True)
        server.guard()
        yield server


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch, tmp_path):
    """No key and no configuration of whoever runs the tests."""
    for name, value in BucketServer.ENVIRONMENT.items():
        monkeypatch.setenv(name, value.format(folder=tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fsspec.config, "conf", {})


@pytest.fixture
def keyed(server, monkeypatch):
    """Server and keys as the environment of a user names them."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.secret)
    return server


def assert_same(dataset, local):
    assert (dataset.id, dataset.manifest) == (local.id, local.manifest)
    np.testing.assert_array_equal(dataset.sel().load().maps_MDHW, local.sel().load().maps_MDHW)
    np.testing.assert_array_equal(dataset.trajectory_maps(3), local.trajectory_maps(3))
    assert dataset.run_file(1) == local.run_file(1)


def test_keys_from_the_environment_or_as_storage_options(keyed, tiny_dataset):
    options = {"key": keyed.key, "secret": keyed.secret, "endpoint_url": keyed.url}
    for dataset in (fb.open(URL), pickle.loads(pickle.dumps(fb.open(URL, storage_options=options)))):
        assert_same(dataset, tiny_dataset)
        assert keyed.secret not in repr(dataset) + repr(dataset.location)
    with pytest.raises(ConfigError, match="storage_options were given for the folder"):
        fb.open(tiny_dataset.path, storage_options=options)


def test_a_public_bucket_needs_no_key(server, tiny_dataset):
    with server.open_to_all():
        options = {"anon": True, "endpoint_url": server.url}
        assert_same(fb.open("s3://public/tiny", storage_options=options), tiny_dataset)
        with pytest.raises(DatasetError, match="PermissionError"):
            fb.open(URL, storage_options=options)


def test_pytorch_reads_it_in_forked_processes(keyed, tiny_dataset):  # noqa: ARG001
    few = fb.open(URL).sel(run=0, stage=[1, 3], split="train")
    few[0]  # connections are open before the fork
    batches = list(DataLoader(few.torch(batch_size=16), batch_size=None, num_workers=1))
    maps_MDHW = np.concatenate([batch.maps_BDHW.numpy() for batch in batches])
    here = tiny_dataset.sel(run=0, stage=[1, 3], split="train").load()
    np.testing.assert_array_equal(maps_MDHW, here.maps_MDHW)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        (URL, {"key": "{key}", "secret": "SECRET-VALUE"}, "PermissionError: .*; keys come from AWS_ACCESS_KEY_ID"),
        ("s3://nobody/data", {"key": "{key}", "secret": "{secret}"}, "no finished FMCS dataset at s3://nobody/data"),
        ("s3://private/no", {"key": "{key}", "secret": "{secret}"}, "no finished FMCS dataset at s3://private/no"),
    ],
)
def test_what_is_not_allowed_or_not_there(server, url, options, message):
    options = {name: value.format(key=server.key, secret=server.secret) for name, value in options.items()}
    with pytest.raises(FmcsBenchError, match=message) as caught:
        fb.open(url, storage_options=options | {"endpoint_url": server.url})
    for secret in ("SECRET-VALUE", server.secret, "\n"):
        assert secret not in str(caught.value)


def test_an_object_that_is_cut_short_or_changed_is_found(keyed, tiny_dataset):
    name, key = "trajectories/run-1.json", "broken/trajectories/run-1.json"
    keyed.fill("broken", "broken", tiny_dataset.path)
    data = (tiny_dataset.path / name).read_bytes()
    keyed.s3.put_object(Bucket="broken", Key=key, Body=data[:-1] + b" ")
    assert [fault for fault in fb.verify("s3://broken/broken", device="cpu").faults if name in fault]
    keyed.s3.put_object(Bucket="broken", Key=key, Body=data[:-1])
    with pytest.raises(DatasetError, match=rf"s3://broken/broken is incomplete: {name}"):
        fb.open("s3://broken/broken")


def test_publish_to_a_bucket_and_download_from_it(keyed, tiny_dataset, tmp_path, monkeypatch):
    keyed.s3.create_bucket(Bucket="shelf")
    where = {"to": "s3://shelf/a/tiny", "workspace": tmp_path / "ws"}
    put, names = Location.put, []

    def stop_after_ten(self, file, name):
        if len(names) >= 10:
            raise KeyboardInterrupt
        names.append(name)
        put(self, file, name)

    command = ["publish", str(tiny_dataset.path), "--to", "s3://shelf/x", "--workspace", str(tmp_path)]
    asked = CliRunner().invoke(main, command)
    assert (asked.exit_code, "--yes" in asked.output) == (2, True)
    assert "Contents" not in keyed.s3.list_objects_v2(Bucket="shelf")
    monkeypatch.setattr(Location, "put", stop_after_ten)
    with pytest.raises(KeyboardInterrupt):
        fb.publish(tiny_dataset, only=["maps", "checkpoints"], **where)
    with pytest.raises(FmcsBenchError, match="no finished FMCS dataset at s3://shelf/a/tiny"):
        fb.open("s3://shelf/a/tiny")
    monkeypatch.setattr(Location, "put", lambda self, file, name: names.append(name) or put(self, file, name))
    published = fb.publish(tiny_dataset, only=["maps", "checkpoints"], **where)
    assert len(names) == len(set(names)), "a file was sent twice"
    assert names[-3:] == ["part.json", "publication.json", "dataset.json"]
    assert (published.copied.url, published.copied.is_new) == ("s3://shelf/a/tiny", True)
    found = keyed.s3.list_objects_v2(Bucket="shelf")["Contents"]
    assert {each["Key"] for each in found} == {f"a/tiny/{name}" for name in tree(published.folder)}
    assert not fb.publish(tiny_dataset, only=["maps", "checkpoints"], **where).copied.is_new
    names.clear()
    fb.publish(tiny_dataset, only=["maps", "checkpoints"], superseded_by="s3://shelf/b/tiny", **where)
    assert set(names) == {"README.md", "publication.json"}
    with pytest.warns(SupersededWarning):
        fb.open("s3://shelf/a/tiny")
    got = fb.download("s3://shelf/a/tiny", workspace=tmp_path / "other")
    assert fb.verify(got, device="cpu").faults == ()
    for to, error, message in (
        ("s3://shelf/a/tiny", ConfigError, "holds a different part of"),
        ("s3://shelf/a", ConfigError, "holds other files, such as tiny/README.md"),
        ("s3://nobody/x", WorkspaceError, r"s3://nobody/x/.* cannot be written: its bucket or folder does not exist"),
        ("hf://datasets/me/x", ConfigError, "--repo owner/name"),
    ):
        with pytest.raises(error, match=message):
            fb.publish(tiny_dataset, to=to, only=["maps"], stages=[1], workspace=tmp_path / "ws")
