"""What a GPU does: speed of every part, a whole FMCS dataset, both tracks. Each step prints a table and writes a JSON.

    python benchmarks/gpu.py measure --images hub:DIR --device cuda --precision bfloat16 --out OUT/measure.json
    python benchmarks/gpu.py build --images hub:DIR --device cuda --precision bfloat16 --out OUT/build.json
    python benchmarks/gpu.py track --images hub:DIR --device cuda --limit 1000 --out OUT/track

Each is one call of less than ten minutes. `build` and `track` stop after --minutes with the exit code 3: type the same
again, as often as it takes; what is finished stays, and an unfinished training goes on at its last state (of 20
seconds before). Defaults are ResNet-50 at 224 px; with `--backbone smallcnn --image-size 16 --images digits` and small
numbers the same steps run on a CPU in seconds.

- measure: bare forward, extraction to disk, codecs, writer and reader: images a second, GB a second of float16 maps,
  ratio to the bare forward passes or to the codec, peak memory. `build.py` has the parts.
- build: an FMCS dataset; wall time by phase over all calls, bytes.
- track: evaluators and trainings on it; their records and predictions are copied to the folder --out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import build as parts
import numpy as np
import torch
from budget import EXIT_CODE, OutOfTime, PhaseClock, budget
from result import with_machine

import fmcs_bench as fb
from fmcs_bench.cli.progress import shown
from fmcs_bench.core import environment, files
from fmcs_bench.core.errors import FmcsBenchError, UnitsFailedError
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.images.load import load_images
from fmcs_bench.results.records import EvaluatorRecord, TrainingRecord
from fmcs_bench.results.store import RecordStore
from fmcs_bench.store.location import Location
from fmcs_bench.store.map_array import MapArray
from fmcs_bench.store.reader import FmcsDataset, find_dataset, only_dataset
from fmcs_bench.store.selection import MapSelection
from fmcs_bench.training.loop import choose_device
from fmcs_bench.training.recipes import ConvergenceRule, Recipe

Figures = dict[str, Any]


def table(*rows: tuple[Any, ...]) -> None:
    """Print rows as columns, the first row as headings; numbers with four digits."""
    shown_rows = [[f"{cell:,.4g}" if isinstance(cell, float) else "" if cell is None else str(cell) for cell in row]
                  for row in rows]  # fmt: skip
    widths = [max(len(row[i]) for row in shown_rows) for i in range(len(rows[0]))]
    for row in shown_rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)


def peaks(device: torch.device) -> Figures:
    """Peak memory so far: of this process, and of what torch has allocated on a GPU."""
    on_gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak_device_bytes": on_gpu, "peak_process_bytes": environment.process_peak_bytes()}


def write(step: str, figures: Figures, device: torch.device, out: Path) -> None:
    """Write the step's JSON, with machine and versions."""
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    files.write_atomically(out, files.to_json(with_machine(f"gpu_{step}", figures, name)))
    print(f"\n{out}", flush=True)


def reader_speed(maps: np.ndarray, codec: str, device: torch.device, *, rounds: int, threads: int) -> Figures:
    """Shuffled batches from the disk (in the page cache) to the device, once written as a dataset's maps are."""
    with tempfile.TemporaryDirectory() as folder:
        parts.write_maps(Path(folder), maps, codec)
        names = frozenset(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())
        array = MapArray(Location(folder), f"run-{parts.SEED}/feature_maps", codec, names)
        nothing_M, all_M = np.zeros(len(maps), np.int64), np.arange(len(maps))
        selection = MapSelection(
            [array], source_M=nothing_M, image_M=all_M, stages_M=nothing_M, image_ids_M=all_M, labels_M=nothing_M,
            splits_M=nothing_M.astype(np.uint8), runs_M=nothing_M,
        )  # fmt: skip
        batches = selection.torch(batch_size=256, shuffle=True, threads=threads)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = []
        for epoch in range(rounds + 1):
            batches.set_epoch(epoch)
            begin = time.perf_counter()
            num = sum(len(batch.maps_BDHW.to(device)) for batch in batches)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begin)
            assert num == len(maps)
    median = float(np.median(seconds[1:]))  # the first touches new memory
    return {"threads": threads, "maps_per_second": len(maps) / median, "gb_per_second": maps.nbytes / median / 1e9}


