"""The graph in one screen: ``build(args)`` makes the ingress and one deployment per family.

No ``from __future__ import annotations`` here: Serve reads the builder's annotation to give it typed arguments.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import ray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from ray import serve
from ray.serve import Application

from deployments.blackbox import BLACK_BOXES
from deployments.code import linked_code
from deployments.door import DRAIN
from deployments.exposure import exposed
from deployments.family import Family, FamilyConfig
from deployments.ingress import metrics
from deployments.ingress.service import Ingress, IngressConfig
from deployments.ingress.turns import Gpus
from deployments.logs import in_sight
from deployments.routing import router_config
from deployments.scaling import fits
from tollama import settings as settings_module
from tollama.errors import ConfigError
from tollama.families import FamilySpec, families
from tollama.logs import SERVE_LOGS
from tollama.registry import registry
from tollama.runtimes import Runtimes
from tollama.seam import Placement
from tollama.settings import Settings
from tollama.store import Home

MAX_ONGOING = 1024
"""Requests a replica takes at once: more than the ingress lets wait, so that its own count is the limit."""
SCALING: dict[str, Any] = {
    # Measured: with Serve's defaults the second cold start takes 5-7 s and a replica stays 30 s too long.
    "metrics_interval_s": 0.2,
    "look_back_period_s": 1.0,
    "aggregation_function": "max",
    # The policy has delays of its own; with Serve's beside them one family would get its share before another let go.
    "upscale_delay_s": 0.0,
    "downscale_delay_s": 0.0,
    "downscale_to_zero_delay_s": 0.0,
}
INGRESS_CHECK_S = 0.25
"""How often Serve looks whether an ingress replica lives: while there is none, nobody is answered."""
LIFE: dict[str, Any] = {
    "health_check_period_s": 1.0,
    "health_check_timeout_s": 10.0,
    "graceful_shutdown_timeout_s": 5.0,
    "graceful_shutdown_wait_loop_s": 0.1,
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DoorArgs(_Strict):
    """The ingress's own listening address."""

    host: str = Field("127.0.0.1", description="Address that the API listens on; beyond this machine with API keys.")
    port: int = Field(settings_module.DEFAULT_PORT, ge=1, le=65535, description="Port of the API.")


class IngressArgs(_Strict):
    """The ingress."""

    replicas: int = Field(
        1,
        ge=1,
        le=16,
        description="Replicas, which share the address: with two, no connection is refused while one is replaced.",
    )


class FamilyArgs(_Strict):
    """One family's place."""

    enabled: bool = Field(True, description="Whether the family is served at all.")
    num_gpus: float | None = Field(
        None,
        ge=0,
        description="Share of a GPU: at most 1, or a whole number; 0 where there is no GPU. Default: the family's own.",
    )
    max_replicas: int = Field(1, ge=1, description="Most processes of the family at once.")
    threads: int | None = Field(None, ge=1, description="Threads that a process computes with; default: the cores.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto is the GPU where the family has a share of one, else the CPU; cuda insists on it."
    )
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "float32", description="What models compute in; auto is bfloat16 on a GPU that has it, else float32."
    )

    @field_validator("num_gpus")
    @classmethod
    def _countable(cls, value: float | None) -> float | None:
        if value is not None and value > 1 and value != int(value):
            raise ValueError("a share is at most 1, or a whole number of GPUs")
        return value


class GraphArgs(_Strict):
    """``args`` in serve_config.yaml."""

    home: str | None = Field(None, description="In place of the setting home.")
    door: DoorArgs | None = Field(
        DoorArgs(), description="The ingress's own address; null leaves Serve's proxy as the only way in."
    )
    ingress: IngressArgs = Field(IngressArgs(), description="The ingress.")
    families: dict[str, FamilyArgs] = Field(
        default_factory=dict, description="By name; a family that is not named has its defaults."
    )


