"""`fmcs_bench.load` from a Hub: a server on this machine that speaks its interface."""

import datasets
import numpy as np
import pytest
from helpers.hub_server import HubServer
from helpers.published_folder import publish
from huggingface_hub import constants

import fmcs_bench as fb
from fmcs_bench.core.errors import ConfigError, DatasetError, MissingDataError
from fmcs_bench.store.publication import Part

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture(scope="module")
def versions(tiny_dataset, tmp_path_factory):
    """Two published folders: all stages, and stage 3 alone."""
    folders = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    publish(tiny_dataset, folders[0])
    publish(tiny_dataset, folders[1], part=Part.of(tiny_dataset.manifest, stages=[3]))
    return folders


@pytest.fixture
def hub(versions, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    datasets.disable_progress_bars()
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        server.add("me/tiny", versions[0], FIRST)
        yield server


def asked_files(hub):
    return {one.path.split("/")[-1].split("?")[0] for one in hub.requests(r"/resolve/")}


def test_only_what_is_asked_for_is_fetched(hub, tiny_dataset):
    rows = fb.load("me/tiny", split="test")
    np.testing.assert_array_equal(rows[:]["feature_map"], tiny_dataset.sel("test", split="test")[:])
    assert asked_files(hub) == {"publication.json", "test-00000-of-00001.parquet"}
    assert not hub.requests("/resolve/.*(same_run|unseen)")


@pytest.mark.usefixtures("hub")
def test_all_splits(tiny_dataset):
    found = fb.load("me/tiny", library="numpy")
    for role, rows in (("training", found["train"]), ("validation", found["validation"])):
        expected = tiny_dataset.sel(role, split="train" if role == "training" else role)[:]
        np.testing.assert_array_equal(rows[:]["feature_map"], expected)


def test_a_revision_stays_what_it_is(hub, versions):
    before = fb.load("me/tiny", split="test")
    hub.add("me/tiny", versions[1], SECOND)
    assert set(fb.load("me/tiny", split="test")[:]["stage"].tolist()) == {3}
    for revision in (FIRST, SECOND, "main"):
        pinned = fb.load("me/tiny", split="test", revision=revision)
        assert len(pinned) == (len(before) if revision == FIRST else len(before) // 3)
        streamed = list(fb.load("me/tiny", split="test", revision=revision, streaming=True))
        assert [row["image_id"] for row in streamed] == pinned[:]["image_id"].tolist()


def test_streaming_fetches_nothing_ahead_of_need(hub, tiny_dataset, tmp_path):
    rows = fb.load("me/tiny", split="train", streaming=True)
    first = next(iter(rows))
    np.testing.assert_array_equal(first["feature_map"], tiny_dataset.sel("training", split="train")[0])
    assert not list(tmp_path.rglob("*.parquet"))
    assert asked_files(hub) <= {"publication.json", "train-00000-of-00001.parquet"}


def test_offline_gives_what_was_fetched_at_that_revision_only(hub, monkeypatch):
    expected = fb.load("me/tiny", split="test")
    hub.log.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision in (None, FIRST):
        assert fb.load("me/tiny", split="test", revision=revision)[:]["image_id"].equal(expected[:]["image_id"])
    with pytest.raises(MissingDataError, match=r"me/tiny .*HF_HUB_OFFLINE is set"):
        fb.load("me/tiny", split="test", revision=SECOND)
    with pytest.raises(MissingDataError, match=r"train-00000-of-00001.parquet .*is not on this machine|HF_HUB_OFFLINE"):
        fb.load("me/tiny", split="train")
    assert hub.requests() == []


@pytest.mark.parametrize("streaming", [False, True])
def test_what_is_not_there(hub, tmp_path, streaming):
    with pytest.raises(MissingDataError, match=r"repository me/other does not exist, or needs a login"):
        fb.load("me/other", streaming=streaming)
    with pytest.raises(MissingDataError, match=r"me/tiny at v9: there is no such revision"):
        fb.load("me/tiny", revision="v9", streaming=streaming)
    with pytest.raises(ConfigError, match="did you mean default"):
        fb.load("me/tiny", "defaul", streaming=streaming)
    tmp_path.joinpath("plain").mkdir()
    tmp_path.joinpath("plain/README.md").write_text("A card.")
    hub.add("me/plain", tmp_path / "plain")
    with pytest.raises(DatasetError, match="me/plain is no published FMCS dataset"):
        fb.load("me/plain", streaming=streaming)


@pytest.mark.usefixtures("hub")
def test_nobody_answers(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between tries
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    with pytest.raises(
        MissingDataError, match="is not in the Hub's cache on this machine, and the Hub cannot be reached"
    ):
        fb.load("me/tiny")


def test_a_gated_repository(hub, versions):
    hub.add("me/gated", versions[0], gated=True)
    with pytest.raises(MissingDataError, match="is gated: ask for access"):
        fb.load("me/gated", split="test")
