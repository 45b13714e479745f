"""Presets are what was published: the values of each config.json on the Hugging Face Hub, and the numbers of
parameters."""

import json
from pathlib import Path
from typing import Any

import pytest

from llamo_jax.models import llamo
from llamo_jax.models.declaration import abstract, count
from llamo_jax.presets import LLMS, llamo_config
from llamo_jax.storage.huggingface import read_config, write_config


def _llama(
    hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int, theta: float, positions: int, **more: Any
) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": False,
        "mlp_bias": False,
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn, "vocab_size": vocab, "rope_theta": theta, "max_position_embeddings": positions,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    } | more  # fmt: skip


def _qwen(
    hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, positions: int, tied: bool, **more: Any
) -> dict:
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": 151936, "rope_theta": 1000000.0, "max_position_embeddings": positions, "rms_norm_eps": 1e-06,
        "tie_word_embeddings": tied, "use_sliding_window": False, "sliding_window": positions,
        "max_window_layers": layers,
        "torch_dtype": "bfloat16",
    } | more  # fmt: skip


def _llama3_scaling(factor: float) -> dict[str, Any]:
    common = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    return {"rope_type": "llama3", "factor": factor, **common}


QWEN3 = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 128, "attention_bias": False,
"rope_theta": 1000000,
         "rope_scaling": None, "sliding_window": None}  # fmt: skip

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "smollm2-135m": (_llama(576, 30, 9, 3, 1536, 49152, 100000, 8192), 134_515_008),
    "smollm2-360m": (_llama(960, 32, 15, 5, 2560, 49152, 100000, 8192), 361_821_120),
    "smollm2-1.7b": (_llama(2048, 24, 32, 32, 8192, 49152, 130000, 8192), 1_711_376_384),
    "llama-3.2-1b": (
        _llama(2048, 16, 32, 8, 8192, 128256, 500000.0, 131072, head_dim=64, rope_scaling=_llama3_scaling(32.0)),
        1_235_814_400,
    ),
    "llama-3.2-3b": (
        _llama(3072, 28, 24, 8, 8192, 128256, 500000.0, 131072, head_dim=128, rope_scaling=_llama3_scaling(32.0)),
        3_212_749_824,
    ),
    "llama-3.1-8b": (
        _llama(4096, 32, 32, 8, 14336, 128256, 500000.0, 131072, rope_scaling=_llama3_scaling(8.0),
        tie_word_embeddings=False),
        8_030_261_248,
    ),
    "qwen2.5-0.5b": (_qwen(896, 24, 14, 2, 4864, 32768, True), 494_032_768),
    "qwen2.5-1.5b": (_qwen(1536, 28, 12, 2, 8960, 131072, True), 1_543_714_304),
    "qwen2.5-3b": (_qwen(2048, 36, 16, 2, 11008, 32768, True), 3_085_938_688),
    "qwen2.5-7b": (_qwen(3584, 28, 28, 4, 18944, 131072, False, vocab_size=152064), 7_615_616_512),
    "qwen3-0.6b": (_qwen(1024, 28, 16, 8, 3072, 40960, True, **QWEN3), 596_049_920),
    "qwen3-1.7b": (_qwen(2048, 28, 16, 8, 6144, 40960, True, **QWEN3), 1_720_574_976),
    "qwen3-4b": (_qwen(2560, 36, 32, 8, 9728, 40960, True, **QWEN3), 4_022_468_096),
    "qwen3-8b": (_qwen(4096, 36, 32, 8, 12288, 40960, False, **QWEN3), 8_190_735_360),
}  # fmt: skip
"""What the config.json says, in the layout in which it was published, and how many parameters the model card counts
(tied heads once)."""


def test_every_preset_of_a_published_model_is_checked() -> None:
    assert set(LLMS) - set(PUBLISHED) == {"tiny", "stories260k"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_the_published_config(name: str, tmp_path: Path) -> None:
    values, parameters = PUBLISHED[name]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert read_config(tmp_path) == LLMS[name]
    assert count(abstract(llamo.LLM, LLMS[name])) == parameters
    write_config(tmp_path, LLMS[name], bos_id=1, eos_id=2, dtype="bfloat16")
    assert read_config(tmp_path) == LLMS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_transformers_reads_the_config_that_is_written(name: str, tmp_path: Path) -> None:
    """The new layout says the same as the one that was published."""
    transformers = pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name][0]))
    published = transformers.AutoConfig.from_pretrained(tmp_path)
    write_config(tmp_path, LLMS[name], bos_id=1, eos_id=2, dtype="bfloat16")
    written = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(written) is type(published)
    same = [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
    ]
    same += ["rms_norm_eps", "max_position_embeddings", "tie_word_embeddings", "hidden_act", "dtype"]
    for key in same:
        assert getattr(written, key) == getattr(published, key), key
    default = {"rope_type": "default"}
    assert default | written.rope_parameters == default | published.rope_parameters
    assert getattr(written, "layer_types", None) == getattr(published, "layer_types", None)


@pytest.mark.parametrize("name", LLMS)
def test_the_motion_side_fits(name: str) -> None:
    """From a width of 512 on, the motion tower has the LLM's own shape, so that parameters about double (paper)."""
    llm = LLMS[name]
    config = llamo_config(llm)
    motion = count(abstract(llamo.MotionSide, config))
    if llm.width >= 512:
        tower = count(abstract(llamo.LLM, llm)) - llm.vocab_size * llm.width * (1 if llm.tie_embeddings else 2)
        assert tower < motion < tower + 25e6


@pytest.mark.parametrize(("width", "ffn_width"), [(192, 512), (256, 704), (576, 1536), (8, 64)])
def test_a_motion_tower_has_any_width(width: int, ffn_width: int) -> None:
    config = llamo_config(LLMS["smollm2-135m"], motion_width=width, flow_width=128)
    assert (config.motion.width, config.motion.ffn_width, config.flow_head.width) == (width, ffn_width, 128)
    layers = abstract(llamo.MotionSide, config)["motion"]["layers"]
    assert layers["attn"]["q"]["weight"].shape == (30, 576, width)  # the LLM's depth and heads
