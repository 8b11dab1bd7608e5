"""The JSON Schema of all records, for who writes or reads them without this package.

Flow: pydantic models -> JSON Schema (draft 2020-12), unknown keys refused -> ``leaderboard/schema.json``.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from fmcs_bench.results.records import SCHEMA_VERSION, EvaluatorRecord, TrainingRecord

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def record_schema() -> dict[str, Any]:
    """The schema of a record file of either track.

    What it cannot say (the key, the address, the metrics of the predictions) is checked by ``check``.

    Example:
        >>> schema = record_schema()
        >>> schema["discriminator"]["propertyName"], schema["$defs"]["Cost"]["additionalProperties"]
        ('track', False)
    """
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[EvaluatorRecord | TrainingRecord, Field(discriminator="track")])
    schema = adapter.json_schema(mode="validation")
    for kind in ("EvaluatorRecord", "TrainingRecord"):  # pydantic lets what has a default be left out; a file has them
        required = schema["$defs"][kind]["required"]
        schema["$defs"][kind]["required"] = sorted({*required, "schema_version", "track"})
    for part in schema["$defs"].values():  # the first paragraph; examples are for Python
        part["description"] = part.get("description", "").split("\n\n")[0]
    return {
        "$schema": DIALECT,
        "title": f"fmcs-bench record, schema version {SCHEMA_VERSION}",
        "description": "At <track>/<dataset>@<digest>/<settings>/<method>/seed-<n>.json, beside its predictions file.",
        **schema,
    }
