"""A bundle from an LLM alone: text works, motion is to be trained."""

from pathlib import Path

import jax
import numpy as np

from llamo_jax.config import MotionVAEConfig
from llamo_jax.convert.bundle import Bundle, LLMStorage, require_replaceable, write_bundle
from llamo_jax.convert.huggingface import load_llm, resolve_llm
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models import llamo
from llamo_jax.models.layers import init
from llamo_jax.models.motion_vae import NUM_FEATURES, MotionVAE
from llamo_jax.presets import llamo_config
from llamo_jax.tokenizer import Tokenizer


def bundle_from_llm(
    llm: str | Path, output: str | Path, *, revision: str | None = None, llm_storage: LLMStorage = "copy", seed: int = 0
) -> None:
    """Writes a bundle of the LLM, an initial motion side that fits it and an initial VAE.

    Args:
      llm: a folder, or an id on the Hugging Face Hub.
      output: the bundle's folder.
      revision: branch, tag or commit, for ids.
      llm_storage: how the bundle holds the LLM.
      seed: of the initial weights.

    Raises:
      InputError: not an LLM that this project runs, or `output` is in the way.
    """
    require_replaceable(Path(output))
    source = resolve_llm(llm, revision)
    llm_config, text = load_llm(source.folder)
    Tokenizer(source.folder, llamo.output_rows(text))
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
    motion = llamo.init_motion(config, motion_key, text)
    write_bundle(output, Bundle(config, text, motion, codec, source, {"trained": False}), llm_storage=llm_storage)
