"""Maps that are written are those that the backbones give; what is on the disk is not computed again."""

import numpy as np
import pytest
import torch
import zarr
from conftest import build_tiny

from fmcs_bench.backbones.create import create_backbone
from fmcs_bench.build.extraction import BATCH_SIZES, extract, memory_format
from fmcs_bench.build.verify import verify
from fmcs_bench.images.load import load_images
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.store import schema
from fmcs_bench.store.writer import DatasetWriter
from fmcs_bench.training.loop import autocast
from fmcs_bench.training.recipes import Recipe

SEED, SIDE = 5, 128  # 32 KB in a map, 256 maps in a shard
NUM = 256 + 100


class Counting(torch.nn.Module):
    """A backbone that counts the images that it has seen."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.num_images = backbone, 0

    def features(self, images_BCHW):
        self.num_images += len(images_BCHW)
        return self.backbone.features(images_BCHW)


@pytest.fixture(scope="module")
def source():
    return load_images("digits")


@pytest.fixture(scope="module")
def frozen():
    return [create_backbone("smallcnn", 10, seed=seed).eval() for seed in (0, 1, 2)]


BATCH_SIZE = BATCH_SIZES["cpu"]
CPU = torch.device("cpu")


def run(path, source, frozen, tiny_dataset, *, start=True, starts=None, precision="float32"):
    counting = [Counting(backbone) for backbone in frozen]
    with DatasetWriter(path, (64, 16, 16)) as writer:
        if start:
            writer.start_run(SEED, tiny_dataset.manifest.runs[0].stages, np.arange(NUM))
        options = {"seed": SEED, "array": "feature_maps", "starts": starts, "device": CPU, "precision": precision}
        extract(counting, source, np.arange(NUM)[::-1].copy(), Preprocessor(source, SIDE), writer, **options)
    stored = zarr.open_group(path / schema.MAPS, mode="r")[f"run-{SEED}/feature_maps"]
    return [backbone.num_images for backbone in counting], np.asarray(stored[...])


def expected_maps(source, frozen, index, precision="float32"):
    with torch.no_grad(), autocast(CPU, precision):
        inputs = Preprocessor(source, SIDE)(torch.from_numpy(source.images_NCHW[index]))
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        return np.stack([backbone.features(inputs).to(torch.float16).numpy() for backbone in frozen])


def test_maps_are_those_of_the_backbones_in_the_order_of_the_images(tmp_path, source, frozen, tiny_dataset):
    counts, stored = run(tmp_path, source, frozen, tiny_dataset)
    assert counts == [NUM + 2, NUM, NUM]
    for first in (0, BATCH_SIZE, 256):
        index = np.arange(NUM)[::-1][first : first + min(BATCH_SIZE, NUM - first)]
        np.testing.assert_array_equal(
            stored[:, first : first + len(index)], expected_maps(source, frozen, index.copy())
        )


def test_only_blocks_that_are_missing_are_computed(tmp_path, source, frozen, tiny_dataset):
    _, whole = run(tmp_path, source, frozen, tiny_dataset)
    (note,) = tmp_path.rglob("0-0.safetensors")
    note.unlink()  # as if a kill had come before the first block was noted
    counts, again = run(tmp_path, source, frozen, tiny_dataset, start=False)
    assert counts == [256 + 2, 256, 256]  # two images tell whether the network takes channels last
    np.testing.assert_array_equal(again, whole)
    counts, _ = run(tmp_path, source, frozen, tiny_dataset, start=False)
    assert counts == [0] * 3


def test_only_blocks_that_are_wanted_are_computed(tmp_path, source, frozen, tiny_dataset):
    counts, _ = run(tmp_path, source, frozen, tiny_dataset, starts={256})
    assert counts == [NUM - 256 + 2, NUM - 256, NUM - 256]
    with DatasetWriter(tmp_path, (64, 16, 16)) as writer:
        assert writer.missing(SEED, "feature_maps", 0, NUM) == [0]


def test_bfloat16_is_computed_in_bfloat16(tmp_path, source, frozen, tiny_dataset):
    _, stored = run(tmp_path, source, frozen, tiny_dataset, precision="bfloat16")
    index = np.arange(NUM)[::-1][:BATCH_SIZE].copy()
    full, half = (expected_maps(source, frozen, index, precision) for precision in ("float32", "bfloat16"))
    np.testing.assert_array_equal(stored[:, :BATCH_SIZE], half)
    assert not np.array_equal(full, half)
    assert np.abs(full.astype(np.float32) - half).max() < 0.02 * full.max()


def test_a_build_in_bfloat16_verifies_and_says_so(tmp_path):
    dataset = build_tiny(tmp_path, recipe=Recipe(batch_size=16, lr=3e-3, precision="bfloat16"))
    assert dataset.manifest.to_json()["config"]["recipe"]["precision"] == "bfloat16"
    assert not verify(dataset.path, recompute=5, device="cpu").faults


class Viewing(torch.nn.Module):
    """A network that cannot take channels last."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 4, 1)

    def features(self, images_BCHW):
        maps_BDHW = self.layer(images_BCHW)
        return maps_BDHW.view(len(maps_BDHW), -1).view(maps_BDHW.shape)


def test_a_network_that_cannot_take_channels_last_keeps_the_usual_order(frozen):
    viewing = Viewing().eval()
    assert memory_format([viewing], CPU, "float32", 16) == torch.contiguous_format
    assert viewing.layer.weight.is_contiguous()
    assert memory_format(frozen, CPU, "float32", 16) == torch.channels_last
    viewing.features = lambda images_BCHW: viewing.layer(images_BCHW[:, :2])
    with pytest.raises(RuntimeError, match="channels"):  # a different error
        memory_format([viewing], CPU, "float32", 16)
