"""Publishing: the folder that is a Hub repository, its parts, what happens after a kill, and the whole round."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections import namedtuple

import datasets
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import subprocess_environment
from helpers.hub_server import HubServer as WritableHub

import fmcs_bench as fb
from fmcs_bench.cli.hub import parse_selection
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, DatasetError, SupersededWarning
from fmcs_bench.hub import folder as hub_folder
from fmcs_bench.hub import parquet
from fmcs_bench.store.reader import FmcsDataset


def tree(folder):
    """Bytes of every file below a folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def published(tiny_dataset, tmp_path_factory):
    """A folder that was published; tests must not write to it."""
    folder = tmp_path_factory.mktemp("published") / "digits"
    fb.publish(tiny_dataset, to=folder)
    return folder


@pytest.fixture
def copy(published, tmp_path):
    return shutil.copytree(published, tmp_path / "copy")


def test_the_folder_has_the_dataset_and_what_a_repository_needs(published, tiny_dataset):
    files = tree(published)
    original = tree(tiny_dataset.path)
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
    assert fb.verify(published).faults == ()
    assert fb.open(published).id == tiny_dataset.id
    made = json.loads(files["publication.json"])
    assert sorted(made["files"]) == sorted({*added, "dataset.json"} - {"publication.json"})
    assert made["superseded_by"] is None


def test_datasets_reads_it_without_our_code(published, tiny_dataset):
    rows = datasets.load_dataset(str(published), split="test").with_format("numpy", dtype=np.float16)
    maps = tiny_dataset.sel("test", split="test").load().maps_MDHW
    np.testing.assert_array_equal(rows["feature_map"][:].reshape(maps.shape), maps)


def test_publishing_again_changes_nothing(copy, tiny_dataset):
    before = tree(copy)
    again = fb.publish(tiny_dataset, to=copy)
    assert tree(copy) == before
    assert again.num_files == len(before)
    assert again.num_bytes == sum(map(len, before.values()))
    assert again.uploaded is None


def test_a_newer_version_is_told_and_data_stay(copy, tiny_dataset):
    before = tree(copy)
    fb.publish(tiny_dataset, to=copy, superseded_by="me/digits-v2")
    after = tree(copy)
    assert {name for name in after if after[name] != before.get(name)} == {"README.md", "publication.json"}
    assert b"me/digits-v2" in after["README.md"]
    with pytest.warns(SupersededWarning, match=r"is superseded by me/digits-v2"):
        fb.open(copy)
    assert fb.verify(copy).faults == ()
    fb.publish(tiny_dataset, to=copy)  # asked for nothing: what was said stays
    assert tree(copy) == after


def test_one_that_is_not_superseded_opens_quietly(published):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fb.open(published)


