"""What both boards share: which records stand on one board, and how many seeds a candidate needs to be chosen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fmcs_bench.results.records import AnyRecord, Record
from fmcs_bench.training.methods import NUM_SEEDS


def comparable(records: Iterable[AnyRecord]) -> dict[tuple[str, str], list[AnyRecord]]:
    """Records by dataset and settings: what may stand on one board."""
    groups: dict[tuple[str, str], list[AnyRecord]] = {}
    for record in records:
        groups.setdefault((record.dataset_id, record.settings), []).append(record)
    return dict(sorted(groups.items()))


def enough_seeds(groups: Iterable[Sequence[Record]]) -> int:
    """Seeds that a candidate needs to be chosen: one that is half done is not compared yet.

    More than the usual number are no advantage, so that a sixth seed of one candidate does not shut out the others.
    """
    return min(NUM_SEEDS, max((len(group) for group in groups), default=0))
