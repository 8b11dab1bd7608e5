"""What a published FMCS dataset says of itself, for its card and its Croissant metadata.

Flow: manifest, ``publication.json``, ``part.json``, name of the repository -> ``Facts`` -> ``card``, ``croissant``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fmcs_bench.store import schema
from fmcs_bench.store.publication import Fidelity, ParquetSplit, Part, Publication


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything that a card is made of; equal facts give equal bytes.

    Attributes:
        manifest: of the dataset.
        parquet: the Parquet files, by configuration and split; empty where none are published.
        files: size and SHA-256 of at least every file of ``parquet``.
        created: when it was published, ISO 8601; ``Publication.created``.
        part: what is published of the dataset; None is all.
        repo: ``owner/name`` of the dataset repository on the Hugging Face Hub; None for a folder.
        superseded_by: repository or URL of the version to use instead.
        fidelity: what lossy storage does to the scores of evaluators, where it was measured.
    """

    manifest: schema.Manifest
    parquet: tuple[ParquetSplit, ...]
    files: Mapping[str, schema.FileEntry]
    created: str
    part: Part | None = None
    repo: str | None = None
    superseded_by: str | None = None
    fidelity: Fidelity | None = None

    @classmethod
    def of(
        cls, manifest: schema.Manifest, publication: Publication, *, part: Part | None = None, repo: str | None = None
    ) -> Facts:
        """The facts of a folder that is published already.

        Example:
            >>> from fmcs_bench.hub.facts import Facts
            >>> Facts.of(manifest, publication, repo="owner/name")  # doctest: +SKIP
        """
        return cls(
            manifest=manifest,
            parquet=publication.parquet,
            files=publication.files,
            created=publication.created,
            part=part,
            repo=repo,
            superseded_by=publication.superseded_by,
            fidelity=publication.fidelity,
        )

    @property
    def published(self) -> Part:
        """What is published, whether all or a part."""
        return self.part if self.part is not None else Part.of(self.manifest)

    @property
    def place(self) -> str:
        """Where code finds the folder: a URL, or ``DIR`` for the reader to replace."""
        return f"hf://datasets/{self.repo}" if self.repo else "DIR"

    @property
    def splits_by_configuration(self) -> dict[str, list[ParquetSplit]]:
        """The Parquet splits of each configuration, in their order."""
        found: dict[str, list[ParquetSplit]] = {}
        for split in self.parquet:
            found.setdefault(split.configuration, []).append(split)
        return found
