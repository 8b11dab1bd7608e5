"""One registry class for image datasets, backbones and evaluators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from fmcs_bench.core.errors import PluginError, UnknownNameError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Explicit names for things of one kind; third parties add theirs through an entry-point group.

    A name is bound once, and a plug-in never replaces one of ours. Plug-ins are imported when they are asked for.

    Args:
        kind: what is registered, in words ("backbone").
        group: entry-point group of third parties ("fmcs_bench.backbones").

    Example:
        >>> colours = Registry[int]("colour", group="example.colours")
        >>> colours.add("red", 1)
        1
        >>> colours["red"]
        1
    """

    def __init__(self, kind: str, *, group: str) -> None:
        self.kind = kind
        self.group = group
        self._own: dict[str, T] = {}

    def add(self, name: str, value: T) -> T:
        """Bind ``name``, which must be free, to ``value``; returns ``value``."""
        if name in self._own:
            raise ValueError(f"the {self.kind} name {name!r} is registered twice")
        self._own[name] = value
        return value

    def register(self, name: str) -> Callable[[T], T]:
        """Use as a decorator: ``@registry.register("name")``."""
        return lambda value: self.add(name, value)

    def _plugins(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group):
            if entry.name in self._own or entry.name in found:
                owner = entry.dist.name if entry.dist else entry.value
                raise PluginError(
                    f"{owner} offers the {self.kind} {entry.name!r}, but that name is taken; uninstall one"
                )
            found[entry.name] = entry
        return found

    def names(self) -> list[str]:
        """All names, ours first, each group in the order of registration."""
        return [*self._own, *self._plugins()]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._plugins()

    def __getitem__(self, name: str) -> T:
        """The thing of that name.

        Raises:
            UnknownNameError: no such name; the message has the nearest ones.
            PluginError: a third party's plug-in of that name cannot be imported.
        """
        if name in self._own:
            return self._own[name]
        entry = self._plugins().get(name)
        if entry is None:
            raise UnknownNameError(f"unknown {self.kind} {name!r}; {nearest(name, self.names())}")
        try:
            value: T = entry.load()
        except Exception as error:
            raise PluginError(f"the {self.kind} plug-in {name!r} ({entry.value}) cannot be loaded: {error}") from error
        return value
