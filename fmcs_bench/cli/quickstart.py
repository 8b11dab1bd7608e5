"""``fmcs-bench quickstart``: build, evaluate, train and leaderboard on the embedded digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fmcs_bench.cli.options import device_option, workspace_option
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.training.methods import NUM_SEEDS

if TYPE_CHECKING:
    from fmcs_bench.results.evaluator_board import EvaluatorBoard
    from fmcs_bench.results.training_board import TrainingBoard
    from fmcs_bench.store.reader import FmcsDataset

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


@click.command()
@workspace_option
@device_option
def quickstart(workspace: str, device: str) -> None:
    """Do everything once on real digits, in minutes: build, evaluate, train, leaderboard."""
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.cli.tables import print_board

    with shown() as progress:
        result = run(Workspace(workspace), device=device, progress=progress)
    click.echo(f"{result.dataset}\n")
    print_board(result.evaluators)
    print_board(result.training)
    click.echo("The page with everything:")
    click.echo(str(result.page.resolve()))


def run(
    workspace: Workspace,
    *,
    config: BuildConfig | None = None,
    num_seeds: int = NUM_SEEDS,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Result:
    """Do the four steps; what an earlier call finished is found, not repeated.

    RAL's RAF is chosen on validation images among 0.95, 0.9 and 0.75; DueHeadNet with RAL then takes that RAF.
    """
    from fmcs_bench.build.runner import build
    from fmcs_bench.evaluator_track.runner import evaluate
    from fmcs_bench.leaderboard.build import build_leaderboard
    from fmcs_bench.results.records import TrainingRecord
    from fmcs_bench.results.store import RecordStore
    from fmcs_bench.results.training_board import training_boards
    from fmcs_bench.training_track.runner import train

    config = config or BuildConfig.create(backbone="smallcnn")
    root = workspace.root
    progress.say(f"1/4  build: four runs of {config.backbone} on {config.image_dataset}")
    dataset = build(config, workspace=root, device=device, progress=progress)
    progress.say(f"2/4  evaluate: three evaluators, {num_seeds} seeds each")
    (evaluators,) = evaluate(
        dataset, evaluators=EVALUATORS, seeds=num_seeds, workspace=root, device=device, progress=progress
    )
    progress.say(f"3/4  train: RAL with the chosen evaluator, and DueHeadNet, {num_seeds} paired seeds")
    swept = train(dataset, methods=SWEPT, seeds=num_seeds, workspace=root, device=device, progress=progress)
    raf = next(row.chosen.raf for row in swept.rows if row.chosen.records[0].trial.method.name == "ral")
    at_raf: dict[str, Any] = {"methods": (AT_CHOSEN_RAF,), "rafs": (raf,), "seeds": num_seeds}
    train(dataset, workspace=root, device=device, progress=progress, **at_raf)
    progress.say("4/4  leaderboard")
    page = build_leaderboard(workspace=root)
    boards = training_boards(RecordStore(workspace.records).all(TrainingRecord))
    training = next(board for board in boards if board.dataset_id == dataset.id)
    return Result(dataset, evaluators, training, page)
