"""Downloads from a Hub, a web server and folders: whole, in parts, again, offline, and beside other data."""

import json
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner
from conftest import build_tiny, subprocess_environment
from helpers.hub_server import HubServer
from helpers.publishing import PARQUET, publish, tree

import fmcs_bench as fb
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, DatasetError, HubError, MissingDataError, WorkspaceError
from fmcs_bench.store.subset import Part

FILES = r"/(resolve|cdn|static)/"


class Said:
    """A progress display that remembers what it was told."""

    def __init__(self):
        self.lines, self.steps = [], 0

    def task(self, description, total):
        self.description, self.total = description, total
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def advance(self, steps=1):
        self.steps += steps

    def say(self, message):
        self.lines.append(message)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub without data, which huggingface_hub takes for the real one; nobody is logged in."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield server


@pytest.fixture(scope="session")
def published(tiny_dataset, tmp_path_factory):
    return publish(tiny_dataset, tmp_path_factory.mktemp("published") / tiny_dataset.path.name)


@pytest.fixture
def repo(hub, published):
    hub.add("me/tiny", published)
    return hub


def expected_names(dataset, **chosen):
    """Files of a folder with a part of the published dataset."""
    part = Part.of(dataset.manifest, **chosen)
    names = {*part.files(dataset.manifest, dataset.maps_per_shard), "dataset.json", "download.json", "publication.json"}
    added = {"README.md", "figures/run-0.png"} | ({PARQUET} if "parquet" in part.kinds else set())
    whole = set(chosen.get("kinds", "")) >= {"maps", "checkpoints", "parquet"} or not chosen
    return names | added | (set() if whole else {"part.json"})


def test_a_repository_arrives_whole_and_pinned(repo, published, tiny_dataset, tmp_path):
    said = Said()
    got = fb.download("me/tiny", workspace=tmp_path, progress=said)
    assert got.path == tmp_path / "datasets" / tiny_dataset.manifest.name
    assert got.id == tiny_dataset.id
    assert got.is_whole
    there = tree(got.path)
    former = json.loads(there.pop("download.json"))
    assert there == tree(published)
    assert (former["source"], former["revision"], former["asked"]) == ("hf://datasets/me/tiny", "1" * 40, None)
    assert fb.verify(got).faults == ()
    assert said.steps == said.total
    assert not list((tmp_path / "downloads").iterdir())
    assert all("1" * 40 in request.path for request in repo.requests(r"/resolve/"))


def test_a_second_download_asks_for_no_file(repo, tmp_path):
    fb.download("me/tiny", workspace=tmp_path)
    repo.log.clear()
    said = Said()
    fb.download("me/tiny", workspace=tmp_path, progress=said)
    assert "nothing was downloaded" in said.lines[-1]
    assert repo.requests(FILES) == []
    assert len(repo.requests()) == 1  # which commit it is


@pytest.mark.parametrize(
    "chosen",
    [
        {"only": ["maps"]},
        {"only": ["parquet"], "runs": [0]},
        {"only": ["checkpoints"], "stages": [2, 3]},
        {"runs": [0, 3], "stages": [1]},
    ],
    ids=["maps", "parquet", "checkpoints", "runs and stages"],
)
@pytest.mark.usefixtures("repo")
def test_a_part_is_what_was_asked_for(tiny_dataset, tmp_path, chosen):
    got = fb.download("me/tiny", workspace=tmp_path, **chosen)
    part = {"kinds" if key == "only" else key: value for key, value in chosen.items()}
    assert set(tree(got.path)) == expected_names(tiny_dataset, **part)
    assert got.part == Part.of(tiny_dataset.manifest, **part)
    assert fb.verify(got).faults == ()


