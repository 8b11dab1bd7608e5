"""An epoch has every map once, whatever ranks, workers and buffer; one seed gives one order; nothing stays behind."""

import gc
import pickle
import shutil
import threading

import numpy as np
import pytest
import torch
import zarr
from torch.utils.data import DataLoader

import fmcs_bench as fb
from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.store import codecs, map_array
from fmcs_bench.store.location import Location
from fmcs_bench.store.map_array import MapArray
from fmcs_bench.store.selection import MapSelection
from fmcs_bench.store.torch_dataset import BufferPool


@pytest.fixture(scope="module")
def chosen(tiny_dataset):
    return tiny_dataset.sel(run=[0, 3])


@pytest.fixture(scope="module", params=[4, 1], ids=lambda num: f"{num} a chunk")
def scattered(tmp_path_factory, request):
    """Many small chunks: 2 runs, 9 stages, 150 images, 4 maps or one in a chunk; the value of a map is its number."""
    path = tmp_path_factory.mktemp("scattered")
    group = zarr.open_group(path / "maps.zarr", mode="a")
    shape = (9, 150, 1, 1, 1)
    for run in range(2):
        options = {"per_shard": 16, "per_chunk": request.param, "dimensions": ("stage", "image")}
        array = codecs.create_maps(group, f"run-{run}/feature_maps", "zstd", shape, **options)
        array[...] = (run * 1350 + np.arange(1350)).reshape(shape)  # float16 is exact up to 2048, so compare with that
    files = frozenset(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    arrays = [MapArray(Location(path), f"run-{run}/feature_maps", "zstd", files) for run in range(2)]
    run_M, rest_M = np.divmod(np.arange(2700), 1350)
    return MapSelection(
        arrays, source_M=run_M, image_M=rest_M % 150, stages_M=rest_M // 150, image_ids_M=rest_M % 150,
        labels_M=np.zeros(2700, int), splits_M=np.zeros(2700, np.uint8), runs_M=run_M,
    )  # fmt: skip


def read(batches):
    """Run, stage, image id and content of each map, in the order in which they come."""
    rows = []
    for batch in batches:
        assert batch.maps_BDHW.dtype == torch.float16
        contents = batch.maps_BDHW.numpy()
        labels = zip(batch.runs_B.tolist(), batch.stages_B.tolist(), batch.image_ids_B.tolist(), strict=True)
        rows += [(*label, content.tobytes()) for label, content in zip(labels, contents, strict=True)]
    return rows


def of(selection):
    """The same of a selection, by indexing it."""
    labels = zip(selection.runs_M.tolist(), selection.stages_M.tolist(), selection.image_ids_M.tolist(), strict=True)
    return [(*label, content.tobytes()) for label, content in zip(labels, selection[:], strict=True)]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("buffer_maps", [None, "least"])
def test_an_epoch_has_every_map_once(chosen, scattered, batch_size, buffer_maps):
    for selection in (chosen, scattered):
        least = 2 * selection.arrays[0].unit if buffer_maps else None
        batches = selection.torch(batch_size=batch_size, shuffle=True, buffer_maps=least, threads=2)
        found = list(batches)
        assert len(found) == len(batches)
        assert {len(batch.stages_B) for batch in found[:-1]} <= {batch_size}
        assert sorted(read(found)) == sorted(of(selection))


def test_without_shuffling_the_order_is_the_selections(chosen, scattered):
    index = np.random.default_rng(0).integers(0, len(scattered), 500)  # with repeats
    for selection in (chosen, scattered, scattered.take(index), scattered.take([])):
        for options in ({}, {"batch_size": 9, "buffer_maps": 2 * selection.arrays[0].unit}):
            assert read(selection.torch(**options)) == of(selection)


def test_one_seed_gives_one_order_and_each_epoch_another(scattered):
    def order(seed=0, epoch=0, **options):
        batches = scattered.torch(shuffle=True, seed=seed, buffer_maps=128, **options)
        batches.set_epoch(epoch)
        return read(batches)

    first = order()
    assert first == order() == order(threads=1) == order(threads=5)
    assert first != order(seed=1)
    assert first != order(epoch=1)
    batches = scattered.torch(shuffle=True, buffer_maps=128)
    assert read(batches) == read(batches) == first  # set_epoch is the caller's
    batches.set_epoch(1)
    assert read(batches) == order(epoch=1)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("num_workers", [1, 5])
@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_and_workers_share_an_epoch(scattered, world_size, num_workers, shuffle):
    parts, lengths = [], []
    for rank in range(world_size):
        batches = scattered.torch(batch_size=32, shuffle=shuffle, buffer_maps=64, rank=rank, world_size=world_size)
        of_rank = [np.concatenate([*batches.blocks(4, w, num_workers), np.zeros(0, int)]) for w in range(num_workers)]
        parts += of_rank
        lengths.append(sum(map(len, of_rank)))
        assert sum(-(-len(part) // 32) for part in of_rank) == len(batches)
        assert max(map(len, of_rank)) - min(map(len, of_rank)) <= 2 * 32
    assert sorted(np.concatenate(parts)) == list(range(len(scattered)))
    assert max(lengths) - min(lengths) <= 1


def test_even_ranks_have_equal_numbers_of_batches(scattered):
    selection = scattered.take(slice(0, 2699))
    left_out = set()
    for epoch in range(3):
        seen = []
        for rank in range(4):
            batches = selection.torch(batch_size=25, shuffle=True, even=True, rank=rank, world_size=4)
            batches.set_epoch(epoch)
            assert len(batches) == 27
            seen += [(run, stage, image) for run, stage, image, _ in read(batches)]
        assert len(seen) == len(set(seen)) == 2696
        left_out.add(tuple(sorted({(r, s, i) for r, s, i, _ in of(selection)} - set(seen))))
    assert len(left_out) == 3


def test_drop_last_drops_only_the_small_batch(scattered):
    batches = scattered.torch(batch_size=64, shuffle=True, drop_last=True)
    assert [len(batch.stages_B) for batch in batches] == [64] * len(batches) == [64] * (2700 // 64)


def test_batches_are_well_mixed(scattered):
    """Chunks hold 4 neighbours of one stage; a batch must look as if drawn from all maps."""
    batches = list(scattered.torch(batch_size=90, shuffle=True, buffer_maps=600))
    counts = np.stack([np.bincount(batch.stages_B.numpy(), minlength=9) for batch in batches])
    assert counts.shape == (30, 9)
    # 10 of each stage are expected; drawn one by one the standard deviation would be 2.9, in chunks of 4 up to 6.
    assert counts.std() < 4.5
    assert counts.max() <= 30
    images = np.concatenate([batch.image_ids_B.numpy() for batch in batches])
    assert (np.abs(np.diff(images)) == 1).mean() < 0.05  # neighbours on the disk are apart


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_dataloader(scattered, shuffle, method):
    batches = scattered.torch(batch_size=50, shuffle=shuffle, buffer_maps=128)
    assert read(DataLoader(batches, batch_size=None)) == read(batches)
    workers = {"num_workers": 2, "multiprocessing_context": method, "persistent_workers": True}
    loader = DataLoader(batches, batch_size=None, **workers)
    assert len(loader) == len(batches) == 54
    epochs = []
    for epoch in (0, 1):
        batches.set_epoch(epoch)
        epochs.append(read(loader))
        assert sorted(epochs[-1]) == sorted(of(scattered))
    if shuffle:
        assert epochs[0] != epochs[1]  # set_epoch reaches workers that stay
        batches.set_epoch(0)
        assert read(loader) == epochs[0]
    else:
        assert epochs[0] == epochs[1] == of(scattered)


def test_other_types_and_batches_that_are_kept(scattered):
    (batch, *_) = scattered.torch(dtype=torch.float32, batch_size=2700)
    assert batch.maps_BDHW.dtype == torch.float32
    np.testing.assert_array_equal(batch.maps_BDHW.numpy(), scattered[:].astype(np.float32))
    kept = list(scattered.torch(batch_size=16, buffer_maps=8))  # each has memory of its own
    np.testing.assert_array_equal(torch.cat([batch.maps_BDHW for batch in kept]).numpy(), scattered[:])


def test_a_batch_that_somebody_holds_is_never_written_over(scattered):
    """Memory of a batch is used again, but not while a tensor, or an array made of it, is alive."""
    kept = []
    for number, batch in enumerate(scattered.torch(batch_size=16, buffer_maps=32, shuffle=True, threads=2)):
        if number % 4:
            keep = (batch.maps_BDHW, batch.maps_BDHW[3:5], batch.maps_BDHW.numpy())[number % 4 - 1]
            kept.append((keep, torch.as_tensor(keep).clone()))
        del batch
    assert all(torch.equal(torch.as_tensor(keep), copy) for keep, copy in kept)


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("fmcs-bench")]


def test_leaving_an_epoch_leaves_no_thread(scattered):
    batches = scattered.torch(batch_size=8, buffer_maps=64, shuffle=True, threads=3)
    for _ in range(3):
        for number, _ in enumerate(batches):
            if number == 2:
                assert decoding_threads()
                break
        assert not decoding_threads()
    assert sorted(read(batches)) == sorted(of(scattered))
    iterators = [iter(batches), iter(batches)]  # two at once do not share a buffer
    both = [read([a, b]) for a, b in zip(*iterators, strict=True)]
    assert all(pair[: len(pair) // 2] == pair[len(pair) // 2 :] for pair in both)
    del iterators
    assert not decoding_threads()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_a_thread_reaches_the_caller(tiny_dataset, tmp_path, num_workers):
    dataset = fb.open(shutil.copytree(tiny_dataset.path, tmp_path / "copy"))
    next(file for file in (dataset.path / "maps.zarr/run-1/feature_maps/c/2").rglob("*") if file.is_file()).unlink()
    loader = DataLoader(dataset.sel().torch(shuffle=True), batch_size=None, num_workers=num_workers)
    with pytest.raises(DatasetError, match=r"run-1/feature_maps/c/2/.* is missing"):
        list(loader)
    assert not decoding_threads()


def test_memory_is_bounded(scattered, monkeypatch):
    """No more maps than the buffer holds are decoded ahead of the batches that were given out."""
    decoded = []
    read_unit = map_array.MapArray.read_unit

    def counting(array, row, unit, take_U, out=None):
        found = read_unit(array, row, unit, take_U, out)
        decoded.append(len(found))
        return found

    monkeypatch.setattr(map_array.MapArray, "read_unit", counting)
    given = 0
    for batch in scattered.torch(batch_size=10, shuffle=True, buffer_maps=100):
        given += len(batch.stages_B)
        assert sum(decoded) <= given + 100
    assert sum(decoded) == 2700  # no chunk was decoded twice


def test_ranks_come_from_torch_distributed(scattered, tmp_path):
    assert (scattered.torch().rank, scattered.torch().world_size) == (0, 1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        batches = scattered.torch()
        assert (batches.rank, batches.world_size) == (0, 1)
        assert scattered.torch(rank=1, world_size=3).rank == 1
    finally:
        torch.distributed.destroy_process_group()
    again = pickle.loads(pickle.dumps(scattered.torch(rank=1, world_size=3)))
    assert (again.rank, again.world_size) == (1, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size = 0; it must be 1 or more"),
        ({"buffer_maps": 1}, r"buffer_maps = 1; it must be (8|2) or more \(two chunks"),
        ({"threads": 0}, "threads = 0"),
        ({"rank": 1}, "rank = 1, world_size = None; give both"),
        ({"rank": 2, "world_size": 2}, "rank = 2, world_size = 2"),
        ({"dtype": torch.int64}, "dtype = torch.int64; maps need a floating-point type"),
    ],
)
def test_wrong_options_say_what_is_allowed(scattered, options, message):
    with pytest.raises(ConfigError, match=message):
        scattered.torch(**options)


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize(
    "keep",
    [
        lambda array: array[1:3][:, 1].T,
        lambda array: torch.from_numpy(array)[2],
        lambda array: torch.from_numpy(array).untyped_storage(),
        lambda array: np.from_dlpack(torch.from_numpy(array)),
        memoryview,
    ],
    ids=["view of view", "row of tensor", "storage", "dlpack", "buffer"],
)
def test_a_buffer_is_used_again_when_nothing_refers_to_it_and_not_before(keep):
    pool = BufferPool((4, 3, 2), 4)
    array = pool.take(4)
    assert (array.shape, array.dtype, array.flags.writeable) == ((4, 3, 2), np.float16, True)
    place = address(array)
    kept = keep(array)
    del array
    gc.collect()
    assert place not in [address(other) for other in [pool.take(4) for _ in range(3)]]
    del kept
    gc.collect()
    again = [pool.take(1) for _ in range(4)]
    assert place in [address(array) for array in again]
    assert again[0].shape == (1, 3, 2)
