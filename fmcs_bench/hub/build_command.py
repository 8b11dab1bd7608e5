"""The command that builds a dataset again, from its configuration.

Flow: configuration -> options that differ from their defaults -> one line for a shell, or a call in Python where the
command line has no option for one of them.
"""

from __future__ import annotations

import shlex
from typing import Any

from fmcs_bench.core.errors import ConfigError
from fmcs_bench.core.options import Options
from fmcs_bench.store.config import BuildConfig

FLAGS = {
    "backbone_options.layer": "--layer",
    "backbone_options.output_stride": "--output-stride",
    "backbone_options.pretrained": "--pretrained",
    "image_size": "--image-size",
    "stages": "--stages",
    "runs": "--runs",
    "epochs": "--epochs",
    "checkpoints": "--checkpoints",
    "limit": "--limit",
    "codec": "--codec",
    "markers": "--markers",
    "convergence.threshold": "--cqi-threshold",
    "recipe.batch_size": "--batch-size",
    "recipe.lr": "--lr",
    "recipe.precision": "--precision",
    "seed": "--seed",
    "name": "--name",
}
"""Fields of ``BuildConfig`` and the options of ``fmcs-bench build`` that set them."""


def build_command(config: BuildConfig, *, skip_broken: bool = False) -> str:
    """The command line of this configuration; it names only what differs from the defaults.

    Where the images lie is not part of a configuration. A folder, or a set of the Hub, is named by the last part of its
    place, as ``folder:/PATH/flowers``, which stands for the place on the reader's machine.

    Args:
        config: of the dataset.
        skip_broken: add ``--skip-broken``; it is no part of the configuration either.

    Raises:
        ConfigError: the command line has no option for a field; ``build_call`` can say it.

    Example:
        >>> build_command(BuildConfig.create(backbone="resnet50", image_dataset="folder_flowers", image_size=64))
        'fmcs-bench build --backbone resnet50 --dataset folder:/PATH/flowers --image-size 64'
    """
    changed = _changed(config)
    unknown = [field for field in changed if field not in FLAGS]
    if unknown:
        raise ConfigError(f"`fmcs-bench build` has no option for {', '.join(unknown)}; use fmcs_bench.build in Python")
    words = ["fmcs-bench", "build", "--backbone", config.backbone]
    if config.image_dataset != "digits":
        words += ["--dataset", image_source(config)]
    for field, value in changed.items():
        words += [FLAGS[field]] if value is True else [FLAGS[field], str(value)]
    return shlex.join([*words, "--skip-broken"] if skip_broken else words)


def build_call(config: BuildConfig, *, skip_broken: bool = False) -> str:
    """The same as a call of ``fmcs_bench.build``, which can say every configuration.

    Example:
        >>> from fmcs_bench.training.recipes import Recipe
        >>> print(build_call(BuildConfig.create(backbone="smallcnn", recipe=Recipe(optimizer="sgd"))))
        import fmcs_bench as fb
        from fmcs_bench.training.recipes import Recipe
        <BLANKLINE>
        fb.build(backbone='smallcnn', recipe=Recipe(optimizer='sgd'))
    """
    arguments = [f"backbone={config.backbone!r}"]
    if config.image_dataset != "digits":
        arguments.append(f"image_dataset={image_source(config)!r}")
    kinds = set()
    groups: dict[str, list[str]] = {}
    for field, value in _changed(config).items():
        group, _, name = field.rpartition(".")
        groups.setdefault(group or field, []).append(f"{name}={value!r}")
        if group:
            kinds.add(type(getattr(config, group)).__name__)
    for group, values in groups.items():
        option = getattr(config, group)
        text = f"{group}={type(option).__name__}({', '.join(values)})" if isinstance(option, Options) else values[0]
        arguments.append(text)
    if skip_broken:
        arguments.append("skip_broken=True")
    imports = [f"from fmcs_bench.config import {', '.join(sorted(kinds))}"] if kinds else []
    return "\n".join(["import fmcs_bench as fb", *imports, "", f"fb.build({', '.join(arguments)})"])


def image_source(config: BuildConfig) -> str:
    """What to type for the image dataset: its name, or its scheme and the end of its place.

    Example:
        >>> image_source(BuildConfig.create(backbone="smallcnn", image_dataset="hub_uoft-cs_cifar10"))
        'hub:/PATH/uoft-cs_cifar10'
    """
    scheme, _, rest = config.image_dataset.partition("_")
    if scheme == "hub":  # the plain name of a path loses one `.parquet`
        return f"hub:/PATH/{rest}.parquet" if rest.endswith(".parquet") else f"hub:/PATH/{rest}"
    return f"folder:/PATH/{rest}" if scheme == "folder" else config.image_dataset


def _changed(config: BuildConfig) -> dict[str, Any]:
    """Dotted names and values of the fields that differ from the defaults, backbone and image dataset left out."""
    default = BuildConfig.create(backbone=config.backbone, image_dataset=config.image_dataset)
    found = {}
    for name in type(config).model_fields:
        value, usual = getattr(config, name), getattr(default, name)
        if value == usual:
            continue
        if isinstance(value, Options):
            for inner in type(value).model_fields:
                if getattr(value, inner) != getattr(usual, inner):
                    found[f"{name}.{inner}"] = getattr(value, inner)
        else:
            found[name] = value
    return found
