"""Labelled images and their splits.

In: the name of an image dataset, ``folder:DIR`` or ``hub:NAME``. Out: an ``ImageDataset`` and batches of it.
Start with ``load``.
"""
