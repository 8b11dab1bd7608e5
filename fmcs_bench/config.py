"""Options: frozen, checked when made, equal after a round trip through JSON, and named by a digest."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from fmcs_bench import files
from fmcs_bench.errors import ConfigError, nearest

DEFAULT_RAFS = (0.95, 0.9, 0.75)
NUM_SEEDS = 5
"""Repetitions of a fit or a training, unless another number is asked for."""
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
"""Names that become part of a path: no separators, no leading dot."""
Precision = Literal["float32", "bfloat16"]
Head = Literal["softmax", "corn", "coral"]
MAX_COMBINATIONS = 12
"""Of a grid: more fits of one evaluator and seed would rather fit the validation run than the data."""
GridValue = int | float | str
Combination = dict[str, GridValue]
"""Values of some fields of a recipe."""
FIT_PATTERN = NAME_PATTERN.removesuffix("$") + rf"(\+({'|'.join(get_args(Head)[1:])}))?$"
"""Names of fits: an evaluator, and behind a plus its ordinal head."""


class Options(BaseModel):
    """Base of every configuration, manifest and record.

    ``make`` and ``from_json`` turn what pydantic finds wrong into a ``ConfigError`` for a person.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=(), allow_inf_nan=False)

    added_later: ClassVar[frozenset[str]] = frozenset()
    """Fields that are written only where they differ from their default, so that digests from before them stay."""

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        unchanged = {name for name in self.added_later if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in values.items() if name not in unchanged}

    @classmethod
    def make(cls, **values: Any) -> Self:
        """An object with these values.

        Raises:
            ConfigError: with one line per fault: the option, its value, and what is allowed; an unknown option comes
                with the nearest known one.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigError("\n".join(cls._explain(item) for item in error.errors())) from None

    @classmethod
    def _explain(cls, item: Any) -> str:
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            kind = _kind_at(cls, item["loc"][:-1])
            return f"unknown option {where!r} of {kind.__name__}; {nearest(str(item['loc'][-1]), kind.model_fields)}"
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "missing":
            return f"{cls.__name__} lacks {where!r}"
        return f"{where} = {item['input']!r}: {message}" if where else message

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; ``type(self).from_json`` reads them back to an equal object."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """The object that ``to_json`` wrote (lists become tuples again).

        Raises:
            ConfigError: the value is not of this schema.
        """
        if not isinstance(value, dict):
            raise ConfigError(f"{cls.__name__} must be a JSON object, not {type(value).__name__}")
        try:
            text = files.to_json(value)
        except ValueError as error:  # NaN, or text that is no Unicode
            raise ConfigError(f"{cls.__name__}: {error}") from None
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError("\n".join(cls._explain(item) for item in error.errors())) from None

    @property
    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON form."""
        return files.digest(self.to_json())


def _kind_at(kind: type[Options], path: Sequence[str | int]) -> type[Options]:
    """The class of the options that stand at ``path`` inside options of class ``kind``."""
    for part in path:
        field = kind.model_fields.get(str(part))  # None for a position in a list and for a key of a dictionary
        kind = _options_in(field.annotation) or kind if field else kind
    return kind


