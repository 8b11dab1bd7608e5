"""Gathers checked records and their predictions in the folder that a pull request needs.

Flow: records -> ``check``, as strict as for what is committed -> nothing is overwritten -> record and predictions at
their address below ``leaderboard/records``, and on the list of published records -> what to type next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, RecordError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.leaderboard import sums
from fmcs_bench.leaderboard.check import check, find_files
from fmcs_bench.leaderboard.faults import Report, teller
from fmcs_bench.leaderboard.reading import read
from fmcs_bench.results.store import RecordStore, predictions_path


@dataclass(frozen=True)
class Submission:
    """What was gathered; prints as what to do next.

    Attributes:
        folder: with ``leaderboard/records`` in it.
        added: files that were written, relative to ``folder``.
        report: of the check.
    """

    folder: Path
    added: tuple[str, ...]
    report: Report

    def __str__(self) -> str:
        num = len(self.added) // 2
        if not num:
            return f"{self.folder} has these records already; there is nothing to add"
        methods = sorted({Path(name).parent.as_posix() for name in self.added})
        lines = [f"{num:,} record{'' if num == 1 else 's'} with predictions, checked, in {self.folder}:"]
        lines += [f"  {method}" for method in methods]
        return "\n".join([
            *lines,
            "Next, in a clone of the repository (copy the folder leaderboard/ into it if it is elsewhere):",
            "  fmcs-bench leaderboard check --submission leaderboard/records",
            "  git switch -c records",
            "  git add leaderboard/records",
            '  git commit -m "Records of ..."',
            "  git push -u origin records",
            "and open a pull request; the page is made again when it is merged.",
        ])  # fmt: skip


def submit(
    paths: Iterable[Path],
    to: Path,
    *,
    datasets: Sequence[Path] = (),
    data_dir: Path | None = None,
    allow_unknown_dataset: bool = False,
    progress: Progress = SILENT,
) -> Submission:
    """Check records and copy them to where a pull request has them.

    Args:
        paths: records, and folders of them.
        to: a clone of the repository, or a folder for ``leaderboard/records``.
        datasets: see ``check``.
        data_dir: see ``check``.
        allow_unknown_dataset: see ``check``.
        progress: shows records.

    Raises:
        MissingDataError: a path does not exist, or there is no record.
        RecordError: a record has a fault, or seeds are missing; the message is the report. Nothing is written.
        ConfigError: another record lies at an address already. Nothing is written.
    """
    paths = list(paths)
    store = RecordStore(to / "leaderboard" / "records")
    report = check(
        paths,
        datasets=datasets,
        data_dir=data_dir,
        submission=True,
        allow_unknown_dataset=allow_unknown_dataset,
        beside=store.root,
        new=True,
        progress=progress,
    )
    if report.faults:
        raise RecordError(f"{report}\nnothing was gathered; a submission has no faults")
    contents: dict[Path, bytes] = {}
    records: dict[str, bytes] = {}
    for path in find_files(paths)[0]:
        reading = read(path, teller(str(path), []))
        if reading is None:  # checked a moment ago
            raise RecordError(f"{path} was changed while it was gathered; type the command again")
        target = store.path(reading.record)
        contents[predictions_path(target)] = predictions_path(path).read_bytes()
        contents[target] = records[str(store.address(reading.record))] = path.read_bytes()
    taken = sorted(path for path, data in contents.items() if path.exists() and path.read_bytes() != data)
    listed = sums.load(store.root)
    for address, data in records.items():
        if address in listed and sums.fault(listed, address, data) is not None and store.root / address not in taken:
            raise ConfigError(
                f"{store.root / sums.NAME} lists another record at {address}: a published result is not overwritten; "
                "say in the pull request why it should be, and remove its line there first"
            )
    if taken:
        raise ConfigError(
            f"{taken[0]} is there already, with another content ({len(taken):,} of {len(contents):,} files are): a "
            "published result is not overwritten; say in the pull request why it should be, and remove it there first"
        )
    added = [path for path in contents if not path.exists()]
    for path in added:
        files.write_atomically(path, contents[path])
    sums.add(store.root, records)
    return Submission(to, tuple(sorted(path.relative_to(to).as_posix() for path in added)), report)
