"""Pages, figures and claims from records; the check of a submission.

In: records. Out: a page that works from disk.
Start with ``build``.
"""
