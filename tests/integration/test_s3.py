"""Buckets: data sets read, verified, evaluated, published and downloaded in place, on a server that speaks S3."""

import pickle

import fsspec
import numpy as np
import pytest
import s3fs
from click.testing import CliRunner
from helpers.bucket_server import BucketServer
from helpers.cutting_proxy import CuttingProxy
from torch.utils.data import DataLoader

import fmcs_bench as fb
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import (
    ConfigError,
    DatasetError,
    FmcsBenchError,
    MissingDataError,
    SupersededWarning,
    WorkspaceError,
)
from fmcs_bench.hub.publish import Copied
from fmcs_bench.store.location import Location

SHARD = "maps.zarr/run-0/feature_maps/c/1/0/0/0/0"
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


def test_keys_from_the_environment(keyed, tiny_dataset):
    dataset = fb.open(URL)
    assert_same(dataset, tiny_dataset)
    chosen = pickle.loads(pickle.dumps(dataset.sel(run=3, split="test")))
    np.testing.assert_array_equal(chosen[:], tiny_dataset.select(3, "test").maps_MDHW)
    assert keyed.secret not in repr(dataset) + repr(dataset.location)


def test_keys_as_storage_options(server, tiny_dataset):
    options = {"key": server.key, "secret": server.secret, "endpoint_url": server.url}
    dataset = fb.open(URL, storage_options=options)
    assert_same(pickle.loads(pickle.dumps(dataset)), tiny_dataset)
    with pytest.raises(ConfigError, match="storage_options were given for the folder"):
        fb.open(tiny_dataset.path, storage_options=options)


