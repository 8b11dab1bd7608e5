"""fmcs-bench: feature-map datasets labelled by convergence, and a benchmark of evaluators and of training with them.

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
    from fmcs_bench.build.runner import build
    from fmcs_bench.build.verify import verify
    from fmcs_bench.evaluator_track.runner import evaluate
    from fmcs_bench.evaluator_track.selection import load_evaluator
    from fmcs_bench.hub.download import download
    from fmcs_bench.hub.load import load
    from fmcs_bench.hub.publish import publish
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

_PLACES = {
    "build": "build.runner",
    "build_leaderboard": "leaderboard.build",
    "download": "hub.download",
    "evaluate": "evaluator_track.runner",
    "explain": "training_track.explain",
    "load": "hub.load",
    "load_evaluator": "evaluator_track.selection",
    "open": "store.reader:open_dataset",
    "plan_training": "training_track.estimate",
    "publish": "hub.publish",
    "results": "results.tables",
    "train": "training_track.runner",
    "verify": "build.verify",
}
"""Module of each public function, and behind a colon its name there, where that is not the same."""


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `fmcs-bench --help` and tools that only want the version do without it.
    if name not in _PLACES:
        raise AttributeError(f"module 'fmcs_bench' has no attribute {name!r}")
    module, _, function = _PLACES[name].partition(":")
    return getattr(import_module(f"fmcs_bench.{module}"), function or name)


class _Package(ModuleType):
    """Keeps ``fmcs_bench.build`` the function: importing the room of that name would bind the module instead."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
