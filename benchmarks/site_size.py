"""Size of the leaderboard's site at 640 records, and how long it takes to build; one JSON line.

    python benchmarks/site_size.py [--out benchmarks/results/NAME.json]

Flow: made-up records, as long as real ones (13 evaluators and 51 methods, 5 seeds, 2 datasets) -> a site in a temporary
folder -> bytes of its parts, without the records and their predictions, which belong to who made them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from result import report, seconds

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # where records are made up
import many_records
import record_factory

from fmcs_bench import leaderboard

DATASETS = ("digits-smallcnn-32px-base", "mnist-smallcnn-32px-base")
LIMIT_BYTES = 6_000_000


def measure() -> dict[str, object]:
    """Build the site and weigh it."""
    made = [*many_records.evaluators(), *many_records.trainings()]
    records = [record for dataset in DATASETS for record in many_records.on(dataset, made)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        record_factory.write(Path(folder, "records"), records)
        took = seconds(lambda: leaderboard.build(Path(folder, "records"), out))
        parts: dict[str, int] = {}
        for path in out.rglob("*"):
            name = path.relative_to(out).parts[0]
            if path.is_file() and name != "records":
                parts[name] = parts.get(name, 0) + path.stat().st_size
        pages = len(list(out.rglob("details/**/*.html")))
    total = sum(parts.values())
    return {
        "num_records": len(records),
        "num_pages_of_details": pages,
        "bytes": total,
        "bytes_of": dict(sorted(parts.items())),
        "limit_bytes": LIMIT_BYTES,
        "within_limit": total <= LIMIT_BYTES,
        "build_seconds": round(took, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    arguments = parser.parse_args()
    report("site_size", measure(), out=arguments.out)


if __name__ == "__main__":
    main()
