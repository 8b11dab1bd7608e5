"""Downloads from a Hub, a web server and folders: whole, in parts, again, offline, after a kill, and from strangers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from conftest import build_tiny, subprocess_environment
from helpers.hub_server import Fault, HubServer, use
from helpers.published_folder import change_manifest, restate, tree

import fmcs_bench as fb
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, DatasetError, FmcsBenchError, HubError, MissingDataError, WorkspaceError
from fmcs_bench.core.progress import SILENT
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.hub import download
from fmcs_bench.store.publication import Part

CHECKPOINT = "checkpoints/run-1/stage-2.safetensors"


class Said(type(SILENT)):
    """A progress display that remembers its lines."""

    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    """A Hub with the tiny dataset, in a repository and on a web page."""
    with HubServer() as server:
        use(server, monkeypatch, tmp_path / "home")
        server.add("me/tiny", published)
        server.static["tiny"] = published
        yield server


@pytest.fixture
def copy(published, tmp_path):
    return shutil.copytree(published, tmp_path / "copy")


def assert_arrived(got, published):
    assert {name: data for name, data in tree(got.path).items() if name != "download.json"} == tree(published)
    assert fb.verify(got).faults == ()
    assert not [path for path in got.path.parent.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def fetched(hub):
    """Names of the data files that were asked for; the manifests are asked for each time."""
    found = {one.path.split("1" * 40 + "/")[1] for one in hub.requests("/(resolve|cdn)/")}
    return found - {"dataset.json", "publication.json", "part.json"}


def test_a_repository_arrives_whole_and_pinned(hub, published, tiny_dataset, tmp_path):
    got = fb.download("me/tiny", workspace=tmp_path / "ws")
    assert got.path == tmp_path / "ws/datasets" / tiny_dataset.manifest.name
    assert got.id == tiny_dataset.id
    assert got.is_whole
    assert_arrived(got, published)
    origin = json.loads((got.path / "download.json").read_bytes())
    assert (origin["source"], origin["revision"], origin["asked"]) == ("hf://datasets/me/tiny", "1" * 40, None)
    assert all("1" * 40 in request.path for request in hub.requests(r"/resolve/"))
    hub.log.clear()
    said = Said()
    fb.download("me/tiny", workspace=tmp_path / "ws", progress=said)
    assert "nothing was downloaded" in said.lines[-1]
    assert fetched(hub) == set()


@pytest.mark.parametrize(
    "chosen",
    [
        {"only": ["maps"]},
        {"only": ["parquet"], "runs": [0]},
        {"only": ["checkpoints"], "stages": [2, 3]},
        {"runs": [0, 3], "stages": [1]},
    ],
    ids=str,
)
@pytest.mark.usefixtures("hub")
def test_a_part_is_what_was_asked_for(tiny_dataset, tmp_path, chosen):
    got = fb.download("me/tiny", workspace=tmp_path, **chosen)
    expected = Part.of(tiny_dataset.manifest, **{"kinds" if key == "only" else key: v for key, v in chosen.items()})
    names = set(tree(got.path))
    assert got.part == expected
    assert names >= expected.files(tiny_dataset.manifest, tiny_dataset.maps_per_shard)
    for kind, folder in (("parquet", "parquet/"), ("checkpoints", "checkpoints/")):
        assert any(name.startswith(folder) for name in names) == (kind in expected.kinds)
    assert fb.verify(got).faults == ()


def test_what_is_asked_for_later_is_added_to_all_runs_of_the_folder(hub, published, tiny_dataset, tmp_path):
    fb.download("me/tiny", workspace=tmp_path / "ws", only=["maps"], runs=[0])
    hub.log.clear()
    said = Said()
    got = fb.download("me/tiny", workspace=tmp_path / "ws", only=["checkpoints"], runs=[1], progress=said)
    assert {name.rsplit("/", 1)[0] for name in fetched(hub) if name.startswith("checkpoints/")} == {
        "checkpoints/run-0",
        "checkpoints/run-1",
    }
    assert not [name for name in fetched(hub) if name.startswith("maps.zarr/run-0")]
    assert got.part == Part.of(tiny_dataset.manifest, kinds=["maps", "checkpoints"], runs=[0, 1])
    assert "maps, checkpoints of the runs 0, 1" in said.lines[0]
    assert fb.verify(got).faults == ()
    assert_arrived(fb.download("me/tiny", workspace=tmp_path / "ws"), published)


def test_a_missing_or_cut_file_is_fetched_again(hub, published, tmp_path):
    got = fb.download("me/tiny", workspace=tmp_path / "ws")
    (got.path / CHECKPOINT).write_bytes(b"cut")
    (got.path / "trajectories/run-0.json").unlink()
    hub.log.clear()
    got = fb.download("me/tiny", workspace=tmp_path / "ws")
    assert fetched(hub) == {CHECKPOINT, "trajectories/run-0.json"}
    assert_arrived(got, published)


def test_a_published_part_gives_no_more(hub, tiny_dataset, tmp_path):
    part = {"kinds": ["maps"], "runs": [0, 2], "splits": ["test", "unseen"]}
    fb.publish(tiny_dataset, to=tmp_path / "part", only=["maps"], runs=[0, 2], splits=["test", "unseen"])
    hub.add("me/part", tmp_path / "part")
    got = fb.download("me/part", workspace=tmp_path / "ws")
    assert got.part == Part.of(tiny_dataset.manifest, **part)
    assert fb.verify(got).faults == ()
    for wish, text in [({"only": ["checkpoints"]}, "checkpoints"), ({"runs": [1]}, "runs = 1"), ({"stages": [4]}, "4")]:
        with pytest.raises(ConfigError, match=f"hf://datasets/me/part does not have all .*{text}.*; allowed are"):
            fb.download("me/part", workspace=tmp_path / "ws", **wish)
    fb.download("me/tiny", workspace=tmp_path / "ws2", only=["checkpoints"])
    with pytest.raises(ConfigError, match=r"me/part does not have \d+ files .* would need .*--to"):
        fb.download("me/part", workspace=tmp_path / "ws2")


def test_a_folder_as_it_was_built(tiny_dataset, tmp_path, monkeypatch):
    got = fb.download(tiny_dataset.path, workspace=tmp_path, offline=True)  # a folder needs no network
    assert_arrived(got, tiny_dataset.path)
    with pytest.raises(ConfigError, match="allowed are maps, checkpoints"):
        fb.download(tiny_dataset.path, workspace=tmp_path, only="parquet")
    with pytest.raises(ConfigError, match="has no revisions"):
        fb.download(tiny_dataset.path, workspace=tmp_path, revision="main")
    monkeypatch.chdir(tmp_path)
    odd = shutil.copytree(tiny_dataset.path, "o[w]n*/n[0-9]?me")  # a path, and no pattern
    got = fb.download(odd, workspace="ws", to="t[o]*")
    assert got.path.name == "t[o]*"
    assert_arrived(got, tiny_dataset.path)


def test_a_folder_wins_over_a_repository_and_says_so(hub, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(published, "me/tiny")
    said = Said()
    fb.download("me/tiny", workspace="ws", progress=said)
    assert "hf://datasets/me/tiny" in said.lines[0]
    assert hub.requests() == []


def test_a_web_server_and_other_urls(hub, published, tmp_path):
    import fsspec

    assert_arrived(fb.download(f"{hub.url}/static/tiny/", workspace=tmp_path / "web"), published)
    memory = fsspec.filesystem("memory")
    memory.put(str(published), "/data/tiny", recursive=True)
    try:
        assert_arrived(fb.download("memory://data/tiny", workspace=tmp_path / "memory"), published)
    finally:
        memory.rm("/data", recursive=True)
    got = fb.download(published.as_uri(), workspace=tmp_path / "file", only=["maps"])
    assert json.loads((got.path / "download.json").read_text())["source"] == str(published)


def test_a_password_in_a_url_is_used_and_never_kept(hub, published, tmp_path):
    url = hub.url.replace("http://", "http://me:pass-word@")
    assert_arrived(fb.download(f"{url}/static/tiny", workspace=tmp_path / "ws"), published)
    assert b"pass-word" not in b"".join(tree(tmp_path / "ws").values())
    assert {request.token is not None for request in hub.requests("/static/")} == {True}


def test_a_revision_a_page_and_a_newer_card(hub, published, tiny_dataset, copy, tmp_path):
    hub.repos["me/tiny"].branches["v1"] = "1" * 40
    got = fb.download("https://huggingface.co/datasets/me/tiny/tree/v1", workspace=tmp_path)
    assert json.loads((got.path / "download.json").read_text())["asked"] == "v1"
    fb.publish(tiny_dataset, to=copy, superseded_by="me/tiny-2")
    hub.add("me/tiny", copy, commit="2" * 40)
    assert_arrived(fb.download("me/tiny@v1", workspace=tmp_path), published)
    said = Said()
    got = fb.download("me/tiny", workspace=tmp_path, progress=said)
    asked = {one.path.rsplit("/")[-1] for one in hub.requests("/resolve/2")}
    assert asked == {"README.md", "dataset.json", "publication.json"}
    assert "superseded by me/tiny-2" in said.lines[0]
    assert_arrived(got, copy)
    with pytest.raises(ConfigError, match="names the revision v1, and --revision v2"):
        fb.download("me/tiny@v1", revision="v2", workspace=tmp_path)
    with pytest.raises(MissingDataError, match="no such revision"):
        fb.download("me/tiny@v7", workspace=tmp_path)


def test_what_was_built_here_gets_what_publishing_added(hub, published, tiny_dataset, tmp_path):
    shutil.copytree(tiny_dataset.path, tmp_path / "ws/datasets" / tiny_dataset.manifest.name)
    got = fb.download("me/tiny", workspace=tmp_path / "ws")
    assert not [name for name in fetched(hub) if name.startswith(("maps.zarr", "checkpoints", "trajectories"))]
    assert_arrived(got, published)


def test_offline_uses_what_is_here_and_lists_what_is_not(hub, tmp_path, monkeypatch):
    with pytest.raises(MissingDataError, match="offline, and no download of hf://datasets/me/tiny is"):
        fb.download("me/tiny", workspace=tmp_path, offline=True)
    fb.download("me/tiny", workspace=tmp_path, only=["maps"])
    hub.log.clear()
    assert fb.download("me/tiny", workspace=tmp_path, only=["maps"], stages=[2], offline=True).path.is_dir()
    assert fb.download("me/tiny", revision="1" * 40, workspace=tmp_path, only=["maps"], offline=True).path.is_dir()
    with pytest.raises(MissingDataError, match="lacks the kinds checkpoints of"):
        fb.download("me/tiny", workspace=tmp_path, only=["maps", "checkpoints"], offline=True)
    with pytest.raises(MissingDataError, match="no download of hf://datasets/me/tiny@v2"):
        fb.download("me/tiny@v2", workspace=tmp_path, offline=True)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fb.download("me/tiny", workspace=tmp_path, only="maps")
    with pytest.raises(MissingDataError, match="offline"):
        fb.download(f"{hub.url}/static/tiny", workspace=tmp_path)
    assert hub.requests() == []


# Faults


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("me/tiny", {"status": 403}),
        ("me/tiny", {"longer_by": 5}),
        ("{url}/static/tiny", {"status": 404}),
        ("{url}/static/tiny", {"flip": 7}),
    ],
    ids=str,
)
def test_a_fault_is_one_line_and_the_same_command_goes_on(hub, published, tmp_path, source, fault):
    hub.plan[CHECKPOINT] = Fault(**fault)
    source = source.format(url=hub.url)
    with pytest.raises(FmcsBenchError) as caught:
        fb.download(source, workspace=tmp_path)
    assert "\n" not in str(caught.value)
    assert "SIGNED-SECRET" not in str(caught.value)
    assert not list((tmp_path / "datasets").glob("[!.]*"))
    hub.plan.clear()
    hub.log.clear()
    assert_arrived(fb.download(source, workspace=tmp_path), published)
    assert len(hub.requests("/(resolve|static)/", "GET")) < len(tree(published))


def test_a_damaged_file_is_named_and_nothing_good_is_lost(hub, published, copy, tmp_path):
    got = fb.download("me/tiny", workspace=tmp_path / "ws", only=["maps"])
    before = tree(got.path)
    data = (copy / CHECKPOINT).read_bytes()
    (copy / CHECKPOINT).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    hub.add("me/tiny", copy, commit="2" * 40)
    with pytest.raises(DatasetError, match=f"{CHECKPOINT} does not have its SHA-256"):
        fb.download("me/tiny", workspace=tmp_path / "ws")
    assert tree(got.path) == before
    hub.add("me/tiny", published, commit="3" * 40)
    assert_arrived(fb.download("me/tiny", workspace=tmp_path / "ws"), published)


def test_an_endless_manifest_is_not_read(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "LARGEST_HEAD", 100)
    for source in ("me/tiny", f"{hub.url}/static/tiny"):
        with pytest.raises(DatasetError, match=r"\.json is larger than the 100 bytes"):
            fb.download(source, workspace=tmp_path)


def test_a_disk_that_is_too_small_is_found_before_the_data(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100_000))
    with pytest.raises(WorkspaceError, match=r"needs [\d,]+ bytes more, and 100,000 bytes are free; .*--only"):
        fb.download("me/tiny", workspace=tmp_path)
    assert fetched(hub) == set()


def test_private_gated_and_missing_repositories(hub, published, tmp_path, monkeypatch):
    hub.tokens = {"hf_good": "me"}
    hub.add("me/private", published, private=True)
    hub.add("me/gated", published, gated=True)
    for name, error, text in (
        ("me/private", MissingDataError, "private.*`hf auth login`"),
        ("me/nothing", MissingDataError, "does not exist"),
        ("me/gated", HubError, "is gated.*`hf auth login`"),
        ("tiny", MissingDataError, "no folder, no owner/name"),
    ):
        with pytest.raises(error, match=text):
            fb.download(name, workspace=tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="HTTP 401") as caught:
        fb.download("me/private", workspace=tmp_path)
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    for name in ("private", "gated"):
        assert fb.download(f"me/{name}", workspace=tmp_path / name).is_whole
    assert {request.token for request in hub.requests("/cdn/")} == {None}  # the second host must not see the token
    assert b"hf_good" not in b"".join(tree(tmp_path).values())


# Folders that hold something else


@pytest.mark.usefixtures("hub")
def test_other_data_is_left_alone(tiny_dataset, tmp_path):
    other = build_tiny(tmp_path, seed=7)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = tree(tmp_path)
    for options, text in (
        ({}, "holds a different dataset or version"),
        ({"to": tmp_path / "folder"}, "holds no finished FMCS dataset"),
        ({"to": tmp_path / "file"}, "is no folder"),
        ({"to": tmp_path / "link"}, "is no folder"),
        ({"to": tmp_path / "file/x"}, "cannot be written"),
    ):
        with pytest.raises(WorkspaceError, match=f"{text}.*--to"):
            fb.download("me/tiny", workspace=tmp_path, **options)
    assert tree(tmp_path) == before
    assert tree(other.path)
    (tmp_path / "empty").mkdir()
    assert fb.download("me/tiny", workspace=tmp_path, to=tmp_path / "empty").id == tiny_dataset.id
    with Workspace(tmp_path).locked(), pytest.raises(WorkspaceError, match="in use by another"):
        fb.download("me/tiny", workspace=tmp_path)


# Strangers


def refused(hub, folder, workspace, message):
    """Nothing is written, and the message is one printable line."""
    hub.static["hostile"] = folder
    with pytest.raises(DatasetError, match=message) as caught:
        fb.download(f"{hub.url}/static/hostile", workspace=workspace)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert {path.name for path in workspace.iterdir()} <= {".lock"}


def also(name):
    return lambda value: value["files"].update({name: value["files"][CHECKPOINT]})


NAMES = [
    "../outside", "maps.zarr/../../outside", "/tmp/outside", "..\\outside", "C:/outside", "maps.zarr//x", "./dataset",  # noqa: S108
    "maps.zarr/NUL.json", ".git/hooks/post-checkout", "maps.zarr/a\nb", "maps.zarr/\x1b[2J", "maps.zarr/x?y",
    "maps.zarr/" + "x" * 300, "maps.zarr/x ",
]  # fmt: skip


CHANGES = {name: (also(name), "outside (the|its) folder") for name in NAMES} | {
    "case": (also(CHECKPOINT.upper()), "one file on some systems"),
    "accents": (lambda value: (also("maps.zarr/\u00e9")(value), also("maps.zarr/e\u0301")(value)), "one file on some"),
    "file and folder": (also("dataset.json/x"), "as a file and, for 'dataset.json/x', as a folder"),
    "own manifest": (also("dataset.json"), "dataset.json"),
    "own notes": (also("download.json"), "names download.json"),
    "two runs of a seed": (lambda value: value["runs"].append(value["runs"][0]), "two runs have one seed"),
    "name": (lambda value: value.update(name="../../outside"), "its name is not that of its configuration"),
    "no unseen": (lambda value: value["images"]["num_images"].pop("unseen"), "its splits are not train,"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_manifests_of_strangers_are_refused(hub, copy, tmp_path, change, message):
    change_manifest(copy, change)
    refused(hub, copy, tmp_path / "ws", message)


DAMAGED = {
    "no JSON": ("dataset.json", b"{", "is damaged"),
    "deep": ("dataset.json", b"[" * 200_000, "is damaged"),
    "long number": ("dataset.json", b'{"schema_version": ' + b"1" * 10_000 + b"}", "is damaged"),
    "newer": ("dataset.json", b'{"schema_version": 99}', "has schema 99"),
    "publication: no JSON": ("publication.json", b"{", "is damaged"),
    "publication: newer": ("publication.json", b'{"schema_version": 9}', "schema"),
    "part: other": ("part.json", b"{}", "damaged|does not have the SHA-256"),
}


@pytest.mark.parametrize(("name", "data", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_json_is_refused(hub, copy, tmp_path, name, data, message):
    (copy / name).write_bytes(data)
    refused(hub, copy, tmp_path / "ws", message)


def test_a_publication_that_contradicts_its_manifest_is_refused(hub, copy, tmp_path):
    value = json.loads((copy / "publication.json").read_bytes())
    entry = value["files"]["README.md"]
    for change, message in (
        ({"files": value["files"] | {"../README.md": entry}}, "outside the folder"),
        ({"files": value["files"] | {"readme.MD": entry}}, "one file on some systems"),
        ({"files": value["files"] | {"dataset.json": entry}}, "dataset.json does not have the SHA-256"),
        ({"dataset_digest": "0" * 64}, "belongs to"),
    ):
        (copy / "publication.json").write_text(json.dumps(value | change))
        refused(hub, copy, tmp_path / "ws", message)
    (copy / "dataset.json").write_bytes((copy / "dataset.json").read_bytes().replace(b'"seed": 0', b'"seed": 1', 1))
    restate(copy)
    refused(hub, copy, tmp_path / "ws", "was changed")


@pytest.mark.usefixtures("hub")
def test_links_are_not_followed(copy, tmp_path):
    (tmp_path / "secret").write_bytes((copy / CHECKPOINT).read_bytes())
    (copy / CHECKPOINT).unlink()
    (copy / CHECKPOINT).symlink_to(tmp_path / "secret")
    with pytest.raises(DatasetError, match=f"{CHECKPOINT} is a symbolic link"):
        fb.download(copy, workspace=tmp_path / "one")
    (copy / CHECKPOINT).unlink()
    os.mkfifo(copy / CHECKPOINT)
    with pytest.raises(DatasetError, match=f"{CHECKPOINT} is missing"):
        fb.download(copy, workspace=tmp_path / "two")
    got = fb.download("me/tiny", workspace=tmp_path / "ws", only=["maps"])
    (tmp_path / "outside").mkdir()
    (got.path / "checkpoints").symlink_to(tmp_path / "outside")
    with pytest.raises(DatasetError, match="is a symbolic link, which may lead out"):
        fb.download("me/tiny", workspace=tmp_path / "ws")
    assert list((tmp_path / "outside").iterdir()) == []
    (tmp_path / "to").mkdir()
    (tmp_path / ".to.download").symlink_to(tmp_path / "outside")
    with pytest.raises(WorkspaceError, match="is a symbolic link"):
        fb.download("me/tiny", workspace=tmp_path / "ws", to=tmp_path / "to")
    assert list((tmp_path / "outside").iterdir()) == []


# The command


def test_a_killed_download_goes_on_when_typed_again(hub, published, tmp_path):
    hub.plan = {"stage-3.safetensors": Fault(stall=60.0)}
    environment = subprocess_environment() | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "fmcs_bench", "download", "me/tiny", "--workspace", str(tmp_path / "ws")]
    process = subprocess.Popen(command, env=environment)
    end = time.monotonic() + 60
    while not hub.requests("/cdn/.*stage-3.safetensors") and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name[0] for path in (tmp_path / "ws/datasets").iterdir()] == ["."]
    hub.plan.clear()
    hub.log.clear()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert len(fetched(hub)) < len(tree(published)) - 2
    assert_arrived(fb.open(tmp_path / "ws/datasets" / published.name), published)
    again = CliRunner().invoke(main, [*command[3:], "--offline", "--json"])
    assert json.loads(again.output)["name"] == published.name
