"""Latents by a VAE that somebody else trained."""

from pathlib import Path

import jax
import numpy as np

from data_pipelines.builders.dataset import build
from data_pipelines.builders.synthetic import Synthetic
from data_pipelines.folder import LatentFolder
from experiments.recipes import VAE_RECIPES
from experiments.train_vae import TrainVAE
from llamo_jax.config import MotionVAEConfig
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models.declaration import init
from llamo_jax.models.motion_vae import MotionVAE
from llamo_jax.motion.statistics import Statistics
from llamo_jax.storage.bundle import read_codec, write_codec


def test_data_is_encoded_with_a_trained_vae_and_its_own_statistics(tmp_path: Path) -> None:
    data = build(Synthetic(num_clips=20), tmp_path / "data")
    config = MotionVAEConfig(width=8, latent_channels=4, activation="relu", upsampling="nearest")
    params = init(MotionVAE, config, jax.random.key(0))
    mean, std = np.full(272, 0.1, np.float32), np.full(272, 0.5, np.float32)
    write_codec(tmp_path / "tae", MotionCodec(config, params, Statistics(mean, std), Statistics.identity(4)))
    recipe = VAE_RECIPES["recordings"]
    TrainVAE(data=tmp_path / "data", out=tmp_path / "run", vae=tmp_path / "tae", recipe=recipe).run()
    latents, codec = LatentFolder(tmp_path / "run" / "latents"), read_codec(tmp_path / "run" / "vae")
    np.testing.assert_array_equal(codec.features.mean, mean)
    np.testing.assert_array_equal(codec.latents.std, latents.statistics.std)
    assert codec.config == config and latents.manifest["licence"] == "none: motion and captions are computed"
    record = latents.split("test")[0]
    features = next(motion.features for motion in data.split("test") if motion.name == record.name)
    encoded = codec.latents.denormalise(codec.encode([features])[0])
    np.testing.assert_allclose(record.latents, encoded, atol=1e-4)
