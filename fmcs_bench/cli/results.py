"""``fmcs-bench results``: all trials as a table, a CSV file or JSON."""

from __future__ import annotations

import json

import click

from fmcs_bench.cli.options import json_option, print_json


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
