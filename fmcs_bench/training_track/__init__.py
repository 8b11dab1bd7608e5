"""Trains networks with RAL, DueHeadNet and controls.

In: an FMCS dataset, methods, RAF values, an evaluator. Out: one record for each training.
Start with ``plan`` (which trainings there are) and ``runner``.
"""
