"""A recogniser of labels (content, style, action, side, ...) trained on real clips only: the judge of generated motion.

A small temporal convolution network sees what a viewer sees, the joint positions and the path of the root; the velocity and rotation
features, which a generator may make inconsistent with them, are not read. Differences over four frames instead of one keep it from judging
motions by their jitter.
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from tqdm import tqdm

from llamo_jax.errors import InputError
from llamo_jax.motion.representation import FEATURES, HEADING_DELTA, POSITIONS, ROOT_VELOCITY

SPAN = 4
"""Frames between the two ends of a velocity; also the frames that one step of the network sees (it runs at 7.5 steps a second)."""
WIDTH = 128
EMBEDDING = 64
DILATIONS = (1, 2, 4, 1, 2, 4)
WINDOW = 256
"""Most frames of a training crop."""
BATCH = 32
LEARNING_RATE = 2e-3
RESIZE = 0.05
NOISE = 0.1
"""Deviations of each channel, the size of an autoencoder's errors: generated motion is to be judged by what it does."""
_FORMAT = "llamo_jax recogniser 1"


class Labelled(Protocol):
    """What training needs of a record."""

    features: Float[np.ndarray, "T 272"]
    labels: Mapping[str, str]


class Batch(NamedTuple):
    """Padded inputs: values [B, T, C], mask [B, T] of the frames that exist."""

    inputs: Float[np.ndarray, "B T C"]
    mask: Bool[np.ndarray, "B T"]


class Recogniser:
    """Trained parameters with their classes. Make one with `train` or `load`.

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
        progress: bool = True,
    ) -> Self:
        """Trains on real clips.

        Args:
          records: clips with un-normalised features and labels. A record that lacks a label does not train it.
          label_names: which labels to recognise.
          seed: of parameters, crops and noise. The same seed and steps give the same recogniser.
          steps: optimiser steps of 32 crops.
          seconds: also stop after this time; the learning rate then follows the clock where that is ahead of the steps.
          progress: show a bar.

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
        params = _init_params(jax.random.key(seed), clips[0].shape[1], {name: len(values) for name, values in classes.items()})
        optimiser_state = _OPTIMISER.init(params)
        batches = _crops(clips, mean, std, np.random.default_rng(seed))
        started = time.monotonic()
        with tqdm(total=steps, desc="recogniser", unit="step", disable=not progress, mininterval=1.0) as bar:
            for step in range(steps):
                done = max(step / steps, (time.monotonic() - started) / seconds if seconds else 0.0)
                if done >= 1:
                    break
                chosen, batch = next(batches)
                rate = LEARNING_RATE * min((step + 1) / 50, 0.5 + 0.5 * np.cos(np.pi * done))
                truth = {name: values[chosen] for name, values in targets.items()}
                key = jax.random.fold_in(jax.random.key(seed), step)
                params, optimiser_state, loss = _train_step(params, optimiser_state, batch, truth, key, jnp.float32(rate))
                bar.update()
                if step % 20 == 0:
                    bar.set_postfix(loss=f"{float(loss):.3f}")
        return cls(jax.tree.map(np.asarray, params), classes, mean, std)

    def predict(self, features: Sequence[Float[np.ndarray, "T 272"]]) -> dict[str, list[str]]:
        """Label name -> the class of each clip. Clips may have any length of at least one frame."""
        logits, _ = self._run(features)
        return {name: [self.classes[name][index] for index in values.argmax(-1)] for name, values in logits.items()}

    def accuracy(self, features: Sequence[Float[np.ndarray, "T 272"]], labels: Sequence[Mapping[str, str]]) -> dict[str, float]:
        """Label name -> share of the clips that have this label whose class is recognised; NaN where none has it."""
        predicted = self.predict(features)
        figures = {}
        for name, values in predicted.items():
            hits = [value == truth[name] for value, truth in zip(values, labels, strict=True) if name in truth]
            figures[name] = sum(hits) / len(hits) if hits else float("nan")
        return figures

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
        return {name: np.stack([row[0][name] for row in rows]) for name in self.classes}, np.stack([row[1] for row in rows])


