"""Hugging Face datasets: local Parquet files, columns, splits, bad input."""

import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from click.testing import CliRunner
from datasets import ClassLabel, Dataset, Features, Value
from helpers.image_files import IMAGES, LABELS, NAMED, png, write_parquet

from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ImageError, MissingDataError
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.images.load import load_images

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def farm(tmp_path):
    """40 training and 20 test images in the hub's layout."""
    write_parquet(tmp_path / "farm" / "train-00000-of-00001.parquet", range(40))
    write_parquet(tmp_path / "farm" / "test-00000-of-00001.parquet", range(40, 60))
    return tmp_path / "farm"


def test_a_local_folder_of_parquet_files(farm):
    dataset = load_images(f"hub:{farm}")
    assert dataset.name == "hub_farm"
    assert dataset.classes == ("ant", "bee", "cow")
    np.testing.assert_array_equal(dataset.ids_N, np.arange(60))
    np.testing.assert_array_equal(dataset.labels_N, LABELS)
    np.testing.assert_array_equal(dataset.images_NCHW, IMAGES.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(dataset.indices("unseen"), np.arange(40, 60))
    assert dataset.licence == "unknown"
    assert dataset.citation == "unknown; read from hub_farm, encoded as PNG"
    assert dataset.sha256 == load_images(f"hub:{farm}").sha256


def test_a_single_parquet_file_has_a_fifth_for_test(tmp_path):
    path = write_parquet(tmp_path / "all.parquet")
    dataset = load_images(f"hub:{path}")
    assert dataset.name == "hub_all"
    assert 0 < len(dataset.indices("unseen")) < 30


def test_validation_is_trained_on_beside_test_and_is_the_test_without_it(farm):
    test = farm / "test-00000-of-00001.parquet"
    test.rename(farm / "validation-00000-of-00001.parquet")
    dataset = load_images(f"hub:{farm}")
    np.testing.assert_array_equal(dataset.indices("unseen"), np.arange(40, 60))
    write_parquet(test, range(20))
    dataset = load_images(f"hub:{farm}")
    np.testing.assert_array_equal(dataset.indices("unseen"), np.arange(60, 80))
    np.testing.assert_array_equal(dataset.images_NCHW[60:], dataset.images_NCHW[:20])


@pytest.mark.parametrize(
    "feature",
    [Value("int64"), Value("string"), ClassLabel(names=["7", "8", "9"])],
    ids=["integers", "words", "named"],
)
def test_labels_are_classes_or_their_sorted_values(tmp_path, feature):
    values = LABELS if isinstance(feature, ClassLabel) else [{0: 7, 1: 8, 2: 9}[k] for k in LABELS]
    values = [str(v) for v in values] if feature.dtype == "string" else values
    features = Features({"image": datasets.Image(), "labels": feature})
    path = write_parquet(tmp_path / "x.parquet", features=features, image="image", label="labels", labels=values)
    dataset = load_images(f"hub:{path}")
    assert dataset.classes == ("7", "8", "9")
    np.testing.assert_array_equal(dataset.labels_N, LABELS)


def test_parquet_files_that_do_not_say_image_are_read_by_name(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"image": [png(pixels) for pixels in IMAGES], "label": LABELS}), tmp_path / "raw.parquet")
    dataset = load_images(f"hub:{tmp_path / 'raw.parquet'}")
    np.testing.assert_array_equal(dataset.images_NCHW, IMAGES.transpose(0, 3, 1, 2))


# ---- bad input


def write_wrong_columns(farm):
    features = Features({"picture": Value("string"), "kind": Value("string")})
    data = Dataset.from_dict({"picture": ["a"] * 9, "kind": ["b"] * 9}, features=features)
    for path in farm.iterdir():
        data.to_parquet(path)


def write_no_labels(farm):
    for path in farm.iterdir():
        Dataset.from_dict({"img": [{"bytes": png(IMAGES[0]), "path": None}]}, Features(img=NAMED["img"])).to_parquet(
            path
        )


def write_part(farm, **options):
    write_parquet(farm / "train-00000-of-00001.parquet", range(40), **options)


def unlabelled(farm):
    write_parquet(farm / "test-00000-of-00001.parquet", range(40, 60), labels=[-1] * 60)


def other_columns(farm):
    features = Features({"picture": datasets.Image(), "label": NAMED["label"]})
    write_parquet(farm / "test-00000-of-00001.parquet", range(40, 60), features=features, image="picture")


