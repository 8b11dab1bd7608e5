"""Seeds for independent streams of randomness, all derived from one number."""

from __future__ import annotations

import hashlib


def derive(seed: int, *words: str | int) -> int:
    """A 63-bit seed for the stream that ``words`` name, the same on every machine.

    Streams with different words, such as ``"order", epoch``, are independent: a new random choice changes no other.

    Example:
        >>> derive(0, "weights") == derive(0, "weights") != derive(0, "order", 1)
        True
    """
    text = "/".join([str(seed), *(str(word) for word in words)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
