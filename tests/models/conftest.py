"""A model small enough for equality tests, and batches for it."""

import jax
import pytest

from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig
from llamo_jax.models import llamo
from llamo_jax.models.declaration import init

SMALL = LlamoConfig(
    LLMConfig(vocab_size=40, width=16, num_layers=3, num_heads=4, num_kv_heads=2, head_dim=8, ffn_width=24),
    MotionTowerConfig(width=24, ffn_width=32),
    FlowHeadConfig(width=16, num_blocks=2),
    latent_channels=5,
)


@pytest.fixture(scope="session")
def config() -> LlamoConfig:
    return SMALL


@pytest.fixture(scope="session")
def params(config: LlamoConfig) -> dict:
    text = init(llamo.LLM, config.text, jax.random.key(0))
    params = {"text": text, **llamo.init_motion(config, jax.random.key(1), text)}
    # Zero-initialised layers would hide errors behind them.
    keys = iter(jax.random.split(jax.random.key(2), 100))
    nonzero = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(next(keys), leaf.shape), params["flow_head"])
    return {**params, "flow_head": nonzero}
