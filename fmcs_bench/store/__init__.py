"""The FMCS dataset on disk, schema 1: schema, writer, reader."""

from fmcs_bench.store.reader import FmcsDataset, open_dataset
from fmcs_bench.store.schema import Manifest, RunFile, Stage
from fmcs_bench.store.selection import MapSelection, MapSet
from fmcs_bench.store.writer import DatasetWriter

__all__ = [
    "DatasetWriter", "FmcsDataset", "Manifest", "MapSelection", "MapSet", "RunFile", "Stage", "open_dataset",
]  # fmt: skip
