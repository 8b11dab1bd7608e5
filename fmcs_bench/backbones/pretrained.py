"""Published weights: fetched by their library; the classifier stays random, and nothing of the body does."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from pickle import UnpicklingError
from urllib.parse import urlparse
from urllib.request import getproxies

import torch
from torch import nn

from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, MissingDataError

SECONDS_WITHOUT_ANSWER = 20.0
SECONDS_TO_CONNECT = 5.0


@contextlib.contextmanager
def fetching(name: str, source: str, folder: str, unreachable: str | None = None) -> Iterator[None]:
    """Around a library's own loading: turn its errors into ours, which say what to do.

    Args:
        name: of the network.
        source: where its weights are published.
        folder: where the library looks first, with its environment variable.
        unreachable: why the source cannot be reached, if that is known already.
    """
    # torch.hub sets no timeout, and prints to standard output, which is for results.
    limit = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS_WITHOUT_ANSWER)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if isinstance(error, UnpicklingError):
            raise ConfigError(f"the published weights of {name} ({source}) are no plain weights: {reason}") from error
        if not _is_about_fetching(error):
            raise ConfigError(f"the published weights of {name} ({source}) cannot be used: {reason}") from error
        raise MissingDataError(
            f"the published weights of {name} cannot be fetched from {source} ({unreachable or reason}); connect this "
            f"machine, put them into {folder}, or leave out --pretrained"
        ) from error
    finally:
        socket.setdefaulttimeout(limit)


def why_unreachable(url: str) -> str | None:
    """Why no connection to this server can be made; None where it can, or where a proxy is set."""
    parts = urlparse(url)
    if parts.scheme in getproxies():
        return None
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=SECONDS_TO_CONNECT).close()
    except OSError as error:
        return f"{parts.hostname}: {error}"
    return None


def check_cached(url: str) -> None:
    """Compare a file in torch.hub's cache with the hash in its name; torch.hub itself trusts the file."""
    name = PurePosixPath(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    stated = re.search(r"-([0-9a-f]{8,})\.", name)
    if stated and path.is_file() and not files.sha256_of_file(path).startswith(stated[1]):
        raise ValueError(f"{path} is damaged: its SHA-256 does not begin with {stated[1]}; delete it")


def _is_about_fetching(error: BaseException) -> bool:
    """Whether the operating system, the network or an HTTP client failed."""
    kinds = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(kinds & {"httpx.HTTPError", "requests.RequestException"})


@torch.no_grad()
def keep_random(net: nn.Module, random: dict[str, torch.Tensor], head: Collection[str], name: str) -> None:
    """Restore the classifier's random weights (``head``), and check that the published ones left none in the body."""
    left = []
    for key, parameter in net.named_parameters():
        before = random[key]
        if key in head:
            parameter.copy_(before)
        elif parameter.requires_grad and before.ndim > 1 and bool(before.std() > 0) and torch.equal(parameter, before):
            left.append(key)
    if left:
        raise ConfigError(
            f"the published weights of {name} lack {', '.join(left[:3])}{' and more' if len(left) > 3 else ''}, so "
            "this network would be partly random; leave out --pretrained"
        )
