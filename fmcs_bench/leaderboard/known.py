"""The FMCS datasets that records may be about, and what is known of their images.

Flow: folders -> ``dataset.json`` of every data card and dataset in them -> manifests by id -> where the images are
here (digits always are): ids, labels and splits, exactly; otherwise numbers, classes and the hash that gives a split.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from urllib.parse import quote

from fmcs_bench.core.errors import FmcsBenchError
from fmcs_bench.images.base import IMAGE_DATASETS
from fmcs_bench.images.dataset import ImageDataset
from fmcs_bench.images.load import load_images
from fmcs_bench.store import schema
from fmcs_bench.store.schema import Manifest

MAX_MANIFEST_BYTES = 50_000_000


def find_manifests(folders: Iterable[Path], broken: Callable[[Path, str], None] | None = None) -> dict[str, Manifest]:
    """The manifests of all datasets in some folders, by dataset id, ordered by it.

    Args:
        folders: each holds one folder for each dataset, as ``data_cards`` and ``<workspace>/datasets`` do; one that is
            not there holds none.
        broken: called with the path and the reason of a manifest that cannot be used; None passes over it.

    Example:
        >>> find_manifests([Path("nowhere")])
        {}
    """
    found: dict[str, Manifest] = {}
    for path in sorted(path for folder in folders for path in folder.glob(f"*/{schema.MANIFEST}")):
        try:
            if path.stat().st_size > MAX_MANIFEST_BYTES:
                raise ValueError(f"it has more than {MAX_MANIFEST_BYTES:,} bytes")
            manifest = Manifest.from_json(json.loads(path.read_bytes()))
            if not manifest.states_its_digest:
                raise ValueError("it was changed: its digest is not that of its content")
        except (ValueError, OSError, RecursionError) as error:  # a ConfigError is a ValueError
            if broken is not None:
                broken(path, str(error))
            continue
        found[manifest.id] = manifest
    return dict(sorted(found.items()))


def cards_in(folders: Iterable[Path], page: Path) -> dict[str, str]:
    """Addresses of the data cards in some folders, as a page in the folder ``page`` links to them, by dataset name."""
    return {
        card.parent.name: quote(os.path.relpath(card, page).replace(os.sep, "/"))
        for folder in folders
        for card in sorted(folder.glob("*/README.md"))
        if (card.parent / schema.MANIFEST).is_file()
    }


class KnownDatasets:
    """Manifests with the images behind them, each loaded when a record first needs it.

    Args:
        manifests: by dataset id, see ``find_manifests``.
        data_dir: folder with the files of image datasets; None leaves digits, which are embedded.
    """

    def __init__(self, manifests: Mapping[str, Manifest], *, data_dir: Path | None = None) -> None:
        self._manifests, self._data_dir = manifests, data_dir
        self._images: dict[str, ImageDataset | str] = {}

    def manifest(self, dataset_id: str) -> Manifest | None:
        """The manifest of a dataset; None where it is unknown."""
        return self._manifests.get(dataset_id)

    def ids(self) -> list[str]:
        """Of all datasets."""
        return list(self._manifests)

    def images(self, manifest: Manifest) -> ImageDataset | str:
        """The images that a dataset was built from, or why they are not here."""
        if manifest.id not in self._images:
            self._images[manifest.id] = self._load(manifest)
        return self._images[manifest.id]

    def _load(self, manifest: Manifest) -> ImageDataset | str:
        config = manifest.config
        if config.image_dataset not in IMAGE_DATASETS:
            return f"{config.image_dataset} is no named image dataset, so its files are not looked for"
        if config.image_dataset != "digits" and self._data_dir is None:
            return "no folder with its files was named (--data-dir)"
        try:
            found = load_images(
                config.image_dataset,
                self._data_dir,
                limit=config.limit,
                image_size=config.image_size,
                skip_broken=manifest.images.num_broken > 0,
            )
            digest = found.sha256
        except FmcsBenchError as error:
            return str(error)
        return found if digest == manifest.images.sha256 else "the files here are other images (another SHA-256)"