BAD = {
    "wrong columns": (write_wrong_columns, ["no column of images", "columns are picture (string), kind (string)"]),
    "no labels": (write_no_labels, ["no column of labels", "columns are img"]),
    "unlabelled test images": (unlabelled, ["image 40 has the label -1"]),
    "a class without images": (lambda farm: write_part(farm, labels=[0, 1] * 30), ["without a training image: cow"]),
    "a broken image": (
        lambda farm: write_part(farm, blobs=[png(IMAGES[i]) if i != 5 else b"x" for i in range(60)]),
        ["split train, row 5, cannot be read", "--skip-broken"],
    ),
    "damaged file": (lambda farm: (farm / "train-00000-of-00001.parquet").write_bytes(b"x"), ["cannot be read: "]),
    "no data files": (lambda farm: [path.unlink() for path in farm.iterdir()], ["cannot be read: "]),
    "no training split": (lambda farm: (farm / "train-00000-of-00001.parquet").unlink(), ["train is needed"]),
    "other columns": (other_columns, ["cannot be read"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_datasets_are_told_in_a_line(case, farm, tmp_path):
    harm, messages = BAD[case]
    harm(farm)
    command = ["build", "--backbone", "smallcnn", "--image-size", "16", "--dataset", f"hub:{farm}", "--workspace"]
    result = CliRunner().invoke(main, [*command, str(tmp_path / "ws")])
    assert result.exit_code == 2, result.output
    for message in messages:
        assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
    assert not (tmp_path / "ws" / "datasets").exists()


def test_broken_images_are_skipped_and_counted(farm):
    write_part(farm, blobs=[png(IMAGES[i]) if i not in (5, 9) else b"x" for i in range(60)])
    dataset = load_images(f"hub:{farm}", skip_broken=True)
    assert dataset.num_broken == 2
    assert len(dataset.ids_N) == 58
    assert not {5, 9} & set(dataset.ids_N.tolist())


def test_a_missing_folder_is_not_asked_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(MissingDataError, match=r"there is no folder or file .*nowhere"):
        load_images(f"hub:{tmp_path / 'nowhere'}")


def test_a_name_goes_to_the_hub_with_its_revision(monkeypatch, farm):
    asked, before = [], datasets.are_progress_bars_disabled()

    def ask(name, *, revision):
        asked.append((name, revision))
        raise ConnectionError(f"Couldn't reach {name!r} on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", ask)
    message = r"hub:owner/name@abc is no folder or file here .*does not give it: Couldn't reach 'owner/name'"
    with pytest.raises(MissingDataError, match=message):
        load_images("hub:owner/name@abc")
    with pytest.raises(MissingDataError):
        load_images("hub:owner/name")
    assert asked == [("owner/name", "abc"), ("owner/name", None)]
    assert datasets.are_progress_bars_disabled() == before
    assert farm.is_dir()


def test_an_unknown_split_is_not_dropped_silently(monkeypatch, tmp_path):
    part = Dataset.from_parquet(str(write_parquet(tmp_path / "x.parquet")))
    found = datasets.DatasetDict({"train": part, "unsupervised": part})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: found)
    with pytest.raises(ImageError, match=r"has the splits train, unsupervised; train is needed"):
        load_images("hub:owner/name")


# ---- the real CIFAR-10, re-encoded as JPEG


@pytest.fixture
def cifar10():
    folder = Path(os.environ.get("FMCS_BENCH_DATA", "")) / "cifar10"
    if not os.environ.get("FMCS_BENCH_DATA") or not any(folder.glob("*.parquet")):
        pytest.skip("needs CIFAR-10 as Parquet: set FMCS_BENCH_DATA to a folder that holds cifar10/*.parquet")
    return folder


def test_the_real_cifar10_is_what_the_hub_library_says(cifar10):
    dataset = load_images(f"hub:{cifar10}", image_size=64, limit=300)
    assert dataset.classes == CIFAR10_CLASSES
    assert dataset.images_NCHW.shape == (1200, 3, 32, 32)
    assert [len(dataset.indices(split)) for split in SPLITS] == [300] * 4
    assert dataset.citation.endswith("read from hub_cifar10, encoded as JPEG")
    source = datasets.load_dataset(str(cifar10))
    for row in [*range(0, 1200, 60), *dataset.indices("unseen")[:20]]:
        position = int(dataset.ids_N[row])
        item = source["train"][position] if position < 50_000 else source["test"][position - 50_000]
        np.testing.assert_array_equal(dataset.images_NCHW[row].transpose(1, 2, 0), np.asarray(item["img"]))
        assert dataset.labels_N[row] == item["label"]
    held, streamed = (load_images(f"hub:{cifar10}", limit=150, image_size=32, stream=way) for way in (False, True))
    assert (held.is_streamed, streamed.is_streamed) == (False, True)
    assert streamed.sha256 == held.sha256
