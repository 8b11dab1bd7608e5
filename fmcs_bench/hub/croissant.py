"""Croissant 1.0 metadata (https://docs.mlcommons.org/croissant) of the Parquet files of a published FMCS dataset.

Addresses are relative to ``croissant.json``: they are right in a folder and in any revision of a repository.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from fmcs_bench.hub.card import Facts, licence_fields, pattern, software_bibtex
from fmcs_bench.hub.parquet import MAPS
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
    """JSON-LD of the Parquet files: files, record sets ``<configuration>``, fields, and what labels and FMCS mean."""
    manifest, config, published = facts.manifest, facts.manifest.config, facts.publication
    classes = _enumeration("classes", "The classes of the images.", manifest.images.classes)
    meaning = "What the numbers of the field fmcs mean: the FMCS is one more."
    stages = _enumeration("scores", meaning, [str(k + 1) for k in range(config.stages)])
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
        "datePublished": published.created[:10],
        "dateCreated": manifest.created[:10],
        "creator": {"@type": "sc:Organization", "name": "The fmcs-bench developers"},
        "keywords": ["feature maps", "convergence", "FMCS", config.backbone, config.image_dataset],
        **({"url": f"https://huggingface.co/datasets/{facts.repo}"} if facts.repo else {}),
        "distribution": [
            *(_file_object(name, published.files[name]) for split in published.parquet for name in split.files),
            *(_file_set(name, splits) for name, splits in facts.configurations.items()),
        ],
        "recordSet": [
            *([classes, stages] if published.parquet else []),
            *(_record_set(name, splits, manifest) for name, splits in facts.configurations.items()),
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


def _file_object(name: str, entry: schema.FileEntry) -> dict[str, Any]:
    about = {"contentUrl": name, "contentSize": f"{entry.num_bytes} B", "sha256": entry.sha256}
    return {"@type": "cr:FileObject", "@id": name, "name": name, "encodingFormat": PARQUET_TYPE} | about


def _file_set(configuration: str, splits: list[ParquetSplit]) -> dict[str, Any]:
    name = f"{configuration}-files"
    about = {"description": f"The Parquet files of the configuration {configuration}.", "encodingFormat": PARQUET_TYPE}
    files = {"includes": [pattern(split.files) for split in splits]}
    return {"@type": "cr:FileSet", "@id": name, "name": name} | about | files


def _enumeration(name: str, description: str, texts: Iterable[str]) -> dict[str, Any]:
    fields = [
        {"@type": "cr:Field", "@id": f"{name}/{field}", "name": field, "dataType": kind}
        for field, kind in (("value", "sc:Integer"), ("name", "sc:Text"))
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "dataType": "sc:Enumeration",
        "key": {"@id": f"{name}/value"},
        "field": fields,
        "data": [{f"{name}/value": value, f"{name}/name": text} for value, text in enumerate(texts)],
    }


def _record_set(configuration: str, splits: list[ParquetSplit], manifest: schema.Manifest) -> dict[str, Any]:
    channels, height, width = manifest.map_shape
    stages, names = manifest.config.stages, [split.split for split in splits]

    def field(name: str, kind: str, description: str, source: Mapping[str, Any]) -> dict[str, Any]:
        source = {"fileSet": {"@id": f"{configuration}-files"}} | dict(source)
        about = {"@id": f"{configuration}/{name}", "name": name, "description": description, "dataType": kind}
        return {"@type": "cr:Field"} | about | {"source": source} | ({"repeated": True} if name == MAPS else {})

    def column(name: str, kind: str, description: str) -> dict[str, Any]:
        return field(name, kind, description, {"extract": {"column": name}})

    path = f"{PARQUET}/{configuration}/({'|'.join(names)})-.+\\.parquet$"
    from_path = {"extract": {"fileProperty": "fullpath"}, "transform": {"regex": path}}
    return {
        "@type": "cr:RecordSet",
        "@id": configuration,
        "name": configuration,
        "description": f"The maps of the configuration {configuration}: {sum(s.num_rows for s in splits):,} records.",
        "field": [
            field("split", "sc:Text", f"One of {', '.join(names)}.", from_path),
            column("image_id", "sc:Integer", "Id of the image."),
            column("label", "sc:Integer", "Class of the image: `value` in the record set classes."),
            column("run", "sc:Integer", "Seed of the training run."),
            column("stage", "sc:Integer", f"FMCS of the map, 1 to {stages}."),
            column("fmcs", "sc:Integer", f"The same as a class, 0 to {stages - 1}: `value` in the record set scores."),
            column("epoch", "sc:Float", "Epochs of that run until the end of that stage."),
            column(MAPS, "cr:Float16", f"{channels} x {height} x {width} values in the order channel, y, x."),
        ],
    }
