"""Options of reading images."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field

from fmcs_bench.core.options import Options


class ImageOptions(Options):
    """Where the files of an image dataset are, and how they are read. No configuration or manifest holds them."""

    data_dir: str | Path | None = Field(
        default_factory=lambda: os.environ.get("FMCS_BENCH_DATA") or None,
        description="Folder with the files of the image dataset.",
        json_schema_extra={"envvar": "FMCS_BENCH_DATA"},
    )
    image_source: str | None = Field(
        None,
        description="folder:DIR or hub:NAME_OR_PATH that the dataset was built from.",
        json_schema_extra={"flag": "--images"},
    )
    stream_images: bool | None = Field(
        None,
        description="Decode images for every batch instead of keeping them in memory.",
        json_schema_extra={"default": "where they would take more than half of the free memory"},
    )
    skip_broken: bool = Field(False, description="Leave out images that cannot be decoded; the manifest counts them.")
    download: bool = Field(False, description="Fetch missing files of a named image dataset into --data-dir.")
