"""Speed, size and memory of building: extraction, writer, codecs. One JSON line.

    python benchmarks/build.py [--images hub:DIR] [--device cuda] [--precision bfloat16] [--part NAME ...] [--out FILE]

Parts, each a ratio of two things measured by turns in one process:
- extraction: images to shards on disk, against the bare forward passes of the same networks on prepared batches.
  Goal: 0.90 on a CPU, 0.85 on a GPU.
- writer: maps in memory to shards on disk, against encoding the same chunks and keeping nothing. Goal: 0.75.
- codecs: bytes of the maps of a trained ShuffleNet v2, against float16 and against the order-0 entropy bound.
- memory: peak memory of extraction from 10,000 images, against 2,000 (beyond the images). Goal: within 10 %.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from result import by_turns, report, seconds

from fmcs_bench.backbones.create import create_backbone, map_shape
from fmcs_bench.build.extraction import batch_size, extract, memory_format
from fmcs_bench.core import environment
from fmcs_bench.images.dataset import ImageDataset
from fmcs_bench.images.load import load_images
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.store import codecs, schema
from fmcs_bench.store.writer import DatasetWriter
from fmcs_bench.training.loop import Batches, autocast, fit
from fmcs_bench.training.losses import Objective
from fmcs_bench.training.methods import Method
from fmcs_bench.training.recipes import Recipe

SIZE = 224
SEED = 0
CODECS = ("zstd", "q8")


def stages(num: int) -> tuple[schema.Stage, ...]:
    """Stages for the writer; their numbers mean nothing here."""
    return tuple(
        schema.Stage(stage=k, step=k, epoch=float(k), train_loss=0.0, validation_accuracy=0.0, progress=0.0)
        for k in range(1, num + 1)
    )


@torch.no_grad()
def extraction(
    name: str, source: ImageDataset, device: torch.device, precision: Any, *, num_images: int, num_networks: int,
    rounds: int, image_size: int = SIZE, codec: str = "zstd",
) -> dict[str, Any]:  # fmt: skip
    """Ratio of the bare forward passes' time to that of extraction."""
    num_classes = len(source.classes)
    frozen = [
        create_backbone(name, num_classes, seed=seed, image_size=image_size).eval().to(device)
        for seed in range(num_networks)
    ]
    prepare = Preprocessor(source, image_size)
    image_N = np.arange(num_images) % len(source.labels_N)
    size = batch_size(device)
    layout = memory_format(frozen, device, precision, image_size)
    batch = prepare(torch.from_numpy(source.images_NCHW[image_N[:size]])).to(device).contiguous(memory_format=layout)
    shape = map_shape(frozen[0], image_size)

    def bare() -> None:
        for first in range(0, num_images, size):
            for backbone in frozen:
                with autocast(device, precision):
                    backbone.features(batch[: num_images - first])
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder, DatasetWriter(Path(folder), shape, codec) as writer:
            writer.start_run(SEED, stages(num_networks), image_N)
            extract(
                frozen, source, image_N, prepare, writer,
                seed=SEED, array="feature_maps", device=device, precision=precision,
            )  # fmt: skip

    if device.type == "cuda":
        bare()
        whole()
        torch.cuda.reset_peak_memory_stats(device)
    bare_seconds, whole_seconds, ratio = by_turns(lambda: seconds(bare), lambda: seconds(whole), rounds)
    maps = num_images * num_networks
    return {
        "backbone": name,
        "codec": codec,
        "map_shape": shape,
        "images": num_images,
        "networks": num_networks,
        "batch_size": size,
        "memory_format": str(layout),
        "rounds": rounds,
        "precision": precision,
        "bare_maps_per_second": round(maps / bare_seconds, 1),
        "maps_per_second": round(maps / whole_seconds, 1),
        "gb_per_second": round(maps * 2 * int(np.prod(shape)) / whole_seconds / 1e9, 4),
        "ratio_to_bare_forward": round(ratio, 4),
        "peak_device_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
        "peak_process_bytes": environment.process_peak_bytes(),
    }


