"""Seeds for independent streams of randomness, all derived from one number."""

from __future__ import annotations

import hashlib


def derive(seed: int, *words: str | int) -> int:
    """A 63-bit seed for the stream that ``words`` name, the same on every machine.

    Streams with different words are independent, so that adding a random choice in one place changes no other.

    Args:
        seed: the user's seed.
        words: the name of the stream, such as ``("order", epoch)``.

    Example:
        >>> derive(0, "weights") == derive(0, "weights") != derive(0, "order", 1)
        True
    """
    text = "/".join([str(seed), *(str(word) for word in words)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
