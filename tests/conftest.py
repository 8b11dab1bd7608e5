import os
from pathlib import Path

import pytest
import torch

import fmcs_bench as fb
from fmcs_bench.config import ConvergenceRule, Recipe
from fmcs_bench.store import FmcsDataset


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    # Tests may run beside others on few cores, where two threads each are several times slower than one.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_workspace(tmp_path_factory) -> Path:
    """A workspace with one small but real FMCS dataset: digits, 3 stages, 4 runs. Tests must not write to it."""
    workspace = tmp_path_factory.mktemp("tiny")
    build_tiny(workspace)
    return workspace


@pytest.fixture(scope="session")
def tiny_dataset(tiny_workspace) -> FmcsDataset:
    return build_tiny(tiny_workspace)


def build_tiny(workspace: Path, **options) -> FmcsDataset:
    return fb.build(
        **(TINY | options),
        workspace=workspace,
        device="cpu",
    )


TINY = {
    "backbone": "smallcnn",
    "image_size": 16,
    "stages": 3,
    "epochs": 6,
    "limit": 60,
    "checkpoints": 12,
    "name": "tiny",
    "recipe": Recipe(batch_size=16, lr=3e-3),
    "convergence": ConvergenceRule(threshold=0.3),
}


def subprocess_environment() -> dict[str, str]:
    """The environment of a real process under test: one thread, no user settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FMCS_BENCH_")}
    return kept | {"OMP_NUM_THREADS": "1"}
