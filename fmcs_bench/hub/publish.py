"""Publishing from beginning to end: a folder, and, where a repository or a URL is named, a copy of it there.

Flow: dataset, what is wanted of it -> size, told before anything is written -> folder -> agreement -> repository, or
the place of a URL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import Workspace
from fmcs_bench.hub import bucket, folder
from fmcs_bench.hub.upload import Repository, Uploaded
from fmcs_bench.store.location import Location
from fmcs_bench.store.publication import Part, Publication, read_fidelity
from fmcs_bench.store.reader import FmcsDataset


@dataclass(frozen=True)
class Copied:
    """What came of a copy to a URL.

    Attributes:
        url: of the place, without secrets.
        is_new: something was sent; otherwise all of it was there.
    """

    url: str
    is_new: bool


@dataclass(frozen=True)
class Published:
    """What came of it; prints as a few lines.

    Attributes:
        folder: with everything.
        publication: its ``publication.json``.
        num_files: in the folder.
        num_bytes: of them.
        uploaded: None where nothing was sent to the Hub.
        copied: None where nothing was copied to a URL.
    """

    folder: Path
    publication: Publication
    num_files: int
    num_bytes: int
    uploaded: Uploaded | None
    copied: Copied | None = None

    def __str__(self) -> str:
        rows = sum(split.num_rows for split in self.publication.parquet)
        files = f"{self.num_files:,}, {self.num_bytes / 1e6:,.1f} MB; {rows:,} rows of Parquet"
        lines = [self.publication.dataset_id, f"  files       {files}", f"  folder      {self.folder}"]
        if self.uploaded is not None:
            seen = "private" if self.uploaded.is_private else "public"
            also = "" if self.uploaded.is_new else "; it held all of this already"
            lines.append(f"  repository  {self.uploaded.url} ({seen}), revision {self.uploaded.revision}{also}")
        if self.copied is not None:
            also = "" if self.copied.is_new else " (it held all of this already)"
            lines.append(f"  place       {self.copied.url}{also}")
        return "\n".join(lines)


def publish(
    dataset: FmcsDataset,
    workspace: Workspace,
    *,
    to: Location | None = None,
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
        workspace: gets the folder where ``to`` is none.
        to: the folder; or a place elsewhere, which gets a copy of it.
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
        WorkspaceError: the place cannot be written.
        HubError: the Hub cannot be reached, or gives no permission.
    """
    if to is None and repo is None:
        raise ConfigError("name a folder or URL (--to), a repository of the Hub (--repo owner/name), or both")
    if public and repo is None:
        raise ConfigError("--public belongs to --repo: a folder is seen by whoever can read it")
    scores = None if fidelity is None else read_fidelity(fidelity, dataset.manifest)
    repository = None if repo is None else Repository(repo)  # who is not logged in hears it before hours of work
    elsewhere = to if to is not None and to.local is None else None
    if elsewhere is not None:
        bucket.look(elsewhere)  # and so does who may not read there
    here = {name: getattr(dataset.part, name) for name in ("kinds", "runs", "stages", "splits")}
    part = Part.of(dataset.manifest, **here | {name: values for name, values in (wanted or {}).items() if values})
    local = None if to is None else to.local
    place = local or workspace.published / f"{dataset.id}-{part.digest[:8]}"
    size = folder.estimate(dataset, part) / 1e6
    progress.say(f"{dataset.id} takes about {size:,.0f} MB in {place}")
    made = folder.make(
        dataset, place, part=part, repo=repo, superseded_by=superseded_by, fidelity=scores, progress=progress
    )
    sizes = [file.stat().st_size for file in place.rglob("*") if file.is_file()]
    uploaded, copied = None, None
    what = f"{len(sizes):,} files, {sum(sizes) / 1e6:,.1f} MB"
    if repository is not None:
        seen = "everyone will see it" if public else "private"
        question = f"upload {what}, to {repo} as {repository.user} ({seen})"
        if agree is None or agree(question):
            progress.say(question)
            uploaded = repository.upload(place, public=public)
    if elsewhere is not None:
        question = f"copy {what}, to {elsewhere}"
        if agree is None or agree(question):
            progress.say(question)
            copied = Copied(str(elsewhere), bucket.copy(place, elsewhere, progress=progress))
    return Published(place, made, len(sizes), sum(sizes), uploaded, copied)
