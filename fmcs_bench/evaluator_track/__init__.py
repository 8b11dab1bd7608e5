"""Fits and tests evaluators on FMCS datasets.

In: FMCS datasets and names of evaluators. Out: one record for each fit.
Start with ``runner``; ``protocol`` has the sides of a dataset, ``selection`` the evaluator that goes into training.
"""
