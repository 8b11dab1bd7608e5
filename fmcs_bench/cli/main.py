"""The command line: one command per verb; each parses, calls one function, prints.

Heavy imports stay inside the commands, so that ``--help`` answers at once. Results go to standard output, progress to
standard error. Exit codes: 0 done, 1 failed, 2 wrong use.
"""

from __future__ import annotations

import errno
from typing import Any

import click

from fmcs_bench import __version__
from fmcs_bench.cli.build import build, info, verify
from fmcs_bench.cli.hub import download, publish
from fmcs_bench.cli.leaderboard import leaderboard, results
from fmcs_bench.cli.list import list_
from fmcs_bench.cli.quickstart import quickstart
from fmcs_bench.cli.tracks import evaluate, explain, train
from fmcs_bench.core.errors import FmcsBenchError


class _Failure(click.ClickException):
    """Shown as one or two lines on standard error, without a traceback."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click types it as a class variable and reads the instance's


class Commands(click.Group):
    """Turns the errors that a person can act on into a line and an exit code; keeps the order of the verbs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The verbs, in the order in which they were added."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except FmcsBenchError as error:
            raise _Failure(str(error), error.exit_code) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            where = error.filename or "while writing"
            raise _Failure(f"the disk is full ({where}); free some space and type the command again", 1) from error
        except KeyboardInterrupt:
            raise _Failure("stopped; type the same command again to continue", 1) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="fmcs-bench")
def main() -> None:
    """Feature-map datasets labelled by convergence, and a benchmark of evaluators of convergence."""


for command in (
    quickstart, build, evaluate, train, leaderboard, results, info, verify, explain, publish, download, list_,
):  # fmt: skip
    main.add_command(command)
