"""Builds one FMCS dataset.

In: a ``BuildConfig``. Out: training runs, their checkpoints, the maps of every stage, and the manifest, written last.
Start with ``runner``.
"""
