"""The flow-matching head: an adaLN residual MLP that turns noise into the next motion latent.

x_t = (1 - t) noise + t latent, so that t = 0 is noise and t = 1 is data; the target velocity is latent - noise (LLaMo, section 3). The
modulations depend on the condition and on t but not on x_t: all steps' modulations are one matrix product outside the ODE loop.
"""

from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from llamo_jax.config import FlowHeadConfig
from llamo_jax.models.layers import Linear, dot, layer_norm, linear, param

Solver = Literal["euler", "midpoint", "heun"]
SOLVERS: tuple[str, ...] = get_args(Solver)


class FlowHead(nnx.Module):
    """Declares the head. Modulations and the output layer start at zero: each block starts as the identity (adaLN-zero)."""

    def __init__(self, rngs: nnx.Rngs, config: FlowHeadConfig, condition_width: int, channels: int):
        width, blocks = config.width, config.num_blocks
        self.input = Linear(rngs, width, channels, ("head", "latent"))
        self.condition = Linear(rngs, width, condition_width, ("head", "embed"))
        self.time_in = Linear(rngs, width, width, ("head", None))
        self.time_out = Linear(rngs, width, width, (None, "head"))
        self.modulation = Linear(rngs, (3 * blocks + 2) * width, width, ("head", None), std=0.0)
        self.blocks = nnx.Dict(
            up=nnx.Dict(
                weight=param(rngs, (blocks, width, width), ("layers", "head", None), std=width**-0.5),
                bias=param(rngs, (blocks, width), ("layers", "head")),
            ),
            down=nnx.Dict(
                weight=param(rngs, (blocks, width, width), ("layers", None, "head"), std=width**-0.5),
                bias=param(rngs, (blocks, width), ("layers", None)),
            ),
        )
        self.output = Linear(rngs, channels, width, ("latent", "head"), std=0.0)


Modulations = tuple[Float[Array, "... M"], ...]
"""Shift, scale and gate of each block, then shift and scale of the output, side by side in M."""


def modulations(params: dict, condition: Float[Array, "... D"], t: Float[Array, "..."]) -> Modulations:
    """What hidden states `condition` and times `t` do to each block; leading axes broadcast."""
    width = params["time_in"]["weight"].shape[1]
    c = linear(params["condition"], condition) + linear(
        params["time_out"], jax.nn.silu(linear(params["time_in"], _time_embedding(t, width)))
    )
    c = jax.nn.silu(c)
    # One product a block: slicing its output would copy activations, which are many, and slicing weights copies few.
    weight, bias = params["modulation"]["weight"], params["modulation"]["bias"]
    starts = range(0, weight.shape[0], 3 * width)
    return tuple(linear({"weight": weight[i : i + 3 * width], "bias": bias[i : i + 3 * width]}, c) for i in starts)


def velocity(params: dict, x_t: Float[Array, "... Z"], modulation: Modulations) -> Float[Array, "... Z"]:
    """The velocity dx/dt at x_t."""
    blocks = params["blocks"]
    x = linear(params["input"], x_t)
    for index, per_block in enumerate(modulation[:-1]):
        shift, scale, gate = jnp.split(per_block, 3, -1)
        h = layer_norm(x) * (1 + scale) + shift
        h = jax.nn.silu(dot(h, blocks["up"]["weight"][index]) + blocks["up"]["bias"][index])
        x = x + gate * (dot(h, blocks["down"]["weight"][index]) + blocks["down"]["bias"][index])
    shift, scale = jnp.split(modulation[-1], 2, -1)
    return linear(params["output"], layer_norm(x) * (1 + scale) + shift)


class Schedule(NamedTuple):
    """The times at which an ODE solver looks at the velocity: `stages` evaluations for each of the steps."""

    times: np.ndarray  # [steps, stages]
    step: float


def schedule(solver: Solver, steps: int) -> Schedule:
    """Uniform steps from t = 0 (noise) to t = 1 (data)."""
    starts = np.arange(steps, dtype=np.float32) / steps
    offsets = {"euler": [0.0], "midpoint": [0.0, 0.5], "heun": [0.0, 1.0]}[solver]
    return Schedule(starts[:, None] + np.array(offsets, np.float32) / steps, 1.0 / steps)


def sample(
    params: dict,
    condition: Float[Array, "B D"],
    noise: Float[Array, "B Z"],
    *,
    solver: Solver,
    steps: int,
    guidance: float | Array = 1.0,
    unconditional: Float[Array, "B D"] | None = None,
) -> Float[Array, "B Z"]:
    """Integrates noise to latents.

    Args:
      params: the tree that `FlowHead` declares.
      condition: hidden states of the motion tower.
      noise: standard normal, x at t = 0.
      solver: "euler" (the paper's; one evaluation a step), "midpoint" or "heun" (two).
      steps: number of steps.
      guidance: w in v = v_un + w (v_cond - v_un).
      unconditional: hidden states without the text; None for no guidance.
    """
    times, dt = schedule(solver, steps)
    conditions = condition[None] if unconditional is None else jnp.stack([condition, unconditional])
    # [steps, stages, 1 or 2, B, M] each: every modulation of the whole integration, outside the loop.
    all_modulations = modulations(params, conditions, jnp.asarray(times)[:, :, None, None])

    def guided(x: Array, modulation: Modulations) -> Array:
        v = velocity(params, x[None], modulation)
        return v[0] if unconditional is None else v[1] + guidance * (v[0] - v[1])

    def step(x: Array, modulation: Modulations) -> tuple[Array, None]:
        first, last = (tuple(part[stage] for part in modulation) for stage in (0, -1))
        v = guided(x, first)
        if solver == "midpoint":
            v = guided(x + 0.5 * dt * v, last)
        elif solver == "heun":
            v = 0.5 * (v + guided(x + dt * v, last))
        return x + dt * v, None

    return jax.lax.scan(step, noise, all_modulations)[0]


def _time_embedding(t: Float[Array, "..."], width: int) -> Float[Array, "... W"]:
    """Sinusoids of 1000 t with wavelengths from 2 pi to 20000 pi."""
    frequencies = np.exp(-np.log(10000.0) * np.arange(width // 2) / (width // 2)).astype(np.float32)
    angles = 1000.0 * t[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
