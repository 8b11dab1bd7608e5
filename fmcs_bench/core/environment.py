"""Software, hardware and moment of a result."""

from __future__ import annotations

import functools
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fmcs_bench import __version__
from fmcs_bench.core import files
from fmcs_bench.core.options import Options

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

CODE_OF = {
    "build": ("core/", "images/", "backbones/", "training/", "store/", "build/"),
    "evaluator": (
        "core/", "store/", "training/augmentation.py", "training/loop.py", "training/recipes.py", "results/metrics.py",
        "evaluators/", "evaluator_track/",
    ),
    "training": (
        "core/", "images/", "backbones/", "training/", "store/", "results/metrics.py", "evaluators/", "training_track/",
    ),
}  # fmt: skip
"""Rooms and files that decide the result of a build, of an evaluator's fit and of a training of the training track."""
WITHOUT_INFLUENCE = (
    "backbones/gradcam.py", "build/figures.py", "build/verify.py", "core/figure_style.py", "core/markdown.py",
    "core/progress.py", "core/workspace.py", "store/verify.py", "training_track/estimate.py",
    "training_track/explain.py", "training_track/explain_figure.py",
)  # fmt: skip
"""Files in those rooms that only show, find, publish or check results."""
_LIBRARIES = (
    "numcodecs", "numpy", "pillow", "safetensors", "scikit-learn", "scipy", "timm", "torch", "torchvision", "zarr",
)  # fmt: skip


class Environment(Options):
    """Software and hardware that made a result."""

    fmcs_bench: str
    code_digest: Sha256
    python: str
    libraries: dict[str, str]
    platform: str
    processor: str
    device: str
    threads: int

    @classmethod
    def current(cls, device: str, threads: int, kind: str | None = None) -> Environment:
        """The environment of this process; ``kind`` of the result: see ``code_digest``."""
        return cls(
            fmcs_bench=__version__,
            code_digest=code_digest(kind),
            python=platform.python_version(),
            libraries=_library_versions(),
            platform=platform.platform(),
            processor=_processor(),
            device=device,
            threads=threads,
        )


def now() -> str:
    """The present time, UTC, to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def process_peak_bytes() -> int:
    """Peak resident memory of this process so far, in bytes; 0 where the platform does not report it."""
    try:
        # getrusage would also count what the parent held when it started this process.
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, ValueError, StopIteration):
        pass
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def usable_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every platform
        return os.cpu_count() or 1


@functools.cache
def code_digest(kind: str | None = None, package: Path = Path(__file__).parent.parent) -> str:
    """SHA-256 over the source that decides results of one ``kind`` of ``CODE_OF``; None is all of them."""
    parts = CODE_OF[kind] if kind is not None else tuple(part for parts in CODE_OF.values() for part in parts)
    names = sorted(path.relative_to(package).as_posix() for path in package.rglob("*.py"))
    kept = [name for name in names if name.startswith(parts) and name not in WITHOUT_INFLUENCE]
    return files.digest({name: files.sha256_of_file(package / name) for name in kept})


def _library_versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"  # installed without metadata, as some system builds are
    return found


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} logical cores"
