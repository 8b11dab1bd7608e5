"""Runs trials: on this machine, or on Ray.

In: independent trials, as picklable descriptions. Out: their results, in order, or why they failed.
Start with ``local``; ``ray`` has the same interface.
"""
