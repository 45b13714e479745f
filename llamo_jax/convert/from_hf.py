"""A bundle from an LLM alone: text works, motion is to be trained."""

from pathlib import Path

import jax

from llamo_jax.config import MotionVAEConfig
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models import llamo
from llamo_jax.models.declaration import init
from llamo_jax.models.motion_vae import MotionVAE
from llamo_jax.motion.representation import FEATURES
from llamo_jax.motion.statistics import Statistics
from llamo_jax.presets import is_narrow, llamo_config
from llamo_jax.storage.bundle import Bundle, LLMStorage, require_replaceable, write_bundle
from llamo_jax.storage.huggingface import load_llm, load_tokenizer, resolve_llm


def bundle_from_llm(
    llm: str | Path, output: str | Path, *, revision: str | None = None, llm_storage: LLMStorage = "copy", seed: int = 0
) -> None:
    """Writes a bundle of the LLM, an initial motion side that fits it and an initial VAE.

    Args:
      llm: a folder, a GGUF file, or an id on the Hugging Face Hub.
      output: the bundle's folder.
      revision: branch, tag or commit, for ids.
      llm_storage: how the bundle holds the LLM.
      seed: of the initial weights.

    Raises:
      InputError: not an LLM that this project runs, or `output` is in the way.
    """
    require_replaceable(output)
    source = resolve_llm(llm, revision)
    tokenizer = load_tokenizer(source.folder)
    llm_config, text = load_llm(source.folder)
    config = llamo_config(llm_config)
    vae_config = MotionVAEConfig(width=128 if is_narrow(llm_config) else 1024)
    motion_key, vae_key = jax.random.split(jax.random.key(seed))
    codec = MotionCodec(
        vae_config,
        init(MotionVAE, vae_config, vae_key),
        features=Statistics.identity(FEATURES),
        latents=Statistics.identity(config.latent_channels),
    )
    bundle = Bundle(
        config=config,
        params={"text": text, **llamo.init_motion(config, motion_key, text)},
        codec=codec,
        llm=source,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
        info={"trained": False},
    )
    write_bundle(output, bundle, llm_storage=llm_storage)
