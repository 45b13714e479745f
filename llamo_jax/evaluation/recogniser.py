"""A recogniser of labels (content, style, action, side, ...) trained on real clips only: the judge of generated motion.

A small temporal convolution network sees what a viewer sees, the joint positions and the path of the root; the velocity
and rotation features, which a generator may make inconsistent with them, are not read. Differences over four frames
instead of one keep it from judging motions by their jitter.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from llamo_jax import sharding
from llamo_jax.errors import InputError
from llamo_jax.models.declaration import Linear, init, shardings
from llamo_jax.models.layers import linear
from llamo_jax.motion.representation import FEATURES, POSITIONS, ROOT_VELOCITY, turn
from llamo_jax.training.gradients import of_whole
from llamo_jax.training.loop import RunConfig, train
from llamo_jax.training.optim import OptimConfig
from llamo_jax.trees import flatten, unflatten

SPAN = 4
"""Frames between the two ends of a velocity; also the frames of one step of the network (7.5 steps a second)."""
WIDTH = 128
EMBEDDING = 64
DILATIONS = (1, 2, 4, 1, 2, 4)
WINDOW = 256
"""Most frames of a training window."""
BATCH = 32
OPTIM = OptimConfig(learning_rate=2e-3, warmup_steps=50, beta2=0.99, weight_decay=0.02)
RESIZE = 0.05
NOISE = 0.1
"""Deviations of each channel, the size of an autoencoder's errors: generated motion is to be judged by what it does."""


class Labelled(Protocol):
    """What training needs of a record."""

    features: Float[np.ndarray, "T 272"]
    labels: Mapping[str, str]


class Shape(NamedTuple):
    """What the network's declaration depends on: input channels, and the number of classes of each label."""

    channels: int
    classes: tuple[tuple[str, int], ...]


class Network(nnx.Module):
    """Declares the network: convolutions at 7.5 steps a second, an embedding of the clip, a head for each label."""

    def __init__(self, rngs: nnx.Rngs, shape: Shape):
        self.input = Linear(rngs, WIDTH, SPAN * shape.channels, (None, None))
        self.blocks = nnx.List(
            [
                nnx.Dict(
                    conv=Linear(rngs, WIDTH, 3 * WIDTH, (None, None)),
                    out=Linear(rngs, WIDTH, WIDTH, (None, None), std=0.3 * WIDTH**-0.5),
                )
                for _ in DILATIONS
            ]
        )
        self.embedding = Linear(rngs, EMBEDDING, 3 * WIDTH, (None, None))
        self.heads = nnx.Dict({name: Linear(rngs, size, EMBEDDING, (None, None)) for name, size in shape.classes})


class Clips(NamedTuple):
    """Padded inputs, and which of their frames exist."""

    inputs: Float[np.ndarray, "B T C"]
    mask: Bool[np.ndarray, "B T"]


