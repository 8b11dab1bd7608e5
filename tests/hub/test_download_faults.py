"""Downloads over bad networks, from hostile servers, onto small disks, and killed: a verified dataset, or one line."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
from conftest import subprocess_environment
from helpers.hub_server import Fault, HubServer
from helpers.publishing import entry_of, publish, tree, write_publication

import fmcs_bench as fb
from fmcs_bench.core import files
from fmcs_bench.core.errors import DatasetError, FmcsBenchError, HubError, MissingDataError, WorkspaceError
from fmcs_bench.core.progress import SILENT
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.hub import contents as contents_of
from fmcs_bench.hub import download as hub_download
from fmcs_bench.hub.patience import Attempts, Patience
from fmcs_bench.hub.source import FolderSource, Interrupted, find_source
from fmcs_bench.hub.transfer import Staging, Transfer
from fmcs_bench.store import schema

CHECKPOINT = "checkpoints/run-1/stage-2.safetensors"
QUICK = Patience(timeout=0.4, tries=4, first_wait=0.01, longest_wait=2.0, parallel=3)


class Said(type(SILENT)):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


@pytest.fixture(scope="session")
def published(tiny_dataset, tmp_path_factory):
    return publish(tiny_dataset, tmp_path_factory.mktemp("published") / tiny_dataset.path.name)


@pytest.fixture
def web(published):
    with HubServer() as server:
        server.static["tiny"] = published
        server.data = f"{server.url}/static/tiny"
        yield server


def get(web, workspace, patience=QUICK, **options):
    said = Said()
    got = hub_download.download(
        getattr(web, "data", web), Workspace(workspace), patience=patience, progress=said, **options
    )
    return SimpleNamespace(dataset=got, lines=said.lines)


def assert_arrived(got, published):
    assert {name: data for name, data in tree(got.dataset.path).items() if name != "download.json"} == tree(published)


def ranges(web, name=CHECKPOINT):
    return [request.range for request in web.requests(name)]


SIZE_AFTER = 3000

PASSING = {
    "dropped": Fault(drop_after=SIZE_AFTER),
    "closed early": Fault(close_early_by=500),
    "cut short": Fault(short_by=500),
    "too many requests": Fault(status=429, headers={"Retry-After": "0"}),
    "unavailable": Fault(status=503),
    "silent": Fault(stall=5.0),
    "dripping": Fault(drip=0.03),
    "wrong bytes": Fault(flip=100),
    "wrong length of the whole": Fault(short_by=1, times=2),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes(web, published, tmp_path, fault):
    web.fail(CHECKPOINT, Fault(**vars(fault)))
    got = get(web, tmp_path)
    assert_arrived(got, published)
    assert len(ranges(web)) >= 2
    if fault.status is None and fault.flip is None:
        assert any(asked is not None for asked in ranges(web)[1:]), "nothing was resumed"
    if fault.flip is not None:
        assert ranges(web) == [None, None]
        assert got.lines == [f"{web.data}/{CHECKPOINT} arrived with wrong content; once more from the start"]


def test_a_dropped_connection_goes_on_at_the_next_byte(web, published, tmp_path):
    web.fail(CHECKPOINT, Fault(drop_after=SIZE_AFTER), Fault(drop_after=1000))
    assert_arrived(get(web, tmp_path), published)
    assert ranges(web) == [None, f"bytes={SIZE_AFTER}-", f"bytes={SIZE_AFTER + 1000}-"]


def test_the_manifest_too_is_asked_for_again(web, published, tmp_path):
    for name in ("/publication.json", "/dataset.json"):
        web.fail(name, Fault(drop_after=10), Fault(status=503), Fault(short_by=0, close_early_by=20))
    assert_arrived(get(web, tmp_path), published)


def test_a_server_without_ranges_starts_again_and_says_so(web, published, tmp_path):
    web.fail(CHECKPOINT, Fault(drop_after=SIZE_AFTER), Fault(no_ranges=True, times=None))
    got = get(web, tmp_path)
    assert_arrived(got, published)
    assert ranges(web) == [None, f"bytes={SIZE_AFTER}-"]
    assert got.lines == [f"{web.data} gives only whole files: what was interrupted starts again"]


LASTING = {
    "dropped": (Fault(drop_after=10), r"given up after \d attempts in a row"),
    "unavailable": (Fault(status=503), "the server answers 503"),
    "silent": (Fault(stall=5.0), "given up after 4 attempts"),
    "busy for long": (Fault(status=429, headers={"Retry-After": "600"}), "asks to wait 600 s"),
    "busy until": (Fault(status=503, headers={"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}), r"asks to wait \d+ s"),
    "missing": (Fault(status=404), "does not exist"),
    "forbidden": (Fault(status=403), "may not be read"),
    "teapot": (Fault(status=418), "the server answers 418"),
    "wrong bytes": (Fault(flip=7), "has other content than its SHA-256 says, twice"),
    "longer": (Fault(longer_by=1), r"is longer than the [\d,]+ bytes that it must have"),
    "endless": (Fault(endless=1 << 30), r"is longer than the [\d,]+ bytes that it must have"),
}


@pytest.mark.parametrize(("fault", "message"), LASTING.values(), ids=LASTING)
def test_a_fault_that_stays_is_one_line_and_nothing_arrives(web, published, tmp_path, fault, message):
    web.fail(CHECKPOINT, Fault(**vars(fault) | {"times": None}))
    begin = time.monotonic()
    with pytest.raises(FmcsBenchError, match=f"{CHECKPOINT}.*{message}") as caught:
        get(web, tmp_path)
    assert time.monotonic() - begin < 10
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "datasets").exists()
    web.plan.clear()
    web.log.clear()
    got = get(web, tmp_path)  # and the same command goes on
    assert_arrived(got, published)
    fetched = {request.path for request in web.requests("/static/")}
    assert len(fetched) < len(tree(published))


def test_an_endless_manifest_is_not_read(web, tmp_path, monkeypatch):
    monkeypatch.setattr(contents_of, "LARGEST_HEAD", 200_000)
    web.fail("/publication.json", Fault(endless=1 << 28, times=None))
    with pytest.raises(DatasetError, match=r"publication.json is larger than 0 MB, and is not read"):
        get(web, tmp_path)


def test_no_server_and_no_secrets(tmp_path):
    with HubServer() as gone:
        url = gone.url.replace("http://", "http://me:pass-word@")
    with pytest.raises(HubError, match="given up after 4 attempts") as caught:
        get(f"{url}/static/tiny", tmp_path)
    assert "pass-word" not in str(caught.value)
    assert "me:" not in str(caught.value)


def test_a_password_in_a_url_is_used_and_never_kept(web, published, tmp_path):
    url = web.data.replace("http://", "http://me:pass-word@")
    got = get(url, tmp_path)
    assert_arrived(got, published)
    assert b"pass-word" not in b"".join(tree(tmp_path).values())
    assert {request.token is not None for request in web.requests()} == {True}


def test_signed_addresses_are_not_shown(published, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        address = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        server.add("me/tiny", published)
        server.fail(CHECKPOINT, Fault(status=503), Fault(drop_after=5), Fault(close_early_by=9), Fault(status=403))
        with pytest.raises(HubError) as caught:
            get("me/tiny", tmp_path)
    assert "SIGNED-SECRET" not in str(caught.value)


def test_the_hub_itself_is_asked_again(published, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        address = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        server.add("me/tiny", published)
        server.fail("/api/datasets/me/tiny", Fault(status=503), Fault(drop_after=3), Fault(status=429))
        assert_arrived(get("me/tiny", tmp_path), published)
        assert len(server.requests("/api/datasets/me/tiny")) == 4
        server.fail("/api/datasets/me/tiny", Fault(status=503, times=None))
        with pytest.raises(HubError, match="the Hub answers 503"):
            get("me/tiny", tmp_path)


# Time, order and space


def test_waits_grow_and_attempts_that_bring_much_do_not_count():
    said = []
    attempts = Attempts("x", Patience(tries=3, first_wait=0.001), said.append)
    for _ in range(20):
        attempts.after(Interrupted("again"), progressed=True)
    attempts.after(Interrupted("again"))
    with pytest.raises(HubError, match="given up after 3 attempts"):
        attempts.after(Interrupted("again"))


def test_files_come_in_parallel_but_not_all_at_once(tmp_path):
    folder, size = tmp_path / "files", 200
    folder.mkdir()
    names = [f"f{i}" for i in range(12)]
    for name in names:
        (folder / name).write_bytes(name.encode() * size)
    running, most = set(), []
    gate = threading.Barrier(3, timeout=20)
    lock = threading.Lock()

    def hold():
        with lock:
            running.add(threading.get_ident())
            most.append(len(running))
        gate.wait()
        with lock:
            running.discard(threading.get_ident())

    with HubServer() as server:
        server.static["x"] = folder
        server.fail("", Fault(times=None, hold=hold))
        source, _ = find_source(f"{server.url}/static/x", timeout=20)
        entries = {name: entry_of(folder / name) for name in names}
        staging = Staging(tmp_path / "staging")
        Transfer(source, entries, staging, Patience(parallel=3), SILENT).run("x")
    assert max(most) == 3
    assert tree(staging.files) == tree(folder)


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(web, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=12_345))
    with pytest.raises(WorkspaceError, match=r"needs [\d,]+ bytes more, and 12,345 bytes are free; .*--only"):
        get(web, tmp_path)
    assert {request.path.rsplit("/", 1)[1] for request in web.requests()} == {"publication.json", "dataset.json"}


def test_what_was_staged_of_another_version_is_dropped(web, tiny_dataset, tmp_path):
    older, newer = (publish(tiny_dataset, tmp_path / text, readme=text * 300_000) for text in "ab")
    web.static["tiny"] = older
    web.fail(CHECKPOINT, Fault(status=404))
    with pytest.raises(MissingDataError):
        get(web, tmp_path / "ws", patience=Patience(parallel=1))
    (staged,) = (tmp_path / "ws/downloads").glob("*/files/README.md")  # the largest file comes first
    assert staged.stat().st_size == (newer / "README.md").stat().st_size
    web.static["tiny"] = newer
    assert_arrived(get(web, tmp_path / "ws"), newer)


def test_a_smaller_wish_after_a_larger_one_that_was_interrupted(web, tmp_path):
    web.fail("README.md", Fault(status=404))  # the smallest file comes last
    with pytest.raises(MissingDataError):
        get(web, tmp_path, patience=Patience(parallel=1))
    web.log.clear()
    got = get(web, tmp_path, wish=hub_download.Wish(only=["maps"]))
    assert fb.verify(got.dataset).faults == ()
    assert len(web.requests("/static/")) == 3  # publication.json, dataset.json, README.md


# Strangers


def hostile_manifest(folder, tiny_dataset, change):
    """A published folder whose manifest was changed by somebody who knows how its digest is made."""
    publish(tiny_dataset, folder)
    value = json.loads((folder / "dataset.json").read_text())
    change(value)
    manifest = schema.Manifest.from_json(value)
    digest = schema.dataset_digest(manifest.config, manifest.images, manifest.files)
    manifest = manifest.model_copy(update={"dataset_digest": digest})
    (folder / "dataset.json").write_bytes(files.to_json(manifest.to_json()))
    write_publication(SimpleNamespace(id=manifest.id, manifest=manifest), folder, ["README.md", "dataset.json"])
    return folder


def renamed(name):
    def change(value):
        value["files"][name] = value["files"].pop(CHECKPOINT)

    return change


def also(name):
    def change(value):
        value["files"][name] = value["files"][CHECKPOINT]

    return change


NAMES = {
    "parent": "../outside",
    "parent inside": "maps.zarr/../../outside",
    "absolute": "/tmp/fmcs-bench-outside",  # noqa: S108
    "backslash": "..\\outside",
    "drive": "C:/outside",
    "empty part": "maps.zarr//x",
    "own folder": "./dataset",
    "device": "maps.zarr/NUL.json",
    "git": ".git/hooks/post-checkout",
    "line break": "maps.zarr/a\nb",
    "escape": "maps.zarr/\x1b[2J",
    "query": "maps.zarr/x?y",
    "too long": "maps.zarr/" + "x" * 300,
    "space at the end": "maps.zarr/x ",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_names_that_lead_elsewhere_are_refused(web, tiny_dataset, tmp_path, name):
    web.static["tiny"] = hostile_manifest(tmp_path / "hostile", tiny_dataset, renamed(name))
    refused(web, tmp_path / "ws", "names a file (outside the folder|that would lie outside its folder)")


def refused(web, workspace, message, error=DatasetError):
    with pytest.raises(error, match=message) as caught:
        get(web, workspace)
    text = str(caught.value)
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 1000
    assert {path.name for path in workspace.iterdir()} <= {".lock", "downloads"}
    assert list((workspace / "downloads").iterdir()) == []
    return text


CHANGES = {
    "case": (also(CHECKPOINT.upper()), "which are one file on some systems"),
    "accents": (lambda value: (also("maps.zarr/\u00e9")(value), also("maps.zarr/e\u0301")(value)), "one file on some"),
    "file and folder": (also("dataset.json/x"), "as a file and, for 'dataset.json/x', as a folder"),
    "own manifest": (also("dataset.json"), "it names dataset.json, which is no file of the data"),
    "own notes": (also("download.json"), "it names download.json"),
    "two runs of a seed": (lambda value: value["runs"].append(value["runs"][0]), "two runs have one seed"),
    "name": (lambda value: value.update(name="../../outside"), "its name is not that of its configuration"),
    "no unseen": (lambda value: value["images"]["num_images"].pop("unseen"), "its splits are not train,"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_manifests_of_strangers_are_refused(web, tiny_dataset, tmp_path, change, message):
    web.static["tiny"] = hostile_manifest(tmp_path / "hostile", tiny_dataset, change)
    refused(web, tmp_path / "ws", message)


def test_sizes_that_no_disk_has_are_refused(web, tiny_dataset, tmp_path):
    def change(value):
        value["files"][CHECKPOINT]["num_bytes"] = 10**18

    web.static["tiny"] = hostile_manifest(tmp_path / "hostile", tiny_dataset, change)
    with pytest.raises(WorkspaceError, match=r"needs 1,000,000,\d+,\d+,\d+,\d+ bytes more"):
        get(web, tmp_path / "ws")


def test_a_file_smaller_than_it_must_be_is_refused(web, tiny_dataset, tmp_path):
    def change(value):
        value["files"][CHECKPOINT]["num_bytes"] += 1

    web.static["tiny"] = hostile_manifest(tmp_path / "hostile", tiny_dataset, change)
    with pytest.raises(
        HubError, match=r"given up after 4 attempts in a row \(the server's file ends before the bytes that are"
    ):
        get(web, tmp_path / "ws")


DAMAGED = {
    "no JSON": ("dataset.json", b"{", "is damaged"),
    "deep": ("dataset.json", b"[" * 200_000, "is damaged"),
    "long number": ("dataset.json", b'{"schema_version": ' + b"1" * 10_000 + b"}", "is damaged"),
    "newer": ("dataset.json", b'{"schema_version": 2}', "has schema 2; this version of fmcs-bench reads 1"),
    "no text": ("dataset.json", b"\xff\xfe\x00", "is damaged"),
    "changed": ("dataset.json", None, "was changed"),
    "publication: no JSON": ("publication.json", b"{", "is damaged"),
    "publication: list": ("publication.json", b"[]", "has schema None"),
    "publication: newer": ("publication.json", b'{"schema_version": 9}', "has schema 9; .* install a newer one"),
    "publication: empty": ("publication.json", b'{"schema_version": 1}', "lacks"),
    "part: other": ("part.json", b"{}", "does not have the SHA-256 that publication.json says"),
}


@pytest.mark.parametrize(("name", "data", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_json_is_refused(web, tiny_dataset, tmp_path, name, data, message):
    folder = publish(tiny_dataset, tmp_path / "damaged", runs=[0])
    if data is None:
        value = json.loads((folder / name).read_text())
        value["config"]["seed"] += 1
        data = json.dumps(value).encode()
    (folder / name).write_bytes(data)
    web.static["tiny"] = folder
    refused(web, tmp_path / "ws", message)


def test_a_publication_of_other_data_or_names_is_refused(web, tiny_dataset, tmp_path):
    folder = publish(tiny_dataset, tmp_path / "hostile")
    web.static["tiny"] = folder
    entry = entry_of(folder / "README.md")
    write_publication(tiny_dataset, folder, ["dataset.json"], **{"../README.md": entry})
    refused(web, tmp_path / "ws", "outside the folder")
    write_publication(tiny_dataset, folder, ["dataset.json"], **{"readme.MD": entry, "README.md": entry})
    refused(web, tmp_path / "ws", "one file on some systems")
    write_publication(tiny_dataset, folder, ["README.md"])
    refused(web, tmp_path / "ws", "does not have the SHA-256 that publication.json says")
    other = SimpleNamespace(id=tiny_dataset.id, manifest=SimpleNamespace(dataset_digest="0" * 64))
    write_publication(other, folder, ["dataset.json"])
    refused(web, tmp_path / "ws", "belongs to another dataset")


def test_links_and_pipes_in_a_folder_are_not_followed(published, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes((published / CHECKPOINT).read_bytes())
    folder = shutil.copytree(published, tmp_path / "folder")
    (folder / CHECKPOINT).unlink()
    (folder / CHECKPOINT).symlink_to(secret)
    with pytest.raises(DatasetError, match=f"{CHECKPOINT} is a symbolic link"):
        get(str(folder), tmp_path / "ws")
    (folder / CHECKPOINT).unlink()
    os.mkfifo(folder / CHECKPOINT)
    with pytest.raises(DatasetError, match=f"{CHECKPOINT} is not a file"):
        get(str(folder), tmp_path / "ws")
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").symlink_to(published / "checkpoints")
    with pytest.raises(DatasetError, match="folder/checkpoints is a symbolic link"):
        get(str(folder), tmp_path / "ws")


def test_links_in_the_target_are_not_followed(web, tmp_path):
    got = get(web, tmp_path / "ws", wish=hub_download.Wish(only=["maps"]))
    outside = tmp_path / "outside"
    outside.mkdir()
    (got.dataset.path / "checkpoints").symlink_to(outside)
    with pytest.raises(DatasetError, match="checkpoints is a symbolic link, which may lead out"):
        get(web, tmp_path / "ws")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["", "files", "partial", "heads", "files/checkpoints"])
def test_links_in_the_staging_folder_are_not_followed(web, tmp_path, name):
    web.fail(CHECKPOINT, Fault(status=404))
    with pytest.raises(MissingDataError):
        get(web, tmp_path / "ws")
    (staging,) = (tmp_path / "ws/downloads").iterdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("mine")
    if (staging / name).exists():
        shutil.rmtree(staging / name)
    (staging / name).symlink_to(outside)
    with pytest.raises(DatasetError, match="is a symbolic link"):
        get(web, tmp_path / "ws")
    assert tree(outside) == {"mine": b"mine"}


def test_a_folder_source_reads_from_any_position(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")
    with FolderSource(tmp_path).open("file", 4) as body:
        assert (body.start, body.total, b"".join(body.blocks)) == (4, 10, b"456789")
    with pytest.raises(MissingDataError), FolderSource(tmp_path).open("file/x"):
        pass


# Kills

# A process that has imported everything forks a child for each attempt, so that an attempt costs no second of imports.
PROGRAM = """
import json, os, random, signal, sys, time, traceback
import fmcs_bench as fb
import fmcs_bench.hub.web
from fmcs_bench.hub.download import download
from fmcs_bench.hub.patience import Patience
from fmcs_bench.workspace import Workspace

