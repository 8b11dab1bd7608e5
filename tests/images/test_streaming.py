"""Images that stay encoded are the same as those in memory: pixels, digest, statistics, batches, trained weights."""

import gc
import json
import multiprocessing
import weakref

import datasets
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers.image_files import BUILD, both, write_classes, write_image, write_mixed, write_parquet
from helpers.small_training import cross_entropy

from fmcs_bench.backbones import dueheadnet
from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, ImageError
from fmcs_bench.images import base, encoded, loader
from fmcs_bench.images.dataset import SPLITS, draw
from fmcs_bench.images.encoded import EncodedImages
from fmcs_bench.images.load import load_images
from fmcs_bench.images.loader import BatchReader, image_inputs
from fmcs_bench.images.preprocessing import Preprocessor
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.store.schema import Manifest
from fmcs_bench.training.loop import fit
from fmcs_bench.training.recipes import Recipe
from fmcs_bench.training.trajectory import image_batches, train_run


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def pets(tmp_path):
    return write_mixed(tmp_path / "pets")


def check_equal(held, streamed):
    """Equal in everything; streamed is not held in memory."""
    assert not held.is_streamed
    assert streamed.is_streamed
    assert isinstance(streamed.images_NCHW, EncodedImages)
    assert streamed.images_NCHW.shape == held.images_NCHW.shape
    assert streamed.images_NCHW.dtype == held.images_NCHW.dtype
    assert len(streamed.images_NCHW) == len(held.images_NCHW)
    assert streamed.sha256 == held.sha256
    np.testing.assert_array_equal(streamed.scan.count_CV, held.scan.count_CV)
    for field in ("labels_N", "ids_N", "splits_N"):
        np.testing.assert_array_equal(getattr(streamed, field), getattr(held, field))
    for field in ("name", "classes", "licence", "citation", "num_broken", "stored_size", "statistics"):
        assert getattr(streamed, field) == getattr(held, field), field
    for a, b in zip(Preprocessor(held, 16).buffers(), Preprocessor(streamed, 16).buffers(), strict=True):
        assert torch.equal(a, b)
    order = np.random.default_rng(0).permutation(len(held.ids_N))
    for index in (order, order[:3], slice(2, 9), slice(None), order[:0]):
        found = streamed.images_NCHW[index]
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, held.images_NCHW[index])
    batches = np.array_split(order, 7)
    for dataset in (held, streamed):
        read = list(BatchReader(dataset.images_NCHW)(batches))
        assert len(read) == 7
        for batch, index_B in zip(read, batches, strict=True):
            assert torch.equal(batch, torch.from_numpy(held.images_NCHW[index_B]))


# ---- both ways are equal


def test_images_are_the_same_both_ways(pets, tmp_path):
    write_parquet(tmp_path / "farm" / "train-00000-of-00001.parquet", range(40))
    write_parquet(tmp_path / "farm" / "test-00000-of-00001.parquet", range(40, 60))
    grey = write_classes(tmp_path / "grey", mode="L")
    for source, shape, stored_size in (
        (f"folder:{pets}", (57, 3, 12, 12), "various"),
        (f"folder:{grey}", (50, 1, 7, 9), (7, 9)),
        (f"hub:{tmp_path / 'farm'}", (60, 3, 6, 8), (6, 8)),
    ):
        held, streamed = both(source)
        assert (held.images_NCHW.shape, held.stored_size) == (shape, stored_size)
        assert held.statistics.colour == ("grey" if shape[1] == 1 else "RGB")
        assert "streamed" in repr(streamed)
        assert "streamed" not in repr(held)
        check_equal(held, streamed)


def test_a_limit_leaves_the_same_images_and_opens_no_others(pets, monkeypatch):
    opened = []
    monkeypatch.setattr(encoded, "opened", lambda blob, own=encoded.opened: opened.append(blob) or own(blob))
    streamed = load_images(f"folder:{pets}", image_size=12, limit=2, stream=True)
    assert len(set(opened)) == 8
    check_equal(load_images(f"folder:{pets}", image_size=12, limit=2), streamed)
    held, streamed = both(f"folder:{pets}")
    rows = draw("folder_pets", held.ids_N, held.splits_N, 2)
    check_equal(held.take(rows), streamed.take(rows))


