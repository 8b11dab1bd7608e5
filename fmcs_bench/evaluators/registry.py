"""Evaluators by what a person types: a built-in or plug-in name, or FILE.py:Class, each with +HEAD and ~permuted.

A file is read, hashed and run once; from then on its class has a name like any other evaluator.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from fmcs_bench.core import files
from fmcs_bench.core.errors import ConfigError, MissingDataError, PluginError, nearest
from fmcs_bench.core.options import NAME_PATTERN
from fmcs_bench.core.registry import Registry
from fmcs_bench.evaluators.base import DEFAULT_TRAITS, TRAITS, Evaluator, MapShape
from fmcs_bench.evaluators.heads import HEADS
from fmcs_bench.evaluators.models.attention import AttentionEvaluator
from fmcs_bench.evaluators.models.boosting import BoostingEvaluator
from fmcs_bench.evaluators.models.chance import ChanceEvaluator
from fmcs_bench.evaluators.models.conv import ConvEvaluator
from fmcs_bench.evaluators.models.deepsets import SetEvaluator
from fmcs_bench.evaluators.models.invariants import InvariantsEvaluator
from fmcs_bench.evaluators.models.linear import LinearEvaluator
from fmcs_bench.evaluators.models.logistic import LogisticEvaluator
from fmcs_bench.evaluators.models.mlp import MlpEvaluator
from fmcs_bench.evaluators.models.moments import MomentsEvaluator
from fmcs_bench.evaluators.models.norm import NormEvaluator
from fmcs_bench.evaluators.models.resnet import ResNetEvaluator
from fmcs_bench.evaluators.models.spectrum import SpectrumEvaluator
from fmcs_bench.results.trials import EvaluatorTrial, Head, Labels

EVALUATORS: Registry[type[Evaluator]] = Registry("evaluator", group="fmcs_bench.evaluators")
_BUILT_IN: tuple[type[Evaluator], ...] = (
    ChanceEvaluator,
    NormEvaluator,
    MomentsEvaluator,
    LinearEvaluator,
    MlpEvaluator,
    ConvEvaluator,
    ResNetEvaluator,
    AttentionEvaluator,
    SetEvaluator,
    SpectrumEvaluator,
    InvariantsEvaluator,
    LogisticEvaluator,
    BoostingEvaluator,
)
for _kind in _BUILT_IN:
    EVALUATORS.add(_kind.name, _kind)

PERMUTED_CONTROL = "conv"
"""A fit of this one on permuted labels is on every board, because the published evaluator is of its kind."""


@dataclass(frozen=True)
class _FromFile:
    kind: type[Evaluator]
    sha256: str
    typed: str


_FROM_FILES: dict[str, _FromFile] = {}
"""Evaluators from files in this process; naming a file again reads it again."""


def create_evaluator(
    config: EvaluatorTrial, map_shape: MapShape, num_stages: int, *, device: torch.device | None = None
) -> Evaluator:
    """An unfitted evaluator by name."""
    return find_evaluator(config.evaluator)(map_shape, num_stages, config, device=device)


def find_evaluator(name: str) -> type[Evaluator]:
    """The class of that name: built in, from a plug-in, or from a file that ``resolve_evaluator`` read."""
    if name in _FROM_FILES:
        return _FROM_FILES[name].kind
    kind = EVALUATORS[name]
    fault = _fault(kind) or ("" if kind.name == name else f"its name attribute is {kind.name!r}")
    if fault:
        raise PluginError(f"the evaluator plug-in {name!r} cannot be used: {fault}")
    return kind


def evaluator_code(name: str) -> str | None:
    """SHA-256 of the file that defines a plug-in's class; None for built-in ones (every record has their digest)."""
    kind = find_evaluator(name)
    if name in _FROM_FILES:
        return _FROM_FILES[name].sha256
    if kind.__module__.startswith("fmcs_bench."):
        return None
    path = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if path is None:
        raise PluginError(
            f"the code of the evaluator {name!r} is in no file, so results could not be traced to their code; write it "
            "into a file and name that: FILE.py:Class"
        )
    return files.sha256_of_file(Path(path))


def evaluator_file(name: str) -> str | None:
    """``FILE.py:Class`` with an absolute path, for an evaluator that ``resolve_evaluator`` read; None for others."""
    return _FROM_FILES[name].typed if name in _FROM_FILES else None


class EvaluatorFit(NamedTuple):
    """What to fit, without the seed."""

    name: str
    head: Head
    labels: Labels = "true"


