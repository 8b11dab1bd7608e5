"""Croissant 1.0 metadata (https://docs.mlcommons.org/croissant) of the Parquet files of a published FMCS dataset.

Flow: facts -> every Parquet file with its SHA-256, one set of files and one set of records for each configuration ->
JSON-LD. Addresses are relative to ``croissant.json``, so that they are right in a folder and in any revision of a
repository alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fmcs_bench.hub.card import software_bibtex
from fmcs_bench.hub.facts import Facts
from fmcs_bench.hub.metadata import licence_fields, pattern
from fmcs_bench.store import schema
from fmcs_bench.store.publication import PARQUET, ParquetSplit

FILE = "croissant.json"
CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
} | {
    name: f"cr:{name}"
    for name in (
        "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet",
        "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
        "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform",
    )
}  # fmt: skip
"""The specification's context; other keys would be refused by a strict reader."""
PARQUET_TYPE = "application/x-parquet"


def croissant(facts: Facts) -> dict[str, Any]:
    """JSON-LD of the Parquet files: files, record sets ``<configuration>``, fields, and what labels and FMCS mean.

    Args:
        facts: what is published; equal facts give equal metadata.

    Returns:
        JSON values; ``encode`` makes the content of ``croissant.json``.

    Example:
        >>> from fmcs_bench.hub.croissant import croissant, encode
        >>> Path("croissant.json").write_bytes(encode(croissant(facts)))  # doctest: +SKIP
    """
    manifest, config = facts.manifest, facts.manifest.config
    licence = licence_fields(manifest.images.licence)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": manifest.name,
        "description": (
            f"Feature maps of the backbone {config.backbone} at {config.stages} points of its training on "
            f"{config.image_dataset}, in {len(manifest.runs)} runs, each labelled with how converged the network was: "
            f"its feature map convergence score (FMCS), 1 to {config.stages}."
        ),
        "conformsTo": CONFORMS_TO,
        "citeAs": software_bibtex(manifest),
        "license": _licence_url(licence) or manifest.images.licence,
        "version": f"{schema.SCHEMA_VERSION}.0.0+{manifest.dataset_digest[:12]}",
        "datePublished": facts.created[:10],
        "dateCreated": manifest.created[:10],
        "creator": {"@type": "sc:Organization", "name": "The fmcs-bench developers"},
        "keywords": ["feature maps", "convergence", "FMCS", config.backbone, config.image_dataset],
        **({"url": f"https://huggingface.co/datasets/{facts.repo}"} if facts.repo else {}),
        "distribution": [
            *(_file_object(name, facts.files) for split in facts.parquet for name in split.files),
            *(_file_set(name, splits) for name, splits in facts.splits_by_configuration.items()),
        ],
        "recordSet": [
            *([_classes(manifest), _stages(manifest)] if facts.parquet else []),
            *(_record_set(name, splits, manifest) for name, splits in facts.splits_by_configuration.items()),
        ],
    }


def encode(value: Mapping[str, Any]) -> bytes:
    """The content of ``croissant.json``; a page can hold it in a ``<script>``, whatever the names of classes are."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode()


def _licence_url(fields: Mapping[str, str]) -> str | None:
    """The address of a licence: of Creative Commons' deeds, of the others in SPDX's list."""
    identifier = fields["license"]
    if "license_link" in fields:
        return fields["license_link"]
    if identifier.startswith("cc-"):
        kind, _, version = identifier.removeprefix("cc-").rpartition("-")
        return f"https://creativecommons.org/licenses/{kind}/{version}/"
    spdx = {"cc0-1.0": "CC0-1.0", "mit": "MIT", "apache-2.0": "Apache-2.0"}
    return f"https://spdx.org/licenses/{spdx[identifier]}.html" if identifier in spdx else None


def _file_object(name: str, files: Mapping[str, schema.FileEntry]) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{files[name].num_bytes} B",
        "sha256": files[name].sha256,
        "encodingFormat": PARQUET_TYPE,
    }


def _file_set(configuration: str, splits: list[ParquetSplit]) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{configuration}-files",
        "name": f"{configuration}-files",
        "description": f"The Parquet files of the configuration {configuration}.",
        "encodingFormat": PARQUET_TYPE,
        "includes": [pattern(split.files) for split in splits],
    }


def _classes(manifest: schema.Manifest) -> dict[str, Any]:
    rows = list(enumerate(manifest.images.classes))
    return _enumeration("classes", "The classes of the images.", rows)


def _stages(manifest: schema.Manifest) -> dict[str, Any]:
    rows = [(k, str(k + 1)) for k in range(manifest.config.stages)]
    return _enumeration("scores", "What the numbers of the field fmcs mean: the FMCS is one more.", rows)


def _enumeration(name: str, description: str, rows: list[tuple[int, str]]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "dataType": "sc:Enumeration",
        "key": {"@id": f"{name}/value"},
        "field": [
            {"@type": "cr:Field", "@id": f"{name}/value", "name": "value", "dataType": "sc:Integer"},
            {"@type": "cr:Field", "@id": f"{name}/name", "name": "name", "dataType": "sc:Text"},
        ],
        "data": [{f"{name}/value": value, f"{name}/name": text} for value, text in rows],
    }


def _record_set(configuration: str, splits: list[ParquetSplit], manifest: schema.Manifest) -> dict[str, Any]:
    channels, height, width = manifest.map_shape
    stages = manifest.config.stages
    columns: tuple[tuple[str, str, str], ...] = (
        ("image_id", "sc:Integer", "Id of the image."),
        ("label", "sc:Integer", "Class of the image: `value` in the record set classes."),
        ("run", "sc:Integer", "Seed of the training run."),
        ("stage", "sc:Integer", f"FMCS of the map, 1 to {stages}."),
        ("fmcs", "sc:Integer", f"The same as a class, 0 to {stages - 1}: `value` in the record set scores."),
        ("epoch", "sc:Float", "Epochs of that run until the end of that stage."),
        ("feature_map", "cr:Float16", f"{channels} x {height} x {width} values in the order channel, y, x."),
    )
    source = {"fileSet": {"@id": f"{configuration}-files"}}
    fields: list[dict[str, Any]] = [
        {
            "@type": "cr:Field",
            "@id": f"{configuration}/split",
            "name": "split",
            "description": f"One of {', '.join(split.split for split in splits)}.",
            "dataType": "sc:Text",
            "source": {
                **source,
                "extract": {"fileProperty": "fullpath"},
                "transform": {
                    "regex": f"{PARQUET}/{configuration}/({'|'.join(split.split for split in splits)})-.+\\.parquet$"
                },
            },
        }
    ]
    for name, kind, description in columns:
        field = {
            "@type": "cr:Field",
            "@id": f"{configuration}/{name}",
            "name": name,
            "description": description,
            "dataType": kind,
            "source": {**source, "extract": {"column": name}},
        }
        fields.append(field | ({"repeated": True} if name == "feature_map" else {}))
    return {
        "@type": "cr:RecordSet",
        "@id": configuration,
        "name": configuration,
        "description": f"The maps of the configuration {configuration}: {sum(s.num_rows for s in splits):,} records.",
        "field": fields,
    }
