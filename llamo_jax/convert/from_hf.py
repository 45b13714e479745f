"""A bundle from an LLM alone: text works, motion is to be trained."""

from pathlib import Path

import jax
import numpy as np

from llamo_jax.config import MotionVAEConfig
from llamo_jax.convert.bundle import Bundle, write_bundle
from llamo_jax.convert.huggingface import load_llm
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models import llamo
from llamo_jax.models.layers import init
from llamo_jax.models.motion_vae import NUM_FEATURES, MotionVAE
from llamo_jax.presets import llamo_config
from llamo_jax.tokenizer import Tokenizer


def bundle_from_llm(llm: str | Path, output: str | Path, *, seed: int = 0) -> None:
    """Writes a bundle of the LLM, an initial motion side that fits it and an initial VAE.

    Raises:
      InputError: the folder is not an LLM that this project runs, or `output` is in the way.
    """
    llm = Path(llm)
    llm_config, text = load_llm(llm)
    Tokenizer(llm, llamo.output_rows(text))
    config = llamo_config(llm_config)
    vae_config = MotionVAEConfig(width=128 if llm_config.width < 512 else 1024)
    motion_key, vae_key = jax.random.split(jax.random.key(seed))
    codec = MotionCodec(
        vae_config,
        init(lambda rngs: MotionVAE(rngs, vae_config), vae_key),
        feature_mean=np.zeros(NUM_FEATURES, np.float32),
        feature_std=np.ones(NUM_FEATURES, np.float32),
        latent_mean=np.zeros(config.latent_channels, np.float32),
        latent_std=np.ones(config.latent_channels, np.float32),
    )
    write_bundle(output, Bundle(config, text, llamo.init_motion(config, motion_key, text), codec, llm, {"trained": False}))
