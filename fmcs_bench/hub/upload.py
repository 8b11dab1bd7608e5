"""Uploads a published folder to a dataset repository of the Hugging Face Hub, through huggingface_hub.

Flow: folder, repository -> what the repository holds already -> created, private -> all files but the manifests -> the
manifests, in one last commit: without them readers refuse what was not finished.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fmcs_bench.core.errors import ConfigError, FmcsBenchError, HubError
from fmcs_bench.hub.card import FILE as CARD
from fmcs_bench.hub.croissant import FILE as CROISSANT
from fmcs_bench.store import publication, schema
from fmcs_bench.store.publication import PART, Publication

if TYPE_CHECKING:
    from huggingface_hub import HfApi

LAST = (PART, publication.FILE, schema.MANIFEST)
"""Committed when everything else is there."""
TEXTS = (CARD, CROISSANT)
"""Written anew where a dataset is superseded."""
ALSO_THERE = (".gitattributes",)
"""Made by the Hub in every new repository."""


@dataclass(frozen=True)
class Uploaded:
    """What came of an upload.

    Attributes:
        url: of the repository.
        revision: id of the commit that holds everything.
        is_private: seen by its owner only.
        is_new: something was uploaded; otherwise all of it was there.
    """

    url: str
    revision: str
    is_private: bool
    is_new: bool


def check_repository(repo: str) -> str:
    """A name of the form ``owner/name`` that the Hub accepts.

    Raises:
        ConfigError: it is not.

    Example:
        >>> check_repository("owner/digits-smallcnn-32px-base")
        'owner/digits-smallcnn-32px-base'
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, but not in __all__

    try:
        validate_repo_id(repo)
        if repo.count("/") != 1:
            raise HFValidationError("the owner is missing")
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} names no repository: give owner/name ({error})") from None
    return repo


def check_card(file: Path) -> None:
    """Look at a card as the Hub will.

    Raises:
        ConfigError: its metadata, the YAML between two lines of dashes at its beginning, is missing or broken.
    """
    import yaml
    from huggingface_hub import DatasetCard

    try:
        head = DatasetCard(file.read_text(encoding="utf-8")).data.to_dict()  # type: ignore[no-untyped-call]  # of the Hub
        if not head:
            raise ValueError("there is no metadata")
    except (yaml.YAMLError, ValueError, TypeError, OSError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"the card {file} has broken metadata: {why}; remove the folder and publish again") from None


