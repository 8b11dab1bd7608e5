"""The command ``fmcs-bench evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from fmcs_bench.cli.options import json_option, made, options_of, print_board, print_json, workspace_option
from fmcs_bench.evaluator_track.options import EvaluateOptions
from fmcs_bench.jobs.options import Execution

if TYPE_CHECKING:
    from fmcs_bench.results.evaluator_board import EvaluatorBoard


@click.command()
@click.argument("datasets", nargs=-1, metavar="[DATASET ...]")
@options_of(EvaluateOptions)
@click.option("--grid", multiple=True, metavar="FIELD=VALUES", help=EvaluateOptions.model_fields["grid"].description)
@click.option(
    "--test-on",
    multiple=True,
    metavar="DATASET",
    help="Also test the fits, unchanged, on the test run of this dataset; repeat for several.",
)
@workspace_option
@options_of(Execution)
@json_option
def evaluate(datasets: tuple[str, ...], test_on: tuple[str, ...], workspace: str, as_json: bool, **values: Any) -> None:
    """Fit and test evaluators on FMCS datasets; every dataset of the workspace by default.

    An evaluator that fails does not stop the others: the table shows the rest, standard error shows what failed, and
    the exit code is 1.
    """
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.core.errors import UnitsFailedError
    from fmcs_bench.evaluator_track import runner

    options, execution = made(EvaluateOptions, values), made(Execution, values)
    failure: UnitsFailedError | None = None
    with shown() as progress:
        try:
            boards: Sequence[EvaluatorBoard] = runner.evaluate(
                datasets or None,
                options,
                test_on=test_on,
                workspace=workspace,
                execution=execution,
                progress=progress,
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
