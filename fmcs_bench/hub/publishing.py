"""Publishing from beginning to end: a folder, and, where a repository is named, the Hub.

Flow: dataset, what is wanted of it -> size, told before anything is written -> folder -> agreement -> repository.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmcs_bench.errors import ConfigError
from fmcs_bench.hub import folder
from fmcs_bench.hub.upload import Repository, Uploaded
from fmcs_bench.progress import SILENT, Progress
from fmcs_bench.store import FmcsDataset
from fmcs_bench.store.fidelity import read as read_fidelity
from fmcs_bench.store.part import Part
from fmcs_bench.store.publication import Publication
from fmcs_bench.workspace import Workspace


@dataclass(frozen=True)
class Published:
    """What came of it; prints as a few lines.

    Attributes:
        folder: with everything.
        publication: its ``publication.json``.
        num_files: in the folder.
        num_bytes: of them.
        uploaded: None where nothing was sent.
    """

    folder: Path
    publication: Publication
    num_files: int
    num_bytes: int
    uploaded: Uploaded | None

    def __str__(self) -> str:
        rows = sum(split.num_rows for split in self.publication.parquet)
        files = f"{self.num_files:,}, {self.num_bytes / 1e6:,.1f} MB; {rows:,} rows of Parquet"
        lines = [self.publication.dataset_id, f"  files       {files}", f"  folder      {self.folder}"]
        if self.uploaded is not None:
            seen = "private" if self.uploaded.is_private else "public"
            also = "" if self.uploaded.is_new else "; it held all of this already"
            lines.append(f"  repository  {self.uploaded.url} ({seen}), revision {self.uploaded.revision}{also}")
        return "\n".join(lines)


def publish(
    dataset: FmcsDataset,
    workspace: Workspace,
    *,
    to: Path | None = None,
    repo: str | None = None,
    public: bool = False,
    wanted: Mapping[str, Iterable[Any] | None] | None = None,
    superseded_by: str | None = None,
    fidelity: Path | None = None,
    agree: Callable[[str], bool] | None = None,
    progress: Progress = SILENT,
) -> Published:
    """Make the folder, and upload it where a repository is named.

    Args:
        dataset: opened for reading.
        workspace: gets the folder of an upload where ``to`` is None.
        to: the folder.
        repo: ``owner/name`` on the Hub.
        public: let everyone see the repository, once everything is there.
        wanted: ``kinds``, ``runs``, ``stages`` and ``splits`` of the part to publish; those left out are all.
        superseded_by: the version to use instead.
        fidelity: line of ``benchmarks/fidelity.py`` about this dataset, for its card.
        agree: asked before anything is sent; None sends.
        progress: shows the work.

    Raises:
        ConfigError: neither folder nor repository, a part that is not there, or a fidelity of other datasets; see also
            ``hub.folder.make``.
        DatasetError: a file of the dataset is damaged.
        HubError: the Hub cannot be reached, or gives no permission.
    """
    if to is None and repo is None:
        raise ConfigError("name a folder (--to DIR), a repository of the Hub (--repo owner/name), or both")
    if public and repo is None:
        raise ConfigError("--public belongs to --repo: a folder is seen by whoever can read it")
    scores = None if fidelity is None else read_fidelity(fidelity, dataset.manifest)
    repository = None if repo is None else Repository(repo)  # who is not logged in hears it before hours of work
    here = {name: getattr(dataset.part, name) for name in ("kinds", "runs", "stages", "splits")}
    part = Part.of(dataset.manifest, **here | {name: values for name, values in (wanted or {}).items() if values})
    place = to or workspace.published / f"{dataset.id}-{part.digest[:8]}"
    size = folder.estimate(dataset, part) / 1e6
    progress.say(f"{dataset.id} takes about {size:,.0f} MB in {place}")
    made = folder.make(
        dataset, place, part=part, repo=repo, superseded_by=superseded_by, fidelity=scores, progress=progress
    )
    sizes = [file.stat().st_size for file in place.rglob("*") if file.is_file()]
    uploaded = None
    if repository is not None:
        seen = "everyone will see it" if public else "private"
        question = f"upload {len(sizes):,} files, {sum(sizes) / 1e6:,.1f} MB, to {repo} as {repository.user} ({seen})"
        if agree is None or agree(question):
            progress.say(question)
            uploaded = repository.upload(place, public=public)
    return Published(place, made, len(sizes), sum(sizes), uploaded)
