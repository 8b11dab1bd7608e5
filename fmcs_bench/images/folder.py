"""``folder:DIR``: one class for each sub-folder.

Classes are sub-folders of the folder, or of its ``train`` and ``test`` (``val``, ``valid`` and ``validation`` count as
``train`` beside a ``test``, and as ``test`` where there is none). The id of an image is a hash of its path inside the
folder, so it stays when other images come and go.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from functools import partial
from pathlib import Path

import numpy as np

from fmcs_bench.core.errors import ImageError, MissingDataError
from fmcs_bench.images.base import UNKNOWN, ImageRequest, Listing, read_encoded
from fmcs_bench.images.encoded import Files

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm")
"""Files with other suffixes are no images and are left alone."""
VALIDATION = ("val", "valid", "validation")


def list_folder(request: ImageRequest, location: str) -> Listing:
    """List a folder."""
    root = Path(location).expanduser()
    if not root.is_dir():
        raise MissingDataError(f"there is no folder {root} (--dataset folder:{location})")
    parts = _parts(root)
    classes_of = {part: _folders(root / part) for part in parts}
    classes = sorted({unicodedata.normalize("NFC", path.name) for found in classes_of.values() for path in found})
    if not classes:
        raise ImageError(f"{root} has no sub-folders; each class needs one with its images")
    entries = []
    for part, found in classes_of.items():
        stray = _images(root / part, deep=False)
        if stray:
            raise ImageError(f"{stray[0]} is in no class; move it into the sub-folder of its class")
        for path in found:
            paths = _images(path, deep=True)
            if not paths:
                raise ImageError(f"the class folder {path} has no image ({', '.join(SUFFIXES)}); fill or remove it")
            label = classes.index(unicodedata.normalize("NFC", path.name))
            entries += [(_name(root, file), file, label, parts[part]) for file in paths]
    entries.sort(key=lambda entry: entry[0])
    paths = [file for _, file, _, _ in entries]
    return Listing(
        labels_N=np.array([label for _, _, label, _ in entries], dtype=np.int64),
        ids_N=_ids([name for name, _, _, _ in entries]),
        is_test_N=np.array([is_test for _, _, _, is_test in entries]) if any(parts.values()) else None,
        classes=tuple(classes),
        licence=UNKNOWN,
        citation=f"{UNKNOWN}; images of a local folder",
        read=partial(read_encoded, source=Files(paths), request=request),
    )


def _parts(root: Path) -> dict[str, bool]:
    """Sub-folders that hold class folders ("" is the folder itself), and whether their images are test images."""
    names = {path.name for path in _folders(root)}
    known = names & {"train", "test", *VALIDATION}
    nested = {name for name in known if _folders(root / name) and not _images(root / name, deep=False)}
    if "train" not in nested:
        return {"": False}
    if nested != names:
        raise ImageError(
            f"{root} has a sub-folder train with folders in it, and beside it {', '.join(sorted(names - nested))}; put "
            "class folders into train and test, or into the folder itself"
        )
    has_test = "test" in names
    return {name: name == "test" or (name != "train" and not has_test) for name in sorted(names)}


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _images(path: Path, *, deep: bool) -> list[Path]:
    """Image files in a folder, and with ``deep`` below it; hidden ones are left alone."""
    found = []
    for place, folders, names in os.walk(path, followlinks=True):
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
        found += [Path(place) / name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith(".")]
    return sorted(found)


def _name(root: Path, file: Path) -> str:
    # macOS stores decomposed letters; the same image has one name everywhere.
    return unicodedata.normalize("NFC", file.relative_to(root).as_posix())


def _ids(names: list[str]) -> np.ndarray:
    """int64, not negative: 63 bits of the SHA-256 of each name."""
    by_id: dict[int, str] = {}
    for name in names:
        image_id = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
        if image_id in by_id:
            raise ImageError(f"the images {by_id[image_id]} and {name} get the same id; rename one of them")
        by_id[image_id] = name
    return np.array(list(by_id), dtype=np.int64)