class Repository:
    """One dataset repository on the Hub, for writing.

    Args:
        repo: ``owner/name``.
        endpoint: of the Hub; None is ``HF_ENDPOINT`` or huggingface.co.

    Raises:
        ConfigError: the name is not of this form.
        HubError: offline, or nobody is logged in.
    """

    def __init__(self, repo: str, *, endpoint: str | None = None) -> None:
        from huggingface_hub import HfApi, constants

        self.repo = check_repository(repo)
        if constants.HF_HUB_OFFLINE:
            raise HubError("HF_HUB_OFFLINE is set; nothing can be uploaded. Unset it, or publish with --to only")
        self._api: HfApi = HfApi(endpoint=endpoint, library_name="fmcs-bench")
        from huggingface_hub.errors import LocalTokenNotFoundError

        with _told(repo):
            try:
                self.user = str(self._api.whoami()["name"])
            except LocalTokenNotFoundError:
                raise HubError(
                    "nobody is logged in to the Hugging Face Hub; type `hf auth login`, or set HF_TOKEN to a token "
                    "that may write"
                ) from None

    def names_there(self) -> frozenset[str] | None:
        """Names of the repository's files; None where there is no such repository."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with _told(self.repo):
            try:
                info = self._api.dataset_info(self.repo)
            except RepositoryNotFoundError:
                return None
        return frozenset(entry.rfilename for entry in info.siblings or ())

    def publication_there(self) -> Publication:
        """The repository's ``publication.json``.

        Raises:
            ConfigError: it is damaged.
        """
        with tempfile.TemporaryDirectory() as cache:
            with _told(self.repo):
                file = self._api.hf_hub_download(self.repo, publication.FILE, repo_type="dataset", cache_dir=cache)
            try:
                return Publication.from_json(json.loads(Path(file).read_bytes()))
            except ValueError as error:
                raise ConfigError(
                    f"{self.repo} holds a damaged {publication.FILE} ({error}); use another --repo"
                ) from None

    def upload(self, folder: Path, *, public: bool = False) -> Uploaded:
        """Make the repository hold exactly this folder; an upload that was stopped goes on.

        Args:
            folder: made by ``fmcs_bench.hub.publish``.
            public: seen by everyone once all is there; otherwise a new repository is private, an old one stays.

        Raises:
            ConfigError: the repository holds another dataset, or other files; or the card is broken.
            HubError: no permission, or the Hub cannot be reached.
        """
        mine = Publication.from_json(json.loads((folder / publication.FILE).read_bytes()))
        check_card(folder / CARD)
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        names_there = self.names_there()
        there = self.publication_there() if publication.FILE in (names_there or ()) else None
        foreign = (names_there or frozenset()) - names - {*ALSO_THERE}
        require_same(self.repo, "repository", "--repo", mine, there, foreign)
        about = f"FMCS dataset {mine.dataset_id}"
        with _told(self.repo):
            if names_there is None:
                self._api.create_repo(self.repo, repo_type="dataset", private=True)
            if there != mine:
                self._commit(folder, f"{about}: files", ignore_patterns=[*LAST])
                self._commit(folder, about, allow_patterns=[*LAST])
            if public:
                self._api.update_repo_settings(self.repo, repo_type="dataset", private=False)
            info = self._api.dataset_info(self.repo)
        url = f"{self._api.endpoint}/datasets/{self.repo}"
        return Uploaded(url, str(info.sha), bool(info.private), there != mine)

    def _commit(self, folder: Path, message: str, **patterns: list[str]) -> None:
        """Files of the folder in one commit, or several where they are many; what is there already is not sent."""
        self._api.upload_folder(  # type: ignore[call-overload]  # mypy does not see that patterns are keywords of it
            repo_id=self.repo, repo_type="dataset", folder_path=folder, commit_message=message, **patterns
        )


def require_same(
    where: str, kind: str, option: str, mine: Publication, there: Publication | None, foreign: frozenset[str]
) -> None:
    """Published data never changes: what is there must be a beginning of this, or this.

    Args:
        where: the place, for messages.
        kind: of place.
        option: that names it.
        mine: what is to be published.
        there: what was published there.
        foreign: names of files there that are none of this.

    Raises:
        ConfigError: it is something else.
    """
    if there is not None and there.dataset_digest != mine.dataset_digest:
        raise ConfigError(
            f"{where} holds {there.dataset_id}; published data never changes, so {mine.dataset_id} needs a {kind} of "
            "its own (mark the old one with --superseded-by)"
        )
    if there is not None and (foreign or _data(there) != _data(mine)):
        raise ConfigError(
            f"{where} holds another part of {there.dataset_id}, and published data never changes; use another {option}"
        )
    if foreign:
        raise ConfigError(f"{where} holds other files, such as {min(foreign)}; use a new {kind}")


def _data(of: Publication) -> dict[str, schema.FileEntry]:
    """What may not change: everything but the texts."""
    return {name: entry for name, entry in of.files.items() if name not in TEXTS}


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Errors of the Hub's client as ours, in one line and without a token."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"no permission to write {repo} on the Hub (HTTP {status}); use an owner that is yours, and a token "
                "that may write (`hf auth login`)"
            ) from None
        raise HubError(f"the Hub refused {repo}: {_line(error)}; type the command again to go on") from None
    except FmcsBenchError:
        raise
    except Exception as error:  # noqa: BLE001  (no connection: whose error that is depends on the client's version)
        raise HubError(
            f"the Hub cannot be reached for {repo}: {_line(error)}; type the command again to go on"
        ) from None


def _line(error: Exception) -> str:
    from huggingface_hub import get_token

    told = " ".join(str(error).split()) or type(error).__name__
    why = error.__cause__
    text = f"{told} ({type(why).__name__}: {' '.join(str(why).split())})" if why is not None else told
    for secret in {get_token(), os.environ.get("HF_TOKEN")}:
        text = text.replace(secret, "***") if secret else text
    return text[:300]
