"""What is wrong with a record, told so that it can be put right.

Flow: a check finds something -> ``Fault``, with the file, what it has, what is expected and what to do -> ``Report``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

MAX_SHOWN = 300
"""Characters of what a file says that are repeated in a message."""


def shown(value: object) -> str:
    r"""What a stranger's file says, on one line, without control characters, and not endless.

    Example:
        >>> shown("red \x1b[31m\nend")
        'red \\x1b[31m\\nend'
    """
    text = str(value)
    text = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or worth a note; every part is one line of plain text.

    Attributes:
        file: the file that has it.
        what: what is there.
        expected: what should be there.
        remedy: what to do.
    """

    file: str
    what: str
    expected: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; expected {self.expected}; {self.remedy}"


Tell = Callable[[str, str, str], None]
"""(what, expected, remedy) of a fault of one file."""


def teller(file: str, into: list[Fault]) -> Tell:
    """A function that appends faults of ``file``, with everything that is not printable made so."""

    def tell(what: str, expected: str, remedy: str) -> None:
        into.append(Fault(shown(file), shown(what), shown(expected), shown(remedy)))

    return tell


@dataclass(frozen=True)
class Report:
    """Everything that was checked; prints as one line for each fault and note, and one line about the whole.

    Attributes:
        num_records: records that were looked at, also those that could not be read.
        faults: what makes a record wrong.
        notes: what does not, but somebody should know.
    """

    num_records: int
    faults: tuple[Fault, ...]
    notes: tuple[Fault, ...]

    def __str__(self) -> str:
        lines = [f"fault  {fault}" for fault in self.faults] + [f"note   {note}" for note in self.notes]
        count = f"{len(self.faults):,} fault{'' if len(self.faults) == 1 else 's'}"
        records = f"{self.num_records:,} record{'' if self.num_records == 1 else 's'}"
        return "\n".join([*lines, f"{records} checked: {count if self.faults else 'no faults'}"])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "ok": not self.faults,
            "num_records": self.num_records,
            "faults": [asdict(fault) for fault in self.faults],
            "notes": [asdict(note) for note in self.notes],
        }
