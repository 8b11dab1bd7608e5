"""Size of the leaderboard's site at 1,100 records, and how long it takes to build; one JSON line.

    python benchmarks/site_size.py [--out benchmarks/results/NAME.json]

Flow: made-up records, as long as real ones (14 evaluators, 5 seeds; 51 methods on each of 2 datasets, 33 on each of 2
more) -> a site beside them, as the committed one lies -> bytes of its parts, without the records and their predictions,
which belong to who made them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from result import report, seconds

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))  # where records are made up
from helpers import many_records, record_factory

from fmcs_bench.leaderboard import build as leaderboard

METHODS_ON = {
    "digits-smallcnn-32px-base": 51,
    "mnist-smallcnn-32px-base": 51,
    "mnist-shufflenet_v2-64px-base": 33,
    "hub_cifar10-shufflenet_v2-64px-base": 33,
}
LIMIT_BYTES = 6_000_000


def measure() -> dict[str, object]:
    """Build the site and weigh it."""
    evaluators, trainings = many_records.evaluators(), many_records.trainings()
    records = [
        record
        for dataset, num in METHODS_ON.items()
        for record in many_records.on(dataset, [*evaluators, *trainings[: num * many_records.SEEDS]])
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        record_factory.write(out / "records", records)
        took = seconds(lambda: leaderboard.build(out / "records", out))
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
