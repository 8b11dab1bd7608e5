"""Brings a published or built FMCS dataset, or a part of one, into a folder of this machine.

What is missing comes into a hidden folder beside the dataset, is checked, and then moves: by one rename, or file by
file where the dataset is here already, ``part.json`` last. A killed download goes on when its command is typed again.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from fmcs_bench import __version__
from fmcs_bench.core import files
from fmcs_bench.core.environment import Sha256, now
from fmcs_bench.core.errors import ConfigError, DatasetError, FmcsBenchError, MissingDataError, WorkspaceError
from fmcs_bench.core.options import Options
from fmcs_bench.core.progress import SILENT, Progress
from fmcs_bench.core.workspace import PathLike, Workspace
from fmcs_bench.hub.contents import HEADS, Contents, blamed_on, is_whole, printable
from fmcs_bench.hub.errors import hub_errors
from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.store import publication, schema
from fmcs_bench.store.location import Location, is_url
from fmcs_bench.store.publication import PART, Part, chosen
from fmcs_bench.store.reader import FmcsDataset, read_manifest, read_part

LARGEST_HEAD = 256_000_000
"""Bytes of one of ``HEADS``; a million files need about 130 MB."""
PARALLEL = 8
"""Files at the same time."""
BLOCK_BYTES = 1 << 20
REPOSITORY = re.compile(r"(?:hf://datasets/|https://(?:huggingface\.co|hf\.co)/datasets/)?([\w-][\w.-]*/[\w-][\w.-]*?)"
                        r"(?:(?:@|/tree/)([^@\s]+?))?/?")  # fmt: skip
Entries = Mapping[str, schema.FileEntry]


class Origin(Options):
    """Content of ``download.json``: where a folder came from, and how much the source had."""

    schema_version: Literal[1] = 1
    source: str
    asked: str | None
    revision: str | None
    dataset_digest: Sha256
    available: Part
    fmcs_bench: str
    downloaded: str


def download(
    source: PathLike,
    *,
    workspace: PathLike | None = None,
    to: PathLike | None = None,
    only: Iterable[str] | str = (),
    stages: Iterable[int] = (),
    runs: Iterable[int] = (),
    revision: str | None = None,
    offline: bool = False,
    progress: Progress = SILENT,
) -> FmcsDataset:
    """Download an FMCS dataset or a part of one, add what is missing to an earlier download, or open it.

    Every file is compared with its SHA-256 before it comes into the dataset's folder.

    Args:
        source: ``owner/name`` or ``owner/name@revision`` of the Hub, a URL that fsspec reads, or a folder.
        workspace: gets the dataset, in ``datasets/<its name>``; see ``default_workspace``.
        to: a different folder for the dataset.
        only: ``maps``, ``parquet``, ``checkpoints``; none means all, as for the next two.
        stages: FMCS, 1 .. K.
        runs: seeds.
        revision: branch, tag or commit of a repository of the Hub.
        offline: use no network; files that are not here are an error. ``HF_HUB_OFFLINE`` does the same.
        progress: shows the work; silent by default.

    Raises:
        MissingDataError: there is no such source, or, offline, files are not here.
        ConfigError: a value that is not allowed, or the source does not have what is wanted.
        WorkspaceError: the folder holds something else, cannot be written, or the disk is too small.
        DatasetError: the source is damaged, or contradicts itself.
        HubError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import constants

    place = Workspace(workspace)
    found = _find(os.fspath(source), revision, progress)
    target = Path(to) if to is not None else None
    kinds = [only] if isinstance(only, str) else [*only]
    asked = {"kinds": kinds or None, "runs": [*runs] or None, "stages": [*stages] or None}
    if not found.is_local and (offline or constants.HF_HUB_OFFLINE):
        folders = [target] if target is not None else sorted(place.datasets.glob("[!.]*"))
        return _offline(found, folders, asked)
    with place.locked(), _disk_errors(), tempfile.TemporaryDirectory() as heads:
        contents = _fetch_contents(found, Path(heads))
        wanted = _chosen(contents.part, asked, str(found))
        return _bring(found, contents, wanted, target or place.dataset(contents.manifest.name), progress)


