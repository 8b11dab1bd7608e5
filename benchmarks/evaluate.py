"""Time of the whole evaluator track, and of reading maps for it. One JSON line.

    python benchmarks/evaluate.py DATASET [--read DATASET ...] [--evaluator NAME ...] [--seeds 1] [--out FILE]

DATASET is the folder of the quickstart's digits, `<workspace>/datasets/digits-smallcnn-32px-base`.
- track: `fmcs_bench.evaluate` in a fresh workspace: every evaluator, one seed, all sides of the protocol, its records.
  `seconds` in all (goal: at most 240 for each seed, on two cores) and those of each evaluator; maps are read once, in
  the seconds of the first.
- read: the train side, of DATASET and of others, decoded into new memory as a fit needs it (`load`; goal: 0.85),
  against the codec decoding the same chunks from memory with the same threads and keeping nothing; by turns in one
  process, with the files in the page cache. `protocol` is the same with the checksum that is taken before an
  evaluator gets the maps.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from read import by_numcodecs, decoding_rate, encoded_chunks
from result import by_turns, per_second, report

import fmcs_bench as fb
from fmcs_bench.evaluator_track import protocol
from fmcs_bench.evaluators.registry import parse_evaluators
from fmcs_bench.store.reader import FmcsDataset

GOAL_SECONDS = 240


class Clock:
    """A progress display that notes when each unit of work was done."""

    def __init__(self) -> None:
        self.moments = [time.monotonic()]

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Clock]:
        print(f"{description}: {total}", file=sys.stderr, flush=True)
        self.moments = [time.monotonic()]
        yield self

    def advance(self, steps: int = 1) -> None:
        self.moments += [time.monotonic()] * steps
        print(f"{self.moments[-1] - self.moments[-2]:.1f} s", file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        print(message, file=sys.stderr, flush=True)


def track(dataset: FmcsDataset, *, names: list[str], seeds: int, device: str) -> dict[str, Any]:
    """Seconds of the whole track and of each evaluator, with its mean MAE on the test run."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as workspace:
        begin = time.monotonic()
        (board,) = fb.evaluate(
            dataset, evaluators=names, seeds=seeds, workspace=workspace, device=device, progress=clock
        )
        seconds = time.monotonic() - begin
    fits = parse_evaluators(names)
    units = [fit.name if fit.labels == "true" else f"{fit.name}~permuted" for fit in fits for _ in range(seeds)]
    of_each = dict.fromkeys(units, 0.0)
    for name, spent in zip(units, np.diff(clock.moments), strict=True):
        of_each[name] += float(spent)
    return {
        "seconds": round(seconds, 1),
        "seconds_of_each": {name: round(spent, 2) for name, spent in of_each.items()},
        "fit_seconds_of_each": {row.evaluator: round(row.fit_seconds, 2) for row in board.rows},
        "test_run_mae": {row.evaluator: round(row.metrics["mae"]["test_run"].mean, 3) for row in board.rows},
        "evaluators": len(of_each),
        "seeds": seeds,
        "map_shape": dataset.manifest.map_shape,
        "train_maps": len(protocol.side(dataset, "train", protocol.Limits())),
        "within_goal": seconds <= GOAL_SECONDS * seeds,
    }


def reading(dataset: FmcsDataset, *, threads: int, rounds: int) -> dict[str, Any]:
    """Rates of the train side in MB of float16 a second, and their ratios to the codec's."""
    selection = protocol.side(dataset, "train", protocol.Limits())
    num_images = len(np.unique(selection.image_ids_M))
    codec, megabytes = dataset.manifest.config.codec, selection.nbytes / 1e6
    # Train images come first.
    encoded = [chunk for array in selection.arrays for chunk in encoded_chunks(array, num_images)]
    codec_rate = partial(decoding_rate, by_numcodecs(selection.arrays[0]), encoded, megabytes, threads)

    def load_rate() -> float:
        return per_second(megabytes, selection.load)

    def protocol_rate() -> float:
        held = protocol.SharedMaps({"train": selection})
        begin = time.perf_counter()
        with held.use("benchmark", "train"):
            return megabytes / (time.perf_counter() - begin)

    protocol_rate()
    protocol_mb, codec_mb, protocol_ratio = by_turns(protocol_rate, codec_rate, rounds)
    load_mb, _, load_ratio = by_turns(load_rate, codec_rate, rounds)
    return {
        "codec": codec,
        "map_shape": dataset.manifest.map_shape,
        "mb": round(megabytes),
        "threads": threads,
        "rounds": rounds,
        "protocol_mb_per_second": round(protocol_mb),
        "load_mb_per_second": round(load_mb),
        "codec_mb_per_second": round(codec_mb),
        "protocol_ratio_to_codec": round(protocol_ratio, 3),
        "load_ratio_to_codec": round(load_ratio, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="folder of a finished FMCS dataset")
    parser.add_argument("--read", action="append", default=[], metavar="DATASET", help="read this one too; repeat")
    parser.add_argument("--evaluator", action="append", default=[], help="only this one; repeat")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    arguments = parser.parse_args()
    threads = len(os.sched_getaffinity(0))  # those that the reader takes, too
    dataset = fb.open(arguments.dataset)
    opened = [dataset, *(fb.open(path) for path in arguments.read)]
    figures = {"read": {one.manifest.name: reading(one, threads=threads, rounds=arguments.rounds) for one in opened}}
    figures["track"] = track(dataset, names=arguments.evaluator, seeds=arguments.seeds, device=arguments.device)
    report("evaluate", figures, device=arguments.device, out=arguments.out)


if __name__ == "__main__":
    main()
