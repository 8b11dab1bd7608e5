"""The command line: commands by subject; each parses, calls one function and prints.

In: what a person types. Out: a table, or JSON.
Start with ``main``.
"""
