"""Training methods: what one is, what it is called, and which are meant by what a person types.

Flow: names, RAF values and options of DueHeadNet -> one ``Method`` for each name and RAF, each once, in their order ->
its family, the row of a board.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fmcs_bench.core.errors import ConfigError, UnknownNameError, nearest
from fmcs_bench.core.options import Options

DEFAULT_RAFS = (0.95, 0.9, 0.75)
NUM_SEEDS = 5
"""Repetitions of a fit or a training, unless another number is asked for."""
JudgeKind = Literal["fitted", "permuted", "random"]
LABEL_SMOOTHING = 0.1
PAPER_RAFS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.78, 0.75, 0.7, 0.5, 0.0)
"""Table I of arXiv 2508.06109; 1 is the baseline, 0 is ``fmcs-only``."""
SINGLE = "single-"

_DUEHEADNETS: dict[str, dict[str, Any]] = {
    f"dueheadnet-{fusion}-{constraint}": {"network": "dueheadnet", "fusion": fusion, "constraint": constraint}
    for fusion in ("add", "concat")
    for constraint in ("none", "align", "diversify")
}
_WITH_JUDGE: dict[str, JudgeKind] = {
    "ral": "fitted",
    "ral-random": "random",
    "ral-permuted": "permuted",
    "fmcs-only": "fitted",
}
"""Objectives that can be typed alone, or with a dash behind any network; and the judge that they ask."""
_ALONE: dict[str, dict[str, Any]] = {
    "baseline": {},
    "label-smoothing": {"label_smoothing": LABEL_SMOOTHING},
    "longer": {"control": "longer"},
    "equal-parameters": {"control": "equal-parameters"},
}
METHODS = (*_ALONE, *_WITH_JUDGE, *(name + end for name in _DUEHEADNETS for end in ("", "-ral")))
"""What ``fmcs-bench list methods`` shows, besides ``single-NAME``."""
_TYPED = (*METHODS, *(f"{name}-{end}" for name in _DUEHEADNETS for end in _WITH_JUDGE if end != "ral"))
DEFAULT_METHODS = ("baseline", "ral", "dueheadnet-add-none", "dueheadnet-add-align", "dueheadnet-add-align-ral")


class Method(Options):
    """One training method: a network, its constraint and its objective; or a control of equal cost.

    ``raf`` is the share of the base loss (Table I of arXiv 2508.06109): ``loss = raf * L_base + (1 - raf) * L_FMCS``;
    1 is the baseline, 0 the FMCS loss alone. It is 1 minus the alpha of that paper's eq. (5).
    """

    network: Literal["single", "dueheadnet"] = "single"
    backbone: str | None = Field(None, min_length=1, description="another network than the dataset's")
    fusion: Literal["add", "concat"] | None = None
    constraint: Literal["none", "align", "diversify"] = "none"
    constraint_weight: float = Field(1.0, ge=0)
    pretrained_first: bool = Field(False, description="the first head starts from published weights")
    raf: float = Field(1.0, description="in [0, 1]")
    judge: JudgeKind = Field("fitted", description="of the FMCS loss: fitted on true labels, or a control")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that all classes get equally")
    control: Literal["longer", "equal-parameters"] | None = Field(
        None, description="the baseline with RAL's compute, or a network with DueHeadNet's number of parameters"
    )

    added_later = frozenset({"backbone", "pretrained_first", "judge", "label_smoothing", "control"})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (math.isfinite(self.raf) and 0 <= self.raf <= 1):
            raise ValueError(
                f"RAF = {self.raf} is outside [0, 1]; 1 is the baseline (classification only), 0 the FMCS loss only"
            )
        if (self.network == "dueheadnet") != (self.fusion is not None):
            raise ValueError("fusion (add or concat) belongs to the network dueheadnet, and to it alone")
        if self.network == "single" and self.constraint != "none":
            raise ValueError(f"constraint = {self.constraint!r} needs two heads: choose the network dueheadnet")
        if self.network == "single" and self.pretrained_first:
            raise ValueError("pretrained_first needs two heads: choose the network dueheadnet")
        if self.raf == 1 and self.judge != "fitted":
            raise ValueError(f"judge = {self.judge!r} needs a RAF below 1")
        plain = self.network == "single" and self.raf == 1
        if not plain and (self.label_smoothing or self.control):
            raise ValueError("label smoothing, longer and equal-parameters are controls: a single network without RAL")
        if self.control and (self.label_smoothing or (self.backbone is None) == (self.control == "equal-parameters")):
            raise ValueError("equal-parameters names its backbone, longer has the dataset's; neither is smoothed")
        return self

    @property
    def uses_judge(self) -> bool:
        """RAL asks it for its loss, and ``longer`` for what that costs."""
        return self.raf < 1 or self.control == "longer"

    @property
    def family(self) -> str:
        """The method without its RAF; one RAF is chosen for each family. RAF = 0 is a family of its own.

        Example:
            >>> Method(raf=0.9).family, Method(raf=0.0).family, Method(raf=0.9, judge="random").family
            ('ral', 'fmcs-only', 'ral-random')
            >>> Method(network="dueheadnet", fusion="add", constraint="align").family
            'dueheadnet-add-align'
        """
        parts = [] if self.network == "single" else ["dueheadnet"]
        if self.backbone is not None:
            parts += [self.control or ("single" if self.network == "single" else ""), self.backbone.replace("/", "_")]
        elif self.control:
            parts.append(self.control)
        if self.fusion is not None:
            parts += [self.fusion, self.constraint]
        if self.constraint != "none" and self.constraint_weight != 1:
            parts.append(f"w{self.constraint_weight:.12g}")
        if self.pretrained_first:
            parts.append("pretrained")
        if self.label_smoothing:
            parts.append("label-smoothing")
            parts.append("" if self.label_smoothing == LABEL_SMOOTHING else f"{self.label_smoothing:.12g}")
        if self.raf != 1:
            parts.append("ral" if self.raf > 0 else "fmcs-only")
        if self.judge != "fitted":
            parts.append(self.judge)
        return "-".join(filter(None, parts)) or "baseline"


class Sweep(Options):
    """What is to be trained on an FMCS dataset.

    Attributes:
        methods: of ``METHODS``, or ``single-NAME`` with any backbone.
        rafs: RAF values of the methods with RAL; 1 is the baseline, and 0 becomes the method ``fmcs-only``.
        seeds: seeds 100 .. 99 + seeds; every method has the same.
        evaluator: the judge, by its name on the board or as ``FILE.py:Class``; None is the chosen one.
        recipe: a name of ``config.recipe``; None is the dataset's.
        changes: values of the recipe that differ, such as ``{"lr": 0.1}``.
        epochs: None is the recipe's own length, or the convergence point of the dataset's training runs.
        init: ``same-run`` starts from the weights that the dataset's training runs started from.
        base: backbone of DueHeadNet, and of ``equal-parameters``; None is the dataset's.
        constraint_weight: of ``align`` and ``diversify``.
        pretrained_first: DueHeadNet's first head starts from published weights.
        best_epoch_on_test: also record the best test accuracy of all epochs, chosen on the test images.
        keep_weights: also keep the weights that were tested, for ``fmcs-bench explain``.
    """

    methods: tuple[str, ...] = Field(DEFAULT_METHODS, min_length=1)
    rafs: tuple[float, ...] = Field(DEFAULT_RAFS, min_length=1)
    seeds: int = Field(NUM_SEEDS, ge=1)
    evaluator: str | None = None
    recipe: str | None = None
    changes: dict[str, Any] = Field({})
    epochs: int | None = Field(None, ge=1)
    init: Literal["fresh", "same-run"] = "fresh"
    base: str | None = Field(None, min_length=1)
    constraint_weight: float = Field(1.0, ge=0)
    pretrained_first: bool = False
    best_epoch_on_test: bool = False
    keep_weights: bool = False


def parse_rafs(typed: Sequence[str | float]) -> tuple[float, ...]:
    """RAF values as numbers; ``paper`` stands for the ten of ``PAPER_RAFS``.

    Raises:
        ConfigError: a text that is no number.

    Example:
        >>> parse_rafs(["0.9", 0.5]), len(parse_rafs(["paper"]))
        ((0.9, 0.5), 10)
    """
    found: list[float] = []
    for text in typed:
        if text == "paper":
            found += PAPER_RAFS
            continue
        try:
            found.append(float(text))
        except ValueError:
            raise ConfigError(f"RAF {text!r} is no number; name values in [0, 1], or paper") from None
    return tuple(found)


def methods(
    names: Sequence[str],
    rafs: Sequence[float],
    *,
    base: str | None = None,
    constraint_weight: float = 1.0,
    pretrained_first: bool = False,
    equal_parameters: str | None = None,
) -> list[Method]:
    """The methods of some names, one for each RAF where a name has RAF values.

    Args:
        names: of ``METHODS``, ``single-NAME``, or a network with an objective behind it, as ``single-resnet50-ral``.
        rafs: of the names with RAL; 1 is the name without RAL and is left out.
        base: backbone of DueHeadNet; None is the dataset's.
        constraint_weight: of DueHeadNet's constraint.
        pretrained_first: DueHeadNet's first head starts from published weights.
        equal_parameters: backbone of the control of that name.

    Raises:
        UnknownNameError: no such method.
        ConfigError: a RAF outside [0, 1], or given twice; or an option that no method uses.

    Example:
        >>> [method.raf for method in methods(["baseline", "ral"], [0.9, 0.75])]
        [1.0, 0.9, 0.75]
        >>> [method.family for method in methods(["single-seresnet34", "ral-random"], [0.9])]
        ['single-seresnet34', 'ral-random']
    """
    if len(set(rafs)) != len(rafs):
        raise ConfigError(f"RAF values {', '.join(f'{raf:g}' for raf in rafs)}: one is given twice")
    checked = [Method.make(raf=float(raf)).raf for raf in rafs]
    due = {"backbone": base, "constraint_weight": constraint_weight, "pretrained_first": pretrained_first}
    parsed = [_parse(name) for name in names]
    found: dict[Method, None] = {}
    for network, objective in parsed:
        options = dict(_ALONE.get(objective, {"judge": _WITH_JUDGE.get(objective)}))
        if network.startswith(SINGLE):
            options["backbone"] = network.removeprefix(SINGLE)
        elif network:
            options |= due | _DUEHEADNETS[network]
            if options["constraint"] == "none":  # its weight does nothing, and makes no other method of it
                options["constraint_weight"] = 1.0
        elif objective == "equal-parameters":
            options["backbone"] = equal_parameters
        own = [1.0] if objective in _ALONE else [0.0] if objective == "fmcs-only" else [r for r in checked if r != 1]
        # Without a classification loss there is no constraint either: the three forms would be one training.
        free = {"constraint": "none", "constraint_weight": 1.0} if "constraint" in options else {}
        found |= {Method.make(**(options | (free if raf == 0 else {})), raf=raf): None for raf in own}
    _require_use(list(found), due)
    return list(found)


def _require_use(found: Sequence[Method], due: dict[str, Any]) -> None:
    """An option that changes nothing was meant to change something.

    Raises:
        ConfigError: it is given, and no method has it.
    """
    two_heads = any(method.network == "dueheadnet" for method in found)
    constrained = any(method.constraint != "none" for method in found)
    sized = any(method.control == "equal-parameters" for method in found)
    for option, given, used, by in (
        ("base", due["backbone"] is not None, two_heads or sized, "dueheadnet-FUSION-CONSTRAINT and equal-parameters"),
        ("constraint weight", due["constraint_weight"] != 1, constrained, "dueheadnet-FUSION-align and -diversify"),
        ("pretrained first", due["pretrained_first"], two_heads, "dueheadnet-FUSION-CONSTRAINT"),
    ):
        if given and not used:
            raise ConfigError(f"the option {option} belongs to the methods {by}, and none of them is named")


def _parse(name: str) -> tuple[str, str]:
    """Network, "" where it is the dataset's own, and objective.

    Raises:
        UnknownNameError: no such method.
    """
    if name in _ALONE or name in _WITH_JUDGE:
        return "", name
    objective = next((end for end in _WITH_JUDGE if name.endswith(f"-{end}")), "baseline")
    network = name.removesuffix(f"-{objective}")
    if network in _DUEHEADNETS or (network.startswith(SINGLE) and network != SINGLE):
        return network, objective
    raise UnknownNameError(f"unknown method {name!r}; {nearest(name, _TYPED)} single-NAME takes any backbone")
