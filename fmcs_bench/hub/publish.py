"""Publishes an FMCS dataset, or a part of it: a folder that is a Hugging Face dataset repository, and its upload.

The folder is filled beside its place and comes there by one rename; ``publication.json`` has the SHA-256 of its files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fmcs_bench import __version__
from fmcs_bench.core import environment, files
from fmcs_bench.core.errors import ConfigError, DatasetError
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.hub import parquet, upload
from fmcs_bench.hub.card import FILE as CARD
from fmcs_bench.hub.card import Facts, card, draw_figures
from fmcs_bench.hub.croissant import FILE as CROISSANT
from fmcs_bench.hub.croissant import croissant, encode
from fmcs_bench.store import publication, schema
from fmcs_bench.store.location import Location
from fmcs_bench.store.publication import PART, Part, Publication, read_fidelity
from fmcs_bench.store.reader import FmcsDataset, check_files, find_dataset, read_part


@dataclass(frozen=True)
class Published:
    """What came of it, and what was sent to the Hub (``uploaded``) or a URL (``copied``); prints as a few lines."""

    folder: Path
    publication: Publication
    num_files: int
    num_bytes: int
    uploaded: upload.Sent | None = None
    copied: upload.Sent | None = None

    def __str__(self) -> str:
        rows = sum(split.num_rows for split in self.publication.parquet)
        size = f"{self.num_files:,}, {self.num_bytes / 1e6:,.1f} MB; {rows:,} rows of Parquet"
        lines = [self.publication.dataset_id, f"  files       {size}", f"  folder      {self.folder}"]
        lines += [f"  repository  {self.uploaded}"] if self.uploaded is not None else []
        lines += [f"  place       {self.copied}"] if self.copied is not None else []
        return "\n".join(lines)


def publish(
    dataset: FmcsDataset | PathLike,
    *,
    to: PathLike | None = None,
    repo: str | None = None,
    public: bool = False,
    only: Iterable[str] = (),
    runs: Iterable[int] = (),
    stages: Iterable[int] = (),
    splits: Iterable[str] = (),
    superseded_by: str | None = None,
    fidelity: PathLike | None = None,
    workspace: PathLike | None = None,
    agree: Callable[[str], bool] | None = None,
    progress: Progress = SILENT,
) -> Published:
    """Make a Hugging Face dataset repository of an FMCS dataset, in a folder, on the Hub or at a URL such as a bucket.

    A killed call goes on with the files that are whole. Of what was published before only the texts change.

    Args:
        dataset: opened, or a name or path.
        to: the folder or URL; new, empty, or an earlier publication of the same. With a URL, or ``repo`` alone, the
            folder lies in the workspace.
        repo: ``owner/name`` on the Hub; private unless ``public``.
        public: let everyone see the repository, once everything is there.
        only: ``maps``, ``parquet``, ``checkpoints``; none means all, as for the next three.
        runs: seeds.
        stages: FMCS, 1 .. K.
        splits: ``train``, ``validation``, ``test``, ``unseen``.
        superseded_by: repository or URL of the version to use instead; opening this one warns then.
        fidelity: file with the line of ``benchmarks/fidelity.py`` about this dataset; its card shows it.
        workspace: see ``default_workspace``.
        agree: asked before anything is sent, with what is about to be sent; None sends.
        progress: shows the work; silent by default.

    Raises:
        ConfigError: neither folder nor repository, a part that is not there, or a folder or repository that holds
            something else.
        DatasetError: a file of the dataset is damaged.
        WorkspaceError: the place cannot be written.
        HubError: the Hub cannot be reached, or gives no permission.
    """
    place = Workspace(workspace)
    found = find_dataset(place, dataset)
    if to is None and repo is None:
        raise ConfigError("name a folder or URL (--to), a repository of the Hub (--repo owner/name), or both")
    if public and repo is None:
        raise ConfigError("--public belongs to --repo: everyone who can read a folder sees it")
    scores = None if fidelity is None else read_fidelity(Path(fidelity), found.manifest)
    repository = None if repo is None else upload.Repository(repo)  # errors of the login come before hours of work
    goal = None if to is None else Location(os.fspath(to))
    if goal is not None and goal.local is None:
        upload.look(goal)
    here = found.part
    part = Part.of(
        found.manifest,
        kinds=only or here.kinds,  # type: ignore[arg-type]  # it is validated there
        runs=runs or here.runs,
        stages=stages or here.stages,
        splits=splits or here.splits,
    )
    folder = goal.local if goal is not None else None
    folder = folder or place.published / f"{found.id}-{part.digest[:8]}"
    changes = {name: value for name, value in (("superseded_by", superseded_by), ("fidelity", scores)) if value}
    before = _published_before(found, folder, part) if folder.is_dir() and any(folder.iterdir()) else None
    if before is not None:
        made = _write_texts(found, folder, part, repo, before.model_copy(update=changes))
    else:
        work, described = _fill(found, folder, part, progress)
        made = _write_texts(found, work, part, repo, described.model_copy(update=changes))
        if folder.is_dir():
            folder.rmdir()  # it is empty
        work.replace(folder)
    sizes = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    what = f"{len(sizes):,} files, {sum(sizes) / 1e6:,.1f} MB"

    def is_agreed(question: str) -> bool:
        agreed = agree is None or agree(question)
        progress.say(question) if agreed else None
        return agreed

    uploaded, copied = None, None
    if repository is not None:
        seen = "everyone will see it" if public else "private"
        if is_agreed(f"upload {what}, to {repo} as {repository.user} ({seen})"):
            uploaded = repository.upload(folder, public=public)
    if goal is not None and goal.local is None and is_agreed(f"copy {what}, to {goal}"):
        copied = upload.copy(folder, goal, progress=progress)
    return Published(folder, made, len(sizes), sum(sizes), uploaded, copied)


def _fill(dataset: FmcsDataset, folder: Path, part: Part, progress: Progress) -> tuple[Path, Publication]:
    """Everything but the texts, in an unfinished folder beside, and its description; files that are there stay."""
    if (folder.exists() and not folder.is_dir()) or folder.is_symlink():
        raise ConfigError(f"{folder} is no folder; choose a different place to publish to")
    digests = f"{dataset.manifest.dataset_digest[:12]}-{part.digest[:8]}"
    work = folder.absolute().with_name(f".{folder.name}.{digests}.unfinished")
    names = _part_files(dataset, part)
    for leftover in work.rglob("*.part"):
        leftover.unlink()
    with progress.task(f"copying and checking {dataset.manifest.name}", len(names)) as task:
        for name in names:
            if not (work / name).is_file():
                files.write_atomically(work / name, dataset.read_file(name))
            task.advance()
    splits = parquet.export(dataset, work, part, resume=True, progress=progress) if "parquet" in part.kinds else ()
    draw_figures(dataset, work)
    files.write_atomically(work / schema.MANIFEST, dataset.location.read_bytes(schema.MANIFEST))
    if not part.is_whole(dataset.manifest):
        files.write_atomically(work / PART, files.to_json(part.to_json()))
    names = sorted(path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file())
    others = {*dataset.manifest.files, CARD, CROISSANT, publication.FILE}
    described = Publication(
        dataset_id=dataset.id,
        dataset_digest=dataset.manifest.dataset_digest,
        parquet=splits,
        files={name: schema.FileEntry.of(work / name) for name in names if name not in others},
        fmcs_bench=__version__,
        created=environment.now(),
    )
    return work, described


def _part_files(dataset: FmcsDataset, part: Part) -> list[str]:
    """Names of the dataset's files that belong to a part, in order."""
    wanted = part.files(dataset.manifest, dataset.maps_per_shard)
    if missing := wanted - dataset.files:
        raise ConfigError(
            f"{dataset.location} is a part of {dataset.id} without {len(missing):,} of the files to publish, such as "
            f"{min(missing)}; publish what is there, or `fmcs-bench download` the rest first"
        )
    return sorted(wanted)


