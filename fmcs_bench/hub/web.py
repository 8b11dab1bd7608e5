"""Files of a web server or of a repository of the Hub, by the Hub's own HTTP client.

Flow: name, position -> one GET with ``Range`` -> status -> ``Body``, a refusal for good, or ``Interrupted``.
The client, its headers (token), addresses and repository calls are huggingface_hub's; the bytes are counted and kept
by ``transfer``, because ``hf_hub_download`` starts again after a kill and reads as much as a server sends.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any
from urllib.parse import quote, urlsplit

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # documented there, but not marked as exported
    build_hf_headers,
    get_session,
)

from fmcs_bench.core.errors import ConfigError, FmcsBenchError, HubError, MissingDataError, nearest
from fmcs_bench.hub.source import Body, Interrupted
from fmcs_bench.store.location import secrets_of, without_secrets

PASSING = (408, 425, 429, 500, 502, 503, 504)
SECONDS_FOR_NAMES = 5.0


class WebSource:
    """A folder of a web server.

    Args:
        url: of the folder, without query.
        timeout: seconds that the server may be silent.

    Raises:
        ConfigError: it is no such URL.
    """

    is_here = False
    asked: str | None = None
    revision: str | None = None

    def __init__(self, url: str, *, timeout: float) -> None:
        self.shown = without_secrets(url).rstrip("/")
        self._url, self._timeout = url.rstrip("/"), timeout
        self._secrets = secrets_of(url)
        if "?" in url or "#" in url:
            raise ConfigError(f"{self.shown} was given with a query or a fragment; a folder of files has neither")
        with suppress(ValueError):  # a port that is no number
            if urlsplit(url).hostname and (urlsplit(url).port or 1):
                return
        raise ConfigError(f"{self.shown} has no host, or a port that is no number; write https://host/folder")

    def pin(self) -> None:
        """See ``Source``: a web server has no versions."""

    @contextmanager
    def open(self, name: str, start: int = 0) -> Iterator[Body]:
        """See ``Source``."""
        headers = self._headers() | {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with ExitStack() as stack:
            with self._network():
                asking = get_session().stream(
                    "GET", self._address(name), headers=headers, timeout=self._timeout, follow_redirects=True
                )
                response = stack.enter_context(asking)
                self._refuse(name, response.status_code, response.headers)
                body = _body(response, start)
            yield replace(body, blocks=self._blocks(body.blocks))

    def _blocks(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        with self._network():
            yield from blocks

    @contextmanager
    def _network(self) -> Iterator[None]:
        try:
            yield
        except (FmcsBenchError, Interrupted):
            raise
        except Exception as error:  # noqa: BLE001  (httpx's, whose module has had two names; all are of the network)
            raise Interrupted(self._hide(error)) from None

    def _address(self, name: str) -> str:
        return f"{self._url}/{quote(name)}"

    def _headers(self) -> dict[str, str]:
        return {}

    def _refuse(self, name: str, status: int, headers: Any) -> None:
        """Raise what a status means, unless it is a file or a part of one."""
        if status in (200, 206):
            return
        if status in PASSING:
            raise Interrupted(f"the server answers {status}", _seconds(headers.get("Retry-After")))
        if status == 416:
            raise Interrupted("the server's file ends before the bytes that are missing", restart=True)
        if status in (404, 410):
            raise MissingDataError(f"{self.shown}/{name} does not exist")
        if status in (401, 403):
            raise HubError(f"{self.shown}/{name} may not be read (the server answers {status})")
        raise HubError(f"{self.shown}/{name} cannot be read: the server answers {status}")

    def _hide(self, error: Exception) -> str:
        text = without_secrets(str(error)) or type(error).__name__
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


class HubSource(WebSource):
    """A dataset repository of the Hub, or a folder of it.

    Args:
        repository: ``owner/name``.
        asked: branch, tag or commit; None is ``main``.
        folder: of the repository; None is its top.
        timeout: seconds that the Hub may be silent.
        endpoint: another Hub than ``HF_ENDPOINT``.
    """

    def __init__(
        self,
        repository: str,
        asked: str | None = None,
        folder: str | None = None,
        *,
        timeout: float,
        endpoint: str | None = None,
    ) -> None:
        self._api = huggingface_hub.HfApi(endpoint=endpoint)
        self.repository, self.asked, self.revision = repository, asked, None
        self._folder, self._timeout = (folder or "").strip("/"), timeout
        self._secrets = []
        self.shown = f"hf://datasets/{repository}" + (f"/{self._folder}" if self._folder else "")

    def pin(self) -> None:
        """See ``Source``: the commit that the revision is now."""
        try:
            info = self._api.dataset_info(self.repository, revision=self.asked, timeout=self._timeout)
        except GatedRepoError:
            raise self._gated() from None
        except RepositoryNotFoundError:
            raise self._missing() from None
        except RevisionNotFoundError:
            raise MissingDataError(
                f"{self.shown} has no revision {self.asked!r}; leave it out for the newest, or look at "
                f"{self._api.endpoint}/datasets/{self.repository}/tree/main"
            ) from None
        except HFValidationError:
            raise ConfigError(f"{self.repository!r} is no name of a repository; the Hub's are owner/name") from None
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in PASSING:
                raise Interrupted(
                    f"the Hub answers {status}", _seconds(error.response.headers.get("Retry-After"))
                ) from None
            raise self._forbidden(status) from None
        except Exception as error:  # noqa: BLE001  (as in ``open``)
            raise Interrupted(f"{self._api.endpoint} cannot be reached ({self._hide(error)})") from None
        if info.sha is None or not re.fullmatch("[0-9a-f]{40}", info.sha):
            raise HubError(f"{self._api.endpoint} does not tell which commit {self.shown} is at; is it a Hub?")
        self.revision = info.sha

    def _address(self, name: str) -> str:
        path = f"{self._folder}/{name}" if self._folder else name
        return huggingface_hub.hf_hub_url(
            self.repository, path, repo_type="dataset", revision=self.revision, endpoint=self._api.endpoint
        )

    def _headers(self) -> dict[str, str]:
        return build_hf_headers()  # with the token, which httpx leaves out where it is sent on to another host

    def _refuse(self, name: str, status: int, headers: Any) -> None:
        code = headers.get("X-Error-Code")
        if code == "GatedRepo":
            raise self._gated()
        if code == "RepoNotFound":
            raise self._missing()
        if status in (401, 403):
            raise self._forbidden(status)
        super()._refuse(name, status, headers)

    def _gated(self) -> FmcsBenchError:
        return HubError(
            f"{self.shown} is gated: ask for access at {self._api.endpoint}/datasets/{self.repository}"
            + (" with the account of your token" if huggingface_hub.get_token() else ", then type `hf auth login`")
        )

    def _forbidden(self, status: int) -> FmcsBenchError:
        has_token = huggingface_hub.get_token() is not None
        way = "your token does not allow it, or is no longer valid; type `hf auth login`" if has_token else (
            "no token was found; type `hf auth login`"
        )  # fmt: skip
        return HubError(f"{self.shown} may not be read (the Hub answers {status}): {way}")

    def _missing(self) -> FmcsBenchError:
        owner = self.repository.split("/")[0]
        names: list[str] = []

        def ask() -> None:
            with suppress(Exception):  # the list is a help, and no help is no fault
                names.extend(one.id for one in islice(self._api.list_datasets(author=owner), 1000))

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(SECONDS_FOR_NAMES)
        known = nearest(self.repository, list(names)) if names else f"no data sets of {owner} are to be seen"
        has_token = huggingface_hub.get_token() is not None
        private = "if it is private, your token does not show it" if has_token else (
            "if it is private, type `hf auth login` first"
        )  # fmt: skip
        return MissingDataError(f"there is no data set {self.repository} on {self._api.endpoint}; {known}; {private}")


def _body(response: Any, start: int) -> Body:
    """What a response of 200 or 206 gives."""
    headers = response.headers
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise Interrupted("the server answers with another range than the one asked for")
        return Body(start, None if found[2] == "*" else int(found[2]), response.iter_bytes())
    length = headers.get("Content-Length", "")
    plain = headers.get("Content-Encoding", "identity") == "identity"
    return Body(0, int(length) if plain and length.isdecimal() else None, response.iter_bytes())


def _seconds(retry_after: str | None) -> float | None:
    """``Retry-After`` in seconds: a number, or a date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    with suppress(ValueError, TypeError):
        until = parsedate_to_datetime(retry_after) - datetime.now(UTC)
        return max(0.0, until.total_seconds())
    return None