def _options_in(annotation: Any) -> type[Options] | None:
    """The class of options in ``Recipe``, ``tuple[Epoch, ...]`` or ``dict[str, Metrics]``."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return annotation
    return next(filter(None, map(_options_in, get_args(annotation))), None)


class Recipe(Options):
    """How a network is trained. The default is ``fmce``: Adam, learning rate 1e-3, annealed (arXiv 2508.06109, IV-A).

    The number of epochs is not part of a recipe: it comes from the upper bound of a run or from the convergence point.
    """

    name: str = "fmce"
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(1e-3, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    batch_size: int = Field(64, ge=2)
    precision: Precision = Field("float32", description="bfloat16 is mixed precision: weights stay float32")

    added_later = frozenset({"precision"})


class ConvergenceRule(Options):
    """Parameters of the CQI rule (arXiv 2405.04041); see ``fmcs_bench.convergence``.

    Both spans are in epochs and the threshold in nats per epoch, so that a rule means the same at any batch size.
    """

    smoothing_epochs: float = Field(0.5, gt=0, description="half-life of the exponential moving average of the loss")
    window_epochs: float = Field(1.0, gt=0, description="window of the moving average of the loss differences")
    threshold: float = Field(0.02, gt=0, description="mu_CQI: converged once CQI stays below, in nats per epoch")


class BackboneOptions(Options):
    """How a backbone differs from what its name alone says.

    Example:
        >>> BackboneOptions.make(output_stride=12)
        Traceback (most recent call last):
        fmcs_bench.errors.ConfigError: output_stride = 12: Input should be 8, 16 or 32
    """

    layer: str | None = Field(None, min_length=1, description="module whose output are the maps; None is the last map")
    output_stride: Literal[8, 16, 32] | None = Field(None, description="image side / map side; None is the network's")
    pretrained: bool = Field(False, description="start from published weights; the classifier is random")


class NamesBackbone(Options):
    """Options that name a backbone. The JSON form leaves ``backbone_options`` out where nothing was chosen.

    So what was written before there were any is read, and has the digest, as before.
    """

    backbone: str
    backbone_options: BackboneOptions = BackboneOptions()

    added_later = frozenset({"backbone_options"})


class BuildConfig(NamesBackbone):
    """Everything that decides what an FMCS dataset holds."""

    image_dataset: str = "digits"
    image_size: int = Field(ge=8, le=1024, description="side of the square input, in pixels")
    stages: int = Field(ge=2, le=99, description="K, the number of FMCS")
    runs: int = Field(2, ge=1, description="training runs")
    held_out_runs: Literal[2] = Field(2, description="one validation run and one test run")
    epochs: int = Field(ge=1, description="upper bound; the stages end at the convergence point")
    checkpoints: int = Field(60, ge=4, description="about how many checkpoints along one run")
    limit: int | None = Field(None, ge=1, description="at most this many images in each split")
    codec: Literal["zstd", "pco", "q8"] = Field("zstd", description="of the maps; q8 is lossy")
    markers: Literal["loss", "epoch"] = "loss"
    recipe: Recipe = Recipe()
    convergence: ConvergenceRule = ConvergenceRule()
    seed: int = Field(0, ge=0, description="seed of the first run; run i has seed + i")
    name: str = Field("base", pattern=r"^[a-z0-9][a-z0-9_.]{0,63}$")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not re.fullmatch(NAME_PATTERN, self.dataset_name):
            raise ValueError(
                f"the image dataset {self.image_dataset!r} and the backbone {self.backbone!r} give the name "
                f"{self.dataset_name!r}; it names a folder, so up to 128 letters, digits, '_', '.' and '-' are allowed"
            )
        return self

    @classmethod
    def create(cls, **options: Any) -> Self:
        """Fill what is not given (or None) with the defaults of the image dataset.

        Raises:
            ConfigError: an unknown option or a value out of range.
        """
        given = {key: value for key, value in options.items() if value is not None}
        small = given.get("image_dataset", "digits") == "digits"
        defaults = {
            "image_size": 32 if small else 224,
            "stages": 7 if small else 9,
            "epochs": 20 if small else 30,
        }
        return cls.make(**(defaults | given))

    @property
    def run_roles(self) -> dict[int, Literal["training", "validation", "test"]]:
        """Role of each run by its seed: the training runs first, then the validation run, then the test run."""
        seeds = range(self.seed, self.seed + self.runs + 2)
        return {
            seed: "training" if i < self.runs else "validation" if i == self.runs else "test"
            for i, seed in enumerate(seeds)
        }

    @property
    def dataset_name(self) -> str:
        """Name of the FMCS dataset: image dataset, backbone, size and the given name."""
        backbone = self.backbone.replace("/", "_")
        return f"{self.image_dataset}-{backbone}-{self.image_size}px-{self.name}"


class EvaluatorConfig(Options):
    """How one evaluator is fitted."""

    evaluator: str = Field(pattern=NAME_PATTERN)
    seed: int = Field(ge=0)
    epochs: int = Field(12, ge=1, description="upper bound; early stopping by MAE on the validation run")
    patience: int = Field(3, ge=1, description="epochs without a better validation MAE before fitting stops")
    limit: int | None = Field(None, ge=1, description="at most this many images in each split")
    recipe: Recipe = Recipe(name="evaluator", batch_size=256)
    head: Head = Field("softmax", description="how a network's outputs become probabilities of ordered stages")
    code: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="SHA-256 of the file with a plug-in's class; None for ours"
    )
    grid: dict[str, tuple[GridValue, ...]] = Field(
        {}, description="values of the recipe's fields to try; the combination that is best on the validation run stays"
    )

    added_later = frozenset({"head", "code", "grid"})

    @field_validator("grid")
    @classmethod
    def _in_order(cls, grid: dict[str, tuple[GridValue, ...]]) -> dict[str, tuple[GridValue, ...]]:
        """Fields by name and values ascending, however they were typed: one grid has one digest and one order."""
        fields = {name: field for name, field in Recipe.model_fields.items() if name != "name"}
        found: dict[str, tuple[GridValue, ...]] = {}
        for name, values in sorted(grid.items()):
            if name not in fields:
                raise ValueError(f"a recipe has no {name!r} to try values of; {nearest(name, fields)}")
            is_real = fields[name].annotation is float
            typed = [float(value) if is_real and type(value) is int else value for value in values]
            if not typed or len(set(typed)) != len(typed) or len({isinstance(value, str) for value in typed}) > 1:
                raise ValueError(f"{name} needs one or more values of one kind, each once, as in {name}=A,B")
            found[name] = tuple(sorted(typed))
        number = math.prod(map(len, found.values()))
        if number > MAX_COMBINATIONS:
            raise ValueError(f"{number} combinations; at most {MAX_COMBINATIONS} are allowed, so leave some values out")
        return found

    @model_validator(mode="after")
    def _check_grid(self) -> Self:
        recipes = [self.with_recipe(combination).recipe for combination in self.combinations]
        if "momentum" in self.grid and any(recipe.optimizer != "sgd" for recipe in recipes):
            raise ValueError("momentum is of the optimizer sgd alone; give the grid optimizer=sgd too")
        return self

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """Every combination of the grid's values, the last field changing fastest; an empty one where there is no grid.

        Example:
            >>> EvaluatorConfig(evaluator="a", seed=0, grid={"lr": (0.1, 0.01), "batch_size": (64,)}).combinations
            ({'batch_size': 64, 'lr': 0.01}, {'batch_size': 64, 'lr': 0.1})
        """
        return tuple(dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values()))

    def with_recipe(self, combination: Combination) -> Self:
        """The same without a grid, its recipe changed to this combination.

        Raises:
            ConfigError: a value is not allowed.
        """
        recipe = Recipe.make(**(self.recipe.model_dump() | combination)) if combination else self.recipe
        return self.model_copy(update={"recipe": recipe, "grid": {}})

    @property
    def method(self) -> str:
        """Name of the fit: the evaluator, and behind a plus its head where that is not softmax.

        Example:
            >>> [EvaluatorConfig(evaluator="conv", seed=0, head=head).method for head in ("softmax", "corn")]
            ['conv', 'conv+corn']
        """
        return self.evaluator if self.head == "softmax" else f"{self.evaluator}+{self.head}"

    @property
    def settings(self) -> str:
        """Names everything but evaluator, head, code and seed; only fits with equal settings are compared.

        Example:
            >>> EvaluatorConfig(evaluator="a", seed=0).settings == EvaluatorConfig(evaluator="b", seed=1).settings
            True
        """
        varied = {"evaluator", "head", "code", "seed"}
        return f"{self.epochs}ep-{files.digest(self.model_dump(mode='json', exclude=varied))[:8]}"


class Method(Options):
    """One training method: a network, its constraint and its objective.

    ``raf`` is the share of the base loss (Table I of arXiv 2508.06109): ``loss = raf * L_base + (1 - raf) * L_FMCS``;
    1 is the baseline, 0 the FMCS loss alone. It is 1 minus the alpha of that paper's eq. (5).
    """

    network: Literal["single", "dueheadnet"] = "single"
    fusion: Literal["add", "concat"] | None = None
    constraint: Literal["none", "align", "diversify"] = "none"
    constraint_weight: float = Field(1.0, ge=0)
    raf: float = Field(1.0, description="in [0, 1]")

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
        return self

    @property
    def family(self) -> str:
        """The method without its RAF; one RAF is chosen for each family.

        Example:
            >>> Method(raf=0.9).family, Method(network="dueheadnet", fusion="add", constraint="align").family
            ('ral', 'dueheadnet-add-align')
        """
        parts = [] if self.network == "single" else ["dueheadnet", self.fusion or "", self.constraint]
        if self.constraint != "none" and self.constraint_weight != 1:
            parts.append(f"w{self.constraint_weight:.12g}")
        if self.raf != 1:
            parts.append("ral")
        return "-".join(parts) or "baseline"