def _classes(records: list[Labelled], name: str) -> tuple[str, ...]:
    values = sorted({record.labels[name] for record in records if name in record.labels})
    if len(values) < 2:
        known = ", ".join(sorted({label for record in records for label in record.labels})) or "none"
        raise InputError(f'label "{name}" has {len(values)} classes in the records; expected at least 2; the records have labels: {known}')
    return tuple(values)


def _inputs(features: Float[np.ndarray, "T 272"]) -> Float[np.ndarray, "T C"]:
    """Channels that the network sees: positions, their change over `SPAN` frames, root velocity and turn, averaged likewise."""
    if features.ndim != 2 or features.shape[1] != FEATURES or not len(features):
        raise InputError(f"features have shape {features.shape}; expected [T, {FEATURES}] with T at least 1")
    positions = features[:, POSITIONS]
    earlier = np.maximum(np.arange(len(features)) - SPAN, 0)
    # [c, 0, s]: the sine's sign is the turn's direction. A generated delta is no exact rotation, so its angle is taken.
    delta = features[:, HEADING_DELTA]
    turn = -np.arctan2(delta[:, 2], delta[:, 0])[:, None]
    path = np.cumsum(np.concatenate([features[:, ROOT_VELOCITY], turn], 1, dtype=np.float64), axis=0)
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


def _pad(clips: list[np.ndarray], length: int) -> Batch:
    inputs = np.zeros((len(clips), length, clips[0].shape[1]), np.float32)
    mask = np.zeros((len(clips), length), bool)
    for row, clip in enumerate(clips):
        inputs[row, : len(clip)] = clip
        mask[row, : len(clip)] = True
    return Batch(inputs, mask)


