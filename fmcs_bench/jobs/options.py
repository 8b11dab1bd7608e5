"""Options that say where trials are done."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from fmcs_bench.core.options import Options


class Execution(Options):
    """Where trials are done: on which device, and one after another here or at the same time on Ray.

    Results do not depend on the engine.
    """

    device: str = Field("auto", description="auto (CUDA where torch has it, else the CPU), cpu, cuda, cuda:1 ...")
    engine: Literal["local", "ray"] = Field(
        "local", description="local: one after another. ray: at the same time, on one machine or many."
    )
    address: str | None = Field(
        None,
        description="ray: the cluster; auto is the one that this machine is part of.",
        json_schema_extra={"metavar": "HOST:PORT|auto", "default": "this machine alone"},
    )
    unit_cpus: int | None = Field(
        None, ge=1, description="ray: CPUs, and threads, of each trial.", json_schema_extra={"default": "1"}
    )
    unit_gpus: float | None = Field(
        None,
        ge=0,
        description="ray: GPUs of each trial, or a share of one.",
        json_schema_extra={"default": "1 on CUDA"},
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = {name: getattr(self, name) for name in ("address", "unit_cpus", "unit_gpus")}
        shown = ", ".join(f"{name} = {value!r}" for name, value in given.items() if value is not None)
        if self.engine == "local" and shown:
            raise ValueError(f"{shown}: these belong to the engine ray; add --engine ray (engine='ray')")
        if self.unit_gpus is not None and self.unit_gpus > 1 and self.unit_gpus % 1:
            raise ValueError(f"unit_gpus = {self.unit_gpus}; give a share between 0 and 1, or a whole number")
        if self.address is not None and "://" in self.address:
            raise ValueError(
                f"the address {self.address!r} is for Ray's client or its jobs; type the command on a machine of the "
                "cluster, with --address auto or HOST:PORT"
            )
        if self.engine == "ray" and ":" in self.device:
            raise ValueError(f"device {self.device!r} names one GPU, but Ray assigns GPUs; use --device cuda")
        return self