@pytest.mark.parametrize("damage", ["maps", "parquet", "figure", "extra"])
def test_verify_sees_what_changed_in_a_published_folder(copy, damage):
    name = {
        "maps": "maps.zarr/run-0/feature_maps/c/0/0/0/0/0",
        "parquet": "parquet/default/test-00000-of-00001.parquet",
        "figure": "figures/run-0.png",
        "extra": "parquet/default/more.parquet",
    }[damage]
    data = (copy / name).read_bytes() if damage != "extra" else b"x"
    (copy / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    faults = [fault for fault in fb.verify(copy).faults if fault.startswith("files:")]
    assert len(faults) == 1
    assert name in faults[0]


def test_a_part_is_published(tiny_dataset, tmp_path):
    made = fb.publish(tiny_dataset, to=tmp_path / "part", stages=[1, 3], runs=[0, 3], splits=["train", "test"])
    assert {(split.configuration, split.split) for split in made.publication.parquet} == {
        ("default", "train"),
        ("default", "test"),
        ("same_run", "test"),
    }
    part = fb.open(tmp_path / "part")
    assert part.part.stages == (1, 3)
    assert fb.verify(part).faults == ()
    whole = tiny_dataset.sel([0, 3], [1, 3], ["train", "test"]).load()
    np.testing.assert_array_equal(part.sel().load().maps_MDHW, whole.maps_MDHW)
    rows = datasets.load_dataset(str(tmp_path / "part"), split="train")
    assert sorted(set(rows["stage"])) == [1, 3]
    smaller = fb.publish(part, to=tmp_path / "smaller", kinds=["maps"], stages=[3])  # a part of a part
    assert smaller.publication.parquet == ()
    assert not (tmp_path / "smaller/croissant.json").exists()
    assert fb.verify(tmp_path / "smaller").faults == ()
    with pytest.raises(ConfigError, match=r"a part of .* without \d+ of the files to publish, such as"):
        fb.publish(part, to=tmp_path / "larger", stages=[1, 2])
    assert not (tmp_path / "larger").exists()


def test_another_part_does_not_go_over_a_published_one(copy, tiny_dataset):
    before = tree(copy)
    with pytest.raises(ConfigError, match=r"holds another part of .*, and published data stays"):
        fb.publish(tiny_dataset, to=copy, stages=[1])
    assert tree(copy) == before


def test_a_folder_with_other_files_is_refused(tiny_dataset, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files; choose a new or empty folder"):
        fb.publish(tiny_dataset, to=tmp_path)
    with pytest.raises(ConfigError, match="is no folder"):
        fb.publish(tiny_dataset, to=tmp_path / "notes.txt")
    assert tree(tmp_path) == {"notes.txt": b"mine"}
    with pytest.raises(ConfigError, match=r"name a folder or URL \(--to\), a repository"):
        fb.publish(tiny_dataset)
    with pytest.raises(ConfigError, match="--public belongs to --repo"):
        fb.publish(tiny_dataset, to=tmp_path / "new", public=True)


def test_a_damaged_publication_is_not_touched(copy, tiny_dataset):
    (copy / "figures/run-0.png").unlink()
    before = tree(copy)
    with pytest.raises(DatasetError, match=r"figures/run-0\.png is missing or was changed; remove"):
        fb.publish(tiny_dataset, to=copy)
    assert tree(copy) == before


def test_a_damaged_dataset_is_not_published(tiny_dataset, tmp_path):
    dataset = fb.open(shutil.copytree(tiny_dataset.path, tmp_path / "dataset"))
    shard = dataset.path / "maps.zarr/run-0/feature_maps/c/0/0/0/0/0"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DatasetError, match="its SHA-256 is not that of the manifest"):
        fb.publish(dataset, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told_before_anything_is_written(tiny_dataset, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(hub_folder.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(ConfigError, match=r"needs about \d+ MB and 0 MB are free"):
        fb.publish(tiny_dataset, to=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_after_a_stop_it_goes_on_and_ends_the_same(tiny_dataset, published, tmp_path, monkeypatch):
    export = parquet.export

    def stopped(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(hub_folder.parquet, "export", stopped)
    with pytest.raises(KeyboardInterrupt):
        fb.publish(tiny_dataset, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (unfinished,) = tmp_path.iterdir()
    assert unfinished.name.startswith(".out.")
    (unfinished / "maps.zarr/run-0/.half.part").write_bytes(b"half")
    monkeypatch.setattr(hub_folder.parquet, "export", export)
    read = []
    read_file = FmcsDataset.read_file
    monkeypatch.setattr(FmcsDataset, "read_file", lambda self, name: (read.append(name), read_file(self, name))[1])
    fb.publish(tiny_dataset, to=tmp_path / "out")
    assert not [name for name in read if name.startswith("maps.zarr/")]  # they were copied already
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    texts = ("README.md", "croissant.json", "publication.json")  # which have the time
    mine, theirs = ({k: v for k, v in tree(f).items() if k not in texts} for f in (tmp_path / "out", published))
    assert mine == theirs
    assert fb.verify(tmp_path / "out").faults == ()


def test_the_command_publishes_a_part(tiny_workspace, tmp_path):
    arguments = ["publish", "digits-smallcnn-16px-tiny", "--workspace", str(tiny_workspace)]
    done = CliRunner().invoke(main, [*arguments, "--to", str(tmp_path / "out"), "--select", "stages=2"])
    assert done.exit_code == 0, done.output
    assert f"folder      {tmp_path / 'out'}" in done.stdout
    assert "takes about" in done.stderr
    assert fb.open(tmp_path / "out").part.stages == (2,)
    wrong = CliRunner().invoke(main, [*arguments, "--to", str(tmp_path / "out2"), "--select", "stages=9"])
    assert wrong.exit_code == 2
    assert "stage = 9; allowed are 1, 2, 3" in wrong.output
    nothing = CliRunner().invoke(main, arguments)
    assert nothing.exit_code == 2


@pytest.mark.parametrize("text", ["stages", "stages=", "stage=1", "stages=1,x", "=1", "stages=-1"])
def test_a_wrong_selection_is_told(text):
    with pytest.raises(ConfigError, match="--select"):
        parse_selection([text])
    with pytest.raises(ConfigError, match="at most once"):
        parse_selection(["runs=1", "runs=2"])


def command(*arguments, hub, home, **environment):
    """The installed program, as a user types it, with the Hub on this machine."""
    return subprocess.run(
        [sys.executable, "-m", "fmcs_bench", *arguments],
        env=subprocess_environment()
        | {"HF_ENDPOINT": hub.url, "HF_HOME": os.fspath(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_mine"}
        | environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_from_a_build_to_the_hub_and_back(tiny_dataset, tiny_workspace, tmp_path):
    """build -> publish -> upload -> download -> verify keeps the digest; and it is read in place."""
    storage = tmp_path / "storage"
    storage.mkdir()
    with WritableHub(storage) as hub:
        hub.tokens = {"hf_mine": "me"}
        where = {"hub": hub, "home": tmp_path / "home"}
        publish = ["publish", tiny_dataset.manifest.name, "--repo", "me/digits", "--workspace", str(tiny_workspace)]
        publish += ["--to", str(tmp_path / "folder")]
        refused = command(*publish, **where)
        assert refused.returncode == 2
        assert "nobody can be asked whether to upload" in refused.stderr
        assert not hub.repos
        sent = command(*publish, "--yes", **where)
        assert sent.returncode == 0, sent.stderr
        assert f"repository  {hub.url}/datasets/me/digits (private), revision " in sent.stdout
        assert "hf_mine" not in sent.stdout + sent.stderr
        brought = command("download", "me/digits", "--workspace", str(tmp_path / "other"), **where)
        assert brought.returncode == 0, brought.stderr
        here = fb.open(tmp_path / "other/datasets" / tiny_dataset.manifest.name)
        assert here.id == tiny_dataset.id
        assert fb.verify(here).faults == ()
        code = (
            "import fmcs_bench as fb\n"
            "dataset = fb.open('hf://datasets/me/digits')\n"
            "print(dataset.id, dataset.sel('test', 2, 'test')[3].shape)\n"
            "print(fb.load('me/digits', split='test')[3]['feature_map'].shape)\n"
            "print(next(iter(fb.load('me/digits', split='test', streaming=True)))['feature_map'].shape)\n"
            "import datasets\n"
            "rows = datasets.load_dataset('me/digits', 'unseen', split='test')\n"
            "print(len(rows), rows.features['feature_map'].feature.id)\n"
        )
        read = subprocess.run(
            [sys.executable, "-c", code],
            env=subprocess_environment()
            | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
            | {"HF_TOKEN": "hf_mine"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert read.returncode == 0, read.stderr
        shape = tiny_dataset.manifest.map_shape
        assert read.stdout.splitlines() == [
            f"{tiny_dataset.id} {shape}",
            *[f"torch.Size({list(shape)})"] * 2,
            f"{len(tiny_dataset.sel('test', split='unseen'))} {'x'.join(map(str, shape))}",
        ]