def test_what_is_asked_for_later_is_added(repo, tiny_dataset, tmp_path):
    fb.download("me/tiny", workspace=tmp_path, only=["maps"], stages=[1])
    repo.log.clear()
    got = fb.download("me/tiny", workspace=tmp_path, only=["checkpoints"], stages=[1])
    asked = {request.path.split("1" * 40 + "/")[1] for request in repo.requests(r"/(resolve|cdn)/")}
    assert asked == {f"checkpoints/run-{seed}/stage-1.safetensors" for seed in range(4)}
    assert got.part == Part.of(tiny_dataset.manifest, kinds=["maps", "checkpoints"], stages=[1])
    assert fb.verify(got).faults == ()
    said = Said()
    got = fb.download("me/tiny", workspace=tmp_path, progress=said)
    assert got.is_whole
    assert set(tree(got.path)) == expected_names(tiny_dataset)
    assert fb.verify(got).faults == ()
    assert said.lines == []


@pytest.mark.usefixtures("repo")
def test_what_comes_along_to_keep_a_folder_describable_is_told(tiny_dataset, tmp_path):
    fb.download("me/tiny", workspace=tmp_path, only=["maps"], runs=[0])
    said = Said()
    got = fb.download("me/tiny", workspace=tmp_path, only=["checkpoints"], runs=[1], progress=said)
    assert got.part == Part.of(tiny_dataset.manifest, kinds=["maps", "checkpoints"], runs=[0, 1])
    assert "more files come with it" in said.lines[0]
    assert "maps, checkpoints of runs 0, 1" in said.lines[0]
    assert fb.verify(got).faults == ()


def test_a_missing_or_cut_file_is_fetched_again(repo, published, tmp_path):
    got = fb.download("me/tiny", workspace=tmp_path)
    checkpoint = got.path / "checkpoints/run-1/stage-2.safetensors"
    checkpoint.write_bytes(b"cut")
    (got.path / "trajectories/run-0.json").unlink()
    repo.log.clear()
    fb.download("me/tiny", workspace=tmp_path)
    assert len({request.path for request in repo.requests("/resolve/")}) == 2
    assert checkpoint.read_bytes() == (published / "checkpoints/run-1/stage-2.safetensors").read_bytes()


def test_a_published_part_is_asked_for_nothing_else(hub, tiny_dataset, tmp_path):
    part = {"kinds": ["maps"], "runs": [0, 2], "splits": ["test", "unseen"]}
    hub.add("me/part", publish(tiny_dataset, tmp_path / "part", **part))
    got = fb.download("me/part", workspace=tmp_path / "ws")
    assert got.part == Part.of(tiny_dataset.manifest, **part)
    assert fb.verify(got).faults == ()
    for wish, text in [
        ({"only": ["checkpoints"]}, "only = 'checkpoints'; allowed are maps"),
        ({"runs": [1]}, "run = 1; allowed are 0, 2"),
        ({"stages": [4]}, "stage = 4; allowed are 1, 2, 3"),
    ]:
        with pytest.raises(ConfigError, match=f"^hf://datasets/me/part does not have all .*{text}$"):
            fb.download("me/part", workspace=tmp_path / "ws", **wish)


def test_a_part_elsewhere_cannot_complete_what_is_here(hub, published, tiny_dataset, tmp_path):
    hub.add("me/whole", published)
    hub.add("me/part", publish(tiny_dataset, tmp_path / "part", kinds=["checkpoints"], runs=[0]))
    fb.download("me/whole", workspace=tmp_path / "ws", only=["maps"])
    with pytest.raises(ConfigError, match=r"me/part does not have \d+ files .* would need .*--to"):
        fb.download("me/part", workspace=tmp_path / "ws")
    got = fb.download("me/part", workspace=tmp_path / "ws", to=tmp_path / "else where")
    assert got.path == tmp_path / "else where"
    assert fb.verify(got).faults == ()


def test_a_folder_as_it_was_built(tiny_dataset, tmp_path):
    got = fb.download(tiny_dataset.path, workspace=tmp_path)
    there = tree(got.path)
    former = json.loads(there.pop("download.json"))
    assert there == tree(tiny_dataset.path)
    assert (former["source"], former["revision"]) == (str(tiny_dataset.path), None)
    assert fb.verify(got).faults == ()
    said = Said()
    fb.download(tiny_dataset.path, workspace=tmp_path, progress=said)
    assert "nothing was downloaded" in said.lines[-1]
    with pytest.raises(ConfigError, match="only = 'parquet'; allowed are maps, checkpoints"):
        fb.download(tiny_dataset.path, workspace=tmp_path, only="parquet")
    with pytest.raises(ConfigError, match="has no revisions"):
        fb.download(tiny_dataset.path, workspace=tmp_path, revision="main")
    part = fb.download(tiny_dataset.path, to=tmp_path / "part", workspace=tmp_path, only=["maps"])
    assert part.part == Part.of(tiny_dataset.manifest, kinds=["maps"])


