"""Commands that bring FMCS datasets from other places. As in ``cli``: each parses, calls one function, prints."""

from __future__ import annotations

import json

import click

from fmcs_bench.command import json_option, workspace_option


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
@click.option(
    "--timeout",
    type=float,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a server may be silent before a file is asked for again.",
)
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
    timeout: float,
    workspace: str,
    as_json: bool,
) -> None:
    """Bring an FMCS dataset, or a part of one, from the Hub, a URL or a folder; or go on with it."""
    from fmcs_bench import api
    from fmcs_bench.display import shown

    with shown() as progress:
        dataset = api.download(
            source,
            workspace=workspace,
            to=to,
            only=only,
            stages=stages or None,
            runs=runs or None,
            revision=revision,
            offline=offline,
            timeout=timeout,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(dataset.manifest.to_json(), indent=1, sort_keys=True))
    else:
        click.echo(str(dataset))
