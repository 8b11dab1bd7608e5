"""What a unit of work needs in another process: names of things, instead of the things.

Flow: opened dataset, evaluators, places -> what is pickled: absolute paths, digests, code -> in the other process the
same, opened and read there, and compared with what was meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fmcs_bench.core.errors import DatasetError, PluginError
from fmcs_bench.evaluators.registry import evaluator_code, evaluator_file, resolve_evaluator
from fmcs_bench.store.location import Location
from fmcs_bench.store.reader import FmcsDataset, open_dataset


@dataclass(frozen=True)
class DatasetThere:
    """An FMCS dataset by its place.

    Attributes:
        place: absolute path or URL, with its storage options.
        id: name and digest of what lies there.
    """

    place: Location
    id: str

    @classmethod
    def of(cls, dataset: FmcsDataset) -> DatasetThere:
        """What stands for an opened dataset."""
        local = dataset.location.local
        return cls(dataset.location if local is None else Location(local.absolute()), dataset.id)

    def open(self) -> FmcsDataset:
        """The dataset, opened in this process.

        Raises:
            MissingDataError: it is not there.
            DatasetError: another one is there.
        """
        dataset = open_dataset(self.place)
        if dataset.id != self.id:
            raise DatasetError(f"{dataset.location} is {dataset.id}, and {self.id} is meant; give both one file system")
        return dataset


@dataclass(frozen=True)
class EvaluatorThere:
    """An evaluator's class by its name and code.

    Attributes:
        name: without head and labels.
        file: ``FILE.py:Class`` with an absolute path, where it comes from a file.
        code: its SHA-256; None for ours.
    """

    name: str
    file: str | None
    code: str | None

    @classmethod
    def all_of(cls, names: Iterable[str]) -> tuple[EvaluatorThere, ...]:
        """What stands for evaluators of these names, each once."""
        return tuple(cls(name, evaluator_file(name), evaluator_code(name)) for name in dict.fromkeys(names))

    def learn(self) -> None:
        """Make the name known in this process.

        Raises:
            MissingDataError: there is no such file.
            UnknownNameError: no such evaluator is installed.
            PluginError: its code is other code.
        """
        if self.file is not None:
            resolve_evaluator(self.file)
        if evaluator_code(self.name) != self.code:
            raise PluginError(
                f"the evaluator {self.name} has other code here than where the command was typed; install, or copy, "
                "one version everywhere"
            )
