"""One file for each evaluator."""
