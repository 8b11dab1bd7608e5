"""What lossy storage does to the scores of evaluators. One JSON line.

    python benchmarks/fidelity.py WORKSPACE DATASET_LOSSLESS DATASET_Q8 [--evaluator NAME ...] [--seeds 5] [--out FILE]

Both datasets are of the same images and runs (`fmcs-bench build`, twice, with another `--codec` and `--name`).
Evaluators are fitted on the lossless one and asked about the test run of both; what `fmcs-bench evaluate --test-on` has
done before is not repeated. `fmcs-bench publish DATASET --fidelity FILE` shows the line on the data card of either.
For each evaluator, with the 95 % interval over seeds where there is one:
- mae: on the lossless maps, in stages.
- mae_difference: MAE on the lossy maps minus MAE on the lossless ones, in stages.
- changed: share of the maps that get another stage.
- probability: mean and largest absolute difference of a probability.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from result import report

import fmcs_bench as fb
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.results import statistics
from fmcs_bench.results.evaluator_board import EvaluatorRow
from fmcs_bench.results.store import RecordStore
from fmcs_bench.store.reader import find_dataset


def difference(row: EvaluatorRow, store: RecordStore, lossy_id: str) -> dict[str, Any]:
    maes, differences, changed, probabilities = [], [], [], []
    for record in row.records:
        predictions = store.predictions(record)
        lossless_KNK, lossy_KNK = predictions["test_run/probs"], predictions[f"test_on/{lossy_id}/probs"]
        for name in ("image", "run"):
            if not np.array_equal(predictions[f"test_run/{name}"], predictions[f"test_on/{lossy_id}/{name}"]):
                sys.exit(f"the two datasets are not of the same images and runs: their {name}s differ")
        maes.append(record.metrics["test_run"].mae)
        differences.append(record.test_on[lossy_id].mae - maes[-1])
        changed.append(float((lossless_KNK.argmax(axis=2) != lossy_KNK.argmax(axis=2)).mean()))
        probabilities.append(np.abs(lossless_KNK - lossy_KNK))
    return {
        "mae": statistics.estimate(maes)._asdict(),
        "mae_difference": statistics.estimate(differences)._asdict(),
        "changed": statistics.estimate(changed)._asdict(),
        "probability": {"mean": float(np.mean(probabilities)), "largest": float(np.max(probabilities))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path)
    parser.add_argument("lossless")
    parser.add_argument("lossy")
    parser.add_argument("--evaluator", action="append", default=[], dest="evaluators")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    place = Workspace(options.workspace)
    lossless, lossy = (find_dataset(place, name) for name in (options.lossless, options.lossy))
    stored = {
        key: {
            "dataset": dataset.manifest.name,
            "dataset_digest": dataset.manifest.dataset_digest,
            "codec": dataset.manifest.config.codec,
        }
        for key, dataset in (("lossless", lossless), ("lossy", lossy))
    }
    (board,) = fb.evaluate(
        lossless,
        evaluators=options.evaluators,
        seeds=options.seeds,
        test_on=lossy,
        workspace=place.root,
        device=options.device,
    )
    store = RecordStore(place.records)
    figures = {row.evaluator: difference(row, store, lossy.id) for row in board.rows}
    report("fidelity", {**stored, "evaluators": figures}, device=options.device, out=options.out)


if __name__ == "__main__":
    main()
