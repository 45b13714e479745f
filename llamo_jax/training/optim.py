"""AdamW over a flat parameter tree, with a schedule of the run's progress."""

import dataclasses

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from llamo_jax.config import Config, require

FlatParams = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class OptimConfig(Config):
    """AdamW. The learning rate warms up over steps and then falls along a cosine of the run's progress.

    Progress is the fraction of the run that is over: of its steps or, where the run has a time limit, of its time,
    whichever is larger. So a run on a machine that turns slow still ends annealed.
    """

    learning_rate: float = 3e-3
    warmup_steps: int = 100
    final_fraction: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.98
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"OptimConfig.learning_rate is {self.learning_rate}; expected more than 0")


def _decays(path: str) -> bool:
    # By name: norms and biases of stacked layers have two axes too.
    name = path.rpartition("/")[2]
    return name not in ("bom", "eom") and not name.endswith(("bias", "norm"))


def learning_rate(config: OptimConfig, step: Array, progress: Array) -> Float[Array, ""]:
    """The rate at a step (from 0), `progress` of the run (0 to 1) being over."""
    warmup = jnp.minimum(1.0, (step + 1) / max(config.warmup_steps, 1))
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
    return config.learning_rate * warmup * (config.final_fraction + (1 - config.final_fraction) * cosine)


def transformation(config: OptimConfig) -> optax.GradientTransformation:
    """Clipping and Adam's direction; `apply` multiplies by the rate. Only matrices decay."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.beta1, config.beta2),
        optax.add_decayed_weights(config.weight_decay, mask=lambda params: {path: _decays(path) for path in params}),
    )


def apply(params: FlatParams, updates: FlatParams, rate: Array) -> FlatParams:
    """params - rate * updates."""
    return {path: leaf - rate * updates[path] for path, leaf in params.items()}
