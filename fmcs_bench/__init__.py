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
    from fmcs_bench.api import build_leaderboard, evaluate, load_evaluator, publish, verify
    from fmcs_bench.api import open as open  # noqa: A004  (fmcs_bench.open is meant)
    from fmcs_bench.build.runner import build
    from fmcs_bench.hub.download import download
    from fmcs_bench.hub.load import load
    from fmcs_bench.results.tables import results
    from fmcs_bench.training_track.api import plan_training, train
    from fmcs_bench.training_track.explain import explain

__all__ = [
    "__version__", "build", "build_leaderboard", "download", "evaluate", "explain", "load", "load_evaluator", "open",
    "plan_training", "publish", "results", "train", "verify",
]  # fmt: skip

_ELSEWHERE = {
    "download": "fmcs_bench.hub.download",
    "build": "fmcs_bench.build.runner",
    "explain": "fmcs_bench.training_track.explain",
    "load": "fmcs_bench.hub.load",
    "plan_training": "fmcs_bench.training_track.api",
    "results": "fmcs_bench.results.tables",
    "train": "fmcs_bench.training_track.api",
}
"""Functions that are not in ``fmcs_bench.api``."""


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `fmcs-bench --help` and tools that only want the version do without it.
    if name in __all__:
        return getattr(import_module(_ELSEWHERE.get(name, "fmcs_bench.api")), name)
    raise AttributeError(f"module 'fmcs_bench' has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps ``fmcs_bench.build`` the function: importing the room of that name would bind the module instead."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
