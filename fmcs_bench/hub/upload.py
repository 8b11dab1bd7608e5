"""Sends a published folder to a dataset repository of the Hugging Face Hub, or to a URL that fsspec writes.

The manifests come last: without them readers refuse what was not finished. A stopped upload goes on.
"""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fmcs_bench.core.errors import ConfigError, DatasetError, HubError, MissingDataError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.hub.card import FILE as CARD
from fmcs_bench.hub.croissant import FILE as CROISSANT
from fmcs_bench.hub.errors import hub_errors
from fmcs_bench.store import publication, schema
from fmcs_bench.store.location import Location
from fmcs_bench.store.publication import PART, Publication
from fmcs_bench.store.reader import read_manifest

LAST = (PART, publication.FILE, schema.MANIFEST)
"""Sent when everything else is there."""
TEXTS = (CARD, CROISSANT)
"""Written anew where a dataset is superseded."""
OF_THE_HUB = ".gitattributes"
"""The Hub makes it in every new repository."""
PARALLEL = 8
"""Files at the same time."""


@dataclass(frozen=True)
class Sent:
    """What came of an upload; ``is_new``: something was sent, otherwise all of it was there."""

    url: str
    is_new: bool
    revision: str | None = None
    is_private: bool = False

    def __str__(self) -> str:
        seen = f" ({'private' if self.is_private else 'public'}), revision {self.revision}" if self.revision else ""
        return f"{self.url}{seen}{'' if self.is_new else '; it held all of this already'}"


class Repository:
    """One dataset repository on the Hub (``owner/name``), for writing; no endpoint is ``HF_ENDPOINT``."""

    def __init__(self, repo: str, *, endpoint: str | None = None) -> None:
        from huggingface_hub import HfApi, constants
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in __all__

        with hub_errors(repr(repo)):
            validate_repo_id(repo)
        if repo.count("/") != 1:
            raise ConfigError(f"{repo!r} names no repository: give owner/name")
        if constants.HF_HUB_OFFLINE:
            raise HubError("HF_HUB_OFFLINE is set; nothing can be uploaded. Unset it, or publish with --to only")
        self.repo = repo
        self._api = HfApi(endpoint=endpoint, library_name="fmcs-bench")
        with hub_errors(repo):
            self.user = str(self._api.whoami()["name"])

    def upload(self, folder: Path, *, public: bool = False) -> Sent:
        """Make the repository hold exactly this folder; a new one is private, an old one stays what it is."""
        mine = _publication((folder / publication.FILE).read_bytes(), str(folder))
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        names_there = self._names()
        before = self._published() if publication.FILE in (names_there or ()) else None
        require_same(self.repo, mine, before, (names_there or frozenset()) - names - {OF_THE_HUB})
        about = f"FMCS dataset {mine.dataset_id}"
        with hub_errors(self.repo):
            if names_there is None:
                self._api.create_repo(self.repo, repo_type="dataset", private=True)
            if before != mine:
                self._commit(folder, f"{about}: files", ignore_patterns=[*LAST])
                self._commit(folder, about, allow_patterns=[*LAST])
            if public:
                self._api.update_repo_settings(self.repo, repo_type="dataset", private=False)
            info = self._api.dataset_info(self.repo)
        return Sent(f"{self._api.endpoint}/datasets/{self.repo}", before != mine, str(info.sha), bool(info.private))

    def _names(self) -> frozenset[str] | None:
        """Names of the repository's files; None where there is no such repository."""
        try:
            with hub_errors(self.repo):
                info = self._api.dataset_info(self.repo)
        except MissingDataError:
            return None
        return frozenset(entry.rfilename for entry in info.siblings or ())

    def _published(self) -> Publication:
        with tempfile.TemporaryDirectory() as cache, hub_errors(self.repo):
            file = self._api.hf_hub_download(self.repo, publication.FILE, repo_type="dataset", cache_dir=cache)
            return _publication(Path(file).read_bytes(), self.repo)

    def _commit(self, folder: Path, message: str, **patterns: list[str]) -> None:
        """Files of the folder in one commit, or several where they are many; what is there already is not sent."""
        self._api.upload_folder(  # type: ignore[call-overload]  # mypy does not see that patterns are keywords of it
            repo_id=self.repo, repo_type="dataset", folder_path=folder, commit_message=message, **patterns
        )


def look(place: Location) -> dict[str, int]:
    """Sizes of the files of a place that is to be written, by their names."""
    if place.place.startswith("hf://"):
        raise ConfigError(f"{place} is a place of the Hub; give --repo owner/name, which uploads in few commits")
    there = place.sizes()
    if there is None:
        raise ConfigError(f"{place} cannot be listed, so nothing is copied there; give --to a folder or a bucket")
    return there


def copy(folder: Path, place: Location, *, progress: Progress = SILENT) -> Sent:
    """Make a place elsewhere hold exactly this folder; every file is read back for its SHA-256."""
    manifest = read_manifest(Location(folder))
    mine = _publication((folder / publication.FILE).read_bytes(), str(folder))
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    last = [name for name in LAST if name in names]
    entries = manifest.files | mine.files | {name: schema.FileEntry.of(folder / name) for name in last}
    there = look(place)
    before = _publication(place.read_bytes(publication.FILE), str(place)) if publication.FILE in there else None
    require_same(str(place), mine, before, frozenset(there) - frozenset(names))

    def is_whole(name: str) -> bool:
        return there.get(name) == entries[name].num_bytes and place.sha256(name) == entries[name].sha256

    def send(name: str) -> None:
        was_checked = before is not None and name not in (*LAST, *TEXTS)  # before its publication was written
        if (was_checked and there.get(name) == entries[name].num_bytes) or is_whole(name):
            return
        place.put(folder / name, name)
        if place.sha256(name) != entries[name].sha256:
            raise DatasetError(f"{place.shown(name)} does not hold what was sent there; type the command again")

    if all(there.get(name) == entries[name].num_bytes for name in names) and all(map(is_whole, last)):
        return Sent(str(place), is_new=False)
    pool = ThreadPoolExecutor(PARALLEL)
    with progress.task(f"copying {manifest.name}", len(names)) as task:
        try:
            for done in [pool.submit(send, name) for name in names if name not in last]:
                done.result()
                task.advance()
        finally:
            pool.shutdown(cancel_futures=True)
        for name in last:
            send(name)
            task.advance()
    return Sent(str(place), is_new=True)


def require_same(where: str, mine: Publication, there: Publication | None, foreign: frozenset[str]) -> None:
    """Published data never changes: what is there, and ``foreign`` files, must be a beginning of this, or this."""
    if there is not None and there.dataset_digest != mine.dataset_digest:
        raise ConfigError(
            f"{where} holds {there.dataset_id}; published data never changes, so {mine.dataset_id} needs a repository "
            "or place of its own (mark the old one with --superseded-by)"
        )
    if there is not None and (foreign or _data(there) != _data(mine)):
        raise ConfigError(f"{where} holds a different part of {there.dataset_id}, and published data never changes")
    if foreign:
        raise ConfigError(f"{where} holds other files, such as {min(foreign)}; use a new one")


def _data(of: Publication) -> dict[str, schema.FileEntry]:
    """What may not change: everything but the texts."""
    return {name: entry for name, entry in of.files.items() if name not in TEXTS}


def _publication(content: bytes, where: str) -> Publication:
    try:
        return Publication.from_json(json.loads(content))
    except ValueError as error:
        raise ConfigError(f"{where} holds a damaged {publication.FILE} ({error}); use a new place") from None
