import importlib.util
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fmcs_bench as fb
from fmcs_bench.core import environment
from fmcs_bench.jobs.options import Execution
from fmcs_bench.jobs.ray import engine_of
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.training.recipes import ConvergenceRule, Recipe


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


@pytest.fixture(scope="session")
def published(tiny_dataset, tmp_path_factory) -> Path:
    """The tiny dataset as a published folder. Tests must not write to it."""
    folder = tmp_path_factory.mktemp("published") / tiny_dataset.path.name
    fb.publish(tiny_dataset, to=folder)
    return folder


@pytest.fixture(scope="session")
def evaluated(tiny_dataset, tmp_path_factory) -> Path:
    """A workspace with the tiny dataset and a few fitted evaluators; tests copy it."""
    root = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(tiny_dataset.path, root / "datasets" / tiny_dataset.path.name)
    fb.evaluate(workspace=root, evaluators=["norm", "conv", "norm~permuted"], seeds=1, device="cpu")
    return root


@pytest.fixture(scope="module")
def engine():
    """Ray with two workers, which import modules of this folder; its tests are of the xdist_group ray."""
    with pytest.MonkeyPatch.context() as patch, engine_of(Execution(engine="ray")) as engine:
        patch.setattr(environment, "usable_cores", lambda: 2)
        here = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(here))
        yield engine


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the Hugging Face hub, and no connection."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def publish(repository, state):
        folder = tmp_path / f"models--{repository.replace('/', '--')}"
        snapshot = folder / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("a" * 40)
        save_file(state, snapshot / "model.safetensors")

    return publish


@pytest.fixture(scope="session")
def generate():
    """The script that makes the committed data cards."""
    path = Path(__file__).parents[1] / "data_cards/generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
