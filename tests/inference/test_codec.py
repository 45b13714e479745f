"""The VAE with its statistics: streamed = at once, whatever else is in the batch."""

import numpy as np

from llamo_jax.motion import MotionClip
from llamo_jax.pretrained import Llamo


def test_streamed_is_at_once(model: Llamo) -> None:
    latents = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    chunks = list(model.codec.stream(latents))
    assert [chunk.shape for chunk in chunks] == [(4, 272)] * 9
    np.testing.assert_allclose(np.concatenate(chunks), model.codec.decode([latents])[0], atol=1e-5)


def test_a_motion_is_encoded_as_alone_in_a_batch(model: Llamo, clip: MotionClip) -> None:
    features = clip.features()
    alone = model.codec.encode([features[:30]])[0]
    batched = model.codec.encode([features, features[:30]])[1]
    assert alone.shape == (7, 4)
    np.testing.assert_allclose(batched, alone, atol=1e-5)
