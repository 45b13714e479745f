"""Latents by a VAE that somebody else trained."""

from pathlib import Path

import jax
import numpy as np

from data_pipelines.builders.synthetic_builder import build_synthetic
from data_pipelines.shards import LatentShards
from experiments.train_vae import TrainVAE
from llamo_jax.config import MotionVAEConfig
from llamo_jax.convert.bundle import read_codec, write_codec
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models.layers import init
from llamo_jax.models.motion_vae import MotionVAE


def test_data_is_encoded_with_a_trained_vae_and_its_own_statistics(tmp_path: Path) -> None:
    data = build_synthetic(tmp_path / "data", num_clips=20)
    config = MotionVAEConfig(width=8, latent_channels=4, activation="relu", upsampling="nearest")
    params = init(lambda rngs: MotionVAE(rngs, config), jax.random.key(0))
    mean, std = np.full(272, 0.1, np.float32), np.full(272, 0.5, np.float32)
    write_codec(tmp_path / "tae", MotionCodec(config, params, mean, std, np.zeros(4, np.float32), np.ones(4, np.float32)))
    TrainVAE(tmp_path / "data", tmp_path / "run", vae=tmp_path / "tae").run()
    latents, codec = LatentShards(tmp_path / "run" / "latents"), read_codec(tmp_path / "run" / "vae")
    np.testing.assert_array_equal(codec.feature_mean, mean)
    np.testing.assert_array_equal(codec.latent_std, latents.statistics.std)
    assert codec.config == config and latents.manifest["licence"] == "none: motion and captions are computed"
    record = latents.split("test").cached()[0]
    features = next(motion.features for motion in data.split("test").cached() if motion.name == record.name)
    encoded = codec.encode([features])[0] * codec.latent_std + codec.latent_mean
    np.testing.assert_allclose(record.latents, encoded, atol=1e-4)
