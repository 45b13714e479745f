"""Training losses, each a pure function of (parameters, batch, key) that returns the loss and the figures to log."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from llamo_jax.batch import Batch
from llamo_jax.config import Config, LlamoConfig, MotionVAEConfig
from llamo_jax.models import flow, llamo, motion_vae
from llamo_jax.models.parallel import ALONE, ROWS, Parallel
from llamo_jax.motion.representation import (
    FEATURE_LIMIT,
    FPS,
    FRAMES_PER_LATENT,
    HEADING_DELTA,
    POSITIONS,
    ROOT_VELOCITY,
    turn,
)
from llamo_jax.motion.skeleton import FEET
from llamo_jax.motion.statistics import Statistics
from llamo_jax.trees import flatten, unflatten

Metrics = dict[str, Array]

ROOT = slice(ROOT_VELOCITY.start, HEADING_DELTA.stop)

SLOW_FOOT = 0.05
"""Metres a second; foot velocity errors count relative to the recorded speed plus this, so that standing feet count
most."""


@dataclasses.dataclass(frozen=True)
class LlamoLossConfig(Config):
    """L = flow + exit_weight * exit + text_weight * text (LLaMo, section 3; lambda_2 and lambda_1)."""

    exit_weight: float = 1.0
    """The exit loss is small, because most slots are no end: at 0.1 the motion tower learns no end."""
    text_weight: float = 1.0
    timesteps_per_latent: int = 4
    timestep_mean: float = 0.0
    """Of the normal variable whose sigmoid is t. Below 0 there is more noise in x_t, so that more must come from the
    text."""
    history_noise: float = 0.3
    """Standard deviation of the noise on input latents of text-to-motion, in standard deviations of a latent
    channel."""


@dataclasses.dataclass(frozen=True)
class VAELossConfig(Config):
    """L = recon + root_weight * root + kl_weight * KL + acceleration_weight * smoothness + foot_weight * foot velocity.

    Too large an acceleration_weight collapses the latents: watch `latent_rms`.
    """

    kl_weight: float = 0.3
    root_weight: float = 7.0
    acceleration_weight: float = 8.0
    foot_weight: float = 1.0


def llamo_loss(
    params: dict[str, Any],
    config: LlamoConfig,
    loss: LlamoLossConfig,
    batches: dict[str, Batch],
    key: Array,
    *,
    parallel: Parallel = ALONE,
) -> tuple[Array, Metrics]:
    """The joint loss over one batch of each task.

    Every term is a mean over the tokens that it concerns, in the whole batch on all devices.

    Args:
      params: the whole tree.
      config: the model's.
      loss: weights of the terms.
      batches: task -> batch, of the tasks in `TASK_LOSSES`.
      key: of the noise, which does not depend on the mesh.
      parallel: the devices that share the work.

    Raises:
      ValueError: there is no loss for one of the tasks.
    """
    if unknown := set(batches) - set(TASK_LOSSES):
        raise ValueError(f"no loss for the tasks {sorted(unknown)}; expected among {list(TASK_LOSSES)}")
    # In one order, whatever the batch's: sums in another order round otherwise.
    batches = {task: batches[task] for task in TASK_LOSSES if task in batches}
    noise = {task: TASK_LOSSES[task].draw(loss, batch, key) for task, batch in batches.items()}

    def on_each(params: dict[str, Any], batches: dict[str, Batch], noise: dict[str, Any]) -> tuple[Array, Metrics]:
        params = parallel.entered(params)
        total, metrics = jnp.float32(0.0), {}
        for task, batch in batches.items():
            term, figures = TASK_LOSSES[task].loss(params, config, loss, batch, noise[task], parallel)
            total += term
            metrics |= {f"{task}_{name}": value for name, value in figures.items()}
        return total, {"loss": total} | metrics

    if parallel.mesh is None:
        return on_each(params, batches, noise)
    rows = PartitionSpec(ROWS)
    placed = unflatten({path: parallel.specs[path] for path in flatten(params)})
    draws = jax.tree.map(lambda leaf: PartitionSpec(None, ROWS), noise)
    mapped = jax.shard_map(on_each, mesh=parallel.mesh, in_specs=(placed, rows, draws), out_specs=PartitionSpec())
    return mapped(params, batches, noise)


class Noise(NamedTuple):
    """What a batch of text-to-motion draws; a first axis of 1, then rows."""

    history: Float[Array, "1 B T Z"]
    times: Float[Array, "k B T"]
    start: Float[Array, "k B T Z"]


def _generation_noise(loss: LlamoLossConfig, batch: Batch, key: Array) -> Noise:
    history_key, time_key, noise_key = jax.random.split(key, 3)
    shape = batch.motion.latents.shape
    return Noise(
        jax.random.normal(history_key, shape)[None],
        jax.random.normal(time_key, (loss.timesteps_per_latent, *shape[:2])),
        jax.random.normal(noise_key, (loss.timesteps_per_latent, *shape)),
    )


def _generation_loss(
    params: dict, config: LlamoConfig, loss: LlamoLossConfig, batch: Batch, noise: Noise, parallel: Parallel
) -> tuple[Array, Metrics]:
    motion = batch.motion
    latents = motion.latents
    inputs = latents + loss.history_noise * noise.history[0]
    # Text comes first, so nothing that trains lies behind it.
    _, h = llamo.hidden(params, config, batch, latents=inputs, text_first=True, parallel=parallel)
    heads = {name: parallel.gather(params[name], name, h.dtype) for name in ("flow_head", "exit_head")}
    head = heads["flow_head"]
    t = jax.nn.sigmoid(loss.timestep_mean + noise.times)
    x_t = (1 - t)[..., None] * noise.start + t[..., None] * latents
    predicted = flow.velocity(head, x_t, flow.modulations(head, h, flow.embed_time(head, t)))
    error = jnp.square(predicted - (latents - noise.start)).mean((0, 3))
    ends = optax.sigmoid_binary_cross_entropy(llamo.exit_head(heads, h), motion.exit_targets)
    figures = {"flow": parallel.mean(error, motion.flow_mask), "exit": parallel.mean(ends, motion.exit_mask)}
    return figures["flow"] + loss.exit_weight * figures["exit"], figures


def _no_noise(loss: LlamoLossConfig, batch: Batch, key: Array) -> None:
    del loss, batch, key


def _next_token_loss(
    params: dict, config: LlamoConfig, loss: LlamoLossConfig, batch: Batch, noise: None, parallel: Parallel
) -> tuple[Array, Metrics]:
    del noise
    h, _ = llamo.hidden(params, config, batch, parallel=parallel)
    nll, right = llamo.next_token(params["text"], h, batch.text.targets, parallel=parallel)
    mask = batch.text.loss_mask
    figures = {"loss": parallel.mean(nll, mask), "accuracy": parallel.mean(right, mask)}
    return loss.text_weight * figures["loss"], figures


class TaskLoss(NamedTuple):
    """What a task draws for a batch, and its weighted loss and figures."""

    draw: Callable[[LlamoLossConfig, Batch, Array], Any]
    loss: Callable[..., tuple[Array, Metrics]]


TASK_LOSSES = {
    "t2m": TaskLoss(_generation_noise, _generation_loss),
    "m2t": TaskLoss(_no_noise, _next_token_loss),
    "text": TaskLoss(_no_noise, _next_token_loss),
}
"""Task -> its loss: flow and exit of generated motion, captions, and plain language modelling."""


def vae_loss(
    params: dict[str, Any],
    config: MotionVAEConfig,
    loss: VAELossConfig,
    batch: dict[str, Array],
    key: Array,
    *,
    statistics: Statistics,
) -> tuple[Array, Metrics]:
    """Reconstruction of normalised windows through latents with a drawn deviation.

    Reconstruction and root terms are Gaussian likelihoods with the best shared deviation (sigma-VAE), per feature; the
    root's is weighted as in MotionStreamer. The KL of a posterior with a fixed deviation is |mu|^2 / 2 and a constant.
    Two terms are ours. The mean absolute error of second differences of joint positions keeps the jerk of
    reconstructions near that of the recordings. That of the feet's velocities in the world, relative to their speed,
    keeps standing feet from skating, which no term on single features does.

    Args:
      params: the tree that `MotionVAE` declares.
      config: the VAE's.
      loss: weights of the terms.
      batch: {"features": [B, T, 272] un-normalised, "mask": [B, T], 1 where there is motion}.
      key: for the posterior's deviation and noise.
      statistics: of the features.
    """
    real, mask = batch["features"], batch["mask"]
    features = statistics.normalise(real, FEATURE_LIMIT, jnp) * mask[..., None]
    scale_key, noise_key = jax.random.split(key)
    mu, _ = motion_vae.encode(params, config, features)
    sigma = config.sigma_max * jax.random.uniform(scale_key, (mu.shape[0], 1, 1))
    output, _ = motion_vae.decode(params, config, mu + sigma * jax.random.normal(noise_key, mu.shape))
    error = output - features
    recon_mse = _mean(jnp.square(error).mean(-1), mask)
    root_mse = _mean(jnp.square(error[..., ROOT]).mean(-1), mask)
    latent_mask = mask[:, ::FRAMES_PER_LATENT]
    acceleration = jnp.abs(jnp.diff(error[..., POSITIONS], n=2, axis=1)).mean(-1)
    smoothness = _mean(acceleration, mask[:, 2:])
    real_feet = foot_velocities(real)
    foot_error = jnp.abs(foot_velocities(statistics.denormalise(output)) - real_feet).mean(-1)
    feet = _mean((foot_error / (jnp.linalg.norm(real_feet, axis=-1) + SLOW_FOOT)).mean(-1), mask[:, 1:])
    # The likelihoods are sums over features, of which the root has few, and the KL is a mean over the batch: all
    # divided by the number of features of the batch.
    root_share = (ROOT.stop - ROOT.start) / features.shape[-1]
    kl = 0.5 * _mean(jnp.square(mu).sum(-1), latent_mask)
    kl_share = 1 / (FRAMES_PER_LATENT * features.shape[-1] * features.shape[0])
    total = (
        _likelihood(recon_mse)
        + loss.root_weight * root_share * _likelihood(root_mse)
        + loss.kl_weight * kl_share * kl
        + loss.acceleration_weight * smoothness
        + loss.foot_weight * feet
    )
    latent_std = jnp.sqrt(_mean(jnp.square(mu).mean(-1), latent_mask))
    return total, {
        "loss": total,
        "recon": recon_mse,
        "root": root_mse,
        "kl": kl,
        "acceleration": smoothness,
        "feet": feet,
        "latent_rms": latent_std,
    }


def foot_velocities(features: Float[Array, "B T 272"]) -> Float[Array, "B T-1 4 3"]:
    """World velocities of ankles and feet in m/s, from un-normalised features, in the heading of the later frame."""
    feet = features[..., POSITIONS].reshape(*features.shape[:2], -1, 3)[:, :, jnp.array(FEET)]
    angle = -turn(features[:, 1:], jnp)[..., None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)

    def turned(x: Array, z: Array) -> tuple[Array, Array]:
        return cos * x + sin * z, cos * z - sin * x

    before, after = feet[:, :-1], feet[:, 1:]
    before_x, before_z = turned(before[..., 0], before[..., 2])
    root_x, root_z = turned(features[:, 1:, ROOT_VELOCITY.start, None], features[:, 1:, ROOT_VELOCITY.start + 1, None])
    step = (after[..., 0] - before_x + root_x, after[..., 1] - before[..., 1], after[..., 2] - before_z + root_z)
    return jnp.stack(step, -1) * FPS


def _likelihood(mse: Array) -> Array:
    """Negative log likelihood of one value under a Gaussian of the best deviation, softly bounded below at a deviation
    of e^-6."""
    log_sigma = 0.5 * jnp.log(mse)
    return -6 + jax.nn.softplus(log_sigma + 6)


def _mean(values: Float[Array, "..."], mask: Float[Array, "..."]) -> Array:
    return (values * mask).sum() / jnp.maximum(mask.sum(), 1)