def test_a_web_server_and_other_places(hub, published, tmp_path):
    import fsspec

    hub.static["tiny"] = published
    got = fb.download(f"{hub.url}/static/tiny/", workspace=tmp_path)
    assert fb.verify(got).faults == ()
    hub.log.clear()
    fb.download(f"{hub.url}/static/tiny", workspace=tmp_path)
    assert [request.path.rsplit("/", 1)[1] for request in hub.requests()] == ["publication.json", "dataset.json"]
    memory = fsspec.filesystem("memory")
    memory.put(str(published), "/data/tiny", recursive=True)
    try:
        got = fb.download("memory://data/tiny", workspace=tmp_path / "memory")
    finally:
        memory.rm("/data", recursive=True)
    assert fb.verify(got).faults == ()
    got = fb.download(published.as_uri(), workspace=tmp_path / "file", only=["maps"])
    assert json.loads((got.path / "download.json").read_text())["source"] == str(published)


def test_a_folder_of_a_repository_a_branch_and_a_page(hub, published, tiny_dataset, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(published, both / "deep/er")
    hub.add("me/both", both)
    hub.repos["me/both"].branches["v1"] = "1" * 40
    for typed in ("hf://datasets/me/both/deep/er", "hf://datasets/me/both@v1/deep/er"):
        got = fb.download(typed, to=tmp_path / "got", workspace=tmp_path)
    former = json.loads((got.path / "download.json").read_text())
    assert (former["source"], former["asked"]) == ("hf://datasets/me/both/deep/er", None)  # v1 brought nothing new
    hub.add("me/tiny", published)
    got = fb.download("https://huggingface.co/datasets/me/tiny", workspace=tmp_path)
    assert got.id == tiny_dataset.id
    with pytest.raises(ConfigError, match="names the revision v1, and --revision v2"):
        fb.download("me/tiny@v1", revision="v2", workspace=tmp_path)
    with pytest.raises(MissingDataError, match="has no revision 'v7'; leave it out"):
        fb.download("me/tiny@v7", workspace=tmp_path)
    with pytest.raises(MissingDataError, match=r"me/both has no dataset.json: it is no FMCS data set"):
        fb.download("me/both", workspace=tmp_path)


def test_a_folder_wins_over_a_repository_and_says_so(repo, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(published, "me/tiny")
    said = Said()
    fb.download("me/tiny", workspace="ws", progress=said)
    assert said.lines == ["taking the folder me/tiny; for the Hub's, type hf://datasets/me/tiny"]
    assert repo.requests() == []


def test_a_new_version_of_the_card_is_fetched(hub, published, tiny_dataset, tmp_path):
    hub.add("me/tiny", published)
    fb.download("me/tiny", workspace=tmp_path / "ws")
    newer = publish(tiny_dataset, tmp_path / "newer", superseded_by="me/tiny-2\x1b[31m", readme="# Cart\n")
    hub.add("me/tiny", newer, commit="2" * 40)
    hub.log.clear()
    said = Said()
    got = fb.download("me/tiny", workspace=tmp_path / "ws", progress=said)
    assert (got.path / "README.md").read_text() == "# Cart\n"
    names = {request.path.rsplit("/", 1)[1] for request in hub.requests("/resolve/")}
    assert names == {"publication.json", "dataset.json", "README.md"}
    assert said.lines == ["hf://datasets/me/tiny is superseded by me/tiny-2[31m"]
    assert json.loads((got.path / "download.json").read_text())["revision"] == "2" * 40
    assert fb.verify(got).faults == ()


def test_what_was_built_here_gets_what_publishing_added(repo, tiny_dataset, tmp_path):
    built = tmp_path / "datasets" / tiny_dataset.manifest.name
    shutil.copytree(tiny_dataset.path, built)
    repo.log.clear()
    got = fb.download("me/tiny", workspace=tmp_path)
    names = {request.path.split("1" * 40 + "/")[1] for request in repo.requests("/resolve/")}
    assert names == {"publication.json", "dataset.json", "README.md", "figures/run-0.png", PARQUET}
    assert fb.verify(got).faults == ()


# Offline


def test_offline_uses_what_is_here_and_lists_what_is_not(repo, published, tmp_path, monkeypatch):
    with pytest.raises(MissingDataError, match=r"offline, and no download of hf://datasets/me/tiny is in"):
        fb.download("me/tiny", workspace=tmp_path, offline=True)
    fb.download("me/tiny", workspace=tmp_path, only=["maps"])
    repo.log.clear()
    got = fb.download("me/tiny", workspace=tmp_path, only=["maps"], stages=[2], offline=True)
    assert got.path.is_dir()
    with pytest.raises(MissingDataError, match=r"12 files \(.* MB\) of .*: checkpoints/run-0/stage-1.*, \.\.\.; type"):
        fb.download("me/tiny", workspace=tmp_path, only=["maps", "checkpoints"], offline=True)
    with pytest.raises(MissingDataError, match=f"{PARQUET}"):
        fb.download("me/tiny", workspace=tmp_path, only=["parquet"], offline=True)
    with pytest.raises(MissingDataError, match=r"no download of hf://datasets/me/tiny@v2 is in"):
        fb.download("me/tiny@v2", workspace=tmp_path, offline=True)
    fb.download("me/tiny", revision="1" * 40, workspace=tmp_path, only=["maps"], offline=True)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fb.download("me/tiny", workspace=tmp_path, only="maps")
    with pytest.raises(MissingDataError, match="offline"):
        fb.download(f"{repo.url}/static/tiny", workspace=tmp_path)
    assert repo.requests() == []
    assert fb.download(published, workspace=tmp_path / "other", offline=True).is_whole  # a folder needs no network


# Folders that hold something else


@pytest.mark.usefixtures("repo")
def test_other_data_of_the_same_name_is_left_alone(tiny_dataset, tmp_path):
    other = build_tiny(tmp_path, seed=7)
    before = tree(other.path)
    with pytest.raises(WorkspaceError, match=r"holds another data set or version, .*@.*, and not .*; .*--to"):
        fb.download("me/tiny", workspace=tmp_path)
    assert tree(other.path) == before
    assert fb.download("me/tiny", workspace=tmp_path, to=tmp_path / "there").id == tiny_dataset.id


@pytest.mark.usefixtures("repo")
def test_folders_that_are_no_dataset_are_left_alone(tmp_path):
    folder = tmp_path / "to"
    (folder / "work").mkdir(parents=True)
    with pytest.raises(WorkspaceError, match="holds an unfinished build, or files that are no data set"):
        fb.download("me/tiny", workspace=tmp_path, to=folder)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(WorkspaceError, match="is no folder"):
        fb.download("me/tiny", workspace=tmp_path, to=tmp_path / "file")
    (folder / "work").rmdir()
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(WorkspaceError, match=r"has schema None.*--to"):
        fb.download("me/tiny", workspace=tmp_path, to=folder)
    (folder / "dataset.json").unlink()
    assert fb.download("me/tiny", workspace=tmp_path, to=folder).path == folder  # an empty folder is none
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(WorkspaceError, match="is no folder"):
        fb.download("me/tiny", workspace=tmp_path, to=tmp_path / "link")


@pytest.mark.usefixtures("repo")
def test_a_workspace_in_use_is_refused_at_once(tmp_path):
    from fmcs_bench.core.workspace import Workspace

    with Workspace(tmp_path).locked(), pytest.raises(WorkspaceError, match="in use by another"):
        fb.download("me/tiny", workspace=tmp_path)


# Refusals of the Hub


def test_a_missing_repository_has_neighbours(repo, published, tmp_path):
    repo.add("me/tinier", published, private=True)
    with pytest.raises(
        MissingDataError, match=r"no data set me/tinny on .*; did you mean me/tiny\?; .*`hf auth login`"
    ):
        fb.download("me/tinny", workspace=tmp_path)
    with pytest.raises(MissingDataError, match="no data sets of you are to be seen"):
        fb.download("you/tiny", workspace=tmp_path)
    with pytest.raises(MissingDataError, match="no folder here, and no owner/name"):
        fb.download("tiny", workspace=tmp_path)
    with pytest.raises(ConfigError, match="write hf://datasets/owner/name"):
        fb.download("hf://me/tiny", workspace=tmp_path)


def test_private_and_gated_repositories(hub, published, tmp_path, monkeypatch):
    hub.tokens = {"hf_good": "me", "hf_other": "other"}
    hub.add("me/private", published, private=True)
    hub.add("me/gated", published, gated=True, open_to=("me",))
    with pytest.raises(MissingDataError, match="type `hf auth login` first"):
        fb.download("me/private", workspace=tmp_path)
    with pytest.raises(HubError, match=r"is gated: ask for access at .*/datasets/me/gated, then type `hf auth login`"):
        fb.download("me/gated", workspace=tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="your token does not allow it") as caught:
        fb.download("me/private", workspace=tmp_path)
    assert "hf_wrong" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(HubError, match="with the account of your token"):
        fb.download("me/gated", workspace=tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    for name in ("private", "gated"):
        assert fb.download(f"me/{name}", workspace=tmp_path / name).is_whole
    # Large files come from another host, which must not see the token.
    assert {request.token for request in hub.requests("/cdn/")} == {None}
    assert "hf_good" not in json.dumps({k: v.decode(errors="replace") for k, v in tree(tmp_path).items()})


# The command


def test_the_command_in_a_process(repo, tmp_path):
    environment = subprocess_environment() | {"HF_ENDPOINT": repo.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "fmcs_bench", "download", "me/tiny", "--workspace", str(tmp_path / "ws")]
    command += ["--only", "maps", "--stages", "1", "--stages", "2", "--runs", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "part    " in done.stdout
    assert (tmp_path / "ws/datasets/digits-smallcnn-16px-tiny/part.json").is_file()
    again = subprocess.run(
        [*command, "--offline", "--json"], capture_output=True, text=True, env=environment, check=False
    )
    assert json.loads(again.stdout)["name"] == "digits-smallcnn-16px-tiny"


@pytest.mark.usefixtures("repo")
def test_wrong_use_of_the_command(tmp_path):
    def type_(*arguments):
        return CliRunner().invoke(main, ["download", *arguments, "--workspace", str(tmp_path)])

    assert "'map' is not one of" in type_("me/tiny", "--only", "map").output
    for arguments, text in [
        (("me/tiny", "--timeout", "0"), "timeout = 0.0; it is in seconds"),
        (("gs://bucket/name",), "gs://bucket/name needs a package that is not installed: Please install gcsfs"),
        (("https://me:pw@host/x?token=1",), "https://host/x was given with a query"),
        (("http://host:port/x",), "http://host:port/x has no host, or a port that is no number"),
        (("ftpp://host/x",), "ftpp://host/x cannot be opened"),
    ]:
        result = type_(*arguments)
        assert result.exit_code == 2, result.output
        assert text in result.output
        assert "pw" not in result.output


@pytest.mark.usefixtures("repo")
def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(
        main, ["download", "me/tiny", "--workspace", str(tmp_path / "ws"), "--to", str(tmp_path / "file/x")]
    )
    assert result.exit_code == 2
    assert "Error: " in result.output
    assert "Traceback" not in result.output


def test_a_repository_damaged_after_publishing_is_refused(hub, published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "damaged")
    (folder / "dataset.json").write_bytes((folder / "dataset.json").read_bytes() + b"\n")
    hub.add("me/tiny", folder)
    with pytest.raises(DatasetError, match=r"dataset.json does not have the SHA-256 that publication.json says"):
        fb.download("me/tiny", workspace=tmp_path)
    assert not (tmp_path / "datasets").exists()
    assert list((tmp_path / "downloads").iterdir()) == []
