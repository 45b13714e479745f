"""The LLM families: all that one knows of an architecture and another does not. A new family is a new row.

Tensor names are the same in all of them (`storage/layout.py`), and so is the arithmetic (`models/mot.py`) but for the
options below. The PyTorch port has the same arithmetic (`convert/torch_folder/llamo_torch/mot.py`).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from llamo_jax.errors import InputError

OPTIONS = ("qkv_bias", "output_bias", "ffn_bias", "qk_norm", "sliding_window")
"""The fields of `LLMConfig` in which families differ."""


class Options(Protocol):
    """The part of an `LLMConfig` that a family is about."""

    num_layers: int
    qkv_bias: bool
    output_bias: bool
    ffn_bias: bool
    qk_norm: bool
    sliding_window: int | None


class Family(NamedTuple):
    """One architecture of transformers.

    Attributes:
      architecture: its name in a config.json.
      allows: whether the architecture has these options.
      read: the values of a config.json -> options (those of `OPTIONS` that are not the default).
      write: options -> what a config.json says of them.
    """

    architecture: str
    allows: Callable[[Options], bool]
    read: Callable[[Mapping[str, Any]], dict[str, Any]]
    write: Callable[[Options], dict[str, Any]]


def of_architecture(name: str) -> str | None:
    """The family of an architecture, or None."""
    return next((family for family, facts in FAMILIES.items() if facts.architecture == name), None)


def _attention_bias(values: Mapping[str, Any]) -> dict[str, Any]:
    bias = bool(values.get("attention_bias", False))
    return {"qkv_bias": bias, "output_bias": bias}


def _window(values: Mapping[str, Any], first: int = 0) -> int | None:
    """The sliding window of all layers; None if there is none, or if it begins behind the last layer.

    Args:
      values: of a config.json.
      first: the first layer that has it, where no `layer_types` say so.

    Raises:
      InputError: some layers have one and others not.
    """
    window, layers = values.get("sliding_window"), values["num_hidden_layers"]
    if window is None:
        return None
    kinds = values.get("layer_types") or ["full_attention"] * first + ["sliding_attention"] * (layers - first)
    kinds = set(kinds[:layers])
    if len(kinds) > 1:
        raise InputError("some layers have a sliding window and some have not; expected one kind of attention in all")
    return window if kinds == {"sliding_attention"} else None


def _qwen_window(values: Mapping[str, Any]) -> dict[str, Any]:
    # Qwen's configs name a window that is switched off.
    used = values.get("use_sliding_window", False)
    return {"sliding_window": _window(values, values.get("max_window_layers", 28)) if used else None}


def _write_qwen_window(options: Options) -> dict[str, Any]:
    window = options.sliding_window
    return {
        "use_sliding_window": window is not None,
        "sliding_window": window,
        "max_window_layers": 0 if window else options.num_layers,
    }


FAMILIES: dict[str, Family] = {
    "llama": Family(  # Llama 2 to 3.2, SmolLM2
        "LlamaForCausalLM",
        allows=lambda o: o.qkv_bias == o.output_bias and not o.qk_norm and o.sliding_window is None,
        read=lambda values: _attention_bias(values) | {"ffn_bias": bool(values.get("mlp_bias", False))},
        write=lambda o: {"attention_bias": o.qkv_bias, "mlp_bias": o.ffn_bias},
    ),
    "mistral": Family(
        "MistralForCausalLM",
        allows=lambda o: not (o.qkv_bias or o.output_bias or o.ffn_bias or o.qk_norm),
        read=lambda values: _attention_bias(values) | {"sliding_window": _window(values)},
        write=lambda o: {"sliding_window": o.sliding_window},
    ),
    "qwen2": Family(  # Qwen2, Qwen2.5
        "Qwen2ForCausalLM",
        allows=lambda o: o.qkv_bias and not (o.output_bias or o.ffn_bias or o.qk_norm),
        read=lambda values: {"qkv_bias": True} | _qwen_window(values),
        write=_write_qwen_window,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        allows=lambda o: o.qkv_bias == o.output_bias and not o.ffn_bias and o.qk_norm,
        read=lambda values: _attention_bias(values) | {"qk_norm": True} | _qwen_window(values),
        write=lambda o: _write_qwen_window(o) | {"attention_bias": o.qkv_bias},
    ),
}
"""Decoders that the text tower runs, by their `model_type` in transformers."""