def cut(data):
    return data[: len(data) // 2]


def test_broken_images_are_left_out_both_ways(pets):
    (pets / "dog" / "007.png").write_bytes(b"no header")
    for name in ("dog/x.jpg", "cat/y.jpg"):  # a header, and half of the pixels
        write_image(pets / name, size=(90, 60))
        (pets / name).write_bytes(cut((pets / name).read_bytes()))
    with pytest.raises(ImageError, match=r"dog/007\.png cannot be read as an image .*--skip-broken"):
        load_images(f"folder:{pets}", image_size=12, stream=True)
    held, streamed = both(f"folder:{pets}", skip_broken=True)
    assert streamed.num_broken == 3
    assert len(streamed.ids_N) == 56
    check_equal(held, streamed)
    (pets / "dog" / "007.png").unlink()
    with pytest.raises(ImageError, match=r"cat/y\.jpg cannot be read as an image \(.*truncated"):
        load_images(f"folder:{pets}", image_size=12, stream=True)


CONFIG = BuildConfig.create(
    image_dataset="folder_pets", backbone="smallcnn", image_size=16, stages=3, epochs=3, checkpoints=6,
    recipe=Recipe(batch_size=8, lr=3e-3),
)  # fmt: skip


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_trains_to_the_same_bits(pets, tmp_path, num_workers):
    runs = []
    for way, dataset in zip("ab", both(f"folder:{pets}", image_size=16, num_workers=num_workers), strict=True):
        runs.append(train_run(dataset, CONFIG, 4, tmp_path / way, device=torch.device("cpu")))
    assert runs[0] == runs[1]
    assert len(runs[0].checkpoints) > 4
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
    assert multiprocessing.active_children() == []


def test_noise_is_the_same_and_the_global_random_state_is_left_alone(pets):
    """Torch's loader draws a seed for its processes; drawn from the training's noise it would change dropout."""
    losses = []
    for dataset in both(f"folder:{pets}", image_size=16):
        torch.manual_seed(7)
        model = dueheadnet.create("smallcnn", 2, fusion="concat", image_size=16, seed=0)
        batches = image_batches(dataset, Preprocessor(dataset, 16), "train", device=torch.device("cpu"))
        losses.append(fit(model, batches, cross_entropy, Recipe(batch_size=8), epochs=2, seed=1).losses)
        list(BatchReader(dataset.images_NCHW)([np.arange(3)]))
        assert torch.initial_seed() == 7
        expected = torch.rand(3, generator=torch.Generator().manual_seed(7))
        assert torch.equal(torch.rand(3), expected)
    assert losses[0] == losses[1]


def test_a_streamed_build_is_the_same_dataset(tmp_path):
    root, digests = write_classes(tmp_path / "pets"), []
    write_image(root / "cat" / "wide.png", size=(40, 5))
    build = [*BUILD, "--epochs", "20", "--dataset", f"folder:{root}", "--json"]
    for option in ("--stream-images", "--no-stream-images"):
        result = CliRunner().invoke(main, [*build, option, "--workspace", str(tmp_path / option)])
        assert result.exit_code == 0, result.output
        digests.append(Manifest.from_json(json.loads(result.stdout)).dataset_digest)
    assert digests[0] == digests[1]
    shared = ["--images", f"folder:{root}", "--stream-images", "--device", "cpu"]
    for command in (
        ["verify", "folder_pets-smallcnn-16px-t", "--recompute", "2"],
        ["train", "--method", "baseline", "--seeds", "1", "--epochs", "1"],
    ):
        result = CliRunner().invoke(main, [*command, *shared, "--workspace", str(tmp_path / "--no-stream-images")])
        assert result.exit_code == 0, result.output


# ---- which way is taken


class Said:
    """A progress that remembers."""

    def __init__(self):
        self.lines, self.done, self.total = [], 0, 0

    def task(self, _, total):
        self.total += total
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def advance(self, steps=1):
        self.done += steps

    def say(self, message):
        self.lines.append(message)


def test_what_takes_more_than_half_of_the_free_memory_is_streamed_and_said(pets, monkeypatch):
    said = Said()
    need = 57 * 3 * 12 * 12
    for free, is_streamed in ((2 * need, False), (2 * need - 1, True), (None, False)):
        monkeypatch.setattr(base, "free_bytes", lambda free=free: free)
        dataset = load_images(f"folder:{pets}", image_size=12, progress=said)
        assert dataset.is_streamed == is_streamed
    (line,) = said.lines
    assert f"57 images of folder_pets take {need:,} bytes" in line
    assert f"{2 * need - 1:,} free: they stay encoded" in line
    assert said.done == said.total == 3 * 2 * 57


def test_images_that_are_one_array_cannot_be_streamed():
    with pytest.raises(ConfigError, match=r"digits is one array, not encoded images.*leave out --stream-images"):
        load_images("digits", stream=True)
    assert not load_images("digits", stream=False).is_streamed


def test_memory_does_not_grow_with_the_number_of_images(pets, monkeypatch):
    write_classes(pets, num=200)
    alive, most = weakref.WeakSet(), []

    class Tracked(np.ndarray):
        __hash__ = object.__hash__

    def counted(*args, own=encoded.decode):
        image = own(*args).view(Tracked)
        alive.add(image)
        most.append(len(alive))
        return image

    monkeypatch.setattr(encoded, "decode", counted)
    monkeypatch.setattr(encoded, "BLOCK_BYTES", 10 * 3 * 12 * 12)
    dataset = load_images(f"folder:{pets}", image_size=12, stream=True)
    assert len(dataset.ids_N) == len(most) == 407  # each is decoded once
    assert max(most) <= 3 * 10
    gc.collect()
    assert not alive


def test_images_in_memory_go_to_a_device_whole_only_where_half_of_it_is_free(monkeypatch):
    device = torch.device("meta")  # a device without a GPU
    array = np.zeros((10, 3, 4, 4), dtype=np.uint8)
    rows = np.array([1, 4, 7, 9])
    for free, fits in ((None, True), (2 * 4 * 48, True), (2 * 4 * 48 - 1, False)):
        monkeypatch.setattr(loader, "free_device_bytes", lambda _, free=free: free)
        found = image_inputs(array, rows, device)
        assert isinstance(found, torch.Tensor) == fits
        batch = found if fits else next(iter(found([np.arange(4)])))
        assert (batch.device, batch.shape) == (device, (4, 3, 4, 4))
    assert isinstance(image_inputs(array, rows, torch.device("cpu")), BatchReader)  # no second copy


# ---- statistics


def test_statistics_are_those_of_numpy(pets):
    dataset = load_images(f"folder:{pets}", image_size=12, stream=True)
    found = dataset.statistics
    train = load_images(f"folder:{pets}", image_size=12).images_NCHW[dataset.indices("train")] / 255
    np.testing.assert_allclose(found.mean, train.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.std, train.std(axis=(0, 2, 3)), rtol=1e-9)
    assert (found.size, found.colour) == ("various", "RGB")
    assert list(found.num_images) == list(SPLITS)
    for split in SPLITS:
        labels = dataset.labels_N[dataset.indices(split)]
        assert found.num_images[split] == (int((labels == 0).sum()), int((labels == 1).sum()))
    assert sum(sum(split) for split in found.num_images.values()) == 57


def test_the_stored_size_is_that_before_resizing(tmp_path):
    root = write_classes(tmp_path / "same")
    assert load_images(f"folder:{root}", image_size=8).statistics.size == (7, 9)
    assert load_images(f"folder:{root}").statistics.size == (7, 9)
    assert load_images("digits").statistics.size == (8, 8)
