"""Fits and tests evaluators on FMCS datasets.

In: FMCS datasets and names of evaluators. Out: one record for each fit.
Start with ``runner``; ``protocol`` says who sees what, ``selection`` which evaluator goes into training.
"""