class _Place:
    """A folder, or a URL that fsspec reads."""

    asked: str | None = None
    revision: str | None = None

    def __init__(self, location: Location) -> None:
        self.location = location
        self.is_local = location.local is not None

    def __str__(self) -> str:
        return str(self.location)

    def fetch(self, sizes: Mapping[str, int], folder: Path) -> None:
        """Copy files of at most these sizes into a folder; what is missing stays away."""
        pool = ThreadPoolExecutor(PARALLEL)
        try:
            for done in [pool.submit(self._copy, name, most, folder / name) for name, most in sizes.items()]:
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _copy(self, name: str, most: int, path: Path) -> None:
        where = self.location.shown(name)
        if not self.location.keeps_inside(name):
            raise DatasetError(f"{where} is a symbolic link that leads out of the folder; put the file itself there")
        if self.location.local is not None and not (self.location.local / name).is_file():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        left = most + 1
        with suppress(MissingDataError), self.location.open(name) as stream, path.open("wb") as out:
            while left:
                try:
                    block = stream.read(min(left, BLOCK_BYTES))
                except Exception as error:  # noqa: BLE001  (each protocol has errors of its own)
                    raise self.location.unreadable(where, error) from None
                if not block:
                    return
                left -= len(block)
                out.write(block)
            raise DatasetError(f"{where} is larger than the {most:,} bytes that it may have")


class _Repository:
    """A dataset repository of the Hub, at one commit."""

    is_local = False

    def __init__(self, name: str, asked: str | None) -> None:
        self.name, self.asked = name, asked
        self.revision: str | None = None
        self._sizes: dict[str, int] = {}

    def __str__(self) -> str:
        return f"hf://datasets/{self.name}"

    def fetch(self, sizes: Mapping[str, int], folder: Path) -> None:
        """See ``_Place``; the client of the Hub goes on where it was stopped."""
        import huggingface_hub
        from huggingface_hub.utils.tqdm import tqdm

        class Quiet(tqdm):  # progress is shown by the caller
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options | {"disable": True})  # type: ignore[no-untyped-call]

        with hub_errors(str(self)):
            if self.revision is None:
                info = huggingface_hub.HfApi().dataset_info(self.name, revision=self.asked, files_metadata=True)
                self.revision = info.sha
                self._sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()}
            for name, most in sizes.items():
                if self._sizes.get(name, 0) > most:
                    raise DatasetError(f"{self}/{name} is larger than the {most:,} bytes that it may have")
            huggingface_hub.snapshot_download(
                self.name,
                repo_type="dataset",
                revision=self.revision,
                local_dir=folder,
                allow_patterns=[glob.escape(name) for name in sizes],
                max_workers=PARALLEL,
                tqdm_class=Quiet,
            )


def _find(typed: str, revision: str | None, progress: Progress) -> _Place | _Repository:
    """The source that was typed; a folder of this machine comes first."""
    repository = REPOSITORY.fullmatch(typed)
    is_folder = not is_url(typed) and Path(typed).is_dir()
    if repository is not None and not is_folder:
        inside = repository[2]
        if inside is not None and revision not in (None, inside):
            raise ConfigError(f"{typed} names the revision {inside}, and --revision {revision}; give one of them")
        return _Repository(repository[1], inside or revision)
    if not is_folder and not is_url(typed):
        raise MissingDataError(f"{typed!r} is no folder, no owner/name of a repository of the Hub and no URL")
    if revision is not None:
        raise ConfigError(f"revision = {revision!r}: {typed} has no revisions; only repositories of the Hub do")
    if repository is not None:
        progress.say(f"taking the folder {typed}; for the Hub's, type hf://datasets/{typed}")
    return _Place(Location(typed))


def _fetch_contents(source: _Place | _Repository, folder: Path) -> Contents:
    """The contents of a source, whose JSON files come into ``folder``."""
    source.fetch(dict.fromkeys(HEADS, LARGEST_HEAD), folder)
    if not (folder / schema.MANIFEST).is_file():
        raise MissingDataError(f"{source} has no {schema.MANIFEST}: it is no FMCS dataset, or an unfinished one")
    with blamed_on(str(source), folder):
        manifest = read_manifest(Location(folder))
        if set(read_part(Location(folder), manifest).splits) != set(SPLITS):  # which shards hold maps of a split?
            names = [f"{schema.MAPS}/{schema.run_group(run.seed)}/feature_maps/zarr.json" for run in manifest.runs]
            source.fetch(dict.fromkeys(names, BLOCK_BYTES), folder)
            for name in names:
                if name not in manifest.files or not is_whole(folder / name, manifest.files[name]):
                    raise DatasetError(f"{name} is missing, or does not have its SHA-256")
    return Contents(folder, str(source))


