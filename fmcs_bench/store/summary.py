"""One screen of text about an FMCS dataset, from its manifest alone."""

from __future__ import annotations

from fmcs_bench.images.dataset import SPLITS
from fmcs_bench.store import schema
from fmcs_bench.store.subset import Part


def summary(manifest: schema.Manifest, place: str, part: Part | None = None) -> str:
    """Maps, runs, images, sizes, and where and when it was made; a line each.

    Args:
        manifest: of the dataset.
        place: where it lies.
        part: what lies there; None is all.
    """
    channels, height, width = manifest.map_shape
    roles = ", ".join(f"{run.seed} ({run.role})" for run in manifest.runs)
    map_bytes = manifest.bytes_under(schema.MAPS)
    checkpoint_bytes = manifest.bytes_under(schema.CHECKPOINTS)
    error = manifest.map_error
    loss = f"  loss    at most {error.largest:.3g} in a value, {error.mean:.3g} on average\n" if error else ""
    position = "" if height * width > 1 else "; one position, a larger image size gives more"
    images, made = manifest.images, manifest.environment
    size = images.statistics.size
    pixels = size if isinstance(size, str) else " x ".join(map(str, size))
    seconds = ", ".join(f"{phase} {value:,.0f} s" for phase, value in manifest.build_seconds.items())
    held = ""
    if part is not None:
        held = (
            f"  part    {', '.join(part.kinds)} of the runs {', '.join(map(str, part.runs))}, stages "
            f"{', '.join(map(str, part.stages))}, splits {', '.join(part.splits)}; what follows is of the whole\n"
        )
    return (
        f"FmcsDataset {manifest.id}\n"
        f"{held}"
        f"  maps    {manifest.num_maps:,} of {channels} x {height} x {width} float16, "
        f"K = {manifest.config.stages} stages{position}\n"
        f"  runs    {roles}\n"
        f"  images  {', '.join(f'{images.num_images[split]:,} {split}' for split in SPLITS)}; "
        f"{images.statistics.colour}, {pixels} px, shown at {manifest.config.image_size} px; "
        f"{len(images.classes):,} classes\n"
        f"  disk    {map_bytes / 1e6:,.1f} MB of maps ({manifest.config.codec}; "
        f"raw {manifest.raw_bytes / 1e6:,.1f} MB, {manifest.raw_bytes / map_bytes:.2f} times smaller), "
        f"{checkpoint_bytes / 1e6:,.1f} MB of checkpoints\n"
        f"{loss}"
        f"  made    {manifest.created[:10]} on {made.device} ({made.processor}, {made.threads} threads) "
        f"with fmcs-bench {made.fmcs_bench}, torch {made.libraries['torch']}; {seconds}\n"
        f"  path    {place}"
    )