url, root = sys.argv[1], sys.argv[2]

def attempt(workspace, seconds):
    "Exit status of a child that downloads, or None where it was killed after so many seconds."
    child = os.fork()
    if child == 0:
        status = 1
        try:
            download(url, Workspace(workspace), patience=Patience(first_wait=0.01, parallel=2))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None

generator = random.Random(0)
begin = time.monotonic()
assert attempt(f"{root}/whole", 600) == 0
seconds = time.monotonic() - begin
kills = []
for number in range(4):
    kills.append(0)
    while (status := attempt(f"{root}/{number}", generator.uniform(0.02, 0.5 * seconds))) is None:
        kills[-1] += 1
    assert status == 0, status
print(json.dumps({"kills": kills, "seconds": round(seconds, 2)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_downloads_that_are_killed_at_random_moments(web, published, tmp_path):
    web.fail(".safetensors", Fault(times=None, stall=0.4))  # so that files are struck in their middle
    command = [sys.executable, "-c", PROGRAM, web.data, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=subprocess_environment(), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    resumed = sum(request.range is not None for request in web.requests())
    print(result, resumed)
    assert sum(result["kills"]) >= 5
    assert resumed >= 2
    for number in range(4):
        target = tmp_path / f"{number}/datasets" / published.name
        assert fb.verify(target).faults == ()
        assert {name: data for name, data in tree(target).items() if name != "download.json"} == tree(published)
        assert list((tmp_path / f"{number}/downloads").iterdir()) == []
