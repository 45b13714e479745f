"""Optimizers over a flat parameter tree, with schedules of the run's progress, one for each module that has its own."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from llamo_jax.config import Config, require

FlatParams = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Schedule(Config):
    """A learning rate that warms up over steps and then follows the run's progress.

    Progress is the fraction of the run that is over: of its steps or, where the run has a time limit, of its time,
    whichever is larger. So a run on a machine that turns slow still ends annealed.
    """

    learning_rate: float = 3e-3
    warmup_steps: int = 100
    shape: Literal["cosine", "wsd"] = "cosine"
    """After the warm-up: a cosine, or stable and then a linear decay."""
    final_fraction: float = 0.0
    """Of the learning rate, at the end."""
    decay_fraction: float = 0.2
    """Of the run, in which "wsd" decays."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        require(self.learning_rate > 0, f"{name}.learning_rate is {self.learning_rate}; expected more than 0")
        require(
            0 < self.decay_fraction <= 1, f"{name}.decay_fraction is {self.decay_fraction}; expected more than 0, to 1"
        )


@dataclasses.dataclass(frozen=True)
class OptimConfig(Schedule):
    """The optimizer, and the schedule of all that has none of its own."""

    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.0
    """Of matrices."""
    clip_norm: float = 1.0
    """Of the gradients of all that trains."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Muon (Jordan et al., 2024) turns the momentum of each matrix of the towers' layers into an orthogonal one; all
    else is AdamW's. Its updates have the root mean square of AdamW's (Liu et al., 2025), so that rates carry over."""
    modules: dict[str, Schedule] = dataclasses.field(default_factory=dict)
    """Beginning of a path -> its own schedule; the longest that fits counts."""
    ema_decay: float = 0.0
    """Of an exponential moving average of what trains, which is what the run gives in the end; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.ema_decay < 1, f"OptimConfig.ema_decay is {self.ema_decay}; expected 0 to below 1")

    def schedule(self, path: str) -> Schedule:
        """Of the parameter at a path."""
        return self.modules.get(self.module(path), self)

    def module(self, path: str) -> str:
        """The module whose schedule a parameter has; "" for all that have none of their own."""
        return max((prefix for prefix in self.modules if path.startswith(prefix)), key=len, default="")


def _decays(path: str) -> bool:
    # By name: norms and biases of stacked layers have two axes too.
    name = path.rpartition("/")[2]
    return name not in ("bom", "eom") and not name.endswith(("bias", "norm"))


def learning_rate(config: Schedule, step: Array, progress: Array) -> Float[Array, ""]:
    """The rate at a step (from 0), `progress` of the run (0 to 1) being over."""
    warmup = jnp.minimum(1.0, (step + 1) / max(config.warmup_steps, 1))
    progress = jnp.clip(progress, 0.0, 1.0)
    if config.shape == "cosine":
        falling = 0.5 * (1 + jnp.cos(jnp.pi * progress))
    else:
        falling = jnp.minimum(1.0, (1 - progress) / config.decay_fraction)
    return config.learning_rate * warmup * (config.final_fraction + (1 - config.final_fraction) * falling)


def transformation(config: OptimConfig) -> optax.GradientTransformation:
    """Clipping and the optimizer's direction; `apply` multiplies by the rates. Only matrices decay."""
    direction = optax.scale_by_adam(config.beta1, config.beta2)
    if config.optimizer == "muon":
        dimensions = optax.contrib.MuonDimensionNumbers(reduction_axis=2, output_axis=1)  # of [layers, out, in]
        muon = optax.chain(
            optax.contrib.scale_by_muon(weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: dimensions, tree)),
            optax.stateless(_as_large_as_adam),
        )
        kinds = {"muon": muon, "adam": direction}
        direction = optax.partition(kinds, lambda tree: {path: _kind(path, leaf) for path, leaf in tree.items()})
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        direction,
        optax.add_decayed_weights(config.weight_decay, mask=lambda params: {path: _decays(path) for path in params}),
    )


def _kind(path: str, leaf: Array) -> str:
    return "muon" if "/layers/" in path and path.endswith("/weight") and leaf.ndim == 3 else "adam"


def _as_large_as_adam(updates: Any, params: Any = None) -> Any:
    del params
    return jax.tree.map(lambda leaf: 0.2 * max(leaf.shape[1:]) ** 0.5 * leaf, updates)


def rates(config: OptimConfig, step: Array, progress: Array) -> dict[str, Float[Array, ""]]:
    """Module -> its learning rate; "" is that of all that have no schedule of their own."""
    return {
        module: learning_rate(schedule, step, progress) for module, schedule in {"": config, **config.modules}.items()
    }


def apply(config: OptimConfig, params: FlatParams, updates: FlatParams, rates: dict[str, Array]) -> FlatParams:
    """params - rate * updates, with the rate of each module."""
    return {path: leaf - rates[config.module(path)] * updates[path] for path, leaf in params.items()}


def average(config: OptimConfig, ema: FlatParams, params: FlatParams) -> FlatParams:
    """The next moving averages; nothing where the run keeps none."""
    return {path: config.ema_decay * leaf + (1 - config.ema_decay) * params[path] for path, leaf in ema.items()}