def test_a_public_bucket_needs_no_key(server, tiny_dataset, tmp_path, monkeypatch):
    with server.open_to_all():
        options = {"anon": True, "endpoint_url": server.url}
        assert_same(fb.open("s3://public/tiny", storage_options=options), tiny_dataset)
        with pytest.raises(DatasetError, match="PermissionError"):
            fb.open(URL, storage_options=options)
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        fsspec.config.set_conf_env(fsspec.config.conf, {"FSSPEC_S3_ANON": "true"})  # as fsspec does when it is imported
        done = CliRunner().invoke(main, ["info", "s3://public/tiny", "--workspace", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert tiny_dataset.id in done.output


def test_pytorch_reads_it_in_forked_processes(keyed, tiny_dataset):  # noqa: ARG001
    few = fb.open(URL).sel(run=0, stage=[1, 3], split="train")
    few[0]  # connections are open before the fork
    batches = list(DataLoader(few.torch(batch_size=16), batch_size=None, num_workers=1))
    maps_MDHW = np.concatenate([batch.maps_BDHW.numpy() for batch in batches])
    here = tiny_dataset.sel(run=0, stage=[1, 3], split="train").load()
    np.testing.assert_array_equal(maps_MDHW, here.maps_MDHW)


def test_commands_take_urls(keyed, tmp_path):  # noqa: ARG001
    def type_(*arguments):
        result = CliRunner().invoke(main, [*arguments, "--workspace", str(tmp_path)], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert "norm" in type_("evaluate", URL, "--evaluator", "norm", "--seeds", "1", "--device", "cpu")
    assert "no others" in type_("verify", URL, "--recompute", "1", "--device", "cpu")
    assert "baseline" in type_("train", URL, "--method", "baseline", "--seeds", "1", "--epochs", "1", "--device", "cpu")
    assert {path.name for path in tmp_path.iterdir()} <= {".lock", "records", "evaluators", "work"}


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        (
            URL,
            {"key": "WRONGKEY", "secret": "SECRET-VALUE"},
            "s3://private/data/tiny/dataset.json cannot be read: Perm",
        ),
        (URL, {"key": "{key}", "secret": "SECRET-VALUE"}, "PermissionError: .*; keys come from AWS_ACCESS_KEY_ID"),
        (URL, {"anon": True}, "PermissionError: .*FSSPEC_S3_ANON=true"),
        (
            "s3://nobody/data/tiny",
            {"key": "{key}", "secret": "{secret}"},
            "no finished FMCS dataset at s3://nobody/data",
        ),
        (
            "s3://private/other",
            {"key": "{key}", "secret": "{secret}"},
            "no finished FMCS dataset at s3://private/other",
        ),
    ],
)
def test_what_is_not_allowed_or_not_there(server, url, options, message):
    options = {
        name: value.format(key=server.key, secret=server.secret) if isinstance(value, str) else value
        for name, value in options.items()
    }
    with pytest.raises(FmcsBenchError, match=message) as caught:
        fb.open(url, storage_options=options | {"endpoint_url": server.url})
    for secret in ("SECRET-VALUE", server.secret):
        assert secret not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there():
    options = {"anon": True, "endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 1}}}
    with pytest.raises(DatasetError, match=r"s3://public/tiny/dataset.json cannot be read: .*127.0.0.1:9"):
        fb.open("s3://public/tiny", storage_options=options)


@pytest.fixture
def proxied(server):
    """A proxy before the server, and the options to go through it."""
    with CuttingProxy(server.address) as proxy:
        yield proxy, {"key": server.key, "secret": server.secret, "endpoint_url": proxy.url}


@pytest.mark.parametrize("in_head", [True, False], ids=["in the head", "in the body"])
def test_a_dropped_connection_is_asked_again(proxied, tiny_dataset, in_head):
    proxy, options = proxied
    for name in ("dataset.json", SHARD, "trajectories/run-1.json"):
        proxy.cut(name, times=2, in_head=in_head)
    dataset = fb.open(URL, storage_options=options)
    np.testing.assert_array_equal(dataset.sel(run=0, stage=2)[5], tiny_dataset.sel(run=0, stage=2)[5])
    assert dataset.run_file(1) == tiny_dataset.run_file(1)
    assert proxy.num_cut == 6, proxy.asked


def test_a_connection_that_always_drops_is_an_error(proxied, monkeypatch):
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    proxy, options = proxied
    dataset = fb.open(URL, storage_options=options)
    maps = dataset.sel(run=0, stage=2)
    proxy.cut(SHARD, times=1000)
    with pytest.raises(DatasetError, match=rf"{SHARD} cannot be read: ") as caught:
        maps[0]
    assert proxy.num_cut == 2
    assert options["secret"] not in str(caught.value)


def test_an_object_that_is_cut_short_or_changed_is_found(keyed, tiny_dataset):
    name, key = "trajectories/run-1.json", "broken/trajectories/run-1.json"
    keyed.fill("broken", "broken", tiny_dataset.path)
    data = (tiny_dataset.path / name).read_bytes()
    keyed.s3.put_object(Bucket="broken", Key=key, Body=data[:-1] + b" ")
    assert [fault for fault in fb.verify("s3://broken/broken", device="cpu").faults if name in fault]
    keyed.s3.put_object(Bucket="broken", Key=key, Body=data[:-1])
    with pytest.raises(DatasetError, match=rf"s3://broken/broken is incomplete: {name} is missing or not of"):
        fb.open("s3://broken/broken")


@pytest.fixture
def shelf(keyed):
    """An empty bucket to publish to."""
    keyed.s3.create_bucket(Bucket="shelf")
    yield keyed
    for found in keyed.s3.list_objects_v2(Bucket="shelf").get("Contents", ()):
        keyed.s3.delete_object(Bucket="shelf", Key=found["Key"])
    keyed.s3.delete_bucket(Bucket="shelf")


def in_bucket(server):
    found = server.s3.list_objects_v2(Bucket="shelf")["Contents"]
    return {each["Key"]: server.s3.get_object(Bucket="shelf", Key=each["Key"])["Body"].read() for each in found}


def test_publish_to_a_bucket_and_download_from_it(shelf, tiny_dataset, tmp_path, monkeypatch):
    def publish(**options):
        return fb.publish(
            tiny_dataset, to="s3://shelf/a/tiny", kinds=["maps", "checkpoints"], workspace=tmp_path / "ws", **options
        )

    put, names = Location.put, []

    def stop_after_ten(self, file, name):
        if len(names) >= 10:
            raise KeyboardInterrupt
        names.append(name)
        put(self, file, name)

    monkeypatch.setattr(Location, "put", stop_after_ten)
    with pytest.raises(KeyboardInterrupt):
        publish()
    assert "a/tiny/dataset.json" not in in_bucket(shelf)
    with pytest.raises(MissingDataError, match="no finished FMCS dataset at s3://shelf/a/tiny"):
        fb.open("s3://shelf/a/tiny")
    first = set(names)
    monkeypatch.setattr(Location, "put", lambda self, file, name: names.append(name) or put(self, file, name))
    published = publish()
    assert len(names) == len(set(names)), "a file was sent twice"
    assert first <= set(names)
    assert names[-3:] == ["part.json", "publication.json", "dataset.json"]
    assert published.copied == Copied("s3://shelf/a/tiny", is_new=True)
    assert "place       s3://shelf/a/tiny" in str(published)
    here = {
        f"a/tiny/{path.relative_to(published.folder).as_posix()}": path.read_bytes() for path in files_of(published)
    }
    assert in_bucket(shelf) == here
    assert publish().copied == Copied("s3://shelf/a/tiny", is_new=False)
    names.clear()
    with pytest.warns(SupersededWarning):
        publish(superseded_by="s3://shelf/b/tiny") and fb.open("s3://shelf/a/tiny")
    assert set(names) == {"README.md", "publication.json"}

    got = fb.download("s3://shelf/a/tiny", workspace=tmp_path / "other")
    assert fb.verify(got, device="cpu").faults == ()
    with pytest.raises(ConfigError, match=r"s3://shelf/a/tiny holds another part of .*; use another --to"):
        fb.publish(tiny_dataset, to="s3://shelf/a/tiny", stages=[1], kinds=["maps"], workspace=tmp_path / "ws")
    with pytest.raises(ConfigError, match=r"s3://shelf/a holds other files, such as tiny/README.md; use a new place"):
        fb.publish(tiny_dataset, to="s3://shelf/a", stages=[1], kinds=["maps"], workspace=tmp_path / "ws")


def files_of(published):
    return [path for path in published.folder.rglob("*") if path.is_file()]


def test_a_place_that_cannot_be_written(keyed, tiny_dataset, tmp_path):  # noqa: ARG001
    for to, error, message in (
        (
            "s3://nobody/x",
            WorkspaceError,
            r"s3://nobody/x/.* cannot be written: FileNotFoundError: .*bucket does not exist",
        ),
        ("https://127.0.0.1:9/x", ConfigError, "cannot be listed"),
        ("hf://datasets/me/x", ConfigError, "--repo owner/name"),
    ):
        with pytest.raises(error, match=message):
            fb.publish(tiny_dataset, to=to, kinds=["maps"], stages=[1], workspace=tmp_path)


def test_the_command_asks_before_it_sends(shelf, tiny_dataset, tmp_path):
    command = [
        "publish",
        str(tiny_dataset.path),
        "--to",
        "s3://shelf/x",
        "--select",
        "kinds=maps",
        "--select",
        "stages=1",
    ]
    done = CliRunner().invoke(main, [*command, "--workspace", str(tmp_path)])
    assert done.exit_code == 2
    assert "give --yes to send without asking" in done.output
    assert "Contents" not in shelf.s3.list_objects_v2(Bucket="shelf")
