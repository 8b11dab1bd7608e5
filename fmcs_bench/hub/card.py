"""The data card: ``README.md`` of a published FMCS dataset.

Flow: facts -> YAML head, tables and sentences -> template -> Markdown. Nothing else is read, so that a card can be made
again from manifest and ``publication.json``, byte for byte. What is not ``Raw`` is escaped in the template.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fmcs_bench.build.figures import draw_runs
from fmcs_bench.core import markdown
from fmcs_bench.core.errors import ConfigError
from fmcs_bench.hub.build_command import build_call, build_command, image_source
from fmcs_bench.hub.facts import Facts
from fmcs_bench.hub.metadata import licence_fields, yaml_head
from fmcs_bench.images.base import UNKNOWN
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.store import schema
from fmcs_bench.store.publication import CONFIGURATIONS, Fidelity, Interval, Part
from fmcs_bench.store.reader import FmcsDataset

FILE = "README.md"
FIGURES = "figures"
DOTS_PER_INCH = 120
MOST_CLASSES = 30
"""So many classes are named on the card; the manifest names all."""


class Raw(str):
    """Markdown that stands in the card as it is."""

    __slots__ = ()


def draw_figures(dataset: FmcsDataset, folder: Path) -> list[Path]:
    """Draw loss, CQI, stages and validation accuracy of every run as the card shows them.

    Args:
        dataset: opened for reading; a part will do.
        folder: of the publication; the files are ``figures/run-<seed>.png`` in it.
    """
    return draw_runs(dataset, folder / FIGURES, "png", dpi=DOTS_PER_INCH)


def card(facts: Facts) -> str:
    """The data card of a published dataset, Markdown with a YAML head.

    Args:
        facts: what is published; equal facts give equal bytes.

    Example:
        >>> from fmcs_bench.hub.card import card
        >>> Path("README.md").write_text(card(facts), encoding="utf-8")  # doctest: +SKIP
    """
    environment = Environment(
        loader=PackageLoader("fmcs_bench.hub", "templates"),
        autoescape=False,  # noqa: S701  (it is for HTML; `finalize` escapes for Markdown)
        finalize=_escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"raw": Raw, "code": lambda name: Raw(markdown.code(name))}
    return environment.get_template("card.md.j2").render(_context(facts))


def _escaped(value: Any) -> str:
    return value if isinstance(value, Raw) else markdown.escape(str(value))


def _context(facts: Facts) -> dict[str, Any]:
    manifest, published = facts.manifest, facts.published
    config, images, map_bytes = manifest.config, manifest.images, manifest.bytes_under(schema.MAPS)
    return {
        "head": Raw(yaml_head(facts)),
        "manifest": manifest,
        "config": config,
        "images": images,
        "facts": facts,
        "is_part": facts.part is not None and not facts.part.is_whole(manifest),
        "published": published,
        "left_out": Raw("\n".join(f"- {line}" for line in _left_out(facts))),
        "kinds": published.kinds,
        "shape": Raw(" x ".join(map(str, manifest.map_shape))),
        "shape_tuple": Raw(manifest.map_shape),
        "example": _example(facts),
        "place": Raw(facts.place),
        "dataset_place": Raw(facts.repo or facts.place),
        "images_have_files": config.image_dataset != "digits" and image_source(config) == config.image_dataset,
        "images_have_place": image_source(config) != config.image_dataset,
        "command": _build_block(manifest),
        "sized": _sized(images.statistics.size),
        "libraries": ", ".join(f"{name} {version}" for name, version in sorted(manifest.environment.libraries.items())),
        "runs": [_run(run) for run in manifest.runs],
        "seeds": Raw(", ".join(f"{run.seed} ({run.role})" for run in manifest.runs)),
        "split_table": Raw(_split_table(facts)),
        "images_table": Raw(markdown.rows(SPLITS, [[f"{images.num_images[split]:,}" for split in SPLITS]])),
        "classes": ", ".join(images.classes[:MOST_CLASSES]),
        "num_more_classes": max(0, len(images.classes) - MOST_CLASSES),
        "map_megabytes": megabytes(map_bytes),
        "raw_megabytes": megabytes(manifest.raw_bytes),
        "ratio": cut(manifest.raw_bytes / map_bytes, 2),
        "stored_megabytes": megabytes(manifest.stored_bytes),
        "checkpoint_megabytes": megabytes(manifest.bytes_under(schema.CHECKPOINTS)),
        "parquet_megabytes": megabytes(
            sum(facts.files[name].num_bytes for split in facts.parquet for name in split.files)
        ),
        "fidelity_table": Raw("" if facts.fidelity is None else _fidelity_table(facts.fidelity)),
        "limits": Raw("\n".join(f"- {line}" for line in _limits(manifest))),
        "licence_is_known": images.licence != UNKNOWN,
        "licence": licence_fields(images.licence),
        "citation": _citation(images.citation),
        "software_citation": Raw(markdown.block(software_bibtex(manifest), "bibtex")),
    }


def cut(value: float, digits: int) -> str:
    """A number with so many digits after the point, cut off and never rounded up.

    Example:
        >>> cut(1.999, 2), cut(12345.67, 1), cut(0.29, 2)
        ('1.99', '12,345.6', '0.29')
    """
    return _cut(Decimal(repr(value)), digits)


def percent(share: float) -> str:
    """A share with two digits of its percentage, cut off.

    Example:
        >>> percent(0.293), percent(2 / 3)
        ('29.30 %', '66.66 %')
    """
    return f"{_cut(100 * Decimal(repr(share)), 2)} %"


def _cut(value: Decimal, digits: int) -> str:
    # Decimal takes the digits that are shown: 100 * 0.293 is below 29.3 as a float.
    return f"{value.quantize(Decimal(1).scaleb(-digits), ROUND_DOWN):,}"


def megabytes(num_bytes: int) -> str:
    """A size in MB (10^6 bytes), cut off.

    Example:
        >>> megabytes(45_848_132), megabytes(999)
        ('45.8 MB', '0.0009 MB')
    """
    return f"{cut(num_bytes / 1e6, 1 if num_bytes >= 1e5 else 4)} MB"


def software_bibtex(manifest: schema.Manifest) -> str:
    """How to cite fmcs-bench and this dataset."""
    return "\n".join(
        [
            f"@misc{{{manifest.name.replace('.', '-')},",
            f"  title = {{FMCS dataset {manifest.name}, digest {manifest.dataset_digest[:12]}}},",
            "  author = {{The fmcs-bench developers}},",
            f"  year = {{{manifest.created[:4]}}},",
            f"  note = {{made with fmcs-bench {manifest.environment.fmcs_bench}}}",
            "}",
        ]
    )


def _build_block(manifest: schema.Manifest) -> Raw:
    skip = manifest.images.num_broken > 0
    try:
        return Raw(markdown.block(build_command(manifest.config, skip_broken=skip), "bash"))
    except ConfigError:  # an option that only Python has
        return Raw(markdown.block(build_call(manifest.config, skip_broken=skip), "py"))


def _example(facts: Facts) -> dict[str, Any]:
    """A run, stages and a split that are published, for the code on the card."""
    manifest, published = facts.manifest, facts.published
    stages = sorted({published.stages[0], published.stages[-1]})
    found = [
        (run, split)
        for run in manifest.runs
        for split in schema.splits_of(run.role)
        if run.seed in published.runs and split in published.splits
    ]
    run, split = found[0] if found else (manifest.runs[0], "train")
    of_run = schema.splits_of(run.role)
    rows = next((rows for rows in facts.parquet if rows.num_rows), None)
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


def _sized(size: tuple[int, int] | str) -> str:
    return "of various sizes" if isinstance(size, str) else f"of {size[0]} x {size[1]} pixels"


def _run(run: schema.RunInfo) -> dict[str, Any]:
    head = ["FMCS", "epoch", "step", "training loss (nats)", "validation accuracy", "way to convergence"]
    body = [
        [
            str(stage.stage),
            f"{stage.epoch:.2f}",
            f"{stage.step:,}",
            f"{stage.train_loss:.4f}",
            percent(stage.validation_accuracy),
            f"{stage.progress:.3f}",
        ]
        for stage in run.stages
    ]
    return {
        "seed": run.seed,
        "role": run.role,
        "num_images": f"{run.num_images:,}",
        "figure": Raw(f"{FIGURES}/{schema.run_group(run.seed)}.png"),
        "epoch": f"{run.convergence_epoch:.2f}",
        "stages": Raw(markdown.rows(head, body)),
    }


def _split_table(facts: Facts) -> str:
    body = []
    for split in facts.parquet:
        role, images = CONFIGURATIONS[split.configuration][split.split]
        seeds = [str(run.seed) for run in facts.manifest.runs if run.role == role and run.seed in facts.published.runs]
        body.append(
            [
                markdown.code(split.configuration),
                markdown.code(split.split),
                f"{role} ({_listed(seeds)})",
                images,
                f"{split.num_rows:,}",
                str(len(split.files)),
                megabytes(sum(facts.files[name].num_bytes for name in split.files)),
            ]
        )
    return markdown.rows(["configuration", "split", "runs (seeds)", "images", "rows", "files", "size"], body)


def _fidelity_table(fidelity: Fidelity) -> str:
    """Evaluators by their MAE on the lossless maps."""
    body = [
        [
            markdown.code(name),
            _stages(scores.mae, ".3f"),
            _stages(scores.mae_difference, "+.4f"),
            f"{100 * scores.changed.mean:.3f} %",
            f"{scores.probability.mean:.2g}",
            f"{scores.probability.largest:.2g}",
            str(scores.mae.num),
        ]
        for name, scores in sorted(fidelity.evaluators.items(), key=lambda item: (item[1].mae.mean, item[0]))
    ]
    head = [
        "evaluator",
        "MAE",
        "change of MAE",
        "maps with another stage",
        "change of a probability",
        "the largest",
        "fits",
    ]
    return markdown.rows(head, body)


def _stages(value: Interval, form: str) -> str:
    interval = "" if value.low is None else f" [{value.low:{form}}, {value.high:{form}}]"
    return markdown.escape(f"{value.mean:{form}}{interval}")


def _left_out(facts: Facts) -> list[str]:
    """A sentence for everything of the dataset that a part does not hold."""
    if facts.part is None:
        return []
    whole, found = Part.of(facts.manifest), []
    names = {"kinds": "kinds of files", "runs": "runs (seeds)", "stages": "stages", "splits": "splits of the images"}
    for field, name in names.items():
        here, every = getattr(facts.part, field), getattr(whole, field)
        missing = [value for value in every if value not in here]
        if missing:
            found.append(f"{name}: here {_listed(here) or 'none'}; left out {_listed(missing)}")
    return found


def _limits(manifest: schema.Manifest) -> list[str]:
    """What the data cannot show, as far as the manifest tells."""
    config, images = manifest.config, manifest.images
    channels, height, width = manifest.map_shape
    training = sum(run.role == "training" for run in manifest.runs)
    last = [run.stages[-1].validation_accuracy for run in manifest.runs]
    runs = f"{training} training run{'s' if training != 1 else ''}, one validation run, one test run."
    accuracy = f"{percent(min(last))} to {percent(max(last))}, by run"
    lines = [
        "One backbone, one set of images, one recipe of training. What a judge learns here need not hold for others.",
        f"{runs} Results on the test run do not tell how much runs differ: there is only one.",
        f"Converged means that CQI stays under {config.convergence.threshold:g} nats per epoch, and nothing else.",
        f"Validation accuracy at stage {config.stages}: {accuracy}; guessing gives {percent(1 / len(images.classes))}.",
        "A stage ends at the first checkpoint that has gone its share of the way; the tables say how far that is.",
    ]
    if max(last) < 0.5:
        lines.append("No backbone classifies half of the validation images correctly, even at the last stage.")
    if height * width == 1:
        lines.append(f"The maps have one position: {channels:,} numbers without any arrangement in space.")
    if config.limit is not None:
        lines.append(f"At most {config.limit:,} images of each split were used (`--limit`).")
    if images.num_broken:
        lines.append(f"{images.num_broken:,} images could not be read and were left out.")
    if manifest.map_error is not None:
        lines.append("The maps are lossy; see Size and fidelity.")
    if config.backbone_options.pretrained:
        lines.append("The runs started from published weights, so stage 1 is not near a random network.")
    if config.recipe.precision != "float32":
        lines.append(f"Training and maps were computed in {config.recipe.precision} (mixed precision).")
    return lines


def _citation(text: str) -> Raw:
    """BibTeX as a block, a sentence as a sentence."""
    if text.lstrip().startswith("@"):
        return Raw(markdown.block(text, "bibtex"))
    return Raw(f"Images: {markdown.escape(text)}")


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)
