"""fmcs-bench: feature-map data sets labelled by convergence, and a benchmark of the networks that judge them."""

__version__ = "0.1.0"
