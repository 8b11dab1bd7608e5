"""Frozen backbones x images -> feature maps in the store.

Flow: images, a shard at a time -> prepared once -> each of the K frozen backbones -> float16, copied off the device
while it goes on computing -> a block of K shards, which the writer's threads encode while the next is computed.
K checkpoints, N images of a shard, B batch, D channels of maps, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch

from fmcs_bench.backbones import Backbone
from fmcs_bench.config import Precision
from fmcs_bench.images import ImageDataset, Preprocessor
from fmcs_bench.progress import SILENT, Progress
from fmcs_bench.store.writer import DatasetWriter
from fmcs_bench.training import autocast

BATCH_SIZE = 128


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
    device: torch.device,
    precision: Precision = "float32",
    progress: Progress = SILENT,
) -> None:
    """Compute and write the maps of some images by all backbones; blocks that are written already are left out.

    Memory holds two blocks of K shards, whatever the number of images: one being computed, one being written.

    Args:
        frozen_K: backbones in eval mode, for neighbouring rows of the array.
        images: the image dataset.
        image_N: positions of the images, in the order of the array.
        prepare: preprocessing of the input.
        writer: of the dataset; ``start_run`` was called for this seed.
        seed: of the run.
        array: ``feature_maps`` or ``trajectory_maps``.
        first_row: row of the array (stage or checkpoint) that the first backbone's maps go to.
        device: where the backbones run.
        precision: of the backbones.
        progress: shows images.

    Raises:
        DatasetError: a map is not finite in float16.
        OSError: the disk is full, or cannot be written.
    """
    frozen_K = [backbone.to(device) for backbone in frozen_K]
    prepare = prepare.to(device)
    starts = writer.missing(seed, array, first_row, len(image_N))
    num_shard = min(writer.maps_per_shard, len(image_N))
    # Two blocks by turns: the writer may read one until the next is given to it. Pinned memory lets copies overlap.
    blocks = [
        torch.empty(
            (len(frozen_K), num_shard, *writer.map_shape), dtype=torch.float16, pin_memory=device.type == "cuda"
        )
        for _ in range(min(2, len(starts)))
    ]
    with progress.task(f"run {seed}: {array.replace('_', ' ')}", len(image_N)) as task:
        task.advance(len(image_N) - sum(min(num_shard, len(image_N) - start) for start in starts))
        for turn, start in enumerate(starts):
            shard_N = image_N[start : start + num_shard]
            block_KNDHW = blocks[turn % 2][:, : len(shard_N)]
            for first in range(0, len(shard_N), BATCH_SIZE):
                index_B = shard_N[first : first + BATCH_SIZE]
                input_BCHW = prepare(torch.from_numpy(images.images_NCHW[index_B]).to(device))
                for k, backbone in enumerate(frozen_K):
                    with autocast(device, precision):
                        maps_BDHW = backbone.features(input_BCHW)
                    place_BDHW = block_KNDHW[k, first : first + len(index_B)]
                    place_BDHW.copy_(maps_BDHW.to(torch.float16), non_blocking=True)
                task.advance(len(index_B))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            writer.write(seed, array, first_row, start, block_KNDHW.numpy())
    writer.flush()
