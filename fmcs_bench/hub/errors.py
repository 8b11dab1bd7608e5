"""Errors of the Hugging Face Hub's client as errors of this package, in one line and without secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from fmcs_bench.core.errors import ConfigError, FmcsBenchError, HubError, MissingDataError
from fmcs_bench.store.location import without_secrets


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Translate what ``huggingface_hub`` raises inside the block; ``what`` is the repository, for messages."""
    from huggingface_hub import constants, errors

    try:
        yield
    except FmcsBenchError:
        raise
    except errors.LocalTokenNotFoundError:
        raise HubError(
            "no token of the Hugging Face Hub was found; type `hf auth login`, or set HF_TOKEN to one that may write"
        ) from None
    except errors.GatedRepoError:
        raise HubError(f"{what} is gated: ask for access on its page, then type `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise MissingDataError(
            f"{what} does not exist, or is private; check the name (owner/name), or type `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise MissingDataError(f"{what} has no such revision; leave it out for the newest") from None
    except errors.RemoteEntryNotFoundError:
        raise MissingDataError(f"{what} lacks a file of a published FMCS dataset") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the Hub cannot be reached: {_line(error)}"
        raise MissingDataError(f"{what} is not on this machine, and {why}") from None
    except errors.HFValidationError as error:
        raise ConfigError(f"{what}: {_line(error)}; names of repositories are owner/name") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise HubError(
                f"no permission for {what} (HTTP {status}); type `hf auth login` with a token that allows it"
            ) from None
        raise HubError(f"the Hub refused {what}: {_line(error)}; type the command again to go on") from None
    except Exception as error:  # (no connection: its class depends on the version of the Hub's client)
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError):
            raise  # a fault of this machine's disk
        raise HubError(
            f"the Hub cannot be reached for {what}: {_line(error)}; type the command again to go on"
        ) from None


def _line(error: BaseException) -> str:
    from huggingface_hub import get_token

    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = " ".join(str(error).split()) or type(error).__name__
    if root is not error:
        text = f"{text} ({type(root).__name__}: {' '.join(str(root).split())})"
    for secret in {get_token(), os.environ.get("HF_TOKEN")} - {None, ""}:
        text = text.replace(str(secret), "***")
    return re.sub(r"\?[^\s=]+=[^\s'\")]*", "", without_secrets(text))[:300]  # also of names with a signed query
