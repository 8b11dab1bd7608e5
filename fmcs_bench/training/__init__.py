"""Trains one network: the loop, the losses, the recipes, and the convergence of a run.

In: a network, an image dataset, a recipe, a method. Out: trained weights, the loss sequence, its CQI and its stages.
Start with ``loop``; ``losses`` has RAL and the cosine constraint, ``convergence`` the CQI rule.
"""
