"""What a trial leaves, and how results are summarised.

In: predictions and records of trials. Out: metrics, intervals, and the rows of the boards.
Start with ``records``; ``metrics`` has the metrics, ``statistics`` the intervals and tests.
"""
