"""The YAML head of a data card, as the Hugging Face Hub and ``datasets`` read it.

Flow: facts -> licence, tags, sizes; configurations with their files; features and splits as ``datasets`` writes them ->
YAML. The Hub's library writes the YAML, so that no name of somebody else's can become a key.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fmcs_bench.hub.facts import Facts
from fmcs_bench.hub.parquet import features_yaml
from fmcs_bench.store.publication import ParquetSplit

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
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


def licence_fields(licence: str) -> dict[str, str]:
    """What the Hub wants to know of a licence: its identifier, or ``other`` with a name, and a link where it is a URL.

    Example:
        >>> licence_fields("CC BY-SA 3.0"), licence_fields("ask Bob")["license_name"]
        ({'license': 'cc-by-sa-3.0'}, 'ask-bob')
    """
    identifier = re.sub(r"\s+", "-", licence.strip().lower())
    if identifier in LICENCES:
        return {"license": identifier}
    name = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.")[:64] or "unnamed"
    fields = {"license": "other", "license_name": name, "license_details": licence}
    return fields | ({"license_link": licence} if re.fullmatch(r"https://\S+", licence) else {})


def size_category(num_rows: int) -> str:
    """The Hub's name of a number of rows.

    Example:
        >>> size_category(999), size_category(1000), size_category(10**12)
        ('n<1K', '1K<n<10K', 'n>1T')
    """
    above = sum(num_rows >= 10**power for power in range(3, 13))
    if above == 0:
        return f"n<{SIZES[0]}"
    return f"n>{SIZES[-1]}" if above == len(SIZES) else f"{SIZES[above - 1]}<n<{SIZES[above]}"


def pattern(files: Sequence[str]) -> str:
    """A glob for the files of one split, as ``datasets`` and the Hub take it.

    Example:
        >>> pattern(["parquet/default/test-00000-of-00002.parquet", "parquet/default/test-00001-of-00002.parquet"])
        'parquet/default/test-*-of-00002.parquet'
    """
    return files[0] if len(files) == 1 else re.sub(r"-\d+-of-", "-*-of-", files[0])


def yaml_head(facts: Facts) -> str:
    """The YAML between the two lines of ``---``, without them."""
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
    if facts.parquet:
        fields["size_categories"] = [size_category(sum(split.num_rows for split in facts.parquet))]
        fields["configs"] = [
            {
                "config_name": name,
                **({"default": True} if name == "default" else {}),
                "data_files": [{"split": split.split, "path": pattern(split.files)} for split in splits],
            }
            for name, splits in facts.splits_by_configuration.items()
        ]
        fields["dataset_info"] = [_info(name, splits, facts) for name, splits in facts.splits_by_configuration.items()]
    return str(DatasetCardData(**fields).to_yaml(original_order=list(fields)))


def _info(configuration: str, splits: Sequence[ParquetSplit], facts: Facts) -> dict[str, Any]:
    return {
        "config_name": configuration,
        "features": features_yaml(facts.manifest),
        "splits": [
            {"name": split.split, "num_bytes": split.memory_bytes, "num_examples": split.num_rows} for split in splits
        ],
        "download_size": sum(facts.files[name].num_bytes for split in splits for name in split.files),
        "dataset_size": sum(split.memory_bytes for split in splits),
    }
