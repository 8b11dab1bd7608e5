"""``hub:NAME_OR_PATH``: a dataset of the Hugging Face hub, or local files in its layout (Parquet).

The id of an image is its position: training images first, then the source's own test images. ``validation`` counts as
``train`` beside a ``test``, and as ``test`` where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fmcs_bench.core.errors import ImageError, MissingDataError
from fmcs_bench.images.base import UNKNOWN, ImageRequest, Listing, read_encoded
from fmcs_bench.images.encoded import Blob, opened

IMAGE_NAMES = ("img", "image")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target")
VALIDATION = ("val", "valid", "validation")


class Cells:
    """A source of images in a column of a dataset; positions count through all splits."""

    def __init__(self, location: str, image: str, names: Sequence[str], parts: Sequence[Any]) -> None:
        import datasets

        self._location, self._image, self._names = location, image, names
        undecoded = datasets.Image(decode=False)
        self._parts = [part.select_columns([image]).cast_column(image, undecoded) for part in parts]
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.part_N = np.repeat(np.arange(len(parts)), np.diff(self._starts))

    def blobs(self, positions: list[int]) -> list[Blob]:
        """See ``BlobSource``."""
        found: dict[int, Blob] = {}
        for part in sorted({int(self.part_N[i]) for i in positions}):
            own = [i for i in positions if self.part_N[i] == part]
            cells = self._parts[part][[i - int(self._starts[part]) for i in own]][self._image]
            found |= {i: _blob(cell) for i, cell in zip(own, cells, strict=True)}
        return [found[i] for i in positions]

    def describe(self, position: int) -> str:
        """See ``BlobSource``."""
        part = int(self.part_N[position])
        return f"hub:{self._location}, split {self._names[part]}, row {position - int(self._starts[part])},"


def list_hub(request: ImageRequest, location: str) -> Listing:
    """List a dataset: ``owner/name``, ``owner/name@revision``, or a local folder or Parquet file."""
    parts, is_test = _parts(_load(location), location)
    first = parts[0][1]
    image, label = _columns(first, location)
    for name, part in parts[1:]:
        if part.features != first.features:
            raise ImageError(f"hub:{location}: the splits {parts[0][0]} and {name} have different columns")
    labels_N, classes = _labels([part[label][:] for _, part in parts], first.features[label], location)
    cells = Cells(location, image, [name for name, _ in parts], [part for _, part in parts])
    kind = _encoding(cells.blobs([0])[0]) if len(labels_N) else "no images"
    return Listing(
        labels_N=labels_N,
        ids_N=np.arange(len(labels_N), dtype=np.int64),
        is_test_N=np.array(is_test)[cells.part_N] if any(is_test) else None,
        classes=classes,
        licence=first.info.license or UNKNOWN,
        # A copy of a known dataset in a different encoding is not that dataset, so the encoding is stated.
        citation=f"{' '.join(first.info.citation.split()) or UNKNOWN}; read from {request.name}, encoded as {kind}",
        read=partial(read_encoded, source=cells, request=request),
    )


def _load(location: str) -> Any:
    """All splits, by name."""
    import datasets

    path = Path(location).expanduser()
    if not path.exists() and (location.startswith((".", "/", "~")) or location.count("/") > 1):
        raise MissingDataError(f"there is no folder or file {path} (--dataset hub:{location})")
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        if path.is_file():
            return datasets.load_dataset("parquet", data_files={"train": [str(path)]})
        if path.is_dir():
            return datasets.load_dataset(str(path))
        name, _, revision = location.partition("@")
        return datasets.load_dataset(name, revision=revision or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        where = (
            "cannot be read" if path.exists() else f"is no folder or file here ({path}), and the hub does not give it"
        )
        reason = " ".join(str(error.__cause__ or error).split())
        raise MissingDataError(f"hub:{location} {where}: {reason:.300}") from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def _parts(found: Any, location: str) -> tuple[list[tuple[str, Any]], list[bool]]:
    """The splits in order, training images first, and for each whether its images are the source's test images."""
    unknown = [name for name in found if name not in ("train", "test", *VALIDATION)]
    if "train" not in found or unknown:
        raise ImageError(
            f"hub:{location} has the splits {', '.join(found)}; train is needed, and test or validation may be there"
        )
    names = ["train", *(name for name in VALIDATION if name in found), *(["test"] if "test" in found else [])]
    is_test = [name == "test" or (name != "train" and "test" not in found) for name in names]
    return [(name, found[name]) for name in names], is_test


def _columns(part: Any, location: str) -> tuple[str, str]:
    """Names of the columns of images and of labels."""
    import datasets

    features = part.features
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    images = images or [name for name in IMAGE_NAMES if name in features and _may_be_image(features[name])]
    labels = [name for name in LABEL_NAMES if name in features]
    labels = labels or [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    kinds = {name: getattr(feature, "dtype", None) or type(feature).__name__ for name, feature in features.items()}
    present = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    if len(images) != 1:
        many = f"{len(images)} columns of images" if images else "no column of images (img or image)"
        raise ImageError(f"hub:{location} has {many}; its columns are {present}")
    if not labels or isinstance(features[labels[0]], dict | list | datasets.Image):
        raise ImageError(
            f"hub:{location} has no column of labels ({', '.join(LABEL_NAMES)}); its columns are {present}"
        )
    return images[0], labels[0]


def _may_be_image(feature: Any) -> bool:
    if isinstance(feature, dict):
        return set(feature) == {"bytes", "path"}
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def _labels(columns: list[Any], feature: Any, location: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 labels, and the class names: those that the dataset declares, or else the values, sorted."""
    values = [value for column in columns for value in column]
    names = getattr(feature, "names", None)
    declared = range(len(names)) if names else sorted({value for value in values if value is not None})
    if any(isinstance(value, float) for value in declared):
        raise ImageError(
            f"hub:{location}: the labels are fractions, such as {next(iter(declared))}; classes are needed"
        )
    index = {value: i for i, value in enumerate(declared)}
    wrong = next((row for row, value in enumerate(values) if value not in index or value == -1), None)
    if wrong is not None:
        raise ImageError(f"hub:{location}: image {wrong} has the label {values[wrong]}, which is no class")
    labels_N = np.array([index[value] for value in values], dtype=np.int64)
    return labels_N, tuple(str(name) for name in (names or declared))


def _blob(cell: dict[str, Any] | None) -> Blob:
    if cell is None:
        return b""  # an empty cell is a broken image
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"] or "")


def _encoding(blob: Blob) -> str:
    from PIL import Image, UnidentifiedImageError

    try:
        with opened(blob) as image:
            return image.format or UNKNOWN
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return UNKNOWN
