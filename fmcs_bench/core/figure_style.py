"""The look of all figures, and how they become files.

The ground is white, on a light and on a dark page. The colours of series are those of Okabe and Ito that are dark
enough for white paper; they differ with every common kind of colour vision.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from matplotlib import style
from matplotlib.figure import Figure

from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError

PAPER, BAND, GRID, MUTED, INK = "#ffffff", "#f4f6f8", "#dde2e8", "#667280", "#1c2530"
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#b0578d"
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.facecolor": PAPER,
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.edgecolor": "none",
    "legend.facecolor": PAPER,
    "legend.labelcolor": INK,
    "pdf.fonttype": 42,  # TrueType, which journals ask for
    "svg.fonttype": "path",
    "svg.hashsalt": "fmcs-bench",
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}


_METADATA: dict[str, dict[str, str | None]] = {
    "svg": dict.fromkeys(("Creator", "Date", "Format", "Type")),
    "pdf": {"CreationDate": None, "Creator": "fmcs-bench"},
    "png": {"Software": "fmcs-bench"},
}


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib's defaults and ours; a matplotlibrc of the user changes nothing, and its settings come back."""
    with style.context(["default", STYLE]):
        yield


@house_style()
def encode(figure: Figure, kind: Literal["svg", "png", "pdf"], *, dpi: int = 200) -> bytes:
    """A file's bytes, equal for equal figures with one version of Matplotlib; ``dpi`` is for PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi if kind == "png" else "figure", metadata=_METADATA[kind])
    return buffer.getvalue()


def save(figure: Figure, path: Path, *, dpi: int = 200) -> None:
    """Write a figure, whole or not at all; its kind is that of ``require_kind``."""
    files.write_atomically(path, encode(figure, require_kind(path), dpi=dpi))


def require_kind(path: Path) -> Literal["svg", "png", "pdf"]:
    """The kind of a figure's file, by its ending; asked before long work whose result is the figure."""
    for kind in ("svg", "png", "pdf"):
        if path.suffix == f".{kind}":
            return kind
    raise ConfigError(f"cannot save a figure as {path.name}; the name must end in .svg, .png or .pdf")


def short(name: str, length: int = 48) -> str:
    """A name as the figures' font can draw it, and not longer than there is room for."""
    plain = name.encode("ascii", "replace").decode()
    return plain if len(plain) <= length else f"{plain[: length - 1]}~"