def build(args: GraphArgs) -> Application:
    """The application. Families that ``args`` does not name have their defaults."""
    settings = settings_module.load(home=args.home)
    registry()  # a malformed one stops the start, not the first request
    specs = families()
    unknown = sorted(set(args.families) - set(specs))
    if unknown:
        raise ConfigError(f"serve_config.yaml names the family {unknown[0]!r}; there are: {', '.join(specs)}.")
    enabled = {name: args.families.get(name, FamilyArgs()) for name in specs}
    enabled = {name: family for name, family in enabled.items() if family.enabled}
    gpus = shares({name: (specs[name], family) for name, family in enabled.items()}, _gpus())
    handles = {name: _family(specs[name], family, settings, gpus) for name, family in enabled.items()}
    door = (args.door.host, args.door.port) if args.door is not None else None
    replicas = {name: family.max_replicas for name, family in enabled.items()}
    open_to_others = exposed(door[0] if door else None, settings)
    followed = door is not None and args.ingress.replicas == 1
    config = IngressConfig(str(settings.home), door, gpus, replicas, open_to_others, followed)
    (Home(settings.home).run / DRAIN).unlink(missing_ok=True)  # the sign of a server that ran here before
    metrics.prepare(Home(settings.home).run / metrics.FOLDER)
    ingress = serve.deployment(
        name="ingress",
        num_replicas=args.ingress.replicas,
        max_ongoing_requests=MAX_ONGOING,
        ray_actor_options={"num_cpus": 0},
        logging_config=_logging(settings),
        **LIFE | {"health_check_period_s": INGRESS_CHECK_S},
    )(Ingress)
    return ingress.bind(config, handles)


def shares(families: Mapping[str, tuple[FamilySpec, FamilyArgs]], number: int) -> Gpus:
    """Each family's share of so many GPUs: what its arguments say, else its own default; without a GPU, none."""
    found: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name, (spec, args) in families.items():
        share = spec.num_gpus if args.num_gpus is None else args.num_gpus
        if args.device == "cuda" and not (share and number):
            refused[name] = (
                f"The family {name!r} is to run on a GPU and has no share of one: its num_gpus is {share:g}, and the"
                f" cluster has {number} GPUs."
            )
        elif args.device != "cpu" and share and number:
            found[name] = share
            if not fits([share], number):
                refused[name] = f"The family {name!r} needs {share:g} GPUs, and the cluster has {number}."
    return Gpus(number, found, refused)


def _gpus() -> int:
    return int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]


def _family(spec: FamilySpec, args: FamilyArgs, settings: Settings, gpus: Gpus) -> Application:
    threads = args.threads or os.cpu_count() or 1
    home = Home(settings.home)
    share = gpus.shares.get(spec.name, 0.0)
    environment = {
        # Ray sets OMP_NUM_THREADS to 1 for actors of no CPU; two processes of two threads on two cores are ten times
        # slower than one.
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        "PYTHONNOUSERSITE": "1",
        "HF_HUB_OFFLINE": "1",
        **spec.env,
    }
    if not share:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves it as it finds it for actors without a GPU
    runtime_env: dict[str, Any] = {"env_vars": environment}
    if spec.lock is not None:
        environment["PYTHONPATH"] = str(linked_code(home.run, spec.adapters.values()))
        runtime_env["py_executable"] = str(Runtimes(settings.runtimes).python(spec))
    config = FamilyConfig(
        spec.name,
        spec.adapters,
        Placement(args.device, args.dtype, threads),
        settings.max_loaded_models,
        slot=_slot(home) if spec.computes else None,
        black_boxes=str(home.run / BLACK_BOXES),
        gpu_share=share,
        max_memory_fraction=settings.max_memory_fraction,
    )
    linger = {"linger": settings.family_linger} if "family_linger" in settings.sources else {}
    deployment = serve.deployment(
        name=spec.name,
        max_ongoing_requests=MAX_ONGOING,
        autoscaling_config={
            "min_replicas": 0,
            "max_replicas": args.max_replicas,
            "policy": {"policy_kwargs": {"share": share, "gpus": gpus.number, **linger}},
            **SCALING,
        },
        request_router_config=router_config(args.max_replicas),
        ray_actor_options={"num_cpus": 0, "num_gpus": share, "runtime_env": runtime_env},
        logging_config=_logging(settings),
        # What a replica computes when it goes is finished first. One that hangs is not waited for so long: the ingress
        # takes its calls back at their deadlines.
        **LIFE | {"graceful_shutdown_timeout_s": settings.request_timeout},
    )(Family)
    return deployment.bind(config)


def _logging(settings: Settings) -> dict[str, Any]:
    return {
        "enable_access_log": False,
        "log_level": settings.log_level,
        "encoding": settings.log_format.upper(),
        "logs_dir": in_sight(Home(settings.home).logs / SERVE_LOGS),
    }


def _slot(home: Home) -> str:
    home.run.mkdir(parents=True, exist_ok=True)
    return str(Path(home.run) / "compute.lock")
