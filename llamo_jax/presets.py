"""Named architectures. Published values: the `config.json` of each base model on the Hugging Face Hub (Qwen3: of the post-trained one)."""

from typing import Any

from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig, RopeScaling


def _smollm2(width: int, layers: int, heads: int, kv_heads: int, ffn_width: int, rope_theta: float = 1e5) -> LLMConfig:
    return LLMConfig(49152, width, layers, heads, kv_heads, 64, ffn_width, rope_theta, tie_embeddings=True, max_positions=8192)


def _llama3(width: int, layers: int, heads: int, head_dim: int, ffn_width: int, scaling: float, **options: Any) -> LLMConfig:
    rope = RopeScaling("llama3", scaling)
    return LLMConfig(128256, width, layers, heads, 8, head_dim, ffn_width, 5e5, rope, max_positions=131072, **options)


def _qwen(
    width: int, layers: int, heads: int, kv_heads: int, head_dim: int, ffn_width: int, vocab_size: int = 151936, **options: Any
) -> LLMConfig:
    return LLMConfig(vocab_size, width, layers, heads, kv_heads, head_dim, ffn_width, 1e6, norm_eps=1e-6, **options)


_QWEN2: dict[str, Any] = {"family": "qwen2", "qkv_bias": True}
_QWEN3: dict[str, Any] = {"family": "qwen3", "qk_norm": True, "max_positions": 40960}

LLMS: dict[str, LLMConfig] = {
    "tiny": LLMConfig(512, 192, 4, 6, 3, 32, 512, max_positions=512),
    "stories260k": LLMConfig(512, 64, 5, 8, 4, 8, 172, tie_embeddings=True, max_positions=512),
    "smollm2-135m": _smollm2(576, 30, 9, 3, 1536),
    "smollm2-360m": _smollm2(960, 32, 15, 5, 2560),
    "smollm2-1.7b": _smollm2(2048, 24, 32, 32, 8192, rope_theta=1.3e5),
    "llama-3.2-1b": _llama3(2048, 16, 32, 64, 8192, 32.0, tie_embeddings=True),
    "llama-3.2-3b": _llama3(3072, 28, 24, 128, 8192, 32.0, tie_embeddings=True),
    "llama-3.1-8b": _llama3(4096, 32, 32, 128, 14336, 8.0),
    "qwen2.5-0.5b": _qwen(896, 24, 14, 2, 64, 4864, max_positions=32768, tie_embeddings=True, **_QWEN2),
    "qwen2.5-1.5b": _qwen(1536, 28, 12, 2, 128, 8960, max_positions=131072, tie_embeddings=True, **_QWEN2),
    "qwen2.5-3b": _qwen(2048, 36, 16, 2, 128, 11008, max_positions=32768, tie_embeddings=True, **_QWEN2),
    "qwen2.5-7b": _qwen(3584, 28, 28, 4, 128, 18944, 152064, max_positions=131072, **_QWEN2),
    "qwen3-0.6b": _qwen(1024, 28, 16, 8, 128, 3072, tie_embeddings=True, **_QWEN3),
    "qwen3-1.7b": _qwen(2048, 28, 16, 8, 128, 6144, tie_embeddings=True, **_QWEN3),
    "qwen3-4b": _qwen(2560, 36, 32, 8, 128, 9728, tie_embeddings=True, **_QWEN3),
    "qwen3-8b": _qwen(4096, 36, 32, 8, 128, 12288, **_QWEN3),
}


def llamo_config(llm: LLMConfig, latent_channels: int = 32) -> LlamoConfig:
    """The motion side that fits an LLM.

    From a width of 512 on, the motion tower has the text tower's own shape, so that it can start as its copy (paper). Narrower LLMs
    are too small to hold motion: they get a tower of 192 / 512 and a head of 256, which a CPU trains in minutes.
    "tiny" has that shape itself, and embeddings of its own for input: tied ones of words that follow on the same, like left and
    right, grow alike.
    """
    if llm.width < 512:
        return LlamoConfig(llm, MotionTowerConfig(192, 512), FlowHeadConfig(256, 3), latent_channels)
    return LlamoConfig(llm, MotionTowerConfig(llm.width, llm.ffn_width), FlowHeadConfig(1024, 3), latent_channels)