def measure(arguments: argparse.Namespace, device: torch.device) -> int:
    size, threads = arguments.image_size, len(os.sched_getaffinity(0))
    source = load_images(arguments.images, arguments.data_dir, image_size=size)
    figures: Figures = {"images": source.name, "image_size": size}
    wanted = arguments.codec or ("zstd", "q8")
    rows: list[tuple[Any, ...]] = [("part", "images/s", "GB/s", "ratio", "of", "peak GPU GB", "peak host GB")]

    def note(name: str, found: Figures, per_second: float, map_bytes: int, ratio: float | None, of: str) -> None:
        peak = peaks(device)
        figures[name] = found | peak
        memory = (value and value / 1e9 for value in peak.values())
        rows.append((name, per_second, per_second * map_bytes / 1e9, ratio, of, *memory))
        print(json.dumps({name: figures[name]}), file=sys.stderr, flush=True)

    for codec in wanted:
        found = parts.extraction(
            arguments.backbone, source, device, arguments.precision, num_images=arguments.num_images,
            num_networks=arguments.networks, rounds=arguments.rounds, image_size=size, codec=codec,
        )  # fmt: skip
        map_bytes = 2 * int(np.prod(found["map_shape"]))
        if len(rows) == 1:
            bare = found["bare_maps_per_second"]
            figures["bare_forward"] = {"maps_per_second": bare}
            rows.append(("bare_forward", bare, bare * map_bytes / 1e9, None, "", None, None))
        ratio = found["ratio_to_bare_forward"]
        note(f"extraction_{codec}", found, found["maps_per_second"], map_bytes, ratio, "bare forward")
    maps, info = parts.trained_maps(
        source, device, train_seconds=arguments.train_seconds, num_maps=arguments.num_maps, name=arguments.backbone,
        precision=arguments.precision, image_size=size,
    )  # fmt: skip
    figures["codecs"] = parts.codec_sizes(maps, info, wanted)
    for codec in wanted:
        found = parts.writer_speed(maps, codec, rounds=arguments.rounds, threads=threads, num_stages=arguments.networks)
        codec_rate, rate = (1e6 * found[key] / map_bytes for key in ("codec_mb_per_second", "mb_per_second"))
        note(f"codec_{codec}", figures["codecs"][codec], codec_rate, map_bytes, None, "")
        note(f"writer_{codec}", found, rate, map_bytes, found["ratio_to_codec"], f"codec {codec}")
        found = reader_speed(maps, codec, device, rounds=arguments.rounds, threads=threads)
        ratio = found["ratio_to_bare_forward"] = found["maps_per_second"] / bare
        note(f"reader_{codec}", found, found["maps_per_second"], map_bytes, ratio, "bare forward")
    table(*rows)
    table(("codec", "times smaller"), *((codec, figures["codecs"][codec]["times_smaller"]) for codec in wanted))
    write("measure", figures, device, arguments.out)
    return 0


def build(arguments: argparse.Namespace, device: torch.device) -> int:
    rule = {} if arguments.threshold is None else {"threshold": arguments.threshold}
    recipe = {"precision": arguments.precision, "batch_size": arguments.batch_size, "lr": arguments.lr}
    place = Workspace(arguments.workspace)
    history = place.root / f"gpu-build-{arguments.name}.json"
    calls: list[Figures] = json.loads(history.read_bytes()) if history.exists() else []
    dataset: FmcsDataset | None = None
    begin, started = time.monotonic(), environment.now()
    with shown() as progress:
        clock = PhaseClock(progress)
        try:
            with budget(arguments.minutes):
                dataset = fb.build(
                    backbone=arguments.backbone, image_dataset=arguments.images, image_size=arguments.image_size,
                    stages=arguments.stages, codec=arguments.codec, limit=arguments.limit, epochs=arguments.epochs,
                    checkpoints=arguments.checkpoints, convergence=ConvergenceRule.make(**rule), name=arguments.name,
                    recipe=Recipe.make(**{key: value for key, value in recipe.items() if value is not None}),
                    workspace=arguments.workspace, data_dir=arguments.data_dir, device=str(device), progress=clock,
                )  # fmt: skip
        except OutOfTime:
            pass
        finally:
            call = {"started": started, "seconds": time.monotonic() - begin, "phases": dict(clock.seconds)}
            calls.append(call | {"finished": dataset is not None} | peaks(device))
            files.write_atomically(history, files.to_json(calls))
    phases = {name: sum(call["phases"].get(name, 0.0) for call in calls) for call in calls for name in call["phases"]}
    figures: Figures = {
        "calls": calls,
        "seconds": sum(call["seconds"] for call in calls),
        "seconds_by_phase": phases,  # phases lie inside one another: the building around all others
        "finished": dataset is not None,
    }
    table(("phase, over all calls", "seconds"), *phases.items(), ("all calls", figures["seconds"]))
    if dataset is not None:
        manifest = dataset.manifest
        figures |= {
            "dataset": dataset.id, "config": manifest.config.to_json(), "map_shape": manifest.map_shape,
            "num_maps": dataset.num_maps, "raw_bytes": manifest.raw_bytes, "stored_bytes": manifest.stored_bytes,
            "map_error": manifest.map_error.to_json() if manifest.map_error else None,
            "runs": [run.to_json() for run in manifest.runs],
        }  # fmt: skip
        times_smaller = manifest.raw_bytes / manifest.stored_bytes
        print()
        table(
            ("dataset", "maps", "float16 GB", "stored GB", "times smaller"),
            (dataset.id, dataset.num_maps, manifest.raw_bytes / 1e9, manifest.stored_bytes / 1e9, times_smaller),
        )
    write("build", figures, device, arguments.out)
    return 0 if dataset is not None else EXIT_CODE