def trained_maps(
    source: ImageDataset, device: torch.device, *, train_seconds: float, num_maps: int, name: str = "shufflenet_v2",
    precision: Any = "float32", image_size: int = SIZE,
) -> tuple[np.ndarray, Any]:  # fmt: skip
    """Maps [N, D, H, W] of a network that was trained on these images, at 64 px at most, for so long."""
    prepare = Preprocessor(source, min(64, image_size)).to(device)
    index = source.indices("train")
    order = np.random.default_rng(0).permutation(index)
    model = create_backbone(name, len(source.classes), seed=0).to(device)
    recipe = Recipe.make(schedule="constant", precision=precision)
    begin, used, losses = time.monotonic(), 0, []
    while not losses or time.monotonic() - begin < train_seconds:
        part = np.take(order, range(used, used + 2048), mode="wrap")
        labels = torch.from_numpy(source.labels_N[part]).to(device)
        data = Batches(torch.from_numpy(source.images_NCHW[part]).to(device), labels, prepare)
        history = fit(model, data, Objective(Method()), recipe, epochs=1, seed=used)
        losses.append(sum(history.losses) / len(history.losses))
        used += len(part)
    prepare = Preprocessor(source, image_size).to(device)
    chosen = source.indices("test")[:num_maps]
    model.eval()
    with torch.no_grad(), autocast(device, precision):
        maps = [
            model.features(prepare(torch.from_numpy(source.images_NCHW[part]).to(device))).half().cpu().numpy()
            for part in np.array_split(chosen, -(-len(chosen) // 32))
        ]
    info = {"trained_on_images": used, "last_loss": round(losses[-1], 3), "maps": len(chosen)}
    return np.concatenate(maps), info


def entropy_bits(maps: np.ndarray) -> float:
    """Order-0 entropy of float16 values, in bits a value: no coder that looks at single values can do better."""
    count = np.bincount(maps.reshape(-1).view(np.uint16), minlength=2**16)
    share = count[count > 0] / count.sum()
    return float(-(share * np.log2(share)).sum())


def write_maps(folder: Path, maps: np.ndarray, codec: str) -> DatasetWriter:
    """Write maps as those of one stage of a run; the writer knows the error of a lossy codec."""
    with DatasetWriter(folder, maps.shape[1:], codec) as writer:
        writer.start_run(SEED, stages(1), np.arange(len(maps)))
        for start in range(0, len(maps), writer.maps_per_shard):
            writer.write(SEED, "feature_maps", 0, start, maps[None, start : start + writer.maps_per_shard])
        writer.finish(SEED, "feature_maps")
    return writer


def codec_sizes(maps: np.ndarray, info: Any, wanted: Sequence[str] = CODECS) -> dict[str, Any]:
    """How many times smaller each codec makes maps, and the lossy one's error."""
    bound = 16 / entropy_bits(maps)
    found: dict[str, Any] = {
        **info, "map_shape": maps.shape[1:], "zeros": round(float((maps == 0).mean()), 4), "entropy_bound": bound,
    }  # fmt: skip
    for codec in wanted:
        with tempfile.TemporaryDirectory() as folder:
            writer = write_maps(Path(folder), maps, codec)
            files = (Path(folder) / schema.MAPS / f"run-{SEED}").glob("feature_maps*/c/**/*")
            found[codec] = {"times_smaller": maps.nbytes / sum(f.stat().st_size for f in files if f.is_file())}
            if (error := writer.map_error()) is not None:
                found[codec]["mean_error_of_mean"] = error.mean / float(np.abs(maps.astype(np.float32)).mean())
        by_chunk = {}
        data = maps if codec != "q8" else codecs.quantise(maps[:256]).numbers_NDHW
        for per_chunk in (1, 2, 4, 8, 32):
            encoded = sum(len(codecs.encode(data[i : i + per_chunk])) for i in range(0, 256, per_chunk))
            by_chunk[str(per_chunk)] = 2 * data[:256].size / encoded
        found[codec]["times_smaller_by_maps_in_a_chunk"] = by_chunk
    return found


def writer_speed(maps: np.ndarray, codec: str, *, rounds: int, threads: int, num_stages: int = 9) -> dict[str, Any]:
    """Ratio of the codec's time to the writer's; four blocks of a shard for each stage, with the maps by turns."""
    with tempfile.TemporaryDirectory() as folder:
        writer = DatasetWriter(Path(folder), maps.shape[1:], codec, num_threads=threads)
        num = writer.maps_per_shard
        shard = maps[np.arange(num) % len(maps)]
        block = np.stack([np.roll(shard, shift, axis=0) for shift in range(num_stages)])
        starts = range(0, 4 * num, num)

        def encode_shard(maps_NDHW: np.ndarray) -> None:
            data = codecs.quantise(maps_NDHW).numbers_NDHW if codec == "q8" else maps_NDHW
            for start in range(0, len(data), writer.maps_per_chunk):
                codecs.encode(data[start : start + writer.maps_per_chunk])

        def bare() -> None:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(encode_shard, [*block] * len(starts)))

        def whole() -> None:
            for start in starts:
                writer.write(SEED, "feature_maps", 0, start, block)
            writer.flush()

        with writer:
            writer.start_run(SEED, stages(len(block)), np.arange(num * len(starts)))
            whole()
            bare_seconds, whole_seconds, ratio = by_turns(lambda: seconds(bare), lambda: seconds(whole), rounds)
    return {
        "threads": threads,
        "rounds": rounds,
        "codec_mb_per_second": round(len(starts) * block.nbytes / 1e6 / bare_seconds),
        "mb_per_second": round(len(starts) * block.nbytes / 1e6 / whole_seconds),
        "ratio_to_codec": round(ratio, 4),
    }


def peak_of_extraction(num_images: int) -> int:
    """Peak bytes of a process that extracts maps of 100 KB from so many images (digits, each several times)."""
    code = f"from build import extract_digits; print(extract_digits({num_images}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout)


def extract_digits(num_images: int) -> int:
    """Extract in this process; returns its peak bytes."""
    source = load_images("digits")
    frozen = [create_backbone("smallcnn", 10, seed=seed).eval() for seed in range(2)]
    image_N = np.arange(num_images) % len(source.labels_N)
    with tempfile.TemporaryDirectory() as folder, DatasetWriter(Path(folder), (64, 28, 28)) as writer:
        writer.start_run(SEED, stages(2), image_N)
        extract(
            frozen, source, image_N, Preprocessor(source, SIZE), writer,
            seed=SEED, array="feature_maps", device=torch.device("cpu"),
        )  # fmt: skip
    return environment.process_peak_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("extraction", "writer", "codecs", "memory")
    parser.add_argument("--part", action="append", choices=parts, help="which; repeat.  [default: all]")
    parser.add_argument("--images", default="digits", help="image dataset: a name, folder:DIR or hub:NAME_OR_PATH")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--scale", type=float, default=1.0, help="times as many images; a GPU needs 30 or so")
    parser.add_argument("--train-seconds", type=float, default=60, help="of the ShuffleNet v2 whose maps are packed")
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    arguments = parser.parse_args()
    wanted = arguments.part or parts
    device = torch.device(arguments.device)
    source = load_images(arguments.images, arguments.data_dir, image_size=SIZE)
    figures: dict[str, Any] = {"images": source.name, "image_size": SIZE}

    def note(name: str, value: Any) -> None:
        figures[name] = value
        print(json.dumps({name: value}), file=sys.stderr, flush=True)

    if "extraction" in wanted:
        for name, num_images, num_networks in (("shufflenet_v2", 256, 9), ("resnet50", 96, 3)):
            found = extraction(
                name, source, device, arguments.precision,
                num_images=int(num_images * arguments.scale), num_networks=num_networks, rounds=3,
            )  # fmt: skip
            note(f"extraction_{name}", found)
    if "codecs" in wanted or "writer" in wanted:
        maps, info = trained_maps(source, device, train_seconds=arguments.train_seconds, num_maps=512)
        if "codecs" in wanted:
            note("codecs", codec_sizes(maps, info))
        if "writer" in wanted:
            for codec in CODECS:
                note(f"writer_{codec}", writer_speed(maps, codec, rounds=5, threads=torch.get_num_threads()))
    if "memory" in wanted:
        peaks = {num: peak_of_extraction(num) for num in (2_000, 10_000)}
        note("memory", {"peak_bytes": peaks, "ratio": round(peaks[10_000] / peaks[2_000], 4)})
    report("build", figures, device=arguments.device, out=arguments.out)


if __name__ == "__main__":
    main()
