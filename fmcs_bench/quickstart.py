"""The whole road on the embedded digits: build, evaluate, train, leaderboard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fmcs_bench import leaderboard
from fmcs_bench.boards import EvaluatorBoard, TrainingBoard, training_boards
from fmcs_bench.builder import build_dataset
from fmcs_bench.config import DEFAULT_RAFS, BuildConfig
from fmcs_bench.evaluation import evaluate_dataset
from fmcs_bench.experiments import train_methods
from fmcs_bench.progress import SILENT, Progress
from fmcs_bench.records import RecordStore, TrainingRecord
from fmcs_bench.store import FmcsDataset
from fmcs_bench.workspace import Workspace

EVALUATORS = ("norm", "conv", "set")
SWEPT = ("baseline", "ral", "dueheadnet-add-none", "dueheadnet-add-align")
AT_CHOSEN_RAF = "dueheadnet-add-align-ral"


@dataclass(frozen=True)
class Result:
    """What the quickstart made."""

    dataset: FmcsDataset
    evaluators: EvaluatorBoard
    training: TrainingBoard
    page: Path


def run(workspace: Workspace, *, device: str = "auto", progress: Progress = SILENT) -> Result:
    """Do the four steps; what an earlier call finished is found, not repeated.

    RAL's RAF is chosen on validation images among 0.95, 0.9 and 0.75; DueHeadNet with RAL then takes that one RAF.

    Args:
        workspace: where everything goes; the caller holds its lock.
        device: ``auto``, ``cpu``, ``cuda``, ...
        progress: shows the work.
    """
    progress.say("1/4  build: four runs of a small network on scikit-learn's digits")
    dataset = build_dataset(BuildConfig.create(backbone="smallcnn"), workspace, device=device, progress=progress)
    progress.say("2/4  evaluate: three judges of convergence, five seeds each")
    judges = evaluate_dataset(dataset, workspace, evaluator_names=EVALUATORS, device=device, progress=progress)
    progress.say("3/4  train: the chosen judge put to use, five paired seeds")
    swept = train_methods(dataset, workspace, method_names=SWEPT, rafs=DEFAULT_RAFS, device=device, progress=progress)
    chosen_raf = next(row.chosen.raf for row in swept.rows if row.family.startswith("ral-"))
    train_methods(
        dataset, workspace, method_names=(AT_CHOSEN_RAF,), rafs=(chosen_raf,), device=device, progress=progress
    )
    progress.say("4/4  leaderboard")
    page = leaderboard.build(workspace.records, workspace.leaderboard)
    every = training_boards(RecordStore(workspace.records).all(TrainingRecord))
    training = next(board for board in every if board.dataset_id == dataset.id)
    return Result(dataset, judges, training, page)
