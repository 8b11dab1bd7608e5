"""The embedded default: scikit-learn's handwritten digits."""

from __future__ import annotations

import numpy as np

from fmcs_bench.images.base import REGISTRY, Listing, Request, from_memory


@REGISTRY.register("digits")
def digits(request: Request) -> Listing:  # noqa: ARG001  (embedded in scikit-learn)
    """1,797 grey images of 8 x 8 pixels; the source has no test images of its own."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images_NCHW = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]
    return Listing(
        labels_N=source.target.astype(np.int64),
        ids_N=np.arange(len(images_NCHW), dtype=np.int64),
        is_test_N=None,
        classes=tuple(str(i) for i in range(10)),
        licence="CC BY 4.0",
        citation=(
            "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, 1998"
        ),
        read=from_memory(images_NCHW),
    )
