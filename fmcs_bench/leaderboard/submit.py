"""Adds checked trials to a folder of results, such as the repository's ``leaderboard``, for a pull request."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from fmcs_bench.core.errors import ConfigError, MissingDataError, RecordError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.leaderboard.check import KnownDatasets, check_trials
from fmcs_bench.leaderboard.load import Report, find_manifests, read_trials
from fmcs_bench.results import tables


@dataclass(frozen=True)
class Added:
    """What was added: names of the new trials, and the report of their check; prints as what to do next."""

    folder: Path
    names: tuple[str, ...]
    report: Report

    def __str__(self) -> str:
        if not self.names:
            return f"{self.folder} has these trials already; there is nothing to add"
        methods = sorted({name.rpartition("/")[0] for name in self.names})
        commands = (
            f"fmcs-bench leaderboard check {self.folder}",
            f"git switch -c results && git add {self.folder}",
            "git commit -m 'Results of ...' && git push -u origin results",
        )
        lines = [f"{len(self.names):,} trials, checked, were added to {self.folder}:", *(f"  {m}" for m in methods)]
        return "\n".join([*lines, "next, in a clone of the repository:", *(f"  {c}" for c in commands)])


def add(
    source: Path,
    to: Path,
    *,
    methods: Collection[str] = (),
    datasets: Sequence[Path] = (),
    data_dir: Path | None = None,
    progress: Progress = SILENT,
) -> Added:
    """Check trials and append them to a folder of results.

    Args:
        source: a workspace, or a folder of results.
        to: folder of the results; it may be new.
        methods: only these, without RAF, such as ``ral-set`` or ``my_evaluator``; empty is all.
        datasets: see ``check.check``.
        data_dir: see ``check.check``.
        progress: shows trials.

    Raises:
        MissingDataError: there is no such trial.
        RecordError: a trial has a fault, or seeds are missing; the message is the report. Nothing is written.
        ConfigError: a different result of a trial is there already. Nothing is written.
    """
    report, unreadable = Report(), Report()
    found = read_trials(source, report)
    trials = [trial for trial in found if not methods or trial.record.method.rpartition("@")[0] in methods
              or trial.record.method in methods]  # fmt: skip
    if not trials and not report.faults:
        known_methods = ", ".join(sorted({trial.record.method for trial in found})) or "none"
        raise MissingDataError(
            f"{source} has no trials of {', '.join(methods) or 'any method'}; it has {known_methods}"
        )
    present = {trial.record.name: trial for trial in read_trials(to, unreadable)}
    if unreadable.faults:
        raise RecordError(f"{unreadable}\nnothing was added: {to} is damaged; restore it with git")
    different = [
        t.record.name for t in trials if t.record.name in present and t.record != present[t.record.name].record
    ]
    if different:
        raise ConfigError(
            f"{to} has a different result of {different[0]} ({len(different)} in all); published results are not "
            "overwritten: explain in the pull request why they should be"
        )
    new = [trial for trial in trials if trial.record.name not in present]
    known = KnownDatasets(find_manifests(datasets, report), data_dir)
    check_trials(new, report, known, beside=list(present.values()), progress=progress)
    if report.faults:
        raise RecordError(f"{report}\nnothing was added; only trials without faults are")
    if new:
        tables.write(to, [(trial.record, trial.arrays) for trial in (*present.values(), *new)])
    return Added(to, tuple(trial.record.name for trial in new), report)
