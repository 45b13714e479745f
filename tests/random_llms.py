"""Random LLMs of transformers, of every family and option that the import knows."""

from pathlib import Path

import torch
import transformers

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
TIED = {"tie_word_embeddings": True}

VARIANTS: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", TIED),
    "llama-gqa1": ("Llama", {"num_key_value_heads": 4}),
    "llama-gqa4": ("Llama", {"num_key_value_heads": 1}),
    "llama-head_dim": ("Llama", {"head_dim": 16}),
    "llama-llama3": ("Llama", {"rope_parameters": LLAMA3, **TIED}),
    "llama-linear": ("Llama", {"rope_parameters": LINEAR}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "smollm2": (
        "Llama",
        {
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "hidden_size": 48,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
            **TIED,
        },
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 16}),
    "mistral-head_dim": ("Mistral", {"sliding_window": None, "head_dim": 16, "num_key_value_heads": 1}),
    "qwen2": ("Qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2-tied": ("Qwen2", {"num_key_value_heads": 4, **TIED}),
    "qwen2-linear": ("Qwen2", {"num_key_value_heads": 1, "rope_parameters": LINEAR}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3-tied": ("Qwen3", {"head_dim": 8, "num_key_value_heads": 1, **TIED}),
    "qwen3-llama3": ("Qwen3", {"head_dim": 16, "num_key_value_heads": 4, "rope_parameters": LLAMA3}),
    "qwen3-biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
}
"""Family of transformers and what its config says beyond the common values. Original contexts are 32 or 64 positions;
tests run 80."""

VOCABULARY = 64


def random_llm(folder: Path, family: str = "Llama", **changes) -> "transformers.PreTrainedModel":
    torch.manual_seed(0)
    values = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
        "attn_implementation": "eager",
    } | changes  # fmt: skip
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**values)).eval()
    # Biases start at 0 and norms at 1, which would hide them.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model
