"""The flow-matching head: an adaLN residual MLP that turns noise into the next motion latent.

x_t = (1 - t) noise + t latent, so that t = 0 is noise and t = 1 is data; the target velocity is latent - noise (LLaMo,
section 3). The modulations depend on the condition and on t but not on x_t: those of all steps are computed in one
product a block, outside of the ODE loop. Every block is arrays of its own: a slice of stacked weights would be copied
in every step.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from llamo_jax.config import FlowHeadConfig
from llamo_jax.models.declaration import Linear
from llamo_jax.models.layers import layer_norm, linear
from llamo_jax.solvers import SOLVERS, Solver


class _Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, width: int):
        self.modulation = Linear(rngs, 3 * width, width, ("head", None), std=0.0)
        self.up = Linear(rngs, width, width, ("head", None))
        self.down = Linear(rngs, width, width, (None, "head"))


class FlowHead(nnx.Module):
    """Declares the head. Modulations and the output layer start at zero: each block starts as the identity
    (adaLN-zero)."""

    def __init__(self, rngs: nnx.Rngs, config: FlowHeadConfig, condition_width: int, channels: int):
        width = config.width
        self.input = Linear(rngs, width, channels, ("head", "latent"))
        self.condition = Linear(rngs, width, condition_width, ("head", None))
        self.time_in = Linear(rngs, width, width, ("head", None))
        self.time_out = Linear(rngs, width, width, (None, "head"))
        self.blocks = nnx.List([_Block(rngs, width) for _ in range(config.num_blocks)])
        self.output_modulation = Linear(rngs, 2 * width, width, ("head", None), std=0.0)
        self.output = Linear(rngs, channels, width, ("latent", "head"), std=0.0)


Modulations = tuple[Float[Array, "... M"], ...]
"""Shift, scale and gate of each block, then shift and scale of the output, side by side in M."""


def embed_time(params: dict, t: Float[Array, "..."]) -> Float[Array, "... W"]:
    """What times `t` add to the condition. A sampler knows its times beforehand, and computes this once."""
    sinusoids = _sinusoids(t, params["time_in"]["weight"].shape[1])
    return linear(params["time_out"], jax.nn.silu(linear(params["time_in"], sinusoids)))


def modulations(params: dict, condition: Float[Array, "... D"], time: Float[Array, "... W"]) -> Modulations:
    """What hidden states `condition` and embedded times do to each block; leading axes broadcast."""
    c = jax.nn.silu(linear(params["condition"], condition) + time)
    return tuple(linear(p, c) for p in (*(b["modulation"] for b in params["blocks"]), params["output_modulation"]))


def velocity(params: dict, x_t: Float[Array, "... Z"], modulation: Modulations) -> Float[Array, "... Z"]:
    """The velocity dx/dt at x_t."""
    x = linear(params["input"], x_t)
    for block, per_block in zip(params["blocks"], modulation[:-1], strict=True):
        shift, scale, gate = jnp.split(per_block, 3, -1)
        h = layer_norm(x) * (1 + scale) + shift
        x = x + gate * linear(block["down"], jax.nn.silu(linear(block["up"], h)))
    shift, scale = jnp.split(modulation[-1], 2, -1)
    return linear(params["output"], layer_norm(x) * (1 + scale) + shift)


class Schedule(NamedTuple):
    """The steps of a solver, the same for every latent."""

    times: Float[Array, "steps stages W"]
    """Embedded: where each stage looks at the velocity."""
    sizes: Float[Array, " steps"]


@functools.partial(jax.jit, static_argnames=("solver", "steps", "shift"))
def schedule(params: dict, *, solver: Solver, steps: int, shift: float = 1.0) -> Schedule:
    """Steps from t = 0 (noise) to t = 1 (data).

    Args:
      params: the tree that `FlowHead` declares.
      solver: a row of `solvers.SOLVERS`.
      steps: how many.
      shift: s of the times (Esser et al., 2024): a share of noise n = 1 - t becomes s n / (1 + (s - 1) n). Steps are
        uniform at 1, and above it finer where there is much noise.
    """
    noise = 1 - np.arange(steps + 1) / steps
    edges = 1 - shift * noise / (1 + (shift - 1) * noise)
    sizes = np.diff(edges)
    times = edges[:-1, None] + sizes[:, None] * np.array(SOLVERS[solver].nodes)
    return Schedule(embed_time(params, jnp.asarray(times, jnp.float32)), jnp.asarray(sizes, jnp.float32))


def sample(
    params: dict,
    condition: Float[Array, "G B D"],
    noise: Float[Array, "B Z"],
    times: Schedule,
    *,
    solver: Solver,
    guidance: float | Array = 1.0,
) -> Float[Array, "B Z"]:
    """Integrates noise at t = 0 to latents at t = 1.

    Args:
      params: the tree that `FlowHead` declares.
      condition: hidden states of the motion tower: with the text (G = 1), or with the text and without (G = 2).
      noise: standard normal, x at t = 0.
      times: of `schedule`, for this solver.
      solver: a row of `solvers.SOLVERS`.
      guidance: w in v = v_without + w (v_with - v_without), where G = 2.
    """
    _, stages, weights = SOLVERS[solver]
    # [steps, stages, G, B, M] each: every modulation of the whole integration, outside of the loop.
    all_modulations = modulations(params, condition, times.times[:, :, None, None])

    def guided(x: Array, modulation: Modulations) -> Array:
        with_text, *without = velocity(params, x[None], modulation)
        return without[0] + guidance * (with_text - without[0]) if without else with_text

    def ahead(x: Array, dt: Array, weights: tuple[float, ...], velocities: list[Array]) -> Array:
        weighted = [weight * v for weight, v in zip(weights, velocities, strict=True) if weight]
        return x + dt * sum(weighted) if weighted else x

    def step(x: Array, of_step: tuple[Array, Modulations]) -> tuple[Array, None]:
        dt, modulation = of_step
        velocities: list[Array] = []
        for number, before in enumerate(stages):
            look = tuple(part[number] for part in modulation)
            velocities.append(guided(ahead(x, dt, before, velocities), look))
        return ahead(x, dt, weights, velocities), None

    return jax.lax.scan(step, noise, (times.sizes, all_modulations))[0]


def _sinusoids(t: Float[Array, "..."], width: int) -> Float[Array, "... W"]:
    """Sinusoids of 1000 t with wavelengths from 2 pi to 20000 pi."""
    frequencies = np.exp(-np.log(10000.0) * np.arange(width // 2) / (width // 2)).astype(np.float32)
    angles = 1000.0 * t[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1)
