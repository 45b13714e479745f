"""The VAE is causal, and a stream of it is the whole of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llamo_jax.config import MotionVAEConfig
from llamo_jax.models import motion_vae
from llamo_jax.models.declaration import init

CONFIG = MotionVAEConfig(width=16, latent_channels=6)
TAE = MotionVAEConfig(width=16, latent_channels=6, activation="relu", upsampling="nearest")

encode = jax.jit(motion_vae.encode, static_argnames="config")
decode = jax.jit(motion_vae.decode, static_argnames="config")


@pytest.fixture(scope="module")
def params() -> dict:
    return init(motion_vae.MotionVAE, CONFIG, jax.random.key(0))


@pytest.fixture(scope="module")
def features() -> jnp.ndarray:
    return jax.random.normal(jax.random.key(1), (2, 64, 272))


def test_rates(params: dict, features: jnp.ndarray) -> None:
    latents, _ = encode(params, CONFIG, features)
    assert latents.shape == (2, 16, 6)
    assert decode(params, CONFIG, latents)[0].shape == (2, 64, 272)


@pytest.mark.parametrize("frame", [0, 5, 31, 63])
def test_encoder_is_causal_bitwise(params: dict, features: jnp.ndarray, frame: int) -> None:
    before, _ = encode(params, CONFIG, features)
    after, _ = encode(params, CONFIG, features.at[:, frame].add(1.0))
    first = frame // 4  # latent i sees frames up to 4 i + 3
    np.testing.assert_array_equal(before[:, :first], after[:, :first])
    assert np.abs(np.asarray(before[:, first] - after[:, first])).max() > 1e-4


@pytest.mark.parametrize("latent", [0, 7, 15])
def test_decoder_is_causal_bitwise(params: dict, latent: int) -> None:
    latents = jax.random.normal(jax.random.key(2), (2, 16, 6))
    before, _ = decode(params, CONFIG, latents)
    after, _ = decode(params, CONFIG, latents.at[:, latent].add(1.0))
    np.testing.assert_array_equal(before[:, : 4 * latent], after[:, : 4 * latent])
    assert np.abs(np.asarray(before[:, 4 * latent] - after[:, 4 * latent])).max() > 1e-4


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("config", [CONFIG, TAE], ids=["ours", "motionstreamer"])
def test_streamed_decoding_is_decoding_at_once(params: dict, config: MotionVAEConfig, chunk: int) -> None:
    latents = jax.random.normal(jax.random.key(2), (2, 15, 6))
    whole, _ = decode(params, config, latents)
    state, parts = motion_vae.decoder_state(config, 2), []
    for start in range(0, 15, chunk):
        part, state = decode(params, config, latents[:, start : start + chunk], state)
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts, 1), whole, atol=1e-5)


def test_streamed_encoding_is_encoding_at_once(params: dict, features: jnp.ndarray) -> None:
    whole, _ = encode(params, CONFIG, features)
    first, state = encode(params, CONFIG, features[:, :24])
    second, _ = encode(params, CONFIG, features[:, 24:], state)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=1e-5)


@pytest.mark.parametrize(("kind", "expected"), [("linear", [1, 2, 3, 4, 6, 8]), ("nearest", [2, 2, 4, 4, 8, 8])])
def test_upsampling_interpolates_between_the_previous_and_the_present_or_repeats(
    kind: str, expected: list[int]
) -> None:
    run = motion_vae._Causal(MotionVAEConfig(upsampling=kind), None)
    x = jnp.array([[[2.0], [4.0], [8.0]]])
    np.testing.assert_array_equal(run.upsample("u", x)[0, :, 0], expected)
