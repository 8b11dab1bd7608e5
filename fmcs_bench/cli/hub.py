"""The commands ``download`` and ``publish``."""

from __future__ import annotations

import sys
from typing import Any

import click

from fmcs_bench.cli.options import json_option, print_json, workspace_option

only_option = click.option(
    "--only",
    multiple=True,
    type=click.Choice(["maps", "parquet", "checkpoints"]),
    help="Kinds of files; repeat for several.  [default: all]",
)
stages_option = click.option(
    "--stages", multiple=True, type=int, metavar="K", help="FMCS, from 1 on; repeat.  [default: all]"
)
runs_option = click.option("--runs", multiple=True, type=int, metavar="SEED", help="Seeds; repeat.  [default: all]")


@click.command()
@click.argument("source", metavar="OWNER/NAME[@REVISION] | URL | DIR")
@only_option
@stages_option
@runs_option
@click.option("--revision", help="Branch, tag or commit of a repository of the Hub.  [default: main]")
@click.option("--to", metavar="DIR", help="Folder of the dataset.  [default: datasets/<its name> in the workspace]")
@click.option("--offline", is_flag=True, help="Use no network; a missing file is an error.")
@workspace_option
@json_option
def download(source: str, as_json: bool, **options: Any) -> None:
    """Download an FMCS dataset, or a part of one, from the Hub, a URL or a folder."""
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.hub.download import download as bring

    with shown() as progress:
        dataset = bring(source, progress=progress, **options)
    if as_json:
        print_json(dataset.manifest.to_json())
    else:
        click.echo(str(dataset))


@click.command()
@click.argument("dataset")
@click.option(
    "--to",
    metavar="DIR|URL",
    help="Make the repository in this folder, new or empty, or copy it to a URL as s3://bucket/name.",
)
@click.option("--repo", metavar="OWNER/NAME", help="Upload it to this repository of the Hugging Face Hub.")
@click.option("--public", is_flag=True, help="Let everyone see the repository.  [default: new ones are private]")
@only_option
@stages_option
@runs_option
@click.option(
    "--splits",
    multiple=True,
    type=click.Choice(["train", "validation", "test", "unseen"]),
    help="Splits of the images; repeat for several.  [default: all]",
)
@click.option("--superseded-by", metavar="OWNER/NAME", help="Warn everyone who opens it that this one is newer.")
@click.option("--fidelity", metavar="FILE", help="Line of benchmarks/fidelity.py about it; the card shows it.")
@click.option("--yes", is_flag=True, help="Send without asking.")
@workspace_option
def publish(dataset: str, yes: bool, **options: Any) -> None:
    """Make a Hugging Face dataset repository of an FMCS dataset, in a folder, on the Hub or in a bucket."""
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.hub.publish import publish as make

    with shown() as progress:
        published = make(dataset, agree=None if yes else _agree, progress=progress, **options)
    click.echo(str(published))


def _agree(question: str) -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError(f"cannot ask whether to {question}, as there is no terminal; give --yes")
    return click.confirm(f"{question[0].upper()}{question[1:]}?", err=True)
