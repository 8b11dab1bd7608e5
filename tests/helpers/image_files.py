"""Folders, Parquet files and expected values of small image datasets."""

import hashlib
import io

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, Features
from PIL import Image

from fmcs_bench.images.load import load_images

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 6, 8, 3), dtype=np.uint8)
LABELS = [i % 3 for i in range(60)]
NAMED = Features({"img": datasets.Image(), "label": ClassLabel(names=["ant", "bee", "cow"])})
BUILD = [
    "build", "--backbone", "smallcnn", "--image-size", "16", "--stages", "3", "--epochs", "10", "--checkpoints", "30",
    "--batch-size", "8", "--lr", "3e-3", "--cqi-threshold", "0.25", "--device", "cpu", "--name", "t",
]  # fmt: skip


def write_image(path, size=(9, 7), mode="RGB", seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *path.name.encode()])
    if mode in ("1", "P"):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(path)
    else:
        channels = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}[mode]
        dark = 128 * (seed % 2)  # classes differ, so that they can be learned
        Image.fromarray(rng.integers(dark, dark + 128, (size[1], size[0], *channels), dtype=np.uint8)).save(path)


def write_classes(root, classes=("cat", "dog"), num=25, **options):
    for seed, name in enumerate(classes):
        for i in range(num):
            write_image(root / name / f"{i:03d}.png", seed=seed, **options)
    return root


def write_mixed(root):
    """57 images of mixed sizes and modes, one turned by the camera."""
    write_classes(root)
    for seed, name in enumerate(("cat", "dog")):
        write_image(root / name / "wide.png", size=(40, 5), seed=seed)
        write_image(root / name / "grey.png", mode="L", seed=seed)
        write_image(root / name / "palette.png", mode="P", seed=seed)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.random.default_rng(5).integers(0, 256, (13, 30, 3), dtype=np.uint8)
    Image.fromarray(turned).save(root / "cat" / "turned.jpg", exif=exif)
    return root


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(path, rows=range(60), features=NAMED, image="img", label="label", labels=LABELS, blobs=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(IMAGES[i]) if blobs is None else blobs[i], "path": None} for i in rows]
    Dataset.from_dict({image: cells, label: [labels[i] for i in rows]}, features=features).to_parquet(path)
    return path


def both(source, **options):
    """In memory and streamed, by two processes."""
    options = {"image_size": 12, "num_workers": 2} | options
    return load_images(source, **options, stream=False), load_images(source, **options, stream=True)


def expected_id(name):
    return int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) >> 1


def expected_split(name, image_id):
    number = int(hashlib.sha256(f"split/{name}/{image_id}".encode()).hexdigest()[:16], 16)
    return "train" if number % 10 < 8 else "validation" if number % 10 == 8 else "test"
