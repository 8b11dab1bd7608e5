"""Publishing: the folder that is a Hub repository, its parts, what happens after a kill, the upload, and the round."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import subprocess_environment
from helpers.hub_server import Fault, HubServer, use
from helpers.published_folder import restate, tree

import fmcs_bench as fb
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, DatasetError, HubError, SupersededWarning
from fmcs_bench.hub import parquet
from fmcs_bench.hub.upload import Repository
from fmcs_bench.store.reader import FmcsDataset

# huggingface_hub gives the bytes of large files to its HTTP client by a name that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
TEXTS = {"README.md", "publication.json"}


@pytest.fixture
def copy(published, tmp_path):
    return shutil.copytree(published, tmp_path / "copy")


def test_the_folder_has_the_dataset_and_what_a_repository_needs(published, tiny_dataset):
    files, original = tree(published), tree(tiny_dataset.path)
    assert {name: files[name] for name in original} == original
    added = sorted(files.keys() - original.keys())
    assert added == [
        "README.md",
        "croissant.json",
        *(f"figures/run-{seed}.png" for seed in range(4)),
        *(
            f"parquet/{name}-00000-of-00001.parquet"
            for name in ("default/test", "default/train", "default/validation", "same_run/test", "unseen/test")
        ),
        "publication.json",
    ]
    made = json.loads(files["publication.json"])
    assert sorted(made["files"]) == sorted({*added, "dataset.json"} - {"publication.json"})
    assert fb.verify(published).faults == ()
    assert fb.open(published).id == tiny_dataset.id


def test_publishing_again_changes_texts_only(copy, tiny_dataset):
    before = tree(copy)
    again = fb.publish(tiny_dataset, to=copy)
    assert tree(copy) == before
    assert (again.num_files, again.num_bytes) == (len(before), sum(map(len, before.values())))
    assert again.uploaded is None
    fb.publish(tiny_dataset, to=copy, superseded_by="me/digits-v2")
    after = tree(copy)
    assert {name for name in after if after[name] != before.get(name)} == TEXTS
    assert b"me/digits-v2" in after["README.md"]
    with pytest.warns(SupersededWarning, match=r"is superseded by me/digits-v2"):
        fb.open(copy)
    assert fb.verify(copy).faults == ()
    fb.publish(tiny_dataset, to=copy)  # asked for nothing: the notice stays
    assert tree(copy) == after


@pytest.mark.parametrize("name", ["figures/run-0.png", "parquet/default/more.parquet"])
def test_verify_sees_what_changed_in_a_published_folder(copy, name):
    data = (copy / name).read_bytes() if (copy / name).exists() else b"x"
    (copy / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (fault,) = (fault for fault in fb.verify(copy).faults if fault.startswith("files:"))
    assert name in fault


def test_a_part_is_published(tiny_dataset, tmp_path):
    made = fb.publish(tiny_dataset, to=tmp_path / "part", stages=[1, 3], runs=[0, 3], splits=["train", "test"])
    splits = {(split.configuration, split.split) for split in made.publication.parquet}
    assert splits == {("default", "train"), ("default", "test"), ("same_run", "test")}
    part = fb.open(tmp_path / "part")
    assert part.part.stages == (1, 3)
    assert fb.verify(part).faults == ()
    whole = tiny_dataset.sel([0, 3], [1, 3], ["train", "test"]).load()
    np.testing.assert_array_equal(part.sel().load().maps_MDHW, whole.maps_MDHW)
    smaller = fb.publish(part, to=tmp_path / "smaller", only=["maps"], stages=[3])  # a part of a part
    assert smaller.publication.parquet == ()
    assert not (tmp_path / "smaller/croissant.json").exists()
    assert fb.verify(tmp_path / "smaller").faults == ()
    with pytest.raises(ConfigError, match=r"a part of .* without \d+ of the files to publish, such as"):
        fb.publish(part, to=tmp_path / "larger", stages=[1, 2])
    assert not (tmp_path / "larger").exists()


def test_what_cannot_be_published_there_is_left_alone(copy, tiny_dataset, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    before = tree(tmp_path)
    for options, text in (
        ({"to": copy, "stages": [1]}, "holds a different part of"),
        ({"to": tmp_path / "mine"}, "holds other files; choose a new or empty folder"),
        ({"to": tmp_path / "mine/notes.txt"}, "is no folder"),
        ({}, r"name a folder or URL \(--to\), a repository"),
        ({"to": tmp_path / "new", "public": True}, "--public belongs to --repo"),
        ({"to": tmp_path / "new", "stages": [9]}, "stage = 9; allowed are 1, 2, 3"),
    ):
        with pytest.raises(ConfigError, match=text):
            fb.publish(tiny_dataset, **options)
        assert tree(tmp_path) == before
    (copy / "figures/run-0.png").unlink()
    with pytest.raises(DatasetError, match=r"figures/run-0\.png is missing or was changed; remove"):
        fb.publish(tiny_dataset, to=copy)


def test_a_damaged_dataset_is_not_published(tiny_dataset, tmp_path):
    dataset = fb.open(shutil.copytree(tiny_dataset.path, tmp_path / "dataset"))
    shard = dataset.path / "maps.zarr/run-0/feature_maps/c/0/0/0/0/0"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DatasetError, match="its SHA-256 is not that of the manifest"):
        fb.publish(dataset, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_after_a_stop_it_goes_on_and_ends_the_same(tiny_dataset, published, tmp_path, monkeypatch):
    def stopped(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parquet, "export", stopped)
        with pytest.raises(KeyboardInterrupt):
            fb.publish(tiny_dataset, to=tmp_path / "out")
    (unfinished,) = tmp_path.iterdir()
    assert unfinished.name.startswith(".out.")
    (unfinished / "maps.zarr/run-0/.half.part").write_bytes(b"half")
    read = []
    read_file = FmcsDataset.read_file
    monkeypatch.setattr(FmcsDataset, "read_file", lambda self, name: (read.append(name), read_file(self, name))[1])
    fb.publish(tiny_dataset, to=tmp_path / "out")
    assert not [name for name in read if name.startswith("maps.zarr/")]  # they were copied already
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    mine, theirs = (
        {k: v for k, v in tree(f).items() if k not in {*TEXTS, "croissant.json"}} for f in (tmp_path / "out", published)
    )
    assert mine == theirs
    assert fb.verify(tmp_path / "out").faults == ()


# The upload


@pytest.fixture
def hub(tmp_path, monkeypatch):
    (tmp_path / "storage").mkdir()
    with HubServer(tmp_path / "storage") as server:
        use(server, monkeypatch, tmp_path / "home")
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        server.tokens = {"hf_mine": "me", "hf_other": "other"}
        yield server


def test_everything_arrives_and_the_manifests_last(hub, copy):
    done = Repository("me/maps").upload(copy)
    assert (done.url, done.is_new, done.is_private) == (f"{hub.url}/datasets/me/maps", True, True)
    repo, names = hub.repos["me/maps"], set(tree(copy))
    assert (done.revision, repo.private) == (repo.branches["main"], True)
    last = {"dataset.json", "publication.json"}
    steps = [{".gitattributes"}, {".gitattributes", *names} - last, {".gitattributes", *names}]
    assert [set(commit) for commit in repo.commits.values()] == steps
    assert {name: repo.commits[done.revision][name].read_bytes() for name in names} == tree(copy)
    assert {seen["license"] for seen in hub.yaml_seen} == {"cc-by-4.0"}  # the Hub's own check of the card
    hub.log.clear()
    again = Repository("me/maps").upload(copy)
    assert (again.is_new, again.revision) == (False, done.revision)
    assert not hub.requests("commit|storage|preupload")
    restate(copy, superseded_by="me/maps-v2")
    assert Repository("me/maps").upload(copy, public=True).is_new
    assert not hub.requests("/storage/", "PUT")  # no data
    assert not repo.private
    assert [one.path for one in hub.log if one.method in ("POST", "PUT")][-1].endswith("/settings")


def test_an_upload_that_was_cut_off_goes_on(hub, copy):
    hub.plan["/commit/main"] = Fault(method="POST", status=500)
    with pytest.raises(HubError, match="type the command again to go on"):
        Repository("me/maps").upload(copy)
    assert hub.requests("/storage/", "PUT")
    hub.plan = {"/preupload/main": Fault(method="POST", status=503, times=2)}  # busy: the client asks again
    hub.log.clear()
    assert Repository("me/maps").upload(copy).is_new
    assert not hub.requests("/storage/", "PUT")  # the large files were there already
    assert set(tree(copy)) < hub.repos["me/maps"].names()


def test_a_repository_that_holds_something_else_is_refused(hub, copy, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/notes.txt").write_text("mine")
    hub.add("me/theirs", tmp_path / "theirs")
    with pytest.raises(ConfigError, match=r"me/theirs holds other files, such as notes\.txt"):
        Repository("me/theirs").upload(copy)
    Repository("me/maps").upload(copy)
    commits = dict(hub.repos["me/maps"].commits)
    (copy / "figures/run-0.png").write_bytes(b"different")
    restate(copy)
    with pytest.raises(ConfigError, match="me/maps holds a different part of"):
        Repository("me/maps").upload(copy)
    restate(copy, dataset_digest="2" * 64)
    with pytest.raises(ConfigError, match=r"me/maps holds .*; published data never changes"):
        Repository("me/maps").upload(copy)
    assert hub.repos["me/maps"].commits == commits


def test_no_token_no_permission_no_server(hub, copy, monkeypatch):
    with pytest.raises(HubError, match=r"no permission for other/maps \(HTTP 403\)") as refused:
        Repository("other/maps").upload(copy)
    assert "hf_mine" not in str(refused.value)
    with pytest.raises(HubError, match="the Hub cannot be reached for me/maps"):
        Repository("me/maps", endpoint="http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match=r"HTTP 401") as refused:
        Repository("me/maps")
    assert "hf_wrong" not in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"no token .* `hf auth login`"):
        Repository("me/maps")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set; nothing can be uploaded"):
        Repository("me/maps")
    assert not hub.repos


@pytest.mark.parametrize("repo", ["maps", "me/maps/more", "me/", "/maps", "me/ma ps", "me/..", "-me/maps", ""])
def test_a_name_that_the_hub_does_not_accept(repo):
    with pytest.raises(ConfigError, match="owner/name"):
        Repository(repo)


# The command


def test_the_command_publishes_a_part(tiny_workspace, tmp_path):
    arguments = ["publish", "digits-smallcnn-16px-tiny", "--workspace", str(tiny_workspace)]
    done = CliRunner().invoke(main, [*arguments, "--to", str(tmp_path / "out"), "--stages", "2", "--only", "maps"])
    assert done.exit_code == 0, done.output
    assert f"folder      {tmp_path / 'out'}" in done.stdout
    assert fb.open(tmp_path / "out").part.stages == (2,)
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_from_a_build_to_the_hub_and_back(hub, tiny_dataset, tiny_workspace, tmp_path):
    """build -> publish -> upload -> download -> verify keeps the digest; and it is read in place."""
    environment = subprocess_environment() | {"HF_ENDPOINT": hub.url, "HF_HOME": os.fspath(tmp_path / "home2")}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_mine"}

    def run(*arguments):
        command = [sys.executable, *arguments]
        options = {"capture_output": True, "text": True, "check": False, "stdin": subprocess.DEVNULL}
        return subprocess.run(command, env=environment, **options)

    publish = ["-m", "fmcs_bench", "publish", tiny_dataset.manifest.name, "--repo", "me/digits"]
    publish += ["--workspace", str(tiny_workspace), "--to", str(tmp_path / "folder")]
    sent = run(*publish, "--yes")
    assert sent.returncode == 0, sent.stderr
    assert f"repository  {hub.url}/datasets/me/digits (private), revision " in sent.stdout
    assert "hf_mine" not in sent.stdout + sent.stderr
    brought = run("-m", "fmcs_bench", "download", "me/digits", "--workspace", str(tmp_path / "other"))
    assert brought.returncode == 0, brought.stderr
    here = fb.open(tmp_path / "other/datasets" / tiny_dataset.manifest.name)
    assert here.id == tiny_dataset.id
    assert fb.verify(here).faults == ()
    code = (
        "import fmcs_bench as fb\n"
        "dataset = fb.open('hf://datasets/me/digits')\n"
        "print(dataset.id, dataset.sel('test', 2, 'test')[3].shape)\n"
        "print(fb.load('me/digits', split='test')[3]['feature_map'].shape)\n"
        "import datasets\n"
        "rows = datasets.load_dataset('me/digits', 'unseen', split='test')\n"
        "print(len(rows), rows.features['feature_map'].feature.id)\n"
    )
    read = run("-c", code)
    assert read.returncode == 0, read.stderr
    shape = tiny_dataset.manifest.map_shape
    assert read.stdout.splitlines() == [
        f"{tiny_dataset.id} {shape}",
        f"torch.Size({list(shape)})",
        f"{len(tiny_dataset.sel('test', split='unseen'))} {'x'.join(map(str, shape))}",
    ]
