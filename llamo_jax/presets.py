"""Named architectures. Published values: the `config.json` of each base model on the Hugging Face Hub.

Those of Qwen3 are of the post-trained models.
"""

from typing import Any

from llamo_jax.config import FlowHeadConfig, LlamoConfig, LLMConfig, MotionTowerConfig, RopeScaling

OWN_SHAPE_WIDTH = 512
"""From this width on, the motion tower has the text tower's own shape."""

_SMOLLM2: dict[str, Any] = {
    "vocab_size": 49152,
    "head_dim": 64,
    "rope_theta": 1e5,
    "tie_embeddings": True,
    "max_positions": 8192,
}
_LLAMA3: dict[str, Any] = {"vocab_size": 128256, "num_kv_heads": 8, "rope_theta": 5e5, "max_positions": 131072}
_QWEN2: dict[str, Any] = {
    "vocab_size": 151936,
    "head_dim": 128,
    "rope_theta": 1e6,
    "norm_eps": 1e-6,
    "family": "qwen2",
    "qkv_bias": True,
}
_QWEN3: dict[str, Any] = {
    "vocab_size": 151936,
    "num_kv_heads": 8,
    "head_dim": 128,
    "rope_theta": 1e6,
    "norm_eps": 1e-6,
    "family": "qwen3",
    "qk_norm": True,
    "max_positions": 40960,
}


def _llm(*, width: int, layers: int, heads: int, ffn: int, **options: Any) -> LLMConfig:
    return LLMConfig(width=width, num_layers=layers, num_heads=heads, ffn_width=ffn, **options)


def _scaled(factor: float) -> dict[str, Any]:
    return {"rope_scaling": RopeScaling("llama3", factor)}


LLMS: dict[str, LLMConfig] = {
    "tiny": _llm(width=192, layers=4, heads=6, ffn=512, vocab_size=512, num_kv_heads=3, head_dim=32, max_positions=512),
    "stories260k": _llm(
        width=64, layers=5, heads=8, ffn=172, vocab_size=512, num_kv_heads=4, head_dim=8, max_positions=512,
        tie_embeddings=True,
    ),
    "smollm2-135m": _llm(width=576, layers=30, heads=9, num_kv_heads=3, ffn=1536, **_SMOLLM2),
    "smollm2-360m": _llm(width=960, layers=32, heads=15, num_kv_heads=5, ffn=2560, **_SMOLLM2),
    "smollm2-1.7b": _llm(
        width=2048, layers=24, heads=32, num_kv_heads=32, ffn=8192, **_SMOLLM2 | {"rope_theta": 1.3e5}
    ),
    "llama-3.2-1b": _llm(
        width=2048, layers=16, heads=32, head_dim=64, ffn=8192, tie_embeddings=True, **_scaled(32.0), **_LLAMA3
    ),
    "llama-3.2-3b": _llm(
        width=3072, layers=28, heads=24, head_dim=128, ffn=8192, tie_embeddings=True, **_scaled(32.0), **_LLAMA3
    ),
    "llama-3.1-8b": _llm(width=4096, layers=32, heads=32, head_dim=128, ffn=14336, **_scaled(8.0), **_LLAMA3),
    "qwen2.5-0.5b": _llm(
        width=896, layers=24, heads=14, num_kv_heads=2, ffn=4864, max_positions=32768, tie_embeddings=True,
        **_QWEN2 | {"head_dim": 64},
    ),
    "qwen2.5-1.5b": _llm(
        width=1536, layers=28, heads=12, num_kv_heads=2, ffn=8960, max_positions=131072, tie_embeddings=True, **_QWEN2
    ),
    "qwen2.5-3b": _llm(
        width=2048, layers=36, heads=16, num_kv_heads=2, ffn=11008, max_positions=32768, tie_embeddings=True, **_QWEN2
    ),
    "qwen2.5-7b": _llm(
        width=3584, layers=28, heads=28, num_kv_heads=4, ffn=18944, max_positions=131072,
        **_QWEN2 | {"vocab_size": 152064},
    ),
    "qwen3-0.6b": _llm(width=1024, layers=28, heads=16, ffn=3072, tie_embeddings=True, **_QWEN3),
    "qwen3-1.7b": _llm(width=2048, layers=28, heads=16, ffn=6144, tie_embeddings=True, **_QWEN3),
    "qwen3-4b": _llm(width=2560, layers=36, heads=32, ffn=9728, tie_embeddings=True, **_QWEN3),
    "qwen3-8b": _llm(width=4096, layers=36, heads=32, ffn=12288, **_QWEN3),
}  # fmt: skip


def is_narrow(llm: LLMConfig) -> bool:
    """Whether an LLM is too narrow for a motion tower of its own shape."""
    return llm.width < OWN_SHAPE_WIDTH


def llamo_config(
    llm: LLMConfig, latent_channels: int = 32, *, motion_width: int | None = None, flow_width: int | None = None
) -> LlamoConfig:
    """The motion side that fits an LLM.

    By default the motion tower has the text tower's own shape, so that it can start as its copy (paper). Narrow LLMs
    are too small to hold motion: they get a tower of 192 / 512 and a head of 256, which a CPU trains in minutes. "tiny"
    has that shape itself, and untied embeddings: with tied ones, words that follow the same words, as left and right
    do, end up with the same meaning.

    Args:
      llm: the text tower, whose depth and attention heads the motion tower shares.
      latent_channels: of the motion VAE.
      motion_width: of the motion tower, any; its feed-forward layer is as many times wider as the LLM's, in multiples
        of 64. None is the default above.
      flow_width: of the flow head; None is the default above.
    """
    if motion_width is not None:
        ratio = llm.ffn_width / llm.width
        same = motion_width == llm.width
        ffn_width = llm.ffn_width if same else max(64, round(motion_width * ratio / 64) * 64)
        tower = MotionTowerConfig(width=motion_width, ffn_width=ffn_width)
    elif is_narrow(llm):
        tower = MotionTowerConfig(width=192, ffn_width=512)
    else:
        tower = MotionTowerConfig(width=llm.width, ffn_width=llm.ffn_width)
    head = FlowHeadConfig(width=flow_width or (256 if is_narrow(llm) else 1024), num_blocks=3)
    return LlamoConfig(text=llm, motion=tower, flow_head=head, latent_channels=latent_channels)
