"""An FMCS dataset on disk.

In: maps, run by run and stage by stage. Out: a Zarr store with a manifest, read in any order and in batches.
Start with ``schema`` (what is on disk) and ``reader`` (``FmcsDataset``).
"""
