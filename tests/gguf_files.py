"""Models of transformers written as GGUF files, as llama.cpp's converter writes them."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import load_file
from tokenizers.pre_tokenizers import ByteLevel

from llamo_jax.tokenizer import train_tokenizer

CHAT = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
TEXTS = [
    "a person walks.", "a person waves the left hand 12 times.", "someone   runs fast, 3 m/s!\n\n 4",
    "It's über 🙂 naïve", "<s>a person</s>", "  two  spaces", "\ttabs 1\t2", "", "x" * 50, "123 4567", "  12",
]  # fmt: skip

_LAYER = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def llama_cpp_name(name: str) -> str:
    module, parameter = name.rsplit(".", 1)
    if not module.startswith("model.layers."):
        return f"{_TOP[module]}.{parameter}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{_LAYER[rest]}.{parameter}"


def permuted(tensor: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of queries and keys of Llama models."""
    return tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def stored(tensor: np.ndarray, kind: Type, seed: int) -> np.ndarray:
    """The bytes of a tensor of a type. What the package `gguf` cannot quantise is random: dequantising is what is
    tested."""
    if tensor.ndim == 1:
        return tensor.astype(np.float32)
    if kind not in (Type.Q4_K, Type.Q6_K):
        return gguf.quants.quantize(np.ascontiguousarray(tensor, np.float32), kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, width = tensor.shape
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (rows * width // block, size), np.uint8)
    scale = rng.uniform(1e-4, 2e-4, (len(blocks), 1)).astype(np.float16)
    if kind == Type.Q4_K:
        blocks[:, :2], blocks[:, 2:4] = scale.view(np.uint8), (7.5 * scale).astype(np.float16).view(np.uint8)
    else:
        blocks[:, -2:] = (0.2 * scale).astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, width // block * size)


def byte_tokenizer(rows: int) -> dict[str, Any]:
    """The facts of a byte-level tokenizer of exactly `rows` tokens, most of them single bytes."""
    letters = sorted(ByteLevel.alphabet())[: rows - 4]
    tokens = ["<unk>", "<s>", "</s>", *letters, letters[40] + letters[41]]
    tokens += [f"[PAD{number}]" for number in range(len(tokens), rows)]
    return {"model": "gpt2", "pre": "gpt-2", "tokens": tokens, "merges": [f"{letters[40]} {letters[41]}"]}


def trained_tokenizer(folder: Path, rows: int, pre: str = "gpt-2") -> dict[str, Any]:
    """The facts of a byte-level tokenizer that knows some words."""
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(TEXTS, rows - 5, folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    tokens += [f"[PAD{number}]" for number in range(len(tokens), rows)]
    return {"model": "gpt2", "pre": pre, "tokens": tokens, "merges": [" ".join(pair) for pair in model["merges"]]}


def write_gguf(
    path: Path,
    folder: Path,
    kind: Type = Type.F32,
    *,
    tokenizer: Mapping[str, Any] | None = None,
    turn: bool = True,
    edit: Callable[[gguf.GGUFWriter, dict[str, np.ndarray]], None] = lambda writer, tensors: None,
    facts: Mapping[str, Any] | None = None,
    without: str = "",
) -> Path:
    """Writes the model of a Hugging Face folder.

    Args:
      path: of the file.
      folder: with config.json and model.safetensors.
      kind: of all matrices; vectors are float32.
      tokenizer: the facts of one, by their names behind "tokenizer.ggml."; None is `byte_tokenizer`.
      turn: the rows of queries and keys of Llama models.
      edit: changes writer and tensors before they are written.
      facts: other values of facts, by their names behind the architecture.
      without: the name of a fact to leave out.
    """
    config = json.loads((folder / "config.json").read_text())
    architecture = {"mistral": "llama"}.get(config["model_type"], config["model_type"])
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = config["rope_parameters"]
    values = {
        "block_count": config["num_hidden_layers"], "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"], "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads, "attention.head_count_kv": kv_heads, "rope.freq_base": rope["rope_theta"],
        "attention.layer_norm_rms_epsilon": config["rms_norm_eps"], "vocab_size": config["vocab_size"],
        "rope.dimension_count": head_dim, "attention.key_length": head_dim, "attention.value_length": head_dim,
    }  # fmt: skip
    if rope["rope_type"] == "linear":
        values |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope["factor"]}
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in (values | dict(facts or {})).items():
        if name != without:
            _add(writer, f"{architecture}.{name}", value)
    tokens = byte_tokenizer(config["vocab_size"]) if tokenizer is None else dict(tokenizer)
    control = [3 if token in ("<unk>", "<pad>", "<s>", "</s>") else 1 for token in tokens["tokens"]]
    tokens = {"token_type": control, "bos_token_id": 1, "eos_token_id": 2, "add_bos_token": False} | tokens
    for name, value in tokens.items():
        if f"tokenizer.ggml.{name}" != without:
            _add(writer, f"tokenizer.ggml.{name}", value)
    writer.add_chat_template(CHAT)
    tensors = {}
    for number, (name, tensor) in enumerate(load_file(folder / "model.safetensors").items()):
        if architecture == "llama" and turn and ".self_attn.q_proj" in name:
            tensor = permuted(tensor, heads)
        if architecture == "llama" and turn and ".self_attn.k_proj" in name:
            tensor = permuted(tensor, kv_heads)
        tensors[llama_cpp_name(name)] = stored(tensor, kind, number)
    if rope["rope_type"] == "llama3":
        tensors["rope_freqs.weight"] = llama3_factors(rope, head_dim)
    edit(writer, tensors)
    for name, tensor in tensors.items():
        packed = tensor.dtype == np.uint8
        writer.add_tensor(name, tensor, raw_dtype=kind if packed else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama3_factors(rope: Mapping[str, Any], head_dim: int) -> np.ndarray:
    """By what each rotary frequency is divided, one number after the other, as llama.cpp's converter has it."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    original, out = rope["original_max_position_embeddings"], []
    for index in range(0, head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (index / head_dim)
        if wavelength < original / high:
            out.append(1.0)
        elif wavelength > original / low:
            out.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            out.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(out, np.float32)


def _add(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(name, value)


def numbers_of(path: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a file as the package's own reader and dequantiser have it, under llama.cpp's names."""
    return {
        tensor.name: torch.from_numpy(np.array(gguf.dequantize(tensor.data, tensor.tensor_type)))
        for tensor in gguf.GGUFReader(path).tensors
    }
