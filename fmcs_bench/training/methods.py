"""Training methods and their names; nothing else in the package reads or writes a method's name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fmcs_bench.core.errors import ConfigError, UnknownNameError, nearest
from fmcs_bench.core.options import Options

DEFAULT_RAFS = (0.95, 0.9, 0.75)
NUM_SEEDS = 5
"""Default number of repetitions of a fit or a training."""
EvaluatorKind = Literal["fitted", "permuted", "random"]
LABEL_SMOOTHING = 0.1
PAPER_RAFS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.78, 0.75, 0.7, 0.5, 0.0)
"""Table I of arXiv 2508.06109; 1 is the baseline, 0 is ``fmcs-only``."""
BASELINE = "baseline"
_SINGLE = "single-"
_DUEHEADNETS: dict[str, dict[str, Any]] = {
    f"dueheadnet-{fusion}-{constraint}": {"network": "dueheadnet", "fusion": fusion, "constraint": constraint}
    for fusion in ("add", "concat")
    for constraint in ("none", "align", "diversify")
}
_WITH_EVALUATOR: dict[str, EvaluatorKind] = {
    "ral": "fitted",
    "ral-random": "random",
    "ral-permuted": "permuted",
    "fmcs-only": "fitted",
}
"""Objectives that stand alone, or with a dash behind any network; and the evaluator that they use."""
_ALONE: dict[str, dict[str, Any]] = {
    BASELINE: {},
    "label-smoothing": {"label_smoothing": LABEL_SMOOTHING},
    "longer": {"control": "longer"},
    "equal-parameters": {"control": "equal-parameters"},
}
METHODS = (*_ALONE, *_WITH_EVALUATOR, *(name + end for name in _DUEHEADNETS for end in ("", "-ral")))
"""What ``fmcs-bench list methods`` shows, besides ``single-NAME``."""
_KNOWN = (*METHODS, *(f"{name}-{end}" for name in _DUEHEADNETS for end in _WITH_EVALUATOR if end != "ral"))
DEFAULT_METHODS = (BASELINE, "ral", "dueheadnet-add-none", "dueheadnet-add-align", "dueheadnet-add-align-ral")


class Method(Options):
    """One training method: a network, its constraint and its objective; or a control of equal cost.

    ``raf`` is the share of the base loss (Table I of arXiv 2508.06109): ``loss = raf * L_base + (1 - raf) * L_FMCS``;
    1 is the baseline, 0 the FMCS loss alone. It is 1 minus the alpha of that paper's eq. (5).
    """

    network: Literal["single", "dueheadnet"] = "single"
    backbone: str | None = Field(None, min_length=1, description="None is the dataset's")
    fusion: Literal["add", "concat"] | None = None
    constraint: Literal["none", "align", "diversify"] = "none"
    constraint_weight: float = Field(1.0, ge=0)
    pretrained_first: bool = Field(False, description="the first head starts from published weights")
    raf: float = Field(1.0, description="in [0, 1]")
    evaluator_kind: EvaluatorKind = Field(
        "fitted", alias="judge", description="of the FMCS loss: fitted on true labels, or a control"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that all classes get equally")
    control: Literal["longer", "equal-parameters"] | None = Field(
        None, description="the baseline with RAL's compute, or a network with DueHeadNet's number of parameters"
    )

    added_later = frozenset({"backbone", "pretrained_first", "evaluator_kind", "label_smoothing", "control"})

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (math.isfinite(self.raf) and 0 <= self.raf <= 1):
            raise ValueError(
                f"RAF = {self.raf} is outside [0, 1]; 1 is the baseline (classification only), 0 the FMCS loss only"
            )
        if (self.network == "dueheadnet") != (self.fusion is not None):
            raise ValueError("the network dueheadnet needs a fusion (add or concat), and no other network has one")
        if self.network == "single" and self.constraint != "none":
            raise ValueError(f"constraint = {self.constraint!r} needs two heads: choose the network dueheadnet")
        if self.network == "single" and self.pretrained_first:
            raise ValueError("pretrained_first needs two heads: choose the network dueheadnet")
        if self.raf == 1 and self.evaluator_kind != "fitted":
            raise ValueError(f"an evaluator that is {self.evaluator_kind} needs a RAF below 1")
        plain = self.network == "single" and self.raf == 1
        if not plain and (self.label_smoothing or self.control):
            raise ValueError("label smoothing, longer and equal-parameters are controls: a single network without RAL")
        if self.control and (self.label_smoothing or (self.backbone is None) == (self.control == "equal-parameters")):
            raise ValueError("equal-parameters needs a backbone, longer has none; neither has label smoothing")
        return self

    @property
    def uses_evaluator(self) -> bool:
        """RAL needs it for its loss, and ``longer`` to count what that costs."""
        return self.raf < 1 or self.control == "longer"

    @property
    def is_control(self) -> bool:
        """Whether it is another recipe, another single network, or RAL with an evaluator that knows nothing."""
        other_network = self.network == "single" and self.backbone is not None and self.raf == 1
        return bool(self.control or self.label_smoothing or other_network or self.evaluator_kind != "fitted")

    @property
    def name(self) -> str:
        """The name for ``--method``; RAF, base, constraint weight and published weights are options of their own."""
        if self.control or self.label_smoothing:
            return self.control or "label-smoothing"
        network = f"{_SINGLE}{self.backbone}" if self.backbone else ""
        if self.network == "dueheadnet":
            network = f"dueheadnet-{self.fusion}-{self.constraint}"
        kind = "" if self.evaluator_kind == "fitted" else self.evaluator_kind
        objective = "" if self.raf == 1 else "ral" if self.raf > 0 or kind else "fmcs-only"
        return "-".join(filter(None, (network, objective, kind))) or BASELINE

    @property
    def has_raf(self) -> bool:
        """Whether ``--raf`` belongs to its name: ``ral``, but not ``fmcs-only``."""
        return 0 < self.raf < 1 or (self.raf == 0 and self.evaluator_kind != "fitted")

    @property
    def family(self) -> str:
        """The method without its RAF; one RAF is chosen for each family. RAF = 0 is a family of its own.

        Example:
            >>> Method(raf=0.9).family, Method(raf=0.0).family, Method(raf=0.9, evaluator_kind="random").family
            ('ral', 'fmcs-only', 'ral-random')
            >>> Method(network="dueheadnet", fusion="add", constraint="align").family
            'dueheadnet-add-align'
        """
        parts = ["dueheadnet" if self.network == "dueheadnet" else "", self.control or ""]
        if self.backbone is not None:
            parts += [
                "single" if self.network == "single" and not self.control else "",
                self.backbone.replace("/", "_"),
            ]
        if self.fusion is not None:
            parts += [self.fusion, self.constraint]
        if self.constraint != "none" and self.constraint_weight != 1:
            parts.append(f"w{self.constraint_weight:.12g}")
        if self.pretrained_first:
            parts.append("pretrained")
        if self.label_smoothing:
            parts += [
                "label-smoothing",
                "" if self.label_smoothing == LABEL_SMOOTHING else f"{self.label_smoothing:.12g}",
            ]
        if self.raf != 1:
            parts.append("ral" if self.raf > 0 else "fmcs-only")
        if self.evaluator_kind != "fitted":
            parts.append(self.evaluator_kind)
        return "-".join(filter(None, parts)) or BASELINE

    @property
    def ral_family(self) -> str:
        """The family, where RAF = 0 counts as a value of RAL, as in the papers: ``ral`` for ``fmcs-only``."""
        return self.family if self.raf else self.model_copy(update={"raf": 0.5}).family


def parse_rafs(values: Sequence[str | float]) -> tuple[float, ...]:
    """RAF values as numbers, each once and in [0, 1]; ``paper`` stands for the ten of ``PAPER_RAFS``.

    Example:
        >>> parse_rafs(["0.9", 0.5]), len(parse_rafs(["paper"]))
        ((0.9, 0.5), 10)
    """
    found: list[float] = []
    for value in values:
        try:
            found += PAPER_RAFS if value == "paper" else (float(value),)
        except ValueError:
            raise ConfigError(f"RAF {value!r} is not a number; give values in [0, 1], or paper") from None
    if len(set(found)) != len(found):
        raise ConfigError(f"RAF values {', '.join(f'{raf:g}' for raf in found)}: one is given twice")
    return tuple(Method.make(raf=raf).raf for raf in found)


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
        rafs: of the names with RAL, from ``parse_rafs``; 1 is the name without RAL and is left out.
        base: backbone of DueHeadNet; None is the dataset's.
        constraint_weight: of the methods with a constraint.
        pretrained_first: of DueHeadNet.
        equal_parameters: backbone of the control of that name.

    Example:
        >>> [method.family for method in methods(["single-seresnet34", "ral-random"], [0.9])]
        ['single-seresnet34', 'ral-random']
    """
    due = {"backbone": base, "constraint_weight": constraint_weight, "pretrained_first": pretrained_first}
    found: dict[Method, None] = {}
    for network, objective in map(_parse, names):
        options = dict(_ALONE.get(objective, {"evaluator_kind": _WITH_EVALUATOR.get(objective)}))
        if network.startswith(_SINGLE):
            options["backbone"] = network.removeprefix(_SINGLE)
        elif network:
            options |= due | _DUEHEADNETS[network]
            if options["constraint"] == "none":  # its weight has no effect, and does not make a different method
                options["constraint_weight"] = 1.0
        elif objective == "equal-parameters":
            options["backbone"] = equal_parameters
        own = [1.0] if objective in _ALONE else [0.0] if objective == "fmcs-only" else [raf for raf in rafs if raf != 1]
        # Without a classification loss there is no constraint either: the three forms would be one training.
        free = {"constraint": "none", "constraint_weight": 1.0} if "constraint" in options else {}
        found |= {Method.make(**(options | (free if raf == 0 else {})), raf=raf): None for raf in own}
    _require_use(list(found), due)
    return list(found)


def _require_use(found: Sequence[Method], due: dict[str, Any]) -> None:
    """Refuse an option that no method uses."""
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
    """Network ("" is the dataset's own) and objective of a name."""
    if name in _ALONE or name in _WITH_EVALUATOR:
        return "", name
    objective = next((end for end in _WITH_EVALUATOR if name.endswith(f"-{end}")), BASELINE)
    network = name.removesuffix(f"-{objective}")
    if network in _DUEHEADNETS or (network.startswith(_SINGLE) and network != _SINGLE):
        return network, objective
    raise UnknownNameError(f"unknown method {name!r}; {nearest(name, _KNOWN)} single-NAME takes any backbone")