def _bring(
    source: _Place | _Repository, contents: Contents, wanted: Part, target: Path, progress: Progress
) -> FmcsDataset:
    """Everything that is wanted and not in the target yet, checked, and then moved there."""
    here = _part_in(target, contents)
    goal = wanted if here is None else _both(here, wanted, contents)
    needed = contents.files(goal)
    missing = {name: entry for name, entry in needed.items() if not _is_here(target, name, entry, contents)}
    if absent := sorted(missing.keys() - contents.files(contents.part).keys()):
        raise ConfigError(
            f"{source} does not have {len(absent)} files that {target} would need beside what is there, such as "
            f"{absent[0]}; download into a separate folder with --to"
        )
    heads = {name: (contents.folder / name).read_bytes() for name in HEADS[:2] if (contents.folder / name).is_file()}
    heads |= {PART: part} if (part := contents.part_file(goal)) is not None else {}
    if here is not None and not missing and all(_bytes(target / name) == heads.get(name) for name in HEADS):
        progress.say(f"{target} has all of it; nothing was downloaded")
        return FmcsDataset(target)
    if contents.publication is not None and contents.publication.superseded_by is not None:
        progress.say(f"{source} is superseded by {printable(contents.publication.superseded_by)}")
    if here is not None and goal != wanted:
        progress.say(
            f"{target} then holds {', '.join(goal.kinds)} of the runs {', '.join(map(str, goal.runs))}, stages "
            f"{', '.join(map(str, goal.stages))}: all runs of a folder have the same files. Use --to for a new folder"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.resolve().with_name(f".{target.name}.download")
    if beside.is_symlink():
        raise WorkspaceError(f"{beside} is a symbolic link; remove it")
    beside.mkdir(exist_ok=True)
    _fetch(source, {n: e for n, e in missing.items() if not is_whole(beside / n, e)}, beside, target, progress)
    origin = Origin.make(
        source=str(source),
        asked=source.asked,
        revision=source.revision,
        dataset_digest=contents.manifest.dataset_digest,
        available=contents.part,
        fmcs_bench=__version__,
        downloaded=now(),
    )
    heads = {schema.DOWNLOAD: files.to_json(origin.to_json())} | heads
    shutil.rmtree(beside / ".cache", ignore_errors=True)  # of the Hub's client
    if here is None:
        for path in [path for path in beside.rglob("*") if path.is_file()]:
            if path.relative_to(beside).as_posix() not in needed:
                path.unlink()  # of an earlier download that was stopped, and asked for more
    else:
        for name in missing:
            _require_no_links(target, name)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (beside / name).replace(target / name)
    folder = beside if here is None else target
    for name, data in heads.items():  # part.json last: until then the folder is the part that it was
        files.write_atomically(folder / name, data)
    if PART not in heads:
        (folder / PART).unlink(missing_ok=True)
    if here is None:
        if target.is_dir():
            target.rmdir()  # it is empty
        beside.replace(target)
    else:
        shutil.rmtree(beside)
    return FmcsDataset(target)


def _fetch(source: _Place | _Repository, missing: Entries, folder: Path, target: Path, progress: Progress) -> None:
    """Fetch files into a folder, and keep those that have their SHA-256."""
    needed, free = sum(entry.num_bytes for entry in missing.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise WorkspaceError(
            f"{target} needs {needed:,} bytes more, and {free:,} bytes are free; free some space, choose a disk "
            "with --workspace or --to, or ask for less with --only, --runs and --stages"
        )
    names = list(missing)
    with progress.task(f"downloading {target.name}", len(names)) as task:
        for start in range(0, len(names), 4 * PARALLEL):
            batch = names[start : start + 4 * PARALLEL]
            source.fetch({name: missing[name].num_bytes for name in batch}, folder)
            for name in batch:
                if not is_whole(folder / name, missing[name]):
                    problem = "does not have its SHA-256" if (folder / name).is_file() else "is missing"
                    (folder / name).unlink(missing_ok=True)
                    raise DatasetError(
                        f"{source}/{name} {problem}: the source is damaged or was changed, and the file is not kept. "
                        "Type the command again, inform its owner, or use a different source"
                    )
            task.advance(len(batch))


def _part_in(target: Path, contents: Contents) -> Part | None:
    """What of this dataset is in the target folder; None where it is empty, or there is none."""
    way_out = "choose a different folder with --to, or move this one away"
    if target.is_dir() and not any(target.iterdir()):
        return None
    if not target.exists() and not target.is_symlink():
        return None
    if not target.is_dir():
        raise WorkspaceError(f"{target} is no folder; {way_out}")
    try:
        manifest = read_manifest(Location(target))
        part = read_part(Location(target), manifest)
    except FmcsBenchError as error:
        raise WorkspaceError(f"{target} holds no finished FMCS dataset ({error}); {way_out}") from None
    if manifest.dataset_digest != contents.manifest.dataset_digest or not manifest.states_its_digest:
        raise WorkspaceError(
            f"{target} holds a different dataset or version, {manifest.id}, and not {contents.manifest.id}; {way_out}"
        )
    is_published = (target / publication.FILE).is_file()
    return part.model_copy(update={"kinds": tuple(k for k in part.kinds if k != "parquet" or is_published)})


def _is_here(target: Path, name: str, entry: schema.FileEntry, contents: Contents) -> bool:
    """Whether the target has this file. Files of the data were checked when they came, and never change."""
    path = target / name
    if not path.is_file() or path.stat().st_size != entry.num_bytes:
        return False
    return name in contents.manifest.files or files.sha256_of_file(path) == entry.sha256


def _both(here: Part, wanted: Part, contents: Contents) -> Part:
    """The smallest part that holds two."""
    whole, both = Part.of(contents.manifest), {}
    for name in ("kinds", "runs", "stages", "splits"):
        either = {*getattr(here, name), *getattr(wanted, name)}
        both[name] = tuple(value for value in getattr(whole, name) if value in either)
    return whole.model_copy(update=both)


def _offline(source: _Place | _Repository, folders: Iterable[Path], asked: Mapping[str, Any]) -> FmcsDataset:
    """The dataset, where all that is asked for is here; what the source has is known from ``download.json``."""
    where = f"{source}@{source.asked}" if source.asked else str(source)
    advice = "type the command again without --offline and HF_HUB_OFFLINE"
    for folder in folders:
        with suppress(OSError, ValueError, RecursionError):  # without such a file it is no download
            origin = Origin.from_json(json.loads((folder / schema.DOWNLOAD).read_bytes()))
            if origin.source == str(source) and source.asked in (None, origin.asked, origin.revision):
                break
    else:
        raise MissingDataError(f"offline, and no download of {where} is on this machine; {advice}")
    dataset, wanted = FmcsDataset(folder), _chosen(origin.available, asked, where)
    for name in asked:
        if missing := [str(value) for value in getattr(wanted, name) if value not in getattr(dataset.part, name)]:
            raise MissingDataError(f"offline, and {folder} lacks the {name} {', '.join(missing)} of {where}; {advice}")
    return dataset


def _chosen(available: Part, asked: Mapping[str, Any], source: str) -> Part:
    """A part of what the source has; None is all."""
    try:
        found = {name: chosen(values, getattr(available, name), name) for name, values in asked.items()}
    except ConfigError as error:
        raise ConfigError(f"{source} does not have all that was asked for: {error}") from None
    return available.model_copy(update=found)


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _require_no_links(root: Path, name: str) -> None:
    path = root
    for part in name.split("/"):
        path = path / part
        if path.is_symlink():
            raise DatasetError(f"{path} is a symbolic link, which may lead out of {root}; put the file itself there")


@contextmanager
def _disk_errors() -> Iterator[None]:
    """Faults of the disk as our errors; that it is full has its own line at the command."""
    try:
        yield
    except FmcsBenchError:
        raise
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise WorkspaceError(
            f"{error.filename or 'a file'} cannot be written ({os.strerror(error.errno or 0)}); choose a folder "
            "with --workspace or --to"
        ) from None
