"""What every room uses: errors, options, the registry, seeds, atomic files, progress, environment, workspace.

In: nothing of this package. Out: small tools without torch.
Start with ``options`` (the validated base of every configuration and record) and ``errors``.
"""
