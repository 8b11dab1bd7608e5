"""The commands of results: ``leaderboard build``, ``check``, ``add``, and ``results``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fmcs_bench.cli.options import json_option, options_of, print_json, workspace_option
from fmcs_bench.images.options import ImageOptions

Command = TypeVar("Command", bound=Callable[..., Any])
COMMITTED = Path("leaderboard")
"""Folder of the results in a clone of the repository."""
CARDS = Path("data_cards")


@click.group()
def leaderboard() -> None:
    """Pages with all results; checking and adding results."""


@leaderboard.command("build")
@click.argument("source", required=False, metavar="[SOURCE]")
@click.option("--out", metavar="DIR", help="Folder for the pages.  [default: leaderboard/ in the workspace]")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print all tables as Markdown, and write no pages.")
@workspace_option
def leaderboard_build(workspace: str, source: str | None, out: str | None, as_markdown: bool) -> None:
    """Build the pages of all results; prints the path of the main page.

    SOURCE is a folder with results, such as leaderboard/ of the repository; default: the workspace. Records that are
    not valid are left out and listed on the page and on standard error; the exit code is then 1.
    """
    from fmcs_bench.core.workspace import Workspace
    from fmcs_bench.leaderboard import build

    if as_markdown:
        place = Workspace(workspace)
        results = build.load(Path(source) if source else place.root, [place.datasets])
        click.echo(build.markdown(results), nl=False)
        return
    try:
        page = build.build_leaderboard(source, out, workspace=workspace)
    except build.LeftOutError as error:
        click.echo(str(error.page.resolve()))
        raise
    click.echo(str(page.resolve()))


def _check_options(command: Command) -> Command:
    """Add the options of everything that checks results."""
    for option in (
        click.option(
            "--datasets",
            "more",
            multiple=True,
            metavar="DIR",
            help="Folder of datasets or data cards, beside data_cards/ and the workspace; repeat.",
        ),
        options_of(ImageOptions, only=("data_dir",)),
        workspace_option,
    ):
        command = option(command)
    return command


@leaderboard.command("check")
@click.argument("source", required=False, metavar="[SOURCE]")
@_check_options
@json_option
def leaderboard_check(
    source: str | None, more: tuple[str, ...], data_dir: str | None, workspace: str, as_json: bool
) -> None:
    """Check results and compute every metric again; a fault gives the exit code 1.

    SOURCE is a workspace, or a folder with results; default: leaderboard/ here, or else the workspace.
    """
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.leaderboard.check import check

    with shown() as progress:
        report = check(
            Path(source or (COMMITTED if COMMITTED.is_dir() else workspace)),
            datasets=[CARDS, Path(workspace, "datasets"), *map(Path, more)],
            data_dir=Path(data_dir) if data_dir else None,
            progress=progress,
        )
    print_json(report.to_json()) if as_json else click.echo(str(report))
    if report.faults:
        click.get_current_context().exit(1)


@leaderboard.command("add")
@click.argument("source", metavar="SOURCE")
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Only this evaluator or method; repeat.")
@click.option("--to", default=str(COMMITTED), show_default=True, metavar="DIR", help="Folder of the results.")
@_check_options
def leaderboard_add(
    source: str, methods: tuple[str, ...], to: str, more: tuple[str, ...], data_dir: str | None, workspace: str
) -> None:
    """Check the results of SOURCE, a workspace or a folder with results, and add them for a pull request."""
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.leaderboard.submit import add

    with shown() as progress:
        added = add(
            Path(source),
            Path(to),
            methods=methods,
            datasets=[CARDS, Path(workspace, "datasets"), Path(source, "datasets"), *map(Path, more)],
            data_dir=Path(data_dir) if data_dir else None,
            progress=progress,
        )
    click.echo(str(added))


@click.command()
@click.argument("source", required=False)
@click.option("--track", type=click.Choice(["evaluator", "training"]), help="One track.  [default: both]")
@click.option("--dataset", metavar="NAME", help="One FMCS dataset.  [default: all]")
@click.option("--csv", metavar="FILE", help="Write every column to this file; - is standard output.")
@json_option
def results(source: str | None, track: str | None, dataset: str | None, csv: str | None, as_json: bool) -> None:
    """Show all trials, a row each, from SOURCE: a workspace, a folder of results or a URL.

    Without SOURCE: this repository's own results, or where there is no checkout the workspace.
    """
    from fmcs_bench.results import tables

    if csv and as_json:
        raise click.UsageError("--csv and --json exclude each other")
    found = tables.results(source, track=track, dataset=dataset)
    if as_json:
        print_json(json.loads(found.to_json(orient="records")))
    elif csv == "-":
        click.echo(found.to_csv(index=False), nl=False)
    elif csv:
        found.to_csv(csv, index=False)
        click.echo(f"{csv}: {len(found)} trials")
    else:
        names = ("track", "dataset", "settings", "method", "seed", "mae_test_run", "test_accuracy", "seconds")
        shown = found[[name for name in names if name in found]]
        click.echo(shown.to_string(index=False, float_format="{:.3f}".format, na_rep="-"))