def _crops(clips: list[np.ndarray], mean: np.ndarray, std: np.ndarray, random: np.random.Generator) -> Iterator[tuple[np.ndarray, Batch]]:
    """Endless batches: indices of the clips and their crops, normalised.

    Half of the crops are whole clips (up to `WINDOW`), half are parts of them. Each is enlarged or shrunk a little: a size is no style.
    """
    window = min(WINDOW, _bucket(max(map(len, clips))))
    while True:
        order = random.permutation(len(clips))
        for start in range(0, max(len(order) - BATCH, 0) + 1, BATCH):
            chosen = np.resize(order[start : start + BATCH], BATCH)
            crops = []
            for clip in (clips[index] for index in chosen):
                most = min(len(clip), window)
                least = min(most, max(32, most // 2))
                size = most if random.random() < 0.5 else int(random.integers(least, most + 1))
                first = int(random.integers(0, len(clip) - size + 1))
                crops.append((clip[first : first + size] * random.uniform(1 - RESIZE, 1 + RESIZE) - mean) / std)
            yield chosen, _pad(crops, window)


# --- the network -----------------------------------------------------------------------------------------------------------------------

_OPTIMISER = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.scale_by_adam(b1=0.9, b2=0.99),
    optax.add_decayed_weights(0.02, lambda tree: jax.tree.map(lambda p: p.ndim > 1, tree)),
)


def _init_params(key: Array, channels: int, sizes: dict[str, int]) -> dict[str, Any]:
    keys = iter(jax.random.split(key, 2 * len(DILATIONS) + 2 + len(sizes)))

    def dense(outputs: int, inputs: int, scale: float = 1.0) -> dict[str, Array]:
        return {"weight": jax.random.normal(next(keys), (outputs, inputs)) * scale * inputs**-0.5, "bias": jnp.zeros(outputs)}

    return {
        "input": dense(WIDTH, SPAN * channels),
        "blocks": {str(i): {"conv": dense(WIDTH, 3 * WIDTH), "out": dense(WIDTH, WIDTH, 0.3)} for i in range(len(DILATIONS))},
        "embedding": dense(EMBEDDING, 3 * WIDTH),
        "heads": {name: dense(size, EMBEDDING) for name, size in sorted(sizes.items())},
    }


def _dense(p: dict[str, Array], x: Float[Array, "... I"]) -> Float[Array, "... O"]:
    return x @ p["weight"].T + p["bias"]


def _forward(params: dict[str, Any], batch: Batch, dropout_key: Array | None = None) -> tuple[dict[str, Array], Float[Array, "B E"]]:
    """Logits of each label and embeddings. Padding changes nothing: masked steps are zero before every convolution, as its border is."""
    count, frames, channels = batch.inputs.shape
    x = _dense(params["input"], batch.inputs.reshape(count, frames // SPAN, SPAN * channels))
    mask = batch.mask.reshape(count, frames // SPAN, SPAN).any(-1)[..., None]
    for index, dilation in enumerate(DILATIONS):
        block = params["blocks"][str(index)]
        normal = jnp.where(mask, x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6), 0)
        padded = jnp.pad(normal, ((0, 0), (dilation, dilation), (0, 0)))
        taps = jnp.concatenate([padded[:, : -2 * dilation], normal, padded[:, 2 * dilation :]], -1)
        x = x + _dense(block["out"], jax.nn.silu(_dense(block["conv"], taps)))
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    steps = jnp.maximum(mask.sum(1), 1)
    mean = jnp.where(mask, x, 0).sum(1) / steps
    spread = jnp.sqrt(jnp.where(mask, (x - mean[:, None]) ** 2, 0).sum(1) / steps + 1e-6)
    pooled = jnp.concatenate([mean, spread, jnp.where(mask, x, -jnp.inf).max(1)], -1)
    if dropout_key is not None:
        pooled = pooled * jax.random.bernoulli(dropout_key, 0.8, pooled.shape) / 0.8
    embeddings = _dense(params["embedding"], pooled)
    return {name: _dense(head, jax.nn.silu(embeddings)) for name, head in params["heads"].items()}, embeddings


_apply = jax.jit(_forward)


def _loss(params: dict[str, Any], batch: Batch, targets: dict[str, Int[Array, " B"]], key: Array) -> Float[Array, ""]:
    """Cross-entropy with smoothed targets, averaged over labels; a target of -1 is unknown."""
    noise_key, level_key, dropout_key = jax.random.split(key, 3)
    # Jitter, and an error that stays throughout the clip.
    count, frames, channels = batch.inputs.shape
    level = jax.random.uniform(level_key, (count, 1, 1), maxval=NOISE)
    noise = jax.random.normal(noise_key, (count, frames + 1, channels))
    noise = level * (noise[:, 1:] + noise[:, :1])
    noisy = Batch(jnp.where(batch.mask[..., None], batch.inputs + noise, 0), batch.mask)
    logits, _ = _forward(params, noisy, dropout_key)
    total = jnp.float32(0)
    for name, target in targets.items():
        size = logits[name].shape[-1]
        wanted = optax.smooth_labels(jax.nn.one_hot(target, size), 0.1)
        known = target >= 0
        total += jnp.where(known, optax.softmax_cross_entropy(logits[name], wanted), 0).sum() / jnp.maximum(known.sum(), 1)
    return total / len(targets)


@functools.partial(jax.jit, donate_argnums=(0, 1))
def _train_step(
    params: dict[str, Any], state: optax.OptState, batch: Batch, targets: dict[str, Int[Array, " B"]], key: Array, rate: Float[Array, ""]
) -> tuple[dict[str, Any], optax.OptState, Float[Array, ""]]:
    loss, gradients = jax.value_and_grad(_loss)(params, batch, targets, key)
    updates, state = _OPTIMISER.update(gradients, state, params)
    return jax.tree.map(lambda p, u: p - rate * u, params, updates), state, loss
