"""Training losses, each a pure function of (parameters, batch, key) that returns the loss and the figures to log."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from llamo_jax.batch import Batch, MotionRows
from llamo_jax.config import Config, LlamoConfig, MotionVAEConfig
from llamo_jax.models import flow, llamo, motion_vae
from llamo_jax.models.parallel import ALONE, Parallel
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

Metrics = dict[str, Array]

Counts = dict[str, Array]
"""Term -> number of tokens in the whole batch that it is a mean over, at least 1."""

ROOT = slice(ROOT_VELOCITY.start, HEADING_DELTA.stop)

SLOW_FOOT = 0.05
"""Metres a second; foot velocity errors count relative to the recorded speed plus this, so that standing feet count
most."""


@dataclasses.dataclass(frozen=True)
class LlamoLossConfig(Config):
    """L = flow + exit_weight * exit + text_weight * text (LLaMo, section 3; lambda_2 and lambda_1)."""

    exit_weight: float = 1.0
    """The exit loss is small, because most slots are no end: at 0.1 the motion tower learns no end."""
    exit_end_weight: float = 1.0
    """Of slots that are an end, in the exit loss: they are few."""
    text_weight: float = 1.0
    timesteps_per_latent: int = 4
    timestep_distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    """Of t in the flow loss."""
    timestep_mean: float = 0.0
    """Of the normal variable whose sigmoid is t. Below 0 there is more noise in x_t, so that more must come from the
    text."""
    history_noise: float = 0.3
    """Standard deviation of the noise on input latents of text-to-motion, in standard deviations of a latent
    channel."""
    history_hidden: float = 0.0
    """Share of the motions of text-to-motion whose input latents are noise alone, so that each latent must come from
    the text. Generation always has its history."""

    gist_weight: float = 0.0
    """Of the gist (`gists`) that the motion tower foretells at [BOM], where it knows the text alone. The flow loss says
    little of the text, for what came before says most of what comes next."""


@dataclasses.dataclass(frozen=True)
class VAELossConfig(Config):
    """L = recon + root_weight * root + kl_weight * KL + acceleration_weight * smoothness + foot_weight * foot velocity.

    Too large an acceleration_weight collapses the latents: watch `latent_rms`.
    """

    kl_weight: float = 0.3
    root_weight: float = 7.0
    acceleration_weight: float = 8.0
    foot_weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class LlamoLoss:
    """The joint loss over one batch of each task, task -> `Batch`: a `gradients.SummedLoss`.

    Every term is a mean over the tokens that it concerns, in the whole batch, on all devices and in all parts. Noise
    depends on the key and the batch's shape alone.

    Attributes:
      model: the model's config.
      config: weights of the terms.
    """

    model: LlamoConfig
    config: LlamoLossConfig

    def draw(self, batch: dict[str, Batch], key: Array) -> dict[str, Any]:
        """All noise of a batch.

        Raises:
          ValueError: there is no loss for one of the tasks.
        """
        if unknown := set(batch) - set(TASK_LOSSES):
            raise ValueError(f"no loss for the tasks {sorted(unknown)}; expected among {list(TASK_LOSSES)}")
        return {task: TASK_LOSSES[task].draw(self.config, rows, key) for task, rows in batch.items()}

    def counts(self, batch: dict[str, Batch]) -> dict[str, Counts]:
        """Numbers of tokens that the terms of each task are means over, and places of each stream."""
        counts = {task: TASK_LOSSES[task].counts(rows) for task, rows in batch.items()}
        places = {name: sum(each.size for each in segments) for name, segments in _segments(batch).items()}
        return counts | {"places": {name: jnp.float32(count) for name, count in places.items()}}

    def part(
        self,
        params: dict[str, Any],
        batch: dict[str, Batch],
        noise: dict[str, Any],
        counts: dict[str, Counts],
        parallel: Parallel = ALONE,
    ) -> tuple[Array, Metrics]:
        """What some rows add to the loss and to the figures."""
        total, metrics = jnp.float32(0.0), {}
        # In one order, whatever the batch's: sums in another order round otherwise.
        for task in (task for task in TASK_LOSSES if task in batch):
            loss = TASK_LOSSES[task].loss
            term, figures = loss(params, self.model, self.config, batch[task], noise[task], counts[task], parallel)
            total += term
            metrics |= {f"{task}_{name}": value for name, value in figures.items()}
        for name, segments in _segments(batch).items():
            tokens = sum((each > 0).sum().astype(jnp.float32) for each in segments)
            places = sum(each.size for each in segments)
            metrics |= {f"{name}_tokens": tokens, f"{name}_padding": (places - tokens) / counts["places"][name]}
        return total, {"loss": total} | metrics

    def __call__(self, params: dict[str, Any], batch: dict[str, Batch], key: Array) -> tuple[Array, Metrics]:
        """The loss and the figures of a whole batch on one device."""
        return self.part(params, batch, self.draw(batch, key), self.counts(batch))


def _segments(batch: dict[str, Batch]) -> dict[str, list[Array]]:
    """Stream -> segments of its rows, of all tasks."""
    streams = {
        "text": [rows.text.segments for rows in batch.values() if rows.text.segments.shape[1]],
        "prefix": [rows.prefix.segments for rows in batch.values() if rows.prefix is not None],
        "motion": [rows.motion.segments for rows in batch.values() if rows.motion is not None],
    }
    return {name: segments for name, segments in streams.items() if segments}


class Noise(NamedTuple):
    """What a batch of text-to-motion draws, k times for each slot."""

    history: Float[Array, "B T Z"]
    hiding: Float[Array, "B T"]
    times: Float[Array, "B k T"]
    start: Float[Array, "B k T Z"]


def _generation_noise(loss: LlamoLossConfig, batch: Batch, key: Array) -> Noise:
    history_key, time_key, noise_key = jax.random.split(key, 3)
    shape = batch.motion.latents.shape
    looks = (loss.timesteps_per_latent, *shape[:2])
    if loss.timestep_distribution == "uniform":
        times = jax.random.uniform(time_key, looks)
    else:
        times = jax.nn.sigmoid(loss.timestep_mean + jax.random.normal(time_key, looks))
    start = jax.random.normal(noise_key, (loss.timesteps_per_latent, *shape))
    return Noise(
        history=jax.random.normal(history_key, shape),
        hiding=jax.random.uniform(jax.random.fold_in(history_key, 1), shape[:2]),
        times=jnp.moveaxis(times, 0, 1),
        start=jnp.moveaxis(start, 0, 1),
    )


def _history(loss: LlamoLossConfig, motion: MotionRows, noise: Noise) -> Float[Array, "B T Z"]:
    """The latents as inputs."""
    noisy = motion.latents + loss.history_noise * noise.history
    if not loss.history_hidden:
        return noisy
    # One draw for each motion of a row: segments count from 1.
    of_motion = jnp.take_along_axis(noise.hiding, jnp.maximum(motion.segments - 1, 0), axis=1)
    return jnp.where((of_motion < loss.history_hidden)[..., None], noise.history, noisy)


def _generation_counts(batch: Batch) -> Counts:
    motion = batch.motion
    return {"flow": _count(motion.flow_mask), "exit": _count(motion.exit_mask), "starts": _count(_starts(motion))}


def _generation_loss(
    params: dict,
    config: LlamoConfig,
    loss: LlamoLossConfig,
    batch: Batch,
    noise: Noise,
    counts: Counts,
    parallel: Parallel,
) -> tuple[Array, Metrics]:
    motion = batch.motion
    # Text comes first, so nothing that trains lies behind it.
    inputs = _history(loss, motion, noise)
    _, h = llamo.hidden(params, config, batch, latents=inputs, text_first=True, parallel=parallel)
    # In float32 on every mesh, as on one device: the flow head is small, and sees small differences.
    heads = {name: parallel.gather(params[name], name, jnp.float32) for name in ("flow_head", "exit_head")}
    head = heads["flow_head"]
    t, start, latents = noise.times, noise.start, motion.latents[:, None]
    x_t = (1 - t)[..., None] * start + t[..., None] * latents
    predicted = flow.velocity(head, x_t, flow.modulations(head, h[:, None], flow.embed_time(head, t)))
    error = jnp.square(predicted - (latents - start)).mean((1, 3))
    ends = optax.sigmoid_binary_cross_entropy(llamo.exit_head(heads, h), motion.exit_targets)
    ends = ends * (1 + (loss.exit_end_weight - 1) * motion.exit_targets)
    figures = {
        "flow": (error * motion.flow_mask).sum() / counts["flow"],
        "exit": (ends * motion.exit_mask).sum() / counts["exit"],
    }
    total = figures["flow"] + loss.exit_weight * figures["exit"]
    if loss.gist_weight:
        found, starts = gists(motion), _starts(motion)
        apart = jnp.square(_foretold(h, found.shape[-1]) - found).mean(-1)
        figures["gist"] = (apart * starts).sum() / counts["starts"]
        total += loss.gist_weight * figures["gist"]
    return total, figures


GIST_PARTS = 3
"""Of a motion, equally long: what it does first, next and last."""


def gists(motion: MotionRows) -> Float[Array, "B T G"]:
    """What the motion of each slot is on the whole: of each of `GIST_PARTS` parts of it, and each channel, the mean of
    the latents and the mean of their absolute values."""
    # The slot of a motion's end has no latent.
    same = (motion.segments[:, :, None] == motion.segments[:, None]) & (motion.flow_mask > 0)[:, None]
    length = same.sum(-1)
    first = jnp.where(same, motion.positions[:, None], jnp.iinfo(jnp.int32).max).min(-1)
    part = GIST_PARTS * (motion.positions - first) // jnp.maximum(length, 1)
    parts = (part[:, None] == jnp.arange(GIST_PARTS)[:, None]).astype(jnp.float32)
    of = same[:, :, None] * parts[:, None]  # [B, T, part, T]
    of /= jnp.maximum(of.sum(-1, keepdims=True), 1)
    values = jnp.concatenate([motion.latents, jnp.abs(motion.latents) - ABSOLUTE_MEAN], -1).astype(jnp.float32)
    return jnp.einsum("btps,bsz->btpz", of, values).reshape(*motion.latents.shape[:2], -1)


ABSOLUTE_MEAN = (2 / math.pi) ** 0.5
"""Of a normal variable."""


def _foretold(h: Float[Array, "B T D"], size: int) -> Float[Array, "B T G"]:
    """The gist in hidden states, read along fixed random directions: nothing that a bundle would have to keep."""
    directions = jax.random.normal(jax.random.key(0), (h.shape[-1], size)) / h.shape[-1] ** 0.5
    return h.astype(jnp.float32) @ directions


def _starts(motion: MotionRows) -> Float[Array, "B T"]:
    return (motion.start & (motion.segments > 0)).astype(jnp.float32)


def _no_noise(loss: LlamoLossConfig, batch: Batch, key: Array) -> None:
    del loss, batch, key


def _next_token_counts(batch: Batch) -> Counts:
    return {"tokens": _count(batch.text.loss_mask)}


def _next_token_loss(
    params: dict,
    config: LlamoConfig,
    loss: LlamoLossConfig,
    batch: Batch,
    noise: None,
    counts: Counts,
    parallel: Parallel,
) -> tuple[Array, Metrics]:
    del noise
    h, _ = llamo.hidden(params, config, batch, parallel=parallel)
    nll, right = llamo.next_token(params["text"], h, batch.text.targets, parallel=parallel)
    mask, count = batch.text.loss_mask, counts["tokens"]
    figures = {"loss": (nll * mask).sum() / count, "accuracy": (right * mask).sum() / count}
    return loss.text_weight * figures["loss"], figures


def _count(mask: Float[Array, "B T"]) -> Array:
    return jnp.maximum(mask.sum(), 1)


class TaskLoss(NamedTuple):
    """What a task draws for a batch, what it counts, and what rows add to its weighted loss and figures."""

    draw: Callable[[LlamoLossConfig, Batch, Array], Any]
    counts: Callable[[Batch], Counts]
    loss: Callable[..., tuple[Array, Metrics]]


TASK_LOSSES = {
    "t2m": TaskLoss(_generation_noise, _generation_counts, _generation_loss),
    "m2t": TaskLoss(_no_noise, _next_token_counts, _next_token_loss),
    "text": TaskLoss(_no_noise, _next_token_counts, _next_token_loss),
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