def _published_before(dataset: FmcsDataset, folder: Path, part: Part) -> Publication:
    """The publication in a folder, whose files are whole."""
    place = Location(folder)
    before = publication.read(place, dataset.manifest)
    if before is None:
        raise ConfigError(f"{folder} holds other files; choose a new or empty folder to publish to")
    if read_part(place, dataset.manifest) != part:
        raise ConfigError(
            f"{folder} holds a different part of {dataset.id}, and published data stays as it is; choose a new folder"
        )
    check_files(place, dataset.manifest, frozenset(_part_files(dataset, part)))
    entries = {name: entry for name, entry in before.files.items() if name not in (CARD, CROISSANT)}
    for name, entry in entries.items():
        file = folder / name
        if not file.is_file() or schema.FileEntry.of(file) != entry:
            raise DatasetError(f"{file} is missing or was changed; remove {folder} and publish again")
    return before.model_copy(update={"files": entries})


def _write_texts(
    dataset: FmcsDataset, folder: Path, part: Part, repo: str | None, described: Publication
) -> Publication:
    """Card, Croissant metadata and, last, ``publication.json``."""
    facts = Facts(manifest=dataset.manifest, publication=described, part=part, repo=repo)
    texts = {CARD: card(facts).encode()} | ({CROISSANT: encode(croissant(facts))} if described.parquet else {})
    for name, content in texts.items():
        files.write_atomically(folder / name, content)
    entries = described.files | {name: schema.FileEntry.of(folder / name) for name in texts}
    made = described.model_copy(update={"files": dict(sorted(entries.items()))})
    files.write_atomically(folder / publication.FILE, files.to_json(made.to_json()))
    return made