def track(arguments: argparse.Namespace, device: torch.device) -> int:
    place = Workspace(arguments.workspace)
    common = {"workspace": place.root, "device": str(device)}
    from_images = {
        "data_dir": arguments.data_dir,
        "image_source": arguments.images if ":" in arguments.images else None,
    }
    dataset = find_dataset(place, arguments.dataset) if arguments.dataset else only_dataset(place)
    finished, failed, begin = False, "", time.monotonic()
    with shown() as progress:
        try:
            with budget(arguments.minutes):
                if "evaluate" in (arguments.part or ("evaluate", "train")):
                    fb.evaluate(
                        dataset, evaluators=arguments.evaluator or (), seeds=arguments.seeds, limit=arguments.limit,
                        progress=progress, **common,
                    )  # fmt: skip
                if "train" in (arguments.part or ("evaluate", "train")):
                    chosen = {"methods": arguments.method, "rafs": arguments.raf, "epochs": arguments.epochs}
                    fb.train(
                        dataset, seeds=arguments.train_seeds, progress=progress, **common, **from_images,
                        **{key: value for key, value in chosen.items() if value is not None},
                    )  # fmt: skip
                finished = True
        except OutOfTime:
            pass
        except UnitsFailedError as error:
            failed = str(error)
    store = RecordStore(place.records)
    evaluations = [record for record in store.all(EvaluatorRecord) if record.dataset_id == dataset.id]
    trainings = [record for record in store.all(TrainingRecord) if record.dataset_id == dataset.id]
    for name in ("evaluator", "training"):
        if (place.records / name / dataset.id).is_dir():
            shutil.copytree(
                place.records / name / dataset.id, arguments.out / "records" / name / dataset.id, dirs_exist_ok=True
            )
    table(
        ("unit", "seed", "MAE or accuracy", "seconds"),
        *((r.method, r.seed, r.metrics["test_run"].mae, r.cost.seconds) for r in evaluations),
        *((r.method, r.seed, r.metrics.test_accuracy, r.cost.seconds) for r in trainings),
    )
    figures: Figures = {
        "dataset": dataset.id, "finished": finished, "failed": failed, "evaluations": len(evaluations),
        "trainings": len(trainings), "seconds_of_this_call": time.monotonic() - begin,
    }  # fmt: skip
    write("track", figures | peaks(device), device, arguments.out / "track.json")
    if failed:
        print(failed, file=sys.stderr)
        return 1
    return 0 if finished else EXIT_CODE


def parsed(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--images", default="digits", help="a name, folder:DIR or hub:NAME_OR_PATH")
    common.add_argument("--data-dir", type=Path)
    common.add_argument("--device", default="auto")
    common.add_argument("--backbone", default="resnet50")
    common.add_argument("--image-size", type=int, default=224)
    common.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    common.add_argument("--limit", type=int, help="images in each split")
    common.add_argument("--minutes", type=float, default=8.0, help="build and track stop after so many")
    common.add_argument("--workspace", default="fmcs-workspace")
    common.add_argument("--epochs", type=int)
    common.add_argument("--out", type=Path, required=True, help="JSON file; track: folder")

    step = steps.add_parser("measure", parents=[common])
    step.add_argument("--num-images", type=int, default=4096, help="of extraction")
    step.add_argument("--networks", type=int, default=3, help="of extraction: K")
    step.add_argument("--num-maps", type=int, default=2048, help="of codecs and reader")
    step.add_argument("--train-seconds", type=float, default=45, help="of the network whose maps are packed")
    step.add_argument("--rounds", type=int, default=3)
    step.add_argument("--codec", action="append", choices=parts.CODECS, help="repeat.  [default: zstd, q8]")

    step = steps.add_parser("build", parents=[common])
    step.add_argument("--stages", type=int, default=9)
    step.add_argument("--codec", default="q8", choices=parts.CODECS)
    step.add_argument("--checkpoints", type=int)
    step.add_argument("--batch-size", type=int)
    step.add_argument("--lr", type=float)
    step.add_argument("--threshold", type=float, help="of CQI")
    step.add_argument("--name", default="gpu")

    step = steps.add_parser("track", parents=[common])
    step.add_argument("--dataset", help="name  [default: the only one of the workspace]")
    step.add_argument("--part", action="append", choices=("evaluate", "train"), help="repeat.  [default: both]")
    step.add_argument("--evaluator", action="append", help="repeat.  [default: all]")
    step.add_argument("--seeds", type=int, default=5, help="of evaluators")
    step.add_argument("--train-seeds", type=int, default=5, help="of trainings")
    step.add_argument("--method", action="append")
    step.add_argument("--raf", action="append", type=float)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    arguments = parsed(given)
    try:
        device = choose_device(arguments.device)
        code = {"measure": measure, "build": build, "track": track}[arguments.step](arguments, device)
    except FmcsBenchError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    if code == EXIT_CODE:
        print(f"stopped after {arguments.minutes:g} minutes; type the same again, it goes on", file=sys.stderr)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
