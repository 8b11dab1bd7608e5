"""The whole road on the embedded digits: build, evaluate, train, leaderboard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fmcs_bench.build.runner import build
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.evaluator_track.options import EvaluateOptions
from fmcs_bench.evaluator_track.runner import evaluate_dataset
from fmcs_bench.leaderboard.build import build_leaderboard
from fmcs_bench.results.evaluator_board import EvaluatorBoard
from fmcs_bench.results.records import TrainingRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.results.training_board import TrainingBoard, training_boards
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.store.reader import FmcsDataset
from fmcs_bench.training.methods import NUM_SEEDS
from fmcs_bench.training_track.options import TrainOptions
from fmcs_bench.training_track.runner import train_dataset

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


def run(
    workspace: Workspace,
    *,
    config: BuildConfig | None = None,
    num_seeds: int = NUM_SEEDS,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Result:
    """Do the four steps; what an earlier call finished is found, not repeated.

    RAL's RAF is chosen on validation images among 0.95, 0.9 and 0.75; DueHeadNet with RAL then takes that one RAF.

    Args:
        workspace: where everything goes.
        config: what to build; None is a small network on digits, with the usual options.
        num_seeds: of evaluators and trainings.
        device: ``auto``, ``cpu``, ``cuda``, ...
        progress: shows the work.
    """
    config = config or BuildConfig.create(backbone="smallcnn")
    progress.say(f"1/4  build: four runs of {config.backbone} on {config.image_dataset}")
    dataset = build(config, workspace=workspace.root, device=device, progress=progress)
    with workspace.locked():
        progress.say(f"2/4  evaluate: three evaluators, {num_seeds} seeds each")
        options = EvaluateOptions(evaluators=EVALUATORS, seeds=num_seeds)
        evaluators = evaluate_dataset(dataset, workspace, options, device=device, progress=progress)
        progress.say(f"3/4  train: RAL with the chosen evaluator, and DueHeadNet, {num_seeds} paired seeds")
        sweep = TrainOptions(methods=SWEPT, seeds=num_seeds)
        swept = train_dataset(dataset, workspace, sweep, device=device, progress=progress)
        chosen_raf = next(row.chosen.raf for row in swept.rows if row.chosen.records[0].trial.method.name == "ral")
        sweep = TrainOptions(methods=(AT_CHOSEN_RAF,), rafs=(chosen_raf,), seeds=num_seeds)
        train_dataset(dataset, workspace, sweep, device=device, progress=progress)
        progress.say("4/4  leaderboard")
        page = build_leaderboard(workspace=workspace.root)
        every = training_boards(RecordStore(workspace.records).all(TrainingRecord))
        training = next(board for board in every if board.dataset_id == dataset.id)
    return Result(dataset, evaluators, training, page)
