"""Uploading a published folder with huggingface_hub's own client to a server on this machine."""

import json
import os
import subprocess
import sys

import pytest
from conftest import subprocess_environment
from helpers.hub_server import Fault
from helpers.hub_server import HubServer as WritableHub

from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, HubError
from fmcs_bench.hub.upload import Repository, check_repository
from fmcs_bench.store.publication import Publication

# huggingface_hub gives the bytes of large files to its HTTP client by a name that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    storage = tmp_path / "storage"
    storage.mkdir()
    # huggingface_hub reads these when it is imported, which may have happened: its constants are set as well.
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with WritableHub(storage) as server:
        server.tokens = {"hf_mine": "me", "hf_other": "other"}
        yield server


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "published")


def make(folder, digest="1" * 64, **more):
    """A folder as `publish` leaves it, as far as an upload looks at it."""
    content = {"README.md": "---\nlicense: mit\n---\n# Card\n", "maps.zarr/c/0": "maps", "dataset.json": "{}"}
    for name, text in (content | more).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    made = Publication(
        dataset_id=f"name@{digest[:12]}",
        dataset_digest=digest,
        parquet=(),
        files={},
        fmcs_bench="0",
        created="2026-01-01",
    )
    (folder / "publication.json").write_bytes(files.to_json(made.to_json()))
    return folder


def names(hub, repo="me/maps"):
    found = hub.repos[repo]
    return set(found.commits[found.branches["main"]])


def test_everything_arrives_and_the_manifests_last(hub, folder):
    done = Repository("me/maps", endpoint=hub.url).upload(folder)
    assert done.is_new
    assert done.is_private
    assert done.url == f"{hub.url}/datasets/me/maps"
    repo = hub.repos["me/maps"]
    assert done.revision == repo.branches["main"]
    assert repo.private
    steps = [set(commit) for commit in repo.commits.values()]
    assert steps == [
        {".gitattributes"},
        {".gitattributes", "README.md", "maps.zarr/c/0"},
        {".gitattributes", "README.md", "maps.zarr/c/0", "dataset.json", "publication.json"},
    ]
    for name in ("README.md", "maps.zarr/c/0", "dataset.json", "publication.json"):
        assert repo.commits[done.revision][name].read_bytes() == (folder / name).read_bytes()
    assert {str(seen) for seen in hub.yaml_seen} == {"{'license': 'mit'}"}


def test_a_second_upload_sends_nothing(hub, folder):
    first = Repository("me/maps", endpoint=hub.url).upload(folder)
    hub.log.clear()
    again = Repository("me/maps", endpoint=hub.url).upload(folder)
    assert not again.is_new
    assert again.revision == first.revision
    assert not hub.requests("commit|storage|preupload")


def test_public_is_seen_by_everyone_only_when_all_is_there(hub, folder):
    done = Repository("me/maps", endpoint=hub.url).upload(folder, public=True)
    assert not done.is_private
    assert not hub.repos["me/maps"].private
    asked = [one.path for one in hub.log if one.method in ("POST", "PUT")]
    assert asked[-1].endswith("/settings")


def test_an_upload_that_was_cut_off_goes_on(hub, folder):
    hub.plan["/commit/main"] = Fault(method="POST", status=500)
    with pytest.raises(HubError, match="type the command again to go on"):
        Repository("me/maps", endpoint=hub.url).upload(folder)
    assert hub.requests("/storage/", "PUT")
    hub.plan.clear()
    hub.log.clear()
    assert Repository("me/maps", endpoint=hub.url).upload(folder).is_new
    assert not hub.requests("/storage/", "PUT")  # the large file was there already
    assert {"README.md", "maps.zarr/c/0", "dataset.json", "publication.json"} < names(hub)


def test_a_busy_server_is_asked_again(hub, folder):
    hub.plan["/preupload/main"] = Fault(method="POST", status=503, times=2)
    assert Repository("me/maps", endpoint=hub.url).upload(folder).is_new
    assert len(hub.requests("/preupload/")) == 4  # two refused, one for each commit


def test_a_repository_with_another_dataset_or_part_is_refused(hub, folder, tmp_path):
    Repository("me/maps", endpoint=hub.url).upload(folder)
    before = dict(hub.repos["me/maps"].commits)
    with pytest.raises(ConfigError, match=r"me/maps holds name@111111111111; published data never changes"):
        Repository("me/maps", endpoint=hub.url).upload(make(tmp_path / "two", digest="2" * 64))
    (folder / "maps.zarr/c/0").unlink()  # a part that is smaller
    with pytest.raises(ConfigError, match=r"me/maps holds another part of name@111111111111, and published data"):
        Repository("me/maps", endpoint=hub.url).upload(folder)
    assert hub.repos["me/maps"].commits == before


def test_a_repository_with_other_files_is_refused(hub, folder, tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/notes.txt").write_text("mine")
    hub.add("me/maps", tmp_path / "theirs")
    with pytest.raises(ConfigError, match=r"me/maps holds other files, such as notes\.txt"):
        Repository("me/maps", endpoint=hub.url).upload(folder)
    assert names(hub) == {"notes.txt"}


@pytest.mark.parametrize(
    "card",
    ["# No metadata\n", "---\nlicense: [mit\n---\n", "---\n- a\n- b\n---\n", "---\nconfigs: 1: 2\n---\n", "\ufeff"],
)
def test_a_card_with_broken_metadata_is_refused(hub, folder, card):
    (folder / "README.md").write_text(card)
    with pytest.raises(ConfigError, match=r"the card .*README\.md has broken metadata: .*publish again"):
        Repository("me/maps", endpoint=hub.url).upload(folder)
    assert not hub.repos


def test_what_is_superseded_is_told_without_new_data(hub, folder):
    Repository("me/maps", endpoint=hub.url).upload(folder)
    value = json.loads((folder / "publication.json").read_bytes()) | {"superseded_by": "me/maps-v2"}
    (folder / "publication.json").write_bytes(files.to_json(value))
    hub.log.clear()
    assert Repository("me/maps", endpoint=hub.url).upload(folder).is_new
    assert not hub.requests("/storage/", "PUT")


def test_no_token_no_permission(hub, folder, monkeypatch):
    with pytest.raises(HubError, match=r"no permission to write other/maps on the Hub \(HTTP 403\)") as refused:
        Repository("other/maps", endpoint=hub.url).upload(folder)
    assert "hf_mine" not in str(refused.value)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match=r"HTTP 401") as refused:
        Repository("me/maps", endpoint=hub.url)
    assert "hf_wrong" not in str(refused.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HubError, match=r"nobody is logged in .* `hf auth login`"):
        Repository("me/maps", endpoint=hub.url)
    assert not hub.repos


@pytest.mark.usefixtures("hub")
def test_a_server_that_is_not_there():
    with pytest.raises(HubError, match="the Hub cannot be reached for me/maps"):
        Repository("me/maps", endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("repo", ["maps", "me/maps/more", "me/", "/maps", "me/ma ps", "me/..", "-me/maps", ""])
def test_a_name_that_the_hub_does_not_accept(repo):
    with pytest.raises(ConfigError, match="names no repository: give owner/name"):
        check_repository(repo)


def test_offline_is_told_at_once(tmp_path):
    code = "from fmcs_bench.hub.upload import Repository; Repository('me/maps')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=subprocess_environment() | {"HF_HUB_OFFLINE": "1", "HF_HOME": os.fspath(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "HubError: HF_HUB_OFFLINE is set; nothing can be uploaded" in done.stderr
