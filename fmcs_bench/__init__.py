"""fmcs-bench: feature-map data sets labelled by convergence, and a benchmark of the networks that judge them.

Example:
    >>> import fmcs_bench as fb
    >>> dataset = fb.build(backbone="smallcnn", workspace="ws")  # doctest: +SKIP
    >>> print(fb.evaluate(dataset, workspace="ws"))  # doctest: +SKIP
    >>> print(fb.train(dataset, workspace="ws"))  # doctest: +SKIP
    >>> fb.build_leaderboard(workspace="ws")  # doctest: +SKIP
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fmcs_bench.api import publish, verify
    from fmcs_bench.build.runner import build
    from fmcs_bench.evaluator_track.runner import evaluate
    from fmcs_bench.evaluator_track.selection import load_evaluator
    from fmcs_bench.hub.download import download
    from fmcs_bench.hub.load import load
    from fmcs_bench.leaderboard.build import build_leaderboard
    from fmcs_bench.results.tables import results
    from fmcs_bench.store.reader import open_dataset as open  # noqa: A004
    from fmcs_bench.training_track.estimate import plan_training
    from fmcs_bench.training_track.explain import explain
    from fmcs_bench.training_track.runner import train

__all__ = [
    "__version__", "build", "build_leaderboard", "download", "evaluate", "explain", "load", "load_evaluator", "open",
    "plan_training", "publish", "results", "train", "verify",
]  # fmt: skip

_ELSEWHERE = {
    "download": "fmcs_bench.hub.download",
    "build": "fmcs_bench.build.runner",
    "build_leaderboard": "fmcs_bench.leaderboard.build",
    "evaluate": "fmcs_bench.evaluator_track.runner",
    "explain": "fmcs_bench.training_track.explain",
    "load": "fmcs_bench.hub.load",
    "open": "fmcs_bench.store.reader:open_dataset",
    "load_evaluator": "fmcs_bench.evaluator_track.selection",
    "plan_training": "fmcs_bench.training_track.estimate",
    "results": "fmcs_bench.results.tables",
    "train": "fmcs_bench.training_track.runner",
}
"""Functions that are not in ``fmcs_bench.api``."""


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `fmcs-bench --help` and tools that only want the version do without it.
    if name in __all__:
        module, _, function = _ELSEWHERE.get(name, "fmcs_bench.api").partition(":")
        return getattr(import_module(module), function or name)
    raise AttributeError(f"module 'fmcs_bench' has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps ``fmcs_bench.build`` the function: importing the room of that name would bind the module instead."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
