"""Evaluators: feature maps in, a probability for each FMCS out.

In: maps and their stages. Out: a fitted evaluator, saved with its digest.
Start with ``base`` (the contract); ``models`` has one file for each evaluator.
"""
