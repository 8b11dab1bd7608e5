"""Folders of images: listing, ids, decoding, bad input; and what a build and a training make of them."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.image_files import BUILD, expected_id, write_classes, write_image
from PIL import Image

from fmcs_bench.cli.main import main
from fmcs_bench.core.errors import ConfigError, ImageError, MissingDataError, UnknownNameError
from fmcs_bench.images import base, encoded
from fmcs_bench.images.dataset import SPLITS, draw
from fmcs_bench.images.load import load_images, source_name
from fmcs_bench.store.schema import Manifest


@pytest.fixture
def pets(tmp_path):
    return write_classes(tmp_path / "pets")


# ---- listing and ids


def test_a_folder_has_one_class_for_each_sub_folder(pets):
    (pets / "README.txt").write_text("not an image")
    (pets / "cat" / ".hidden.png").write_text("not an image")
    (pets / ".git").mkdir()
    write_image(pets / "cat" / "kittens" / "x.png")
    dataset = load_images(f"folder:{pets}", image_size=16)
    assert dataset.name == "folder_pets"
    assert dataset.classes == ("cat", "dog")
    assert dataset.images_NCHW.shape == (51, 3, 7, 9)
    assert (dataset.licence, dataset.num_broken) == ("unknown", 0)
    assert str(pets) not in dataset.citation
    files = sorted(path for path in pets.rglob("*.png") if not path.name.startswith("."))
    for i, file in enumerate(files):
        np.testing.assert_array_equal(dataset.images_NCHW[i].transpose(1, 2, 0), np.asarray(Image.open(file)))
        assert dataset.classes[dataset.labels_N[i]] == file.relative_to(pets).parts[0]
        assert dataset.ids_N[i] == expected_id(file.relative_to(pets).as_posix())
    assert dataset.ids_N.dtype == np.int64


def test_a_fifth_by_hash_stands_for_the_test_images(pets):
    dataset = load_images(f"folder:{pets}")
    unseen = {int(i) for i in dataset.ids_N[dataset.indices("unseen")]}
    expected = {
        int(i)
        for i in dataset.ids_N
        if int(hashlib.sha256(f"source test/folder_pets/{i}".encode()).hexdigest()[:16], 16) % 5 == 0
    }
    assert unseen == expected
    assert unseen


def test_ids_and_splits_stay_when_images_come_and_when_the_folder_moves(pets, tmp_path):
    before = load_images(f"folder:{pets}")
    write_image(pets / "cat" / "000a.png")
    write_classes(pets, classes=("ant",))
    moved = pets.rename(tmp_path / "elsewhere")
    after = load_images("folder_pets", source=f"folder:{moved}")
    now = dict(zip(after.ids_N.tolist(), after.splits_N.tolist(), strict=True))
    assert {i: now[i] for i in before.ids_N.tolist()} == dict(
        zip(before.ids_N.tolist(), before.splits_N.tolist(), strict=True)
    )


def test_two_names_with_one_id_are_refused(monkeypatch, pets):
    class Same:
        def __init__(self, _): ...

        def digest(self):
            return bytes(32)

    monkeypatch.setattr("fmcs_bench.images.folder.hashlib", SimpleNamespace(sha256=Same))
    with pytest.raises(ImageError, match=r"images cat/000.png and cat/001.png get the same id"):
        load_images(f"folder:{pets}")


@pytest.mark.parametrize(
    ("names", "unseen"),
    [(["train", "test"], "test"), (["train", "val"], "val"), (["train", "validation", "test"], "test")],
)
def test_train_and_test_folders_are_recognised(tmp_path, names, unseen):
    for name in names:
        write_classes(tmp_path / name, num=30)
    dataset = load_images(f"folder:{tmp_path}")
    assert dataset.classes == ("cat", "dog")
    tests = {expected_id(f"{unseen}/{c}/{i:03d}.png") for c in ("cat", "dog") for i in range(30)}
    assert {int(i) for i in dataset.ids_N[dataset.indices("unseen")]} == tests
    assert len(dataset.ids_N) == 60 * len(names)


def test_classes_may_be_called_train_and_test(tmp_path):
    write_classes(tmp_path, classes=("train", "test"))
    assert load_images(f"folder:{tmp_path}").classes == ("test", "train")


@pytest.mark.parametrize(
    ("place", "classes", "message"),
    [(".", ("bird",), "sub-folder train with folders in it, and beside it bird"),
     ("test", ("cat", "dog", "emu"), "without a training image: emu")],
)  # fmt: skip
def test_classes_beside_train_or_in_test_only_are_refused(tmp_path, place, classes, message):
    write_classes(tmp_path / "train")
    write_classes(tmp_path / place, classes=classes)
    with pytest.raises(ImageError, match=message):
        load_images(f"folder:{tmp_path}")


# ---- names


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("digits", "digits"),
        ("folder:/a/b/Flowers", "folder_Flowers"),
        ("folder:rel/x y/", "folder_x_y"),
        ("folder:/a/..secret/é", "folder__"),
        ("hub:owner/name", "hub_owner_name"),
        ("hub:owner/name@main", "hub_owner_name_main"),
        ("hub:/data/cifar10", "hub_cifar10"),
        ("hub:./x.parquet", "hub_x"),
        ("folder:" + "x" * 200, "folder_" + "x" * 48),
    ],
)
def test_the_plain_name_is_a_file_name(source, name):
    assert source_name(source) == name


def test_the_plain_name_of_the_current_folder(pets, monkeypatch):
    monkeypatch.chdir(pets)
    assert source_name("folder:.") == "folder_pets"
    assert source_name("folder:cat/..") == "folder_pets"


def test_an_unknown_scheme_comes_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown image source 'foldr:'; did you mean folder"):
        load_images("foldr:/x")
    with pytest.raises(ConfigError, match=r"nothing follows 'folder:'; type folder:DIR"):
        load_images("folder:")
    with pytest.raises(MissingDataError, match=r"folder_pets does not say where .* --images, as folder:DIR"):
        load_images("folder_pets")


# ---- decoding


def test_a_limit_leaves_the_other_images_closed(pets, monkeypatch):
    opened = []
    monkeypatch.setattr(encoded, "opened", lambda blob, own=encoded.opened: opened.append(blob) or own(blob))
    whole = load_images(f"folder:{pets}")
    opened.clear()
    part = load_images(f"folder:{pets}", limit=2)
    assert len({str(path) for path in opened}) == 8
    assert [len(part.indices(split)) for split in SPLITS] == [2, 2, 2, 2]
    expected = whole.take(draw(whole.name, whole.ids_N, whole.splits_N, 2))
    assert part.sha256 == expected.sha256
    np.testing.assert_array_equal(part.splits_N, expected.splits_N)


def test_different_sizes_and_larger_ones_are_brought_to_the_image_size(pets):
    assert load_images(f"folder:{pets}", image_size=8).images_NCHW.shape[2:] == (8, 8)
    assert load_images(f"folder:{pets}", image_size=9).images_NCHW.shape[2:] == (7, 9)
    write_image(pets / "cat" / "wide.png", size=(40, 5))
    with pytest.raises(ConfigError, match=r"2 different sizes; .*image_size"):
        load_images(f"folder:{pets}")
    dataset = load_images(f"folder:{pets}", image_size=12)
    assert dataset.images_NCHW.shape == (51, 3, 12, 12)
    (row,) = np.flatnonzero(dataset.ids_N == expected_id("cat/wide.png"))
    expected = Image.open(pets / "cat" / "wide.png").resize((12, 12), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(dataset.images_NCHW[row].transpose(1, 2, 0), np.asarray(expected))


def test_all_grey_images_stay_grey(tmp_path):
    write_classes(tmp_path, mode="L")
    write_image(tmp_path / "cat" / "a.png", mode="LA")
    write_image(tmp_path / "cat" / "b.png", mode="1")
    deep = np.arange(63, dtype=np.uint16).reshape(7, 9) * 1000
    Image.fromarray(deep).save(tmp_path / "cat" / "c.png")
    dataset = load_images(f"folder:{tmp_path}")
    assert dataset.images_NCHW.shape == (53, 1, 7, 9)
    (row,) = np.flatnonzero(dataset.ids_N == expected_id("cat/c.png"))
    np.testing.assert_array_equal(dataset.images_NCHW[row, 0], deep // 256)


def test_grey_palette_and_transparent_images_among_colour_become_rgb(tmp_path):
    write_classes(tmp_path)
    for mode in ("L", "P", "RGBA", "LA"):
        write_image(tmp_path / "cat" / f"{mode}.png", mode=mode)
    see_through = Image.open(tmp_path / "cat" / "P.png")
    see_through.save(tmp_path / "cat" / "P2.png", transparency=bytes(range(256)))
    dataset = load_images(f"folder:{tmp_path}")
    assert dataset.images_NCHW.shape == (55, 3, 7, 9)

    def pixels(name):
        (row,) = np.flatnonzero(dataset.ids_N == expected_id(f"cat/{name}.png"))
        return dataset.images_NCHW[row].transpose(1, 2, 0)

    grey = np.asarray(Image.open(tmp_path / "cat" / "L.png"))
    np.testing.assert_array_equal(pixels("L"), np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(pixels("RGBA"), np.asarray(Image.open(tmp_path / "cat" / "RGBA.png"))[..., :3])
    np.testing.assert_array_equal(pixels("P"), np.asarray(Image.open(tmp_path / "cat" / "P.png").convert("RGB")))
    np.testing.assert_array_equal(pixels("P2"), pixels("P"))


def test_the_orientation_of_the_camera_is_applied(tmp_path):
    write_classes(tmp_path, size=(7, 9))
    source = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(source).save(tmp_path / "cat" / "turned.png", exif=exif)
    dataset = load_images(f"folder:{tmp_path}")
    (row,) = np.flatnonzero(dataset.ids_N == expected_id("cat/turned.png"))
    np.testing.assert_array_equal(dataset.images_NCHW[row].transpose(1, 2, 0), np.rot90(source, -1))


def test_what_does_not_fit_into_memory_is_refused_before_it_is_taken(pets, monkeypatch):
    free = base.free_bytes()
    assert free is None or 2**20 < free < 2**50
    monkeypatch.setattr(base, "free_bytes", lambda: 10_000)
    monkeypatch.setattr(encoded, "decode", lambda *_: pytest.fail("memory was taken"))
    message = r"images of folder_pets take 9,450 bytes, more than half of the 10,000 .*--stream-images.*--limit"
    with pytest.raises(ConfigError, match=message):
        load_images(f"folder:{pets}", stream=False)


# ---- bad input


def cut(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "damage", [cut, lambda _: b"", lambda _: b"<!doctype html>", lambda data: data[:40] + b"\0" * 9 + data[49:]],
    ids=["half", "empty", "html", "scrambled"],
)  # fmt: skip
def test_a_corrupt_image_is_named_or_skipped_and_counted(pets, damage):
    path = pets / "dog" / "007.png"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ImageError, match=r"dog/007\.png cannot be read as an image \(.*\); .*--skip-broken") as caught:
        load_images(f"folder:{pets}")
    assert "\n" not in str(caught.value)
    dataset = load_images(f"folder:{pets}", skip_broken=True)
    assert dataset.num_broken == 1
    assert len(dataset.ids_N) == len(dataset.images_NCHW) == len(dataset.labels_N) == len(dataset.splits_N) == 49
    assert expected_id("dog/007.png") not in dataset.ids_N
    path.unlink()
    assert load_images(f"folder:{pets}").sha256 == dataset.sha256


def test_pixels_without_an_agreed_range_are_refused(pets):
    Image.fromarray(np.ones((7, 9), dtype=np.float32)).save(pets / "cat" / "f.tif")
    with pytest.raises(ImageError, match=r"f\.tif cannot be read as an image \(32-bit pixels"):
        load_images(f"folder:{pets}")


def test_a_class_of_broken_images_only_is_refused(pets):
    for harm in (cut, lambda _: b""):  # a header without pixels, and no header
        for path in (pets / "dog").iterdir():
            path.write_bytes(harm(path.read_bytes()))
        for stream in (False, True):
            with pytest.raises(ImageError, match="no image of the class 'dog' of folder_pets can be read"):
                load_images(f"folder:{pets}", image_size=12, stream=stream, skip_broken=True)
    for path in (pets / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ImageError, match="not one of the 50 images"):
        load_images(f"folder:{pets}", skip_broken=True)


def empty_class(pets):
    (pets / "emu").mkdir()
    (pets / "emu" / "notes.txt").write_text("no image")


BAD = {
    "corrupt": (lambda pets: (pets / "cat" / "003.png").write_bytes(b"x"), ["cat/003.png cannot be read", "--skip-"]),
    "empty class": (empty_class, ["class folder", "emu has no image"]),
    "one class": (lambda pets: shutil.rmtree(pets / "dog"), ["one class only (cat)"]),
    "no classes": (lambda pets: [shutil.rmtree(pets / name) for name in ("cat", "dog")], ["has no sub-folders"]),
    "an image beside the classes": (lambda pets: write_image(pets / "x.png"), ["x.png is in no class"]),
    "no folder": (shutil.rmtree, ["there is no folder", "pets"]),
    "too few images": (
        lambda pets: [path.unlink() for path in pets.rglob("*.png") if path.stem != "000"],
        ["has no image in its test split"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_told_in_a_line_and_leave_nothing(case, pets, tmp_path):
    harm, messages = BAD[case]
    harm(pets)
    command = ["build", "--backbone", "smallcnn", "--image-size", "16", "--dataset", f"folder:{pets}"]
    result = CliRunner().invoke(main, [*command, "--workspace", str(tmp_path / "ws")])
    assert result.exit_code == 2, result.output
    for message in messages:
        assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "ws" / "datasets").exists()


# ---- build and train


def typed(*command, workspace):
    return CliRunner().invoke(main, [*command, "--workspace", str(workspace)])


def test_a_build_from_a_folder_publishes_no_path_and_can_be_trained_on(pets, tmp_path):
    workspace, source = tmp_path / "ws", f"folder:{pets}"
    (pets / "cat" / "004.png").write_bytes(b"broken")
    write_image(pets / "cat" / "wide.png", size=(40, 5))
    built = typed(*BUILD, "--dataset", source, "--skip-broken", "--json", workspace=workspace)
    assert built.exit_code == 0, built.output
    manifest = Manifest.from_json(json.loads(built.stdout))
    path = workspace / "datasets" / "folder_pets-smallcnn-16px-t"
    assert manifest.config.image_dataset == "folder_pets"
    assert manifest.images.num_broken == 1
    assert manifest.images.licence == "unknown"
    for file in path.rglob("*"):
        assert not file.is_file() or str(tmp_path).encode() not in file.read_bytes(), file

    again = typed(*BUILD, "--dataset", source, "--skip-broken", "--json", workspace=workspace)
    assert json.loads(again.stdout) == manifest.to_json()

    train = ["train", "--method", "baseline", "--seeds", "1", "--epochs", "1", "--device", "cpu"]
    lost = typed(*train, workspace=workspace)
    assert lost.exit_code == 2
    assert "--images, as folder:DIR" in lost.stderr
    moved = pets.rename(tmp_path / "moved")
    found = typed(*train, "--images", f"folder:{moved}", workspace=workspace)
    assert found.exit_code == 0, found.output
    verify = ["verify", path.name, "--recompute", "2", "--device", "cpu"]
    assert typed(*verify, workspace=workspace).exit_code == 2
    verified = typed(*verify, "--images", f"folder:{moved}", workspace=workspace)
    assert verified.exit_code == 0, verified.output
    write_image(moved / "cat" / "001.png", seed=9)
    other = typed(*train, "--images", f"folder:{moved}", "--seeds", "2", workspace=workspace)
    assert other.exit_code == 1
    assert "are not those that folder_pets" in other.stderr

    # Another folder of the same name is not taken for the one that was built from.
    same_name = moved.rename(tmp_path / "pets")
    refused = typed(*BUILD, "--dataset", f"folder:{same_name}", "--skip-broken", workspace=workspace)
    assert refused.exit_code == 2
    assert "from other images of the name folder_pets; choose another --name" in refused.stderr


def test_an_unfinished_build_does_not_go_on_with_other_images(pets, tmp_path):
    # Never converged: the run is trained, and the build stops unfinished.
    command = [*BUILD, "--cqi-threshold", "1e-9", "--dataset", f"folder:{pets}"]
    assert typed(*command, workspace=tmp_path / "ws").exit_code == 1
    write_image(pets / "cat" / "001.png", seed=9)
    result = typed(*command, workspace=tmp_path / "ws")
    assert result.exit_code == 2
    assert "begun, from other images" in result.stderr
