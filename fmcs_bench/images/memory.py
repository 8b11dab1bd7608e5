"""What fits into memory, told before it is taken."""

from __future__ import annotations

import math
import os
from pathlib import Path

from fmcs_bench.core.errors import ConfigError


def fits_memory(shape: tuple[int, ...]) -> bool:
    """Whether uint8 images of this shape take no more than half of the free memory; the other half is for the work.

    A training on a GPU copies the images of its splits once more; maps and networks need room as well.
    """
    free = free_bytes()
    return free is None or 2 * math.prod(shape) <= free


def require_memory(shape: tuple[int, ...], name: str) -> None:
    """Raise where uint8 images of this shape take more than half of the free memory.

    Raises:
        ConfigError: with the bytes needed and those that are free.
    """
    if not fits_memory(shape):
        raise ConfigError(
            f"the {shape[0]:,} images of {name} take {math.prod(shape):,} bytes, more than half of the "
            f"{free_bytes():,} that are free. Let them stay encoded (--stream-images), or use fewer images in each "
            "split (--limit) or a smaller --image-size"
        )


def free_bytes() -> int | None:
    """Memory that this process can still take, in bytes, as Linux and its control groups tell; None elsewhere."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    except (OSError, ValueError, StopIteration):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:  # macOS tells the whole only
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for group, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            allowed, taken = (int((Path(group) / name).read_text(encoding="ascii")) for name in (limit, used))
        except (OSError, ValueError):  # no control group, or no limit ("max")
            continue
        # What is taken holds the page cache, which the kernel gives back; half of the limit stands for it at worst.
        found.append(max(allowed - taken, allowed // 2))
    return min(found) if found else None