def parse_evaluators(typed: Sequence[str], head: Head = "softmax") -> list[EvaluatorFit]:
    """The fits that a person asks for, each once.

    Args:
        typed: names or ``FILE.py:Class``, each with ``+HEAD``, ``~permuted`` or both; empty means every evaluator (with
            an ordinal head every one that has heads), and the control ``conv~permuted``.
        head: for those without ``+HEAD``.

    Example:
        >>> [tuple(fit) for fit in parse_evaluators(["conv", "set+corn~permuted"])]
        [('conv', 'softmax', 'true'), ('set', 'corn', 'permuted')]
    """
    if head not in HEADS:
        raise ConfigError(f"unknown head {head!r}; {nearest(head, HEADS)}")
    if not typed:
        names = [name for name in EVALUATORS if head == "softmax" or find_evaluator(name).takes_heads]
        return [*(EvaluatorFit(name, head) for name in names), EvaluatorFit(PERMUTED_CONTROL, head, "permuted")]
    found: dict[EvaluatorFit, None] = {}
    codes: dict[str, tuple[str, str | None]] = {}
    for text in typed:
        fit, tilde, labels = resolve_evaluator(text).partition("~")
        name, _, own = fit.partition("+")
        kind, code = find_evaluator(name), evaluator_code(name)
        if codes.setdefault(name, (kind.__qualname__, code)) != (kind.__qualname__, code):
            raise ConfigError(f"{text!r} and one more evaluator have the name {name!r}; rename one of them")
        chosen = next((known for known in HEADS if known == (own or head)), None)
        if chosen is None:
            raise ConfigError(f"unknown head {own!r} in {text!r}; {nearest(own, HEADS)}")
        if chosen != "softmax" and not kind.takes_heads:
            raise ConfigError(f"the evaluator {name} is no network, so it has no head {chosen!r}; leave the head out")
        if tilde and labels != "permuted":
            raise ConfigError(f"unknown labels {labels!r} in {text!r}; after ~ only permuted is allowed")
        found[EvaluatorFit(name, chosen, "permuted" if tilde else "true")] = None
    return list(found)


def resolve_evaluator(typed: str) -> str:
    """The name of a fit as the board shows it; a ``FILE.py:Class`` is read, **which runs the file**.

    Args:
        typed: ``NAME`` or ``FILE.py:Class``, each with ``+HEAD``, ``~permuted`` or both.

    Returns:
        The same with ``NAME`` in place of the file; a name is not looked up.

    Raises:
        MissingDataError: there is no such file.
        ConfigError: no such class in it, it is no evaluator, or its name is taken.
        PluginError: the file raises an error, which is the cause.
    """
    file, colon, class_and_head = typed.rpartition(":")
    if not colon:
        if typed.endswith(".py"):
            raise ConfigError(f"{typed!r} is a file; name the evaluator's class too: {typed}:Class")
        return typed
    class_name, ending = re.fullmatch(r"([^+~]*)(.*)", class_and_head, flags=re.DOTALL).groups()  # type: ignore[union-attr]  # it always matches
    kind, sha256 = _class_of_file(Path(file), class_name)
    fault = _fault(kind)
    if fault:
        raise ConfigError(f"{class_name} of {file} cannot be used: {fault}")
    if kind.name in EVALUATORS:
        raise ConfigError(f"{class_name} of {file} has the name {kind.name!r}, which is taken; rename it")
    _FROM_FILES[kind.name] = _FromFile(kind, sha256, f"{Path(file).resolve()}:{class_name}")
    return f"{kind.name}{ending}"


def _class_of_file(path: Path, class_name: str) -> tuple[type[Evaluator], str]:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise MissingDataError(f"the evaluator's file {path} cannot be read: {error.strerror}") from None
    sha256 = hashlib.sha256(source).hexdigest()
    # Run from the bytes that were hashed; the import system might take an older compiled copy instead.
    module = ModuleType(f"fmcs_bench_file_{sha256[:16]}")
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module  # dataclasses and pickle look classes up there
    try:
        exec(compile(source, module.__file__, "exec"), vars(module))  # noqa: S102  (what the user asked for)
    except Exception as error:
        del sys.modules[module.__name__]
        raise PluginError(f"the evaluator's file {path} raises {type(error).__name__}: {error}") from error
    kind = getattr(module, class_name, None)
    if kind is None:
        own = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
        classes = [name for name in own if inspect.isclass(getattr(module, name))]
        raise ConfigError(f"{path} has no class {class_name!r}; {nearest(class_name, classes)}")
    return kind, sha256


def _fault(kind: object) -> str:
    """Why this is no usable evaluator class; "" where it is one."""
    if not (isinstance(kind, type) and issubclass(kind, Evaluator)):
        return "it is no subclass of fmcs_bench.evaluators.base.Evaluator"
    lacking = [*sorted(kind.__abstractmethods__), *(name for name in ("name", *TRAITS) if not hasattr(kind, name))]
    if lacking:
        return f"it lacks {', '.join(lacking)}"
    wrong = [name for name in (*TRAITS, *DEFAULT_TRAITS) if not isinstance(getattr(kind, name), bool)]
    if wrong:
        return f"{', '.join(wrong)} must be True or False"
    if not (isinstance(kind.name, str) and re.fullmatch(NAME_PATTERN, kind.name)):
        return f"its name {kind.name!r} is no name (letters, digits, '_', '.' and '-', up to 128)"
    return ""
