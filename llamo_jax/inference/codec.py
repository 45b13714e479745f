"""The motion VAE with its statistics: un-normalised 272 features <-> normalised latents."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from llamo_jax.config import MotionVAEConfig
from llamo_jax.errors import InputError
from llamo_jax.inference.buckets import BUCKET, padded_arrays
from llamo_jax.models import motion_vae
from llamo_jax.motion.representation import FEATURE_LIMIT, FRAMES_PER_LATENT
from llamo_jax.motion.statistics import Statistics


@dataclasses.dataclass(frozen=True)
class MotionCodec:
    """Encodes and decodes whole motions. The VAE is causal: padding on the right changes nothing before it.

    Attributes:
      config: of the VAE.
      params: its weights.
      features: statistics of the training features (one deviation a group).
      latents: statistics of the training latents, per channel.
    """

    config: MotionVAEConfig
    params: dict[str, Any]
    features: Statistics
    latents: Statistics

    def encode(self, motions: Sequence[Float[np.ndarray, "T 272"]]) -> list[Float[np.ndarray, "n Z"]]:
        """Normalised latents of un-normalised features, n = T // 4; the frames after the last whole latent are left
        out.

        Raises:
          InputError: a motion is shorter than 4 frames.
        """
        for index, motion in enumerate(motions):
            if len(motion) < FRAMES_PER_LATENT:
                found = f"motion {index} has {len(motion)} frames"
                raise InputError(f"{found}; expected at least {FRAMES_PER_LATENT}, one latent's worth")
        counts = [len(motion) // FRAMES_PER_LATENT for motion in motions]
        whole = [
            self.features.normalise(motion[: FRAMES_PER_LATENT * n], FEATURE_LIMIT)
            for motion, n in zip(motions, counts, strict=True)
        ]
        means = self.posterior_means(padded_arrays(whole, multiple=FRAMES_PER_LATENT * BUCKET)[0])
        return [self.latents.normalise(mu[:n]) for mu, n in zip(means, counts, strict=True)]

    def posterior_means(self, normalised: Float[np.ndarray, "B T 272"]) -> Float[np.ndarray, "B n Z"]:
        """Latents before their own normalisation, of normalised features; T a multiple of 4."""
        return np.asarray(_encode(self.params, self.config, jnp.asarray(normalised)))

    def decode(self, motions: Sequence[Float[np.ndarray, "n Z"]]) -> list[Float[np.ndarray, "4*n 272"]]:
        """Un-normalised features of normalised latents."""
        padded, _ = padded_arrays([self.latents.denormalise(latents) for latents in motions])
        features = self.features.denormalise(np.asarray(_decode(self.params, self.config, jnp.asarray(padded))))
        return [f[: FRAMES_PER_LATENT * len(z)] for f, z in zip(features, motions, strict=True)]

    def stream(self, latents: Iterable[Float[np.ndarray, " Z"]]) -> Iterator[Float[np.ndarray, "4 272"]]:
        """Un-normalised features of one motion, four frames as each normalised latent comes; those of `decode`."""
        state = motion_vae.decoder_state(self.config, 1)
        for latent in latents:
            raw = jnp.asarray(self.latents.denormalise(latent))[None, None]
            features, state = _decode_next(self.params, self.config, raw, state)
            yield self.features.denormalise(np.asarray(features[0]))


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
