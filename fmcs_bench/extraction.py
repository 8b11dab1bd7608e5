"""Frozen backbones x images -> feature maps in the store.

Flow: images, a shard at a time -> prepared once -> each of the K frozen backbones -> float16 -> one shard per stage.
K checkpoints, N images of a shard, B batch, D channels of maps, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch

from fmcs_bench.backbones import Backbone
from fmcs_bench.images import ImageDataset, Preprocessor
from fmcs_bench.progress import SILENT, Progress
from fmcs_bench.store.writer import DatasetWriter

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
    progress: Progress = SILENT,
) -> None:
    """Compute and write the maps of some images by all backbones.

    Args:
        frozen_K: backbones in eval mode, for neighbouring rows of the array.
        images: the image dataset.
        image_N: positions of the images, in the order of the array.
        prepare: preprocessing of the input.
        writer: of the dataset; ``start_run`` (and ``start_trajectory``) was called for this seed.
        seed: of the run.
        array: ``feature_maps`` or ``trajectory_maps``.
        first_row: row of the array (stage or checkpoint) that the first backbone's maps go to.
        device: where the backbones run.
        progress: shows images.

    Raises:
        DatasetError: a map is not finite in float16.
    """
    frozen_K = [backbone.to(device) for backbone in frozen_K]
    prepare = prepare.to(device)
    per_shard = writer.maps_per_shard
    with progress.task(f"run {seed}: {array.replace('_', ' ')}", len(image_N)) as task:
        for start in range(0, len(image_N), per_shard):
            shard_N = image_N[start : start + per_shard]
            blocks_KNDHW = np.empty((len(frozen_K), len(shard_N), *writer.map_shape), dtype=np.float16)
            for first in range(0, len(shard_N), BATCH_SIZE):
                index_B = shard_N[first : first + BATCH_SIZE]
                input_BCHW = prepare(torch.from_numpy(images.images_NCHW[index_B]).to(device))
                for k, backbone in enumerate(frozen_K):
                    maps_BDHW = backbone.features(input_BCHW).to(torch.float16)
                    blocks_KNDHW[k, first : first + len(index_B)] = maps_BDHW.cpu().numpy()
                task.advance(len(index_B))
            for k, block_NDHW in enumerate(blocks_KNDHW):
                writer.write(seed, array, first_row + k, start, block_NDHW)
