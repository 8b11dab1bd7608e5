"""What the commands share: options made from the fields of ``Options`` classes, and printing."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic_core import PydanticUndefined

from fmcs_bench.core.options import Flag, Options, flags
from fmcs_bench.core.workspace import DEFAULT_WORKSPACE

Command = TypeVar("Command", bound=Callable[..., Any])
Made = TypeVar("Made", bound=Options)


def options_of(
    kind: type[Options], *, only: Collection[str] = (), without: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Add an option for every field of a class, or only for some; nested options are flattened.

    See ``Flag``. Nothing typed is None or (), so that defaults stay in the class. The click parameter has the field's
    path, as ``recipe__lr``.

    Example:
        >>> from fmcs_bench.training.recipes import Recipe
        >>> @click.command()
        ... @options_of(Recipe, without=("optimizer", "augmentation"))
        ... def show(**values):
        ...     print(made(Recipe, values))
        >>> [option.name for option in show.params]
        ['lr', 'momentum', 'weight_decay', 'schedule', 'batch_size', 'precision']
    """
    wanted = [flag for flag in flags(kind) if flag.name is not None and flag.path[0] not in without]
    wanted = [flag for flag in wanted if not only or flag.path[0] in only]

    def add(command: Command) -> Command:
        for flag in reversed(wanted):
            command = _click_option(flag)(command)
        return command

    return add


def typed(kind: type[Options], values: dict[str, Any], around: str = "") -> dict[str, Any]:
    """Take what was typed for ``kind.make`` out of ``values``, those of all options of the command.

    Nested options are made; ``around`` is the beginning of their parameters.
    """
    found = {}
    for name, field in kind.model_fields.items():
        inner = field.annotation
        value: Any = None
        if isinstance(inner, type) and issubclass(inner, Options):
            given = typed(inner, values, f"{around}{name}__")
            value = inner.make(**given) if given else None
        else:
            value = values.pop(around + name, None)
        if value not in (None, ()):
            found[name] = value
    return found


def made(kind: type[Made], values: dict[str, Any]) -> Made:
    """The object of what was typed; see ``typed``."""
    return kind.make(**typed(kind, values))


def _click_option(flag: Flag) -> Callable[[Command], Command]:
    name, kind, field, extra = flag.name, flag.field.annotation, flag.field, flag.extra
    assert name is not None
    is_optional, is_multiple = NoneType in get_args(kind), False
    if is_optional:
        kind = next(each for each in get_args(kind) if each is not NoneType)
    if get_origin(kind) is tuple:
        kind, is_multiple = get_args(kind)[0], True
    default = extra.get("default")
    if default is None and field.default not in (PydanticUndefined, None, ()) and kind is not bool:
        default = ", ".join(map(str, field.default)) if is_multiple else str(field.default)
    attributes: dict[str, Any] = {key: extra[key] for key in ("metavar", "envvar") if key in extra}
    if extra.get("text"):
        kind = str
    if kind is bool:
        name = f"{name}/--no-{name.removeprefix('--')}" if is_optional else name
        attributes["is_flag"] = True
    else:
        attributes["type"] = click.Choice(get_args(kind)) if get_origin(kind) is Literal else kind
        attributes["multiple"] = is_multiple
    help_ = f"{field.description or ''}  [default: {default}]" if default is not None else field.description
    return click.option(
        name,
        "__".join(flag.path),
        default=None,
        required=field.is_required() and default is None,
        show_envvar="envvar" in extra,
        help=help_,
        **attributes,
    )


def workspace_option(command: Command) -> Command:
    """Add ``--workspace``."""
    return click.option(
        "--workspace",
        envvar="FMCS_BENCH_WORKSPACE",
        default=DEFAULT_WORKSPACE,
        show_default=True,
        show_envvar=True,
        help="Folder of everything that is made.",
    )(command)


def device_option(command: Command) -> Command:
    """Add ``--device``."""
    return click.option(
        "--device", default="auto", show_default=True, help="auto takes CUDA where torch has it, else the CPU."
    )(command)


def json_option(command: Command) -> Command:
    """Add ``--json``, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def print_json(value: Any) -> None:
    """Print what ``--json`` asks for."""
    click.echo(json.dumps(value, indent=1, sort_keys=True))
