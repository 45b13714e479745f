"""Llama checkpoints of Hugging Face <-> text towers.

One table of names serves both directions. Weights are stored [out, in] on both sides and rotary halves are split the same way, so nothing
is transposed or permuted: a layer's tensors are only stacked.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from llamo_jax.config import LLMConfig, RopeScaling
from llamo_jax.errors import InputError
from llamo_jax.files import read_json, write_json
from llamo_jax.models import llamo
from llamo_jax.models.layers import abstract
from llamo_jax.trees import flatten, unflatten

ARCHITECTURES = ("LlamaForCausalLM",)

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "chat_template.jinja")

# Our path -> Hugging Face name; {} is the layer.
NAMES = {
    "embed": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
    "layers/attn_norm": "model.layers.{}.input_layernorm.weight",
    "layers/attn/q": "model.layers.{}.self_attn.q_proj.weight",
    "layers/attn/k": "model.layers.{}.self_attn.k_proj.weight",
    "layers/attn/v": "model.layers.{}.self_attn.v_proj.weight",
    "layers/attn/o": "model.layers.{}.self_attn.o_proj.weight",
    "layers/ffn_norm": "model.layers.{}.post_attention_layernorm.weight",
    "layers/ffn/gate": "model.layers.{}.mlp.gate_proj.weight",
    "layers/ffn/up": "model.layers.{}.mlp.up_proj.weight",
    "layers/ffn/down": "model.layers.{}.mlp.down_proj.weight",
}


def read_config(folder: Path) -> LLMConfig:
    """The architecture in a Hugging Face `config.json`, in its old (`rope_scaling`) or new (`rope_parameters`) layout.

    Raises:
      InputError: no such file, or an architecture or option that this project does not run.
    """
    path = Path(folder) / "config.json"
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: found {type(values).__name__}, expected an object; is this the config.json of a model?")
    found = values.get("architectures") or ["none"]
    if found[0] not in ARCHITECTURES:
        raise InputError(f'{path}: architecture "{found[0]}" is not supported; expected one of {", ".join(ARCHITECTURES)}')
    for option in ("attention_bias", "mlp_bias"):
        if values.get(option):
            raise InputError(f"{path}: {option} is true; biases in the projections are not supported")
    if (activation := values.get("hidden_act", "silu")) != "silu":
        raise InputError(f'{path}: hidden_act is "{activation}"; expected "silu"')
    rope = {"rope_theta": values.get("rope_theta", 10000.0)} | (values.get("rope_parameters") or values.get("rope_scaling") or {})
    try:
        heads = values["num_attention_heads"]
        found = dict(
            vocab_size=values["vocab_size"],
            width=values["hidden_size"],
            num_layers=values["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=values.get("num_key_value_heads") or heads,
            head_dim=values.get("head_dim") or values["hidden_size"] // heads,
            ffn_width=values["intermediate_size"],
            rope_theta=float(rope["rope_theta"]),
            rope_scaling=_read_rope_scaling(rope, path),
            norm_eps=values.get("rms_norm_eps", 1e-6),
            tie_embeddings=values.get("tie_word_embeddings", False),
            max_positions=values.get("max_position_embeddings", 2048),
        )
        scaling = found["rope_scaling"]
        return LLMConfig.from_json(found | {"rope_scaling": None if scaling is None else scaling.to_json()})
    except KeyError as error:
        raise InputError(f"{path}: the field {error} is missing; expected the config.json of a Llama model") from error
    except (TypeError, ValueError) as error:  # InputError included: it names the field, and here the file
        raise InputError(f"{path}: {error}") from error


def _read_rope_scaling(rope: dict[str, Any], path: Path) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        return RopeScaling("llama3", float(rope["factor"]), low, high, rope["original_max_position_embeddings"])
    raise InputError(f'{path}: rope type "{kind}" is not supported; expected default, linear or llama3')


def load_llm(folder: str | Path) -> tuple[LLMConfig, dict[str, Any]]:
    """Reads a Hugging Face folder (config.json, *.safetensors): its config and its weights, as a text tower in their own dtype.

    Raises:
      InputError: not such a folder, an unsupported architecture, or a tensor that is missing, left over or of the wrong shape.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a Hugging Face model folder with config.json and *.safetensors")
    config = read_config(folder)
    expected = flatten(abstract(lambda rngs: llamo.LLM(rngs, config)))
    wanted = {name: path for path in expected for name in _names(path, config)}
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in _tensors(folder):
        if name in wanted:
            tensors[name] = tensor
        elif not (config.tie_embeddings and name == NAMES["head"]) and not name.endswith("rotary_emb.inv_freq"):
            raise InputError(f'{folder}: unexpected tensor "{name}"; the config names no such part of a Llama model')
    if missing := sorted(set(wanted) - set(tensors)):
        raise InputError(f"{folder}: {len(missing)} tensors are missing, the first is {missing[0]}; the download may be incomplete")
    flat = {}
    for path, leaf in expected.items():
        parts = [tensors[name] for name in _names(path, config)]
        shape = leaf.shape[1:] if path.startswith("layers/") else leaf.shape
        for name, part in zip(_names(path, config), parts, strict=True):
            if part.shape != shape:
                raise InputError(f'{folder}: tensor "{name}" has shape {part.shape}; the config asks for {shape}')
        flat[path] = jax.numpy.asarray(np.stack(parts) if path.startswith("layers/") else parts[0])
    return config, unflatten(flat)


def save_llm(folder: str | Path, config: LLMConfig, text: dict[str, Any], *, bos_id: int, eos_id: int) -> None:
    """Writes a text tower into an existing folder as a Hugging Face model (config.json and model.safetensors)."""
    folder = Path(folder)
    tensors = {}
    for path, leaf in flatten(text).items():
        parts = list(leaf) if path.startswith("layers/") else [leaf]
        tensors |= {name: np.ascontiguousarray(part) for name, part in zip(_names(path, config), parts, strict=True)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if (scaling := config.rope_scaling) is not None:
        rope |= {"rope_type": scaling.kind, "factor": scaling.factor}
        if scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_positions,
            }
    values = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "vocab_size": config.vocab_size,
        "hidden_size": config.width, "num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim, "intermediate_size": config.ffn_width,
        "rope_parameters": rope, "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": bos_id, "eos_token_id": eos_id, "dtype": str(text["embed"].dtype),
    }  # fmt: skip
    write_json(folder / "config.json", values)


def _names(path: str, config: LLMConfig) -> list[str]:
    name = NAMES[path]
    return [name.format(layer) for layer in range(config.num_layers)] if "{}" in name else [name]


def _tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of the folder's safetensors files; those of a sharded checkpoint are the ones that its index names."""
    index = folder / "model.safetensors.index.json"
    files = {"model": "model.safetensors"}
    if index.exists():
        values = read_json(index)
        files = values.get("weight_map") if isinstance(values, dict) else None
        if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
            raise InputError(f'{index}: no "weight_map" of tensor names to files; the download may be damaged')
    for file in sorted(set(files.values())):
        path = folder / file
        if not path.exists():
            raise InputError(f"{path}: no such file; expected the model's weights as safetensors (other formats are not read)")
        try:
            # framework "flax" reads bfloat16 as ml_dtypes, which plain NumPy reading refuses.
            with safe_open(path, framework="flax") as handle:
                for name in handle.keys():  # noqa: SIM118 (a handle is no dict)
                    yield name, np.asarray(handle.get_tensor(name))
        except (SafetensorError, json.JSONDecodeError, OSError) as error:
            raise InputError(f"{path}: not a readable safetensors file ({error})") from error
