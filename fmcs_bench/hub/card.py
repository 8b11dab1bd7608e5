"""The data card: ``README.md`` of a published FMCS dataset. What is not ``Raw`` is escaped in the template."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fmcs_bench.build.figures import draw_runs
from fmcs_bench.core import markdown
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.options import typed_words
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.store import schema
from fmcs_bench.store.config import BuildConfig
from fmcs_bench.store.publication import CONFIGURATIONS, ParquetSplit, Part, Publication
from fmcs_bench.store.reader import FmcsDataset

FILE = "README.md"
FIGURES = "figures"
DOTS_PER_INCH = 120
LICENCES = {
    "afl-3.0", "agpl-3.0", "apache-2.0", "artistic-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "cdla-sharing-1.0", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "gfdl", "gpl", "gpl-2.0",
    "gpl-3.0", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa",
    "odbl", "odc-by", "ofl-1.1", "osl-3.0", "pddl", "postgresql", "unknown", "unlicense", "wtfpl", "zlib",
}  # fmt: skip
"""Identifiers that the Hub knows (https://huggingface.co/docs/hub/repositories-licenses)."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that a card is made of; ``repo`` is ``owner/name`` on the Hub, or None for a folder."""

    manifest: schema.Manifest
    publication: Publication
    part: Part
    repo: str | None = None
    figures: bool = True

    @property
    def configurations(self) -> dict[str, list[ParquetSplit]]:
        """The Parquet splits of each configuration, in their order."""
        found: dict[str, list[ParquetSplit]] = {}
        for split in self.publication.parquet:
            found.setdefault(split.configuration, []).append(split)
        return found

    def num_bytes(self, split: ParquetSplit) -> int:
        """Size of the files of a split."""
        return sum(self.publication.files[name].num_bytes for name in split.files)


class Raw(str):
    """Markdown that stands in the card as it is."""

    __slots__ = ()


def draw_figures(dataset: FmcsDataset, folder: Path) -> list[Path]:
    """Draw loss, CQI, stages and validation accuracy of every run as ``figures/run-<seed>.png`` of this folder."""
    return draw_runs(dataset, folder / FIGURES, "png", dpi=DOTS_PER_INCH)


def card(facts: Facts) -> str:
    """The data card of a published dataset, Markdown with a YAML head."""
    environment = Environment(
        loader=PackageLoader("fmcs_bench.hub", "templates"),
        autoescape=False,  # noqa: S701  (it is for HTML; `finalize` escapes for Markdown)
        finalize=lambda value: value if isinstance(value, Raw) else markdown.escape(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "raw": Raw,
        "code": lambda name: Raw(markdown.code(name)),
        "bibtex": lambda text: Raw(markdown.block(text, "bibtex")),
        "mb": megabytes,
        "percent": percent,
    }
    manifest, source = facts.manifest, image_source(facts.manifest.config)
    is_named = source == manifest.config.image_dataset
    num_images, libraries = manifest.images.num_images, sorted(manifest.environment.libraries.items())
    return environment.get_template("card.md.j2").render(
        head=Raw(yaml_head(facts)),
        facts=facts,
        whole=Part.of(manifest),
        configurations=CONFIGURATIONS,
        example=_example(facts),
        images_have_files=is_named and source != "digits",
        images_have_place=not is_named,
        command=_build_block(manifest),
        libraries=", ".join(f"{name} {version}" for name, version in libraries),
        images_table=Raw(markdown.rows(SPLITS, [[f"{num_images[split]:,}" for split in SPLITS]])),
        parquet_bytes=sum(map(facts.num_bytes, facts.publication.parquet)),
        software_citation=software_bibtex(manifest),
    )


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{share:.2%}".replace("%", " %")


def megabytes(num_bytes: int) -> str:
    """A size in MB (10^6 bytes)."""
    return f"{num_bytes / 1e6:,.{1 if num_bytes >= 1e5 else 4}f} MB"


def software_bibtex(manifest: schema.Manifest) -> str:
    """How to cite fmcs-bench and this dataset."""
    lines = [
        f"@misc{{{manifest.name.replace('.', '-')},",
        f"  title = {{FMCS dataset {manifest.name}, digest {manifest.dataset_digest[:12]}}},",
        "  author = {{The fmcs-bench developers}},",
        f"  year = {{{manifest.created[:4]}}},",
        f"  note = {{made with fmcs-bench {manifest.environment.fmcs_bench}}}",
    ]
    return "\n".join([*lines, "}"])


# The command that builds the dataset again


def build_command(config: BuildConfig, *, skip_broken: bool = False) -> str:
    """The command line of this configuration, with what differs from the defaults; ``/PATH/`` is the reader's place.

    Example:
        >>> build_command(BuildConfig.create(backbone="resnet50", image_dataset="folder_flowers", image_size=64))
        'fmcs-bench build --backbone resnet50 --image-size 64 --dataset folder:/PATH/flowers'
    """
    usual = BuildConfig.create(backbone=config.backbone, image_dataset=config.image_dataset)
    typed = config.model_copy(update={"image_dataset": image_source(config)})
    words = typed_words(typed, usual.model_copy(update={"backbone": "", "image_dataset": "digits"}))
    return shlex.join(["fmcs-bench", "build", *words, *(["--skip-broken"] if skip_broken else [])])


def image_source(config: BuildConfig) -> str:
    """What to type for the image dataset: its name, or its scheme and the end of its place."""
    scheme, _, rest = config.image_dataset.partition("_")
    if scheme == "hub":  # the plain name of a path loses one `.parquet`
        return f"hub:/PATH/{rest}.parquet" if rest.endswith(".parquet") else f"hub:/PATH/{rest}"
    return f"folder:/PATH/{rest}" if scheme == "folder" else config.image_dataset


def _build_block(manifest: schema.Manifest) -> Raw:
    try:
        command = build_command(manifest.config, skip_broken=manifest.images.num_broken > 0)
    except ConfigError as error:
        return Raw(markdown.escape(f"{error}. `config` in `dataset.json` has all options."))
    return Raw(markdown.block(command, "bash"))


# The YAML head


def yaml_head(facts: Facts) -> str:
    """The YAML between the two lines of ``---``; the Hub's library writes it, so that no name becomes a key."""
    from huggingface_hub import DatasetCardData

    manifest, config = facts.manifest, facts.manifest.config
    fields: dict[str, Any] = {
        **licence_fields(manifest.images.licence),
        "pretty_name": f"FMCS {config.image_dataset}, {config.backbone}, {config.image_size} px ({config.name})",
        "annotations_creators": ["machine-generated"],
        "source_datasets": [f"extended|{config.image_dataset}"],
        "task_categories": ["image-feature-extraction"],
        "tags": ["fmcs-bench", "feature-maps", "convergence", "interpretability", "zarr", "croissant"],
    }
    if facts.publication.parquet:
        fields["configs"] = [
            {
                "config_name": name,
                **({"default": True} if name == "default" else {}),
                "data_files": [{"split": split.split, "path": pattern(split.files)} for split in splits],
            }
            for name, splits in facts.configurations.items()
        ]
    return str(DatasetCardData(**fields).to_yaml(original_order=list(fields)))


def licence_fields(licence: str) -> dict[str, str]:
    """What the Hub wants to know of a licence: its identifier, or ``other`` with a name, and a link if it is a URL."""
    identifier = re.sub(r"\s+", "-", licence.strip().lower())
    if identifier in LICENCES:
        return {"license": identifier}
    name = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.")[:64] or "unnamed"
    fields = {"license": "other", "license_name": name, "license_details": licence}
    return fields | ({"license_link": licence} if re.fullmatch(r"https://\S+", licence) else {})


def pattern(files: Sequence[str]) -> str:
    """A glob for the files of one split, such as ``parquet/default/test-*-of-00002.parquet``."""
    return files[0] if len(files) == 1 else re.sub(r"-\d+-of-", "-*-of-", files[0])


def _example(facts: Facts) -> dict[str, Any]:
    """A run, stages and a split that are published, for the code on the card."""
    manifest, part = facts.manifest, facts.part
    stages = sorted({part.stages[0], part.stages[-1]})
    found = [
        (run, split)
        for run in manifest.runs
        for split in schema.splits_of(run.role)
        if run.seed in part.runs and split in part.splits
    ]
    run, split = found[0] if found else (manifest.runs[0], "train")
    of_run = schema.splits_of(run.role)
    rows = next((rows for rows in facts.publication.parquet if rows.num_rows), None)
    return {
        "has_maps": bool(found),
        "seed": run.seed,
        "split": split,
        "start": sum(manifest.images.num_images[name] for name in of_run[: of_run.index(split)]),
        "stages": Raw(stages if len(stages) > 1 else stages[0]),
        "row": stages[-1] - 1,
        "configuration": Raw(f'"{rows.configuration}", ' if rows and rows.configuration != "default" else ""),
        "parquet_split": rows.split if rows else "",
    }
