"""Frozen backbones x images -> feature maps in the store.

Images, a shard at a time, go through each of the K frozen backbones and become a block of K shards in float16, which
the writer's threads encode while the next is computed.
K checkpoints, N images of a shard, B batch, D channels of maps, H height, W width.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

import numpy as np
import torch

from fmcs_bench.backbones.base import Backbone
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.images.dataset import ImageDataset
from fmcs_bench.images.loader import BatchReader
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.store.writer import DatasetWriter
from fmcs_bench.training.loop import autocast
from fmcs_bench.training.recipes import Precision

BATCH_SIZES = {"cpu": 32, "cuda": 256}
"""Images that go through a backbone at once; on a CPU, more of them only take more memory and leave its cache."""


def batch_size(device: torch.device) -> int:
    """Images that go through a backbone at once on this device."""
    return BATCH_SIZES.get(device.type, BATCH_SIZES["cuda"])


@torch.no_grad()
def memory_format(
    frozen_K: list[Backbone], device: torch.device, precision: Precision, image_size: int
) -> torch.memory_format:
    """Bring the weights into the memory format that is fast on this device, and return that format for the images.

    That is channels last on a CPU (1.5 to 3 times as fast as the usual order) and in bfloat16 on a GPU; a network that
    cannot take it (a ``view`` that needs the usual order) stays as it is.
    """
    if device.type != "cpu" and precision == "float32":
        return torch.contiguous_format
    probe_BCHW = torch.zeros(2, 3, image_size, image_size, device=device).to(memory_format=torch.channels_last)
    for backbone in frozen_K:
        backbone.to(memory_format=torch.channels_last)
    try:
        with autocast(device, precision):
            frozen_K[0].features(probe_BCHW)
    except RuntimeError as error:
        if "view" not in str(error):
            raise
        for backbone in frozen_K:
            backbone.to(memory_format=torch.contiguous_format)
        return torch.contiguous_format
    return torch.channels_last


@torch.no_grad()
def extract(
    frozen_K: list[Backbone],
    images: ImageDataset,
    image_N: np.ndarray,
    prepare: Preprocessor,
    writer: DatasetWriter,
    *,
    seed: int,
    array: str,
    first_row: int = 0,
    starts: Collection[int] | None = None,
    device: torch.device,
    precision: Precision = "float32",
    progress: Progress = SILENT,
) -> None:
    """Compute and write the maps of some images by all backbones; blocks that are written already are left out.

    The backbones, in eval mode, are for neighbouring rows of the array, from ``first_row`` on. ``image_N`` are the
    positions of the images, ``starts`` those of the first images of the blocks that are wanted (None is all).
    Memory holds two blocks of K shards, whatever the number of images: one being computed, one being written.
    """
    missing = writer.missing(seed, array, first_row, len(image_N))
    starts = [start for start in missing if starts is None or start in starts]
    if not starts:
        return
    frozen_K = [backbone.to(device) for backbone in frozen_K]
    prepare = prepare.to(device)
    size = batch_size(device)
    layout = memory_format(frozen_K, device, precision, prepare.image_size)
    num_shard = min(writer.maps_per_shard, len(image_N))
    # Two blocks by turns: the writer may read one until the next is given to it. Pinned memory lets copies overlap.
    shape = (len(frozen_K), num_shard, *writer.map_shape)
    blocks = [
        torch.empty(shape, dtype=torch.float16, pin_memory=device.type == "cuda") for _ in range(min(2, len(starts)))
    ]
    with progress.task(f"run {seed}: {array.replace('_', ' ')}", len(image_N)) as task:
        task.advance(len(image_N) - sum(min(num_shard, len(image_N) - start) for start in starts))
        shards = [image_N[start : start + num_shard] for start in starts]
        batches = [[shard_N[i : i + size] for i in range(0, len(shard_N), size)] for shard_N in shards]
        pixels = BatchReader(images.images_NCHW, device=device)(list(chain.from_iterable(batches)))
        for turn, (start, shard_N, of_shard) in enumerate(zip(starts, shards, batches, strict=True)):
            block_KNDHW = blocks[turn % 2][:, : len(shard_N)]
            first = 0
            for index_B in of_shard:
                input_BCHW = prepare(next(pixels)).contiguous(memory_format=layout)
                for k, backbone in enumerate(frozen_K):
                    with autocast(device, precision):
                        maps_BDHW = backbone.features(input_BCHW)
                    place_BDHW = block_KNDHW[k, first : first + len(index_B)]
                    maps_BDHW = maps_BDHW.to(torch.float16).contiguous()
                    place_BDHW.copy_(maps_BDHW, non_blocking=True)
                first += len(index_B)
                task.advance(len(index_B))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            writer.write(seed, array, first_row, start, block_KNDHW.numpy())
    writer.flush()
