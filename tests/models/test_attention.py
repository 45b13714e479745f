"""The mask as literal 0/1 matrices, rotary positions, and attention against a plain reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from llamo_jax.config import LLMConfig, RopeScaling
from llamo_jax.models.attention import Places, attention, rope_frequencies, rotary, rotate, visible


def mask_of(places: Places, window: int | None = None) -> np.ndarray:
    return visible(places, places, window=window)[0]


def test_mask_of_two_streams_with_two_samples_and_padding() -> None:
    # Keys: text t0 t1 of sample 1, t0 of sample 2, padding; then motion m2 m3 of sample 1, m1 of sample 2.
    positions = jnp.array([[0, 1, 0, 0, 2, 3, 1]])
    segments = jnp.array([[1, 1, 2, 0, 1, 1, 2]])
    expected = [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 0],
        [0, 0, 0, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [0, 0, 1, 0, 0, 0, 1],
    ]
    np.testing.assert_array_equal(mask_of(Places(positions, segments)), np.array(expected, bool))


def test_text_after_motion_sees_the_motion() -> None:
    # Text positions 0 and 3, motion positions 1 and 2: motion-to-text.
    positions = jnp.array([[0, 3, 1, 2]])
    segments = jnp.ones_like(positions)
    expected = [[1, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 1, 1]]
    np.testing.assert_array_equal(mask_of(Places(positions, segments)), np.array(expected, bool))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention_is_softmax_attention_with_grouped_heads(kv_heads: int) -> None:
    keys = jax.random.split(jax.random.key(0), 4)
    q = jax.random.normal(keys[0], (2, 4, 5, 8))
    k, v = (jax.random.normal(key, (2, kv_heads, 7, 8)) for key in keys[1:3])
    mask = jax.random.bernoulli(keys[3], 0.6, (2, 5, 7)).at[..., 0].set(True)
    expected = jax.nn.dot_product_attention(*(jnp.moveaxis(x, 1, 2) for x in (q, k, v)), mask=mask[:, None])
    np.testing.assert_allclose(attention(q, k, v, mask), jnp.moveaxis(expected, 1, 2), atol=1e-6)


def test_a_window_hides_what_is_further_back() -> None:
    places = Places(jnp.array([[0, 1, 2, 3]]), jnp.ones((1, 4), jnp.int32))
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    np.testing.assert_array_equal(mask_of(places, window=2), np.array(expected, bool))


def test_rope_scores_depend_on_distance_only() -> None:
    config = LLMConfig(10, 8, 1, 1, 1, 8, 8)
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))

    def turned(x: jnp.ndarray, position: int) -> jnp.ndarray:
        return rotate(rotary(jnp.array([[position]]), config, jnp.float32), x)

    def score(i: int, j: int) -> float:
        return float((turned(q, i) * turned(k, j)).sum())

    assert score(9, 4) == pytest.approx(score(25, 20), abs=1e-5)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)


def test_llama3_scaling_keeps_high_frequencies_and_divides_low_ones() -> None:
    plain = rope_frequencies(LLMConfig(10, 8, 1, 1, 1, 64, 8, rope_theta=5e5))
    scaled = rope_frequencies(
        LLMConfig(10, 8, 1, 1, 1, 64, 8, rope_theta=5e5, rope_scaling=RopeScaling("llama3", 32.0))
    )
    assert scaled[0] == plain[0]
    assert scaled[-1] == pytest.approx(plain[-1] / 32, rel=1e-6)
    assert np.all(np.diff(scaled) < 0)
