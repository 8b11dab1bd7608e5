"""Commands that bring FMCS datasets from other places, and to them; see ``cli``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import click

from fmcs_bench.cli.options import json_option, print_json, workspace_option
from fmcs_bench.core.errors import ConfigError

SELECTABLE: dict[str, type] = {"kinds": str, "runs": int, "stages": int, "splits": str}
"""Keys of ``--select``, and what their values are."""


@click.command()
@click.argument("source", metavar="OWNER/NAME[@REVISION] | URL | DIR")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(["maps", "parquet", "checkpoints"]),
    help="Kinds of files; repeat for several.  [default: all]",
)
@click.option("--stages", multiple=True, type=int, metavar="K", help="FMCS, from 1 on; repeat.  [default: all]")
@click.option("--runs", multiple=True, type=int, metavar="SEED", help="Runs by their seeds; repeat.  [default: all]")
@click.option("--revision", help="Branch, tag or commit of a repository of the Hub.  [default: main]")
@click.option("--to", metavar="DIR", help="Folder of the data set.  [default: datasets/<its name> in the workspace]")
@click.option("--offline", is_flag=True, help="Use no network: what is not here is listed, and an error.")
@workspace_option
@json_option
def download(
    source: str,
    only: tuple[str, ...],
    stages: tuple[int, ...],
    runs: tuple[int, ...],
    revision: str | None,
    to: str | None,
    offline: bool,
    workspace: str,
    as_json: bool,
) -> None:
    """Bring an FMCS dataset, or a part of one, from the Hub, a URL or a folder; or go on with it."""
    from fmcs_bench.cli.progress import shown
    from fmcs_bench.hub.download import download as bring

    with shown() as progress:
        dataset = bring(
            source,
            workspace=workspace,
            to=to,
            only=only,
            stages=stages or None,
            runs=runs or None,
            revision=revision,
            offline=offline,
            progress=progress,
        )
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
@click.option(
    "--select",
    multiple=True,
    metavar="KEY=VALUES",
    help="Publish a part: kinds=maps,parquet runs=0,3 stages=1,9 splits=test; repeat for several keys.",
)
@click.option("--superseded-by", metavar="OWNER/NAME", help="Say to whoever opens it that this one is newer.")
@click.option("--fidelity", metavar="FILE", help="Line of benchmarks/fidelity.py about it; the card shows it.")
@click.option("--yes", is_flag=True, help="Send without asking.")
@workspace_option
def publish(
    dataset: str,
    to: str | None,
    repo: str | None,
    public: bool,
    select: tuple[str, ...],
    superseded_by: str | None,
    fidelity: str | None,
    yes: bool,
    workspace: str,
) -> None:
    """Make a Hugging Face dataset repository of an FMCS dataset, in a folder, on the Hub or in a bucket."""
    from fmcs_bench import api
    from fmcs_bench.cli.progress import shown

    wanted = parse_selection(select)
    with shown() as progress:
        published = api.publish(
            dataset,
            to=to,
            repo=repo,
            public=public,
            superseded_by=superseded_by,
            fidelity=fidelity,
            workspace=workspace,
            agree=None if yes else _agree,
            progress=progress,
            **wanted,
        )
    click.echo(str(published))


def _agree(question: str) -> bool:
    if not sys.stdin.isatty():
        raise click.UsageError(f"nobody can be asked whether to {question}; give --yes to send without asking")
    return click.confirm(f"{question[0].upper()}{question[1:]}?", err=True)


def parse_selection(select: Iterable[str]) -> dict[str, list[Any]]:
    """``--select`` options as arguments of ``fmcs_bench.publish``.

    Raises:
        ConfigError: another form or key, or a number that is none.

    Example:
        >>> parse_selection(["stages=1,9", "splits=test"])
        {'stages': [1, 9], 'splits': ['test']}
    """
    found: dict[str, list[Any]] = {}
    for text in select:
        key, _, values = text.partition("=")
        if key not in SELECTABLE or key in found or not values:
            raise ConfigError(f"--select {text!r}: give each of {', '.join(SELECTABLE)} at most once, as in stages=1,9")
        parts = [part.strip() for part in values.split(",")]
        if SELECTABLE[key] is int and not all(part.isdigit() for part in parts):
            raise ConfigError(f"--select {text!r}: {key} are whole numbers, as in {key}=1,2")
        found[key] = [SELECTABLE[key](part) for part in parts]
    return found
