"""Publishes, downloads and loads FMCS datasets in the format of Hugging Face.

In: a finished FMCS dataset. Out: a folder or repository with Zarr, Parquet, data card and Croissant metadata; and back.
Start with ``publish``.
"""
