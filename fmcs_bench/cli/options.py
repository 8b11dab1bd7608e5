"""What the commands share: their group, which turns errors into a line and an exit code; options; printing."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fmcs_bench.core.errors import FmcsBenchError

if TYPE_CHECKING:
    from fmcs_bench.results.evaluator_board import EvaluatorBoard
    from fmcs_bench.results.training_board import TrainingBoard

Command = TypeVar("Command", bound=Callable[..., Any])


class _Failure(click.ClickException):
    """Shown as one or two lines on standard error, without a traceback."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click types it as a class variable and reads the instance's


class Commands(click.Group):
    """Turns the errors that a person can act on into a line and an exit code; keeps the order of the verbs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """See click: the order in which commands were added."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """See click."""
        try:
            return super().invoke(ctx)
        except FmcsBenchError as error:
            raise _Failure(str(error), error.exit_code) from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            message = (
                f"the disk is full ({error.filename or 'while writing'}); free some space and type the command again"
            )
            raise _Failure(message, 1) from error
        except KeyboardInterrupt:
            raise _Failure("stopped; type the same command again and it goes on where it was", 1) from None


def workspace_option(command: Command) -> Command:
    """Add ``--workspace``."""
    return click.option(
        "--workspace",
        envvar="FMCS_BENCH_WORKSPACE",
        default="fmcs-workspace",
        show_default=True,
        show_envvar=True,
        help="Folder of everything that is made.",
    )(command)


def data_dir_option(command: Command) -> Command:
    """Add ``--data-dir``."""
    return click.option(
        "--data-dir", envvar="FMCS_BENCH_DATA", show_envvar=True, help="Folder with the files of the image dataset."
    )(command)


def images_option(command: Command) -> Command:
    """Add ``--images``, as ``image_source``."""
    return click.option(
        "--images", "image_source", help="folder:DIR or hub:NAME_OR_PATH that the dataset was built from."
    )(command)


def stream_option(command: Command) -> Command:
    """Add ``--stream-images``."""
    return click.option(
        "--stream-images/--no-stream-images",
        default=None,
        help="Decode images when they are needed instead of holding them in memory.  [default: where they would take "
        "more than half of the free memory]",
    )(command)


def device_option(command: Command) -> Command:
    """Add ``--device``."""
    return click.option(
        "--device", default="auto", show_default=True, help="auto takes CUDA where torch has it, else the CPU."
    )(command)


ENGINE_FIELDS = ("engine", "address", "unit_cpus", "unit_gpus")
"""Parameters of a command with ``engine_options``."""


def engine_options(command: Command) -> Command:
    """Add ``--engine`` and what belongs to it; see ``ENGINE_FIELDS``."""
    for option in (
        click.option("--unit-gpus", type=float, help="ray: GPUs of each, or a share of one.  [default: 1 on CUDA]"),
        click.option("--unit-cpus", type=int, help="ray: CPUs, and threads, of each.  [default: 1]"),
        click.option(
            "--address",
            metavar="HOST:PORT|auto",
            help="ray: the cluster; auto is the one that this machine is part of.  [default: this machine alone]",
        ),
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="local: one after another. ray: at the same time, on one machine or many.",
        ),
    ):
        command = option(command)
    return command


def json_option(command: Command) -> Command:
    """Add ``--json``, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def print_json(value: Any) -> None:
    """Print what ``--json`` asks for."""
    click.echo(json.dumps(value, indent=1, sort_keys=True))


def print_board(board: EvaluatorBoard | TrainingBoard) -> None:
    """Print a board for a person, or as plain text for a pipe."""
    from rich.console import Console

    from fmcs_bench.cli import tables

    tables.print_board(Console(highlight=False), board)
