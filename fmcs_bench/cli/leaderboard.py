"""Commands of the leaderboard; see ``cli``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fmcs_bench.cli.options import data_dir_option, json_option, print_json, workspace_option

if TYPE_CHECKING:
    from fmcs_bench.core.workspace import Workspace

Command = TypeVar("Command", bound=Callable[..., Any])
COMMITTED = Path("leaderboard/records")
CARDS = Path("data_cards")


@click.group()
def leaderboard() -> None:
    """Tables and page, made of records; and the check of records."""


@leaderboard.command("build")
@click.option(
    "--root", metavar="DIR", help="Folder with records/ and claims/, where the page goes too, as leaderboard/."
)
@workspace_option
def leaderboard_build(workspace: str, root: str | None) -> None:
    """Make the page of all records of the workspace; its path is printed.

    A record that is not valid stops nothing: the page and standard error name it, and the exit code is 1.
    """
    from fmcs_bench import api
    from fmcs_bench.leaderboard.sift import LeftOutError

    try:
        page = api.build_leaderboard(workspace=workspace, root=root)
    except LeftOutError as error:
        click.echo(str(error.page.resolve()))
        raise
    click.echo(str(page.resolve()))


def _known_options(command: Command) -> Command:
    command = click.option(
        "--allow-unknown-dataset",
        is_flag=True,
        help="Check records of a dataset without its manifest too; their images are then taken on trust.",
    )(command)
    return click.option(
        "--datasets",
        "more",
        multiple=True,
        metavar="DIR",
        help="Folder of known datasets or data cards, beside data_cards/ and those of the workspace; repeat.",
    )(command)


@leaderboard.command("check")
@click.argument("paths", nargs=-1, metavar="[FILE|DIR ...]")
@click.option("--submission", is_flag=True, help="Refuse what a pull request may not have: missing seeds, other files.")
@_known_options
@data_dir_option
@workspace_option
@json_option
@click.pass_context
def leaderboard_check(
    context: click.Context,
    paths: tuple[str, ...],
    submission: bool,
    more: tuple[str, ...],
    allow_unknown_dataset: bool,
    data_dir: str | None,
    workspace: str,
    as_json: bool,
) -> None:
    """Check records and their predictions, and compute every metric again; a fault exits with 1.

    Without FILE or DIR: leaderboard/records of the current folder, or else the records of the workspace.
    """
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.leaderboard.check import check

    default = COMMITTED if COMMITTED.is_dir() else _folder(workspace).records
    with shown() as progress:
        report = check(
            [Path(path) for path in paths] or [default],
            datasets=_known(workspace, more),
            data_dir=Path(data_dir) if data_dir else None,
            submission=submission,
            allow_unknown_dataset=allow_unknown_dataset,
            progress=progress,
        )
    print_json(report.to_json()) if as_json else click.echo(str(report))
    if report.faults:
        context.exit(1)


@leaderboard.command("submit")
@click.argument("paths", nargs=-1, required=True, metavar="RECORD ...")
@click.option("--to", default=".", metavar="DIR", help="A clone of the repository, or a new folder.  [default: here]")
@_known_options
@data_dir_option
@workspace_option
def leaderboard_submit(
    paths: tuple[str, ...],
    to: str,
    more: tuple[str, ...],
    allow_unknown_dataset: bool,
    data_dir: str | None,
    workspace: str,
) -> None:
    """Check records (files or folders of them) and gather them for a pull request."""
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.leaderboard.submit import submit

    with shown() as progress:
        submission = submit(
            [Path(path) for path in paths],
            Path(to),
            datasets=_known(workspace, more),
            data_dir=Path(data_dir) if data_dir else None,
            allow_unknown_dataset=allow_unknown_dataset,
            progress=progress,
        )
    click.echo(str(submission))


@leaderboard.command("schema")
def leaderboard_schema() -> None:
    """Print the JSON Schema of records."""
    from fmcs_bench.core import files
    from fmcs_bench.results.schema import record_schema

    click.echo(files.to_json(record_schema()).decode(), nl=False)


def _known(workspace: str, more: tuple[str, ...]) -> list[Path]:

    return [CARDS, _folder(workspace).datasets, *map(Path, more)]


def _folder(workspace: str) -> Workspace:
    from fmcs_bench.core.workspace import Workspace

    return Workspace(workspace)