class Recogniser:
    """Trained parameters with their classes. `train` makes one.

    Attributes:
      classes: label name -> its classes, sorted.
    """

    def __init__(self, params: dict[str, Any], classes: dict[str, tuple[str, ...]], mean: np.ndarray, std: np.ndarray):
        self.classes = classes
        self._params, self._mean, self._std = params, mean, std

    @classmethod
    def train(
        cls,
        records: Sequence[Labelled],
        label_names: Sequence[str],
        *,
        seed: int = 0,
        steps: int = 1000,
        seconds: float | None = None,
    ) -> Self:
        """Trains on real clips.

        Args:
          records: clips with un-normalised features and labels. A record that lacks a label does not train it.
          label_names: which labels to recognise.
          seed: of parameters, windows and noise. The same seed and steps give the same recogniser.
          steps: optimiser steps of 32 windows.
          seconds: also stop after this time; the learning rate then follows the clock where that is ahead of the steps.

        Raises:
          InputError: no records, features of another shape, or a label with fewer than two classes.
        """
        records = list(records)
        if not records:
            raise InputError("the recogniser was given no records to train on; expected at least one for each class")
        classes = {name: _classes(records, name) for name in label_names}
        clips = [_inputs(record.features) for record in records]
        frames = np.concatenate(clips)
        mean, std = frames.mean(0), _deviation(frames)
        targets = {
            name: np.array([values.index(r.labels[name]) if name in r.labels else -1 for r in records], np.int32)
            for name, values in classes.items()
        }
        shape = Shape(clips[0].shape[1], tuple((name, len(values)) for name, values in sorted(classes.items())))
        mesh = sharding.data_mesh(1)
        params = train(
            RunConfig("recogniser", steps, OPTIM, time_limit=seconds, seed=seed, log_every=20),
            of_whole(_loss),
            flatten(init(Network, shape, jax.random.key(seed))),
            {},
            _batches(clips, targets, mean, std, np.random.default_rng(seed)),
            mesh=mesh,
            shardings=shardings(Network, shape, mesh),
            record=None,
        )
        return cls(unflatten(jax.tree.map(np.asarray, params)), classes, mean, std)

    def predict(self, features: Sequence[Float[np.ndarray, "T 272"]]) -> dict[str, list[str]]:
        """Label name -> the class of each clip. Clips may have any length of at least one frame."""
        logits, _ = self._run(features)
        return {name: [self.classes[name][index] for index in values.argmax(-1)] for name, values in logits.items()}

    def embed(self, features: Sequence[Float[np.ndarray, "T 272"]]) -> Float[np.ndarray, "N 64"]:
        """Embeddings of clips, from which the classes are read linearly: the space of the Fréchet distance."""
        return self._run(features)[1]

    def _run(self, features: Sequence[np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Logits of each label and embeddings, in batches of one shape for each power of two of the length."""
        if not len(features):
            raise InputError("the recogniser was given no clips; expected at least one")
        clips = [(_inputs(f) - self._mean) / self._std for f in features]
        buckets: dict[int, list[int]] = {}
        for index, clip in enumerate(clips):
            buckets.setdefault(_bucket(len(clip)), []).append(index)
        rows: list[Any] = [None] * len(clips)
        for length, indices in buckets.items():
            for start in range(0, len(indices), BATCH):
                chosen = indices[start : start + BATCH]
                # Rows of nothing fill the last batch, so that each length compiles once.
                batch = _pad([clips[i] for i in chosen] + [clips[chosen[0]][:1]] * (BATCH - len(chosen)), length)
                logits, embeddings = jax.tree.map(np.asarray, _apply(self._params, batch))
                for row, index in enumerate(chosen):
                    rows[index] = ({name: values[row] for name, values in logits.items()}, embeddings[row])
        return {name: np.stack([row[0][name] for row in rows]) for name in self.classes}, np.stack(
            [row[1] for row in rows]
        )


def _classes(records: list[Labelled], name: str) -> tuple[str, ...]:
    values = sorted({record.labels[name] for record in records if name in record.labels})
    if len(values) < 2:
        known = ", ".join(sorted({label for record in records for label in record.labels})) or "none"
        raise InputError(
            f'label "{name}" has {len(values)} classes in the records; expected at least 2; the records have labels: '
            f"{known}"
        )
    return tuple(values)


def _inputs(features: Float[np.ndarray, "T 272"]) -> Float[np.ndarray, "T C"]:
    """Channels that the network sees: positions, their change over `SPAN` frames, root velocity and turn, averaged
    likewise."""
    if features.ndim != 2 or features.shape[1] != FEATURES or not len(features):
        raise InputError(f"features have shape {features.shape}; expected [T, {FEATURES}] with T at least 1")
    positions = features[:, POSITIONS]
    earlier = np.maximum(np.arange(len(features)) - SPAN, 0)
    path = np.cumsum(np.concatenate([features[:, ROOT_VELOCITY], turn(features)[:, None]], 1, dtype=np.float64), axis=0)
    return np.concatenate([positions, positions - positions[earlier], path - path[earlier]], 1).astype(np.float32)


def _deviation(frames: Float[np.ndarray, "T C"]) -> Float[np.ndarray, " C"]:
    """One deviation for positions, one for their velocities, and their own for the root's: dead channels stay quiet."""
    width = POSITIONS.stop - POSITIONS.start
    std = frames.std(0)
    for group in (slice(0, width), slice(width, 2 * width)):
        std[group] = np.sqrt((std[group] ** 2).mean())
    return np.maximum(std, 1e-6)


def _bucket(length: int) -> int:
    """The padded length for a clip: a power of two, so that few shapes compile."""
    return max(64, 1 << (length - 1).bit_length())


def _pad(clips: list[np.ndarray], length: int) -> Clips:
    inputs = np.zeros((len(clips), length, clips[0].shape[1]), np.float32)
    mask = np.zeros((len(clips), length), bool)
    for row, clip in enumerate(clips):
        inputs[row, : len(clip)] = clip
        mask[row, : len(clip)] = True
    return Clips(inputs, mask)


def _batches(
    clips: list[np.ndarray],
    targets: dict[str, Int[np.ndarray, " N"]],
    mean: np.ndarray,
    std: np.ndarray,
    random: np.random.Generator,
) -> Iterator[tuple[Clips, dict[str, np.ndarray]]]:
    """Endless batches of normalised windows and the classes that they show.

    Half of the windows are whole clips (up to `WINDOW`), half are parts of them. Each is enlarged or shrunk a little: a
    size is no style.
    """
    longest = min(WINDOW, _bucket(max(map(len, clips))))
    while True:
        order = random.permutation(len(clips))
        for start in range(0, max(len(order) - BATCH, 0) + 1, BATCH):
            chosen = np.resize(order[start : start + BATCH], BATCH)
            windows = []
            for clip in (clips[index] for index in chosen):
                most = min(len(clip), longest)
                least = min(most, max(32, most // 2))
                size = most if random.random() < 0.5 else int(random.integers(least, most + 1))
                first = int(random.integers(0, len(clip) - size + 1))
                scale = random.uniform(1 - RESIZE, 1 + RESIZE)
                windows.append((clip[first : first + size] * scale - mean) / std)
            yield _pad(windows, longest), {name: values[chosen] for name, values in targets.items()}


def _forward(
    params: dict[str, Any], clips: Clips, dropout_key: Array | None = None
) -> tuple[dict[str, Array], Float[Array, "B E"]]:
    """Logits of each label, and embeddings.

    Padding changes nothing: masked steps are zero before every convolution, as its border is.
    """
    count, frames, channels = clips.inputs.shape
    x = linear(params["input"], clips.inputs.reshape(count, frames // SPAN, SPAN * channels))
    mask = clips.mask.reshape(count, frames // SPAN, SPAN).any(-1)[..., None]
    for block, dilation in zip(params["blocks"], DILATIONS, strict=True):
        normal = jnp.where(mask, x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6), 0)
        padded = jnp.pad(normal, ((0, 0), (dilation, dilation), (0, 0)))
        taps = jnp.concatenate([padded[:, : -2 * dilation], normal, padded[:, 2 * dilation :]], -1)
        x = x + linear(block["out"], jax.nn.silu(linear(block["conv"], taps)))
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    steps = jnp.maximum(mask.sum(1), 1)
    mean = jnp.where(mask, x, 0).sum(1) / steps
    spread = jnp.sqrt(jnp.where(mask, (x - mean[:, None]) ** 2, 0).sum(1) / steps + 1e-6)
    pooled = jnp.concatenate([mean, spread, jnp.where(mask, x, -jnp.inf).max(1)], -1)
    if dropout_key is not None:
        pooled = pooled * jax.random.bernoulli(dropout_key, 0.8, pooled.shape) / 0.8
    embeddings = linear(params["embedding"], pooled)
    return {name: linear(head, jax.nn.silu(embeddings)) for name, head in params["heads"].items()}, embeddings


_apply = jax.jit(_forward)


def _loss(
    params: dict[str, Any], batch: tuple[Clips, dict[str, Int[Array, " B"]]], key: Array
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Cross-entropy with smoothed targets, averaged over labels; a target of -1 is unknown."""
    clips, targets = batch
    noise_key, level_key, dropout_key = jax.random.split(key, 3)
    # Jitter, and an error that stays throughout the clip.
    count, frames, channels = clips.inputs.shape
    level = jax.random.uniform(level_key, (count, 1, 1), maxval=NOISE)
    noise = jax.random.normal(noise_key, (count, frames + 1, channels))
    noise = level * (noise[:, 1:] + noise[:, :1])
    noisy = Clips(jnp.where(clips.mask[..., None], clips.inputs + noise, 0), clips.mask)
    logits, _ = _forward(params, noisy, dropout_key)
    total = jnp.float32(0)
    for name, target in targets.items():
        wanted = optax.smooth_labels(jax.nn.one_hot(target, logits[name].shape[-1]), 0.1)
        known = target >= 0
        entropy = jnp.where(known, optax.softmax_cross_entropy(logits[name], wanted), 0)
        total += entropy.sum() / jnp.maximum(known.sum(), 1)
    loss = total / len(targets)
    return loss, {"loss": loss}
