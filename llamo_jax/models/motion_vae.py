"""The causal motion VAE: 272 features at 30 frames/s <-> latents at 7.5/s.

Latent i depends on frames up to 4 i + 3, and frames 4 i .. 4 i + 3 depend on latents up to i. Every convolution takes
the last inputs of what came before as an argument: zeros at the start of a motion, the returned state afterwards. So
decoding in a stream and decoding at once are the same computation.

Architecture: the causal TAE of MotionStreamer (residual stacks with dilations 9, 3, 1, no normalisation), by default
with two changes that bring the jerk of reconstructions from 4 times the recordings' to about theirs: SiLU, and causal
linear interpolation between the previous and the present latent instead of nearest-neighbour upsampling. With "relu"
and "nearest" it is the TAE itself, whose published weights `convert/peers.py` imports. The posterior's deviation is
drawn, not predicted (LLaMo).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from llamo_jax.config import MotionVAEConfig
from llamo_jax.models.declaration import Linear, abstract, param
from llamo_jax.models.layers import linear
from llamo_jax.motion.representation import FEATURES

State = dict[str, Any]


class Conv(nnx.Module):
    """A causal convolution; weight [out, kernel, in], so that a tap is contracted on the last axis."""

    def __init__(self, rngs: nnx.Rngs, out_dim: int, in_dim: int, kernel: int, scale: float = 1.0):
        self.weight = param(
            rngs, (out_dim, kernel, in_dim), ("conv_out", None, "conv_in"), std=scale * (kernel * in_dim) ** -0.5
        )
        self.bias = param(rngs, (out_dim,), ("conv_out",))


class ResidualStack(nnx.Module):
    """One residual block a dilation: act, conv 3 dilated, act, conv 1."""

    def __init__(self, rngs: nnx.Rngs, width: int, dilations: tuple[int, ...]):
        for index in range(len(dilations)):
            block = nnx.Dict(dilated=Conv(rngs, width, width, 3), pointwise=Conv(rngs, width, width, 1, 0.5))
            setattr(self, f"block{index}", block)


class MotionVAE(nnx.Module):
    """Declares encoder and decoder."""

    def __init__(self, rngs: nnx.Rngs, config: MotionVAEConfig):
        width = config.width
        self.encoder = nnx.Dict(
            input=Conv(rngs, width, FEATURES, 3),
            down0=nnx.Dict(conv=Conv(rngs, width, width, 4), residual=ResidualStack(rngs, width, config.dilations)),
            down1=nnx.Dict(conv=Conv(rngs, width, width, 4), residual=ResidualStack(rngs, width, config.dilations)),
            output=Conv(rngs, width, width, 3),
            mean=Linear(rngs, config.latent_channels, width, ("latent", "conv_out")),
        )
        self.decoder = nnx.Dict(
            latent=Linear(rngs, width, config.latent_channels, ("conv_out", "latent")),
            input=Conv(rngs, width, width, 3),
            up0=nnx.Dict(residual=ResidualStack(rngs, width, config.dilations), conv=Conv(rngs, width, width, 3)),
            up1=nnx.Dict(residual=ResidualStack(rngs, width, config.dilations), conv=Conv(rngs, width, width, 3)),
            hidden=Conv(rngs, width, width, 3),
            output=Conv(rngs, FEATURES, width, 3),
        )


def encode(
    params: dict, config: MotionVAEConfig, features: Float[Array, "B T 272"], state: State | None = None
) -> tuple[Float[Array, "B T//4 Z"], State]:
    """Posterior means of normalised features.

    Args:
      params: the tree that `MotionVAE` declares.
      config: its config.
      features: normalised; T a multiple of 4.
      state: what the last call returned, to go on with the same motion; None at its start.

    Returns:
      The means and the state after them.
    """
    run = _Causal(config, state)
    p = params["encoder"]
    x = run.act(run.conv("input", p["input"], features))
    for name in ("down0", "down1"):
        x = run.conv(f"{name}/conv", p[name]["conv"], x, stride=2)
        x = run.residual(f"{name}/residual", p[name]["residual"], x)
    x = run.conv("output", p["output"], x)
    return linear(p["mean"], x), run.after


def decode(
    params: dict, config: MotionVAEConfig, latents: Float[Array, "B n Z"], state: State | None = None
) -> tuple[Float[Array, "B 4*n 272"], State]:
    """Normalised features of latents; arguments and state as for `encode`."""
    run = _Causal(config, state)
    p = params["decoder"]
    x = run.act(run.conv("input", p["input"], linear(p["latent"], latents)))
    for name in ("up0", "up1"):
        x = run.residual(f"{name}/residual", p[name]["residual"], x)
        x = run.conv(f"{name}/conv", p[name]["conv"], run.upsample(f"{name}/upsample", x))
    x = run.act(run.conv("hidden", p["hidden"], x))
    return run.conv("output", p["output"], x), run.after


def decoder_state(config: MotionVAEConfig, batch: int) -> State:
    """The state of a decoder that has seen nothing, for a jitted step that always takes one."""
    latents = jax.ShapeDtypeStruct((batch, 1, config.latent_channels), jnp.float32)
    state = jax.eval_shape(lambda p, z: decode(p, config, z)[1], abstract(MotionVAE, config), latents)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)


class _Causal:
    """Runs causal operations by name, taking each one's history from `state` and leaving the next in `after`."""

    def __init__(self, config: MotionVAEConfig, state: State | None):
        self._config = config
        self._before = state
        self.after: State = {}
        self.act = {"silu": jax.nn.silu, "relu": jax.nn.relu}[config.activation]

    def _with_history(self, name: str, x: Float[Array, "B T C"], length: int) -> Float[Array, "B T+length C"]:
        if length == 0:
            return x
        history = jnp.zeros((x.shape[0], length, x.shape[2]), x.dtype) if self._before is None else self._before[name]
        extended = jnp.concatenate([history, x], 1)
        self.after[name] = extended[:, extended.shape[1] - length :]
        return extended

    def conv(
        self, name: str, p: dict, x: Float[Array, "B T I"], *, dilation: int = 1, stride: int = 1
    ) -> Float[Array, "B T O"]:
        """Shifted inputs side by side and one matrix product: on CPU faster than a convolution, forward and
        backward."""
        weight = p["weight"].astype(x.dtype)
        out_dim, kernel, in_dim = weight.shape
        extended = self._with_history(name, x, (kernel - 1) * dilation + 1 - stride)
        span = x.shape[1] - stride + 1
        taps = [extended[:, tap * dilation : tap * dilation + span : stride] for tap in range(kernel)]
        product = jnp.concatenate(taps, -1) @ weight.reshape(out_dim, kernel * in_dim).T
        return product + p["bias"].astype(x.dtype)

    def residual(self, name: str, p: dict, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        for index, dilation in enumerate(self._config.dilations):
            block = p[f"block{index}"]
            h = self.conv(f"{name}/block{index}", block["dilated"], self.act(x), dilation=dilation)
            x = x + self.conv(f"{name}/block{index}/pointwise", block["pointwise"], self.act(h))
        return x

    def upsample(self, name: str, x: Float[Array, "B T C"]) -> Float[Array, "B 2*T C"]:
        """Twice the rate: by linear interpolation between the previous sample and the present one, or by saying each
        twice."""
        if self._config.upsampling == "nearest":
            return jnp.repeat(x, 2, axis=1)
        previous = self._with_history(name, x, 1)[:, :-1]
        return jnp.stack([0.5 * (previous + x), x], 2).reshape(x.shape[0], -1, x.shape[2])
