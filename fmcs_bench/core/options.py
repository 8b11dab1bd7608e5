"""The base of every configuration, manifest and record: frozen, checked when made, and equal after a round trip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer
from pydantic.fields import FieldInfo

from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, nearest

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
"""Names that become part of a path: no separators, no leading dot."""
FIT_PATTERN = NAME_PATTERN.removesuffix("$") + r"(\+(corn|coral))?(~permuted)?$"
"""Names of fits: an evaluator, behind a plus its ordinal head, behind a tilde that its labels were permuted."""


class Options(BaseModel):
    """Base of every configuration and record; ``make`` and ``from_json`` raise a ``ConfigError`` for a person."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False,
        validate_by_name=True, validate_by_alias=True, serialize_by_alias=True,  # an alias is the name in stored files
    )  # fmt: skip

    added_later: ClassVar[frozenset[str]] = frozenset()
    """Fields that are written only where they differ from their default, so that digests from before them stay."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        fields = {name: type(self).model_fields[name] for name in self.added_later}
        unchanged = {field.alias or name for name, field in fields.items() if getattr(self, name) == field.default}
        return {name: value for name, value in values.items() if name not in unchanged}

    @classmethod
    def make(cls, **values: Any) -> Self:
        """An object with these values.

        Raises:
            ConfigError: a line for each fault: the option, its value, and what is allowed or the nearest known option.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError("\n".join(cls._explain(item) for item in error.errors())) from None

    @classmethod
    def _explain(cls, item: Any) -> str:
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            kind = _kind_at(cls, item["loc"][:-1])
            return f"unknown option {where!r} of {kind.__name__}; {nearest(str(item['loc'][-1]), kind.model_fields)}"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            return f"{cls.__name__} lacks {where!r}"
        return f"{where} = {item['input']!r}: {message}" if where else message

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``type(self).from_json`` reads them back to an equal object."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The object that ``to_json`` wrote (lists become tuples again).

        Raises:
            ConfigError: the value is not of this schema.
        """
        if not isinstance(value, dict):
            raise ConfigError(f"{cls.__name__} must be a JSON object, not {type(value).__name__}")
        try:
            text = files.to_json(value)
        except ValueError as error:  # NaN, or text that is no Unicode
            raise ConfigError(f"{cls.__name__}: {error}") from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError("\n".join(cls._explain(item) for item in error.errors())) from None

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON form."""
        return files.digest(self.to_json())

    @classmethod
    def take(cls, values: dict[str, Any]) -> Self:
        """An object of those values that are its fields, which leave ``values``; None stands for the default.

        Example:
            >>> class Colour(Options):
            ...     red: int = 0
            >>> values = {"red": 3, "name": "x"}
            >>> Colour.take(values), values
            (Colour(red=3), {'name': 'x'})
        """
        own = {name: values.pop(name) for name in cls.model_fields if name in values}
        return cls.make(**{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class Flag:
    """How a field of ``Options`` is typed on a command line.

    Attributes:
        path: names of the field and of the fields around it, as ``("recipe", "lr")``.
        field: its type, default and description, which is the help.
        name: ``flag`` of ``json_schema_extra``, or ``--`` and the field's name; None where it cannot be typed.
        extra: ``metavar``, ``envvar``, ``default`` (what the help says where there is no plain default), and ``text``:
            True takes any text, which a validator of the class parses.
    """

    path: tuple[str, ...]
    field: FieldInfo
    name: str | None
    extra: dict[str, Any]


def flags(kind: type[Options], around: tuple[str, ...] = ()) -> Iterator[Flag]:
    """The flags of all fields of a class, those of options inside it among them."""
    for name, field in kind.model_fields.items():
        inner, path = field.annotation, (*around, name)
        if isinstance(inner, type) and issubclass(inner, Options):
            yield from flags(inner, path)
        else:
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            yield Flag(path, field, extra.get("flag", f"--{name.replace('_', '-')}"), dict(extra))  # type: ignore[arg-type]


def typed_words(options: Options, usual: Options) -> list[str]:
    """What to type for the fields of ``options`` whose value is not that of ``usual``."""
    words: list[str] = []
    for flag in flags(type(options)):
        value, other = options, usual
        for name in flag.path:
            value, other = getattr(value, name), getattr(other, name)
        if value == other:
            continue
        if flag.name is None:
            raise ConfigError(f"no option of the command line sets {'.'.join(flag.path)}; use Python")
        if isinstance(value, bool):
            words.append(flag.name.split("/")[not value])
        else:
            for each in value if isinstance(value, tuple) else (value,):
                words += [flag.name, str(each)]
    return words


def _kind_at(kind: type[Options], path: Sequence[str | int]) -> type[Options]:
    """The class of the options that stand at ``path`` inside options of class ``kind``."""
    for part in path:
        field = kind.model_fields.get(str(part))  # None for a position in a list and for a key of a dictionary
        kind = _options_in(field.annotation) or kind if field else kind
    return kind


def _options_in(annotation: Any) -> type[Options] | None:
    """The class of options in ``Recipe``, ``tuple[Epoch, ...]`` or ``dict[str, Metrics]``."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return annotation
    return next(filter(None, map(_options_in, get_args(annotation))), None)
