"""The command line: one file for each verb, which parses, calls one function and prints.

In: what a person types. Out: a table, or JSON.
Start with ``main``.
"""
