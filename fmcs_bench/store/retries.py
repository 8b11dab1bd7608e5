"""Asks a place again where a fault may pass: connections that are refused, drop, end early or stay silent.

Flow: question -> an error that may pass -> a wait -> the same question, three times in all -> its answer, or the error.
What asks again itself, as s3fs does, is asked once; see ``location.TRY_THEMSELVES``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from http.client import HTTPException
from typing import TypeVar

T = TypeVar("T")
WAITS = (0.5, 2.0)
"""Seconds before the second and the third attempt."""
OF_LIBRARIES = (
    ("aiohttp", "ClientConnectionError"),
    ("aiohttp", "ClientPayloadError"),
    ("httpx", "TransportError"),
)
"""What the clients of protocols raise where a connection fails, beside Python's own errors."""


def may_pass(error: Exception) -> bool:
    """Whether the same question may be answered a little later.

    Example:
        >>> may_pass(ConnectionResetError()), may_pass(PermissionError())
        (True, False)
    """
    found = (getattr(sys.modules.get(module), name, None) for module, name in OF_LIBRARIES)  # who raises has imported
    return isinstance(error, (ConnectionError, TimeoutError, HTTPException, *filter(None, found)))


def again(question: Callable[[], T]) -> T:
    """The answer, asked for again after faults that may pass."""
    for wait in WAITS:
        try:
            return question()
        except Exception as error:
            if not may_pass(error):
                raise
        time.sleep(wait)
    return question()


async def again_awaited(question: Callable[[], Awaitable[T]]) -> T:
    """The answer of a coroutine, asked for again as ``again`` does."""
    for wait in WAITS:
        try:
            return await question()
        except Exception as error:
            if not may_pass(error):
                raise
        await asyncio.sleep(wait)
    return await question()
