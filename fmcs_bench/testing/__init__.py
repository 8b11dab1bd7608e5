"""Conformance suites that plug-ins run.

In: a plug-in. Out: failures with their reasons.
Start with ``conformance``.
"""
