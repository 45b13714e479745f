"""The motion VAE with its statistics: un-normalised 272 features <-> normalised latents."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from llamo_jax.config import MotionVAEConfig
from llamo_jax.errors import InputError
from llamo_jax.models import motion_vae
from llamo_jax.models.motion_vae import FRAMES_PER_LATENT
from llamo_jax.motion.representation import FEATURE_LIMIT

_BUCKET = 32  # latents; lengths are padded to multiples of this, so that few shapes compile


@dataclasses.dataclass(frozen=True)
class MotionCodec:
    """Encodes and decodes whole motions.

    Attributes:
      config: the VAE's.
      params: its weights.
      feature_mean: [272], feature_std: [272] of the training features (one deviation a group).
      latent_mean: [Z], latent_std: [Z] of the training latents, per channel.
    """

    config: MotionVAEConfig
    params: dict[str, Any]
    feature_mean: np.ndarray
    feature_std: np.ndarray
    latent_mean: np.ndarray
    latent_std: np.ndarray

    def encode(self, features: list[Float[np.ndarray, "T 272"]]) -> list[Float[np.ndarray, "n Z"]]:
        """Normalised latents of motions, n = T // 4: up to 3 last frames are left out.

        Raises:
          InputError: a motion is shorter than 4 frames.
        """
        for index, motion in enumerate(features):
            if len(motion) < FRAMES_PER_LATENT:
                raise InputError(f"motion {index} has {len(motion)} frames; expected at least {FRAMES_PER_LATENT}, one latent's worth")
        counts = [len(motion) // FRAMES_PER_LATENT for motion in features]
        whole = [self.normalise(f[: FRAMES_PER_LATENT * n]) for f, n in zip(features, counts, strict=True)]
        means = self.posterior_means(_pad(whole, FRAMES_PER_LATENT * _BUCKET))
        return [(mu[:n] - self.latent_mean) / self.latent_std for mu, n in zip(means, counts, strict=True)]

    def posterior_means(self, normalised: Float[np.ndarray, "B T 272"]) -> Float[np.ndarray, "B n Z"]:
        """Latents before their own normalisation, of normalised features; T a multiple of 4."""
        return np.asarray(_encode(self.params, self.config, jnp.asarray(normalised)))

    def decode(self, latents: list[Float[np.ndarray, "n Z"]]) -> list[Float[np.ndarray, "4*n 272"]]:
        """Un-normalised features of normalised latents."""
        padded = _pad([latent * self.latent_std + self.latent_mean for latent in latents], _BUCKET)
        features = np.asarray(_decode(self.params, self.config, jnp.asarray(padded))) * self.feature_std + self.feature_mean
        return [f[: FRAMES_PER_LATENT * len(z)] for f, z in zip(features, latents, strict=True)]

    def stream(self, latents: Iterable[Float[np.ndarray, " Z"]]) -> Iterator[Float[np.ndarray, "4 272"]]:
        """Un-normalised features of one motion, four frames as each normalised latent comes; the same frames as `decode` gives."""
        state = motion_vae.decoder_state(self.config, 1)
        for latent in latents:
            raw = jnp.asarray(latent * self.latent_std + self.latent_mean)[None, None]
            features, state = _decode_next(self.params, self.config, raw, state)
            yield np.asarray(features[0]) * self.feature_std + self.feature_mean

    def normalise(self, features: Float[np.ndarray, "... 272"]) -> Float[np.ndarray, "... 272"]:
        """Features in training deviations, clipped."""
        normalised = (features - self.feature_mean) / self.feature_std
        return np.clip(normalised, -FEATURE_LIMIT, FEATURE_LIMIT).astype(np.float32)


def _pad(rows: list[np.ndarray], multiple: int) -> Float[np.ndarray, "B T C"]:
    # The VAE is causal: what is padded on the right changes nothing before it.
    length = -(-max(map(len, rows)) // multiple) * multiple
    padded = np.zeros((len(rows), length, rows[0].shape[1]), np.float32)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


@functools.partial(jax.jit, static_argnames="config")
def _encode(params: dict, config: MotionVAEConfig, features: Float[Array, "B T 272"]) -> Float[Array, "B n Z"]:
    return motion_vae.encode(params, config, features)[0]


@functools.partial(jax.jit, static_argnames="config")
def _decode(params: dict, config: MotionVAEConfig, latents: Float[Array, "B n Z"]) -> Float[Array, "B T 272"]:
    return motion_vae.decode(params, config, latents)[0]


@functools.partial(jax.jit, static_argnames="config", donate_argnames="state")
def _decode_next(
    params: dict, config: MotionVAEConfig, latents: Float[Array, "1 1 Z"], state: motion_vae.State
) -> tuple[Float[Array, "1 4 272"], motion_vae.State]:
    return motion_vae.decode(params, config, latents, state)
