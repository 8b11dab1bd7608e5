"""The command of the evaluator track; see ``cli``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fmcs_bench.cli.options import device_option, engine_options, json_option, print_board, print_json, workspace_option

if TYPE_CHECKING:
    from fmcs_bench.results.evaluator_board import EvaluatorBoard
    from fmcs_bench.results.trials import Head


@click.command()
@click.argument("datasets", nargs=-1, metavar="[DATASET ...]")
@click.option(
    "--evaluator",
    "evaluators",
    multiple=True,
    metavar="NAME|FILE.py:Class",
    help="Which; repeat for several.  [default: all]",
)
@click.option(
    "--head",
    type=click.Choice(["softmax", "corn", "coral"]),
    default="softmax",
    show_default=True,
    help="corn and coral know that stages are ordered; for evaluators that are networks.",
)
@click.option("--seeds", type=int, default=5, show_default=True, help="Fits of each evaluator.")
@click.option("--limit", type=int, help="At most this many images in each split of each run.")
@click.option("--test-limit", type=int, help="At most this many in every split but train.  [default: as --limit]")
@click.option(
    "--grid",
    "grids",
    multiple=True,
    metavar="FIELD=VALUES",
    help="Values of a field of the recipe to try, as lr=0.001,0.0003; repeat for several fields, at most 12 "
    "combinations. Of each fit, the best on the validation run is tested.",
)
@click.option(
    "--test-on",
    multiple=True,
    metavar="DATASET",
    help="Test the fits on the test run of this dataset too, as they are; repeat for several.",
)
@workspace_option
@device_option
@engine_options
@json_option
def evaluate(
    datasets: tuple[str, ...],
    evaluators: tuple[str, ...],
    head: Head,
    seeds: int,
    limit: int | None,
    test_limit: int | None,
    grids: tuple[str, ...],
    test_on: tuple[str, ...],
    workspace: str,
    device: str,
    as_json: bool,
    **engine: Any,
) -> None:
    """Fit and test evaluators on FMCS datasets; every dataset of the workspace by default.

    An evaluator that fails stops no other: the board shows the rest, standard error says what failed, the exit code is
    1.
    """
    from fmcs_bench import api
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.core.errors import UnitsFailedError
    from fmcs_bench.results import grid

    failure: UnitsFailedError | None = None
    with shown() as progress:
        try:
            boards: Sequence[EvaluatorBoard] = api.evaluate(
                datasets or None,
                evaluators=evaluators,
                head=head,
                seeds=seeds,
                limit=limit,
                test_limit=test_limit,
                grid=grid.parse(grids),
                test_on=test_on,
                workspace=workspace,
                device=device,
                progress=progress,
                **engine,
            )
        except UnitsFailedError as error:
            failure, boards = error, error.finished
    if as_json:
        print_json([record.to_json() for board in boards for row in board.rows for record in row.records])
    else:
        for board in boards:
            print_board(board)
    if failure is not None:
        raise failure
