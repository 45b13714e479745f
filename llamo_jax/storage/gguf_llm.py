"""LLMs in GGUF files, as plain Hugging Face folders: config, weights, tokenizer and chat template.

llama.cpp has names of its own for facts and tensors, leaves out a head that is the embeddings, and turns the rows of
queries and keys of Llama models so that the two numbers of each rotary pair lie side by side; all of that is undone. A
folder is made once and kept in a cache, by the hash of the file.
"""

import dataclasses
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llamo_jax.config import LLMConfig, RopeScaling
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, cache_folder
from llamo_jax.models import llamo
from llamo_jax.models.attention import rope_frequencies
from llamo_jax.storage import layout
from llamo_jax.storage.gguf import HALVES, GGUFFile
from llamo_jax.storage.huggingface import write_config
from llamo_jax.storage.tensor_files import sha256
from llamo_jax.storage.weights import declared, require_tensors, write_checkpoint
from llamo_jax.tokenizer import Tokenizer

ARCHITECTURES = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""llama.cpp's name of an architecture -> the family. Mistral's models are "llama" there, and the same arithmetic."""

_VERSION = 1
"""Of what is made of a file: with another, what is in the cache is made again."""

_ROPE_FACTORS = "rope_freqs.weight"
_PERMUTED = ("attn_q.weight", "attn_q.bias", "attn_k.weight", "attn_k.bias")

_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,), "attention.causal": (True,), "use_parallel_residual": (False,),
    "logit_scale": (0.0, 1.0), "embedding_scale": (0.0, 1.0), "residual_scale": (0.0, 1.0), "attention.scale": (0.0,),
    "attention.clamp_kqv": (0.0,), "attn_logit_softcapping": (0.0,), "final_logit_softcapping": (0.0,),
    "attention.sliding_window": (0,),
}  # fmt: skip
"""Facts that would change the arithmetic, and the values with which they do not."""

_LLAMA3_SPLIT = ("llama-bpe", "llama3", "llama-v3", "falcon3")
_WHOLE_WORDS = (*_LLAMA3_SPLIT, "tekken")
"""Pre-tokenizers whose models say a word that is a token as that token, without merging it together."""

_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")
"""Pre-tokenizers that part all digits, and then split as GPT-2 does."""

_GPT2 = ("gpt-2",)
_SPLITS = (*_LLAMA3_SPLIT, "smaug-bpe", "tekken", "qwen2", "deepseek-r1-qwen", *_DIGITS, *_GPT2)


def file_in(path: Path) -> Path | None:
    """The GGUF file that a path is, or that lies in a folder without other weights; None where there is none.

    Raises:
      InputError: several GGUF files in the folder.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        return None
    names = {each.name for each in path.iterdir()}
    found = sorted(name for name in names if name.endswith(".gguf"))
    if not found or {"model.safetensors", "model.safetensors.index.json", "adapter_config.json"} & names:
        return None
    if len(found) > 1:
        shown = ", ".join(found[:3]) + (" ..." if len(found) > 3 else "")
        raise InputError(f"{path}: {len(found)} GGUF files ({shown}); expected one, or the path of one of them")
    return path / found[0]


def converted(path: Path) -> Path:
    """The LLM of a GGUF file as a Hugging Face folder, which stays in the cache (`cache_folder("gguf")`).

    Quantised weights become float32, as they are dequantised: in 16 bits most would be rounded again. Where all
    matrices are of one 16-bit type that holds the vectors too, as in files that were made without quantising, all
    become that type, and the folder has the numbers of the model that the file was made of. One tensor is in memory
    at a time.

    Raises:
      InputError: no GGUF file, one of an architecture, type or option that is not read, tensors that are missing, left
        over or of the wrong shape, or no tokenizer in it.
    """
    with GGUFFile(path) as file:
        config = read_config(file)
        names = _required(file, config)
        dtype = _type(file, names)
        folder = cache_folder("gguf") / f"{sha256([path])[path][:24]}-{_VERSION}"
        if not folder.exists():
            _make_folder(folder.parent)
            from filelock import FileLock

            with FileLock(folder.with_suffix(".lock")):
                if not folder.exists():
                    with atomic_path(folder, directory=True) as temporary:
                        _write(file, config, names, dtype, temporary, folder)
    return folder


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to another") from error


def _write(
    file: GGUFFile, config: LLMConfig, names: Mapping[str, str], dtype: np.dtype, folder: Path, kept: Path
) -> None:
    bos_id, eos_id = _write_tokenizer(file, folder)
    # What is wrong with the tokenizer is told before the work.
    write_config(folder, config, bos_id=bos_id, eos_id=eos_id, dtype=dtype.name)
    try:
        Tokenizer(folder, rows=config.vocab_size)
    except InputError as error:
        raise InputError(str(error).replace(str(folder), str(file.path))) from error
    size = sum(dtype.itemsize * int(np.prod(file.tensors[name].shape)) for name in names)
    print(f"{file.path}: {size / 1e9:.1f} GB of weights, kept as {dtype.name} in {kept}", file=sys.stderr)
    write_checkpoint(
        folder,
        {
            theirs: (dtype, file.tensors[name].shape, lambda name=name: _weight(file, config, name, dtype))
            for name, theirs in names.items()
        },
    )


def _weight(file: GGUFFile, config: LLMConfig, name: str, dtype: np.dtype) -> np.ndarray:
    tensor = file.read(name, dtype)
    if config.family != "llama" or not name.endswith(_PERMUTED):
        return tensor
    # Rows of a head lie as pairs (0, n/2), (1, n/2 + 1), ... there, and as halves here.
    pairs = tensor.reshape(-1, config.head_dim // 2, 2, *tensor.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(tensor.shape)


def _type(file: GGUFFile, names: Mapping[str, str]) -> np.dtype:
    """The one type of all weights of the folder."""
    types = {file.tensors[name].type for name in names if len(file.tensors[name].shape) > 1}
    half = HALVES.get(next(iter(types))) if len(types) == 1 else None
    if half is None:
        return np.dtype(np.float32)
    vectors = (file.read(name) for name in names if len(file.tensors[name].shape) == 1)
    with np.errstate(over="ignore"):
        exact = all(np.array_equal(vector.astype(half).astype(np.float32), vector) for vector in vectors)
    return half if exact else np.dtype(np.float32)


def _required(file: GGUFFile, config: LLMConfig) -> dict[str, str]:
    """Names of the weights in the file, in its order -> their names in Hugging Face's format.

    Raises:
      InputError: not the tensors that the config asks for.
    """
    leaves = declared(layout.LLM, llamo.LLM, config)
    theirs = {llama_cpp_name(name): name for leaf in leaves for name in leaf.names}
    shapes = {llama_cpp_name(name): leaf.shape for leaf in leaves for name in leaf.names}
    found = {name: tensor.shape for name, tensor in file.tensors.items()}
    require_tensors(found, shapes, file.path, ignored={_ROPE_FACTORS})
    return {name: theirs[name] for name in found if name in theirs}


def llama_cpp_name(name: str) -> str:
    """llama.cpp's name of a tensor of Hugging Face's."""
    module, _, parameter = name.rpartition(".")
    if match := _LAYER.fullmatch(module):
        return f"blk.{match[1]}.{_LAYER_NAMES[match[2]]}.{parameter}"
    return f"{_NAMES[module]}.{parameter}"


def read_config(file: GGUFFile) -> LLMConfig:
    """The architecture that a GGUF file describes.

    Raises:
      InputError: an architecture or option that this project does not run, or facts that are missing or do not fit.
    """
    architecture = _single(file, "general.architecture")
    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise InputError(f"{file.path}: GGUF of architecture {architecture!r:.40}; expected one of {known}")
    if (parts := _single(file, "split.count", 1)) != 1 or re.search(r"-\d{5}-of-\d{5}\.gguf$", file.path.name):
        of = f" of {parts}" if parts != 1 else ""
        raise InputError(f"{file.path}: one part{of} of a model; merge them with `llama-gguf-split --merge`")
    for name, values in _NEUTRAL.items():
        if (found := _single(file, f"{architecture}.{name}", values[0])) not in values:
            raise InputError(f"{file.path}: {architecture}.{name} is {found!r:.40}, which is not supported")

    def fact(name: str, default: Any = None, kind: type = int) -> Any:
        value = file.facts.get(f"{architecture}.{name}", default)
        if type(value) is not kind:
            found = "missing" if value is None else f"{value!r:.40}"
            each = " for all layers" if isinstance(value, np.ndarray) else ""
            raise InputError(f"{file.path}: {architecture}.{name} is {found}; expected one {kind.__name__}{each}")
        return _shortest(value) if kind is float else value

    width, heads = fact("embedding_length"), fact("attention.head_count")
    head_dim = fact("attention.key_length", fact("rope.dimension_count", width // heads if heads else 0))
    for name in ("attention.value_length", "rope.dimension_count"):
        if (found := fact(name, head_dim)) != head_dim:
            raise InputError(f"{file.path}: {architecture}.{name} is {found}; expected {head_dim}, the width of a head")
    values = dict(
        vocab_size=len(_tokens(file)),
        width=width,
        num_layers=fact("block_count"),
        num_heads=heads,
        num_kv_heads=fact("attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn_width=fact("feed_forward_length"),
        rope_theta=fact("rope.freq_base", 10000.0, float),
        norm_eps=fact("attention.layer_norm_rms_epsilon", kind=float),
        tie_embeddings="output.weight" not in file.tensors,
        max_positions=fact("context_length"),
        family=ARCHITECTURES[architecture],
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        output_bias="blk.0.attn_output.bias" in file.tensors,
        ffn_bias="blk.0.ffn_down.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
    )
    try:
        config = LLMConfig(**values)
        scaling = _scaling(file, config, architecture)
        return LLMConfig(**values, rope_scaling=scaling)
    except InputError as error:
        raise error if str(file.path) in str(error) else InputError(f"{file.path}: {error}") from error


def _single(file: GGUFFile, name: str, default: Any = None) -> Any:
    """A fact that is one value."""
    found = file.facts.get(name, default)
    if isinstance(found, list | np.ndarray):
        raise InputError(f"{file.path}: {name} is a list; expected one value")
    return found


def _shortest(value: float) -> float:
    """The number that was meant by one that went through float32: 1e-05, not 9.999999747378752e-06. In float32 both are
    the same."""
    return float(str(np.float32(value)))


def _scaling(file: GGUFFile, config: LLMConfig, architecture: str) -> RopeScaling | None:
    """How rotary frequencies are scaled: by a number in the facts, or by one factor for each frequency, which is what
    llama.cpp makes of Llama 3.1's scaling."""
    prefix = f"{architecture}.rope."
    kind = _single(file, f"{prefix}scaling.type", "linear")
    factor = file.facts.get(f"{prefix}scaling.factor", file.facts.get(f"{prefix}scale_linear", 0.0))
    if kind not in ("none", "linear") or type(factor) is not float:
        raise InputError(
            f"{prefix}scaling.type is {kind!r:.40}, by {factor!r:.40}; expected none or linear by a number"
        )
    scaled = kind == "linear" and factor not in (0.0, 1.0)
    linear = RopeScaling("linear", _shortest(factor)) if scaled else None
    if _ROPE_FACTORS not in file.tensors:
        return linear
    factors = file.read(_ROPE_FACTORS)
    if factors.shape != (config.head_dim // 2,):
        raise InputError(f"{_ROPE_FACTORS} is {factors.shape}; expected {(config.head_dim // 2,)}")
    if linear is None and (factors == 1).all():
        return None
    original = file.facts.get(f"{prefix}scaling.original_context_length", 8192)
    largest = float(factors.max())
    if linear is None and largest > 0 and type(original) is int:
        # As published for all of Llama 3.1, 3.2 and 3.3; the file has but its outcome.
        scaling = RopeScaling("llama3", _shortest(largest), 1.0, 4.0, original)
        turned = rope_frequencies(dataclasses.replace(config, rope_scaling=scaling))
        if np.allclose(rope_frequencies(config) / turned, factors, rtol=1e-4):
            return scaling
    raise InputError(f"{_ROPE_FACTORS} scales frequencies in another way than Llama 3.1 to 3.3, which is not supported")


def _tokens(file: GGUFFile) -> list[str]:
    tokens = file.facts.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise InputError(f"{file.path}: no tokens in tokenizer.ggml.tokens; expected a file with its tokenizer")
    return tokens


def _write_tokenizer(file: GGUFFile, folder: Path) -> tuple[int, int]:
    """Writes the tokenizer of a file into a folder, and returns its beginning and its end of a text.

    Raises:
      InputError: no tokenizer, or one that splits text in a way that is not known here.
    """
    try:
        from transformers import PreTrainedTokenizerFast
        from transformers.integrations.gguf import convert_gguf_tokenizer
    except ImportError as error:
        expected = "5.24 is known to work: run `pip install -U llamo_jax[gguf]`"
        raise InputError(f"{file.path}: needs another version of transformers; {expected}") from error
    facts = {name.removeprefix("tokenizer.ggml."): value for name, value in file.facts.items()}
    tokens, kind, pre = _tokens(file), _single(file, "tokenizer.ggml.model"), _single(file, "tokenizer.ggml.pre")
    if kind not in ("gpt2", "llama"):
        raise InputError(f"{file.path}: a tokenizer of kind {kind!r:.40}; expected gpt2 or llama")
    if kind == "gpt2" and pre not in _SPLITS:
        raise InputError(f"{file.path}: a tokenizer that splits by {pre!r:.40}; expected one of {', '.join(_SPLITS)}")
    needed = {"gpt2": {"merges": list}, "llama": {"scores": np.ndarray}}[kind] | {"token_type": np.ndarray}
    for name, of in needed.items():
        found = facts.get(name)
        if not isinstance(found, of) or (name != "merges" and len(found) != len(tokens)):
            expected = "a list of merges" if name == "merges" else f"{len(tokens)} numbers, one a token"
            raise InputError(f"{file.path}: tokenizer.ggml.{name} is missing or damaged; expected {expected}")
    special = {
        "bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
        "pad_token": "padding_token_id",
    }  # fmt: skip
    ids = {name: facts[key] for name, key in special.items() if key in facts}
    for name, token in ids.items():
        if type(token) is not int or not 0 <= token < len(tokens):
            raise InputError(f"{file.path}: tokenizer.ggml.{special[name]} is {token!r:.40} of {len(tokens)} tokens")
    if "eos_token" not in ids:
        raise InputError(f"{file.path}: no tokenizer.ggml.eos_token_id; expected a token that ends a text")
    template = file.facts.get("tokenizer.chat_template")
    described = {
        "tokenizer_type": kind, "pre_tokenizer_type": pre, "tokens": tokens,
        "token_type": facts["token_type"].tolist(),
    }  # fmt: skip
    described |= {"merges": facts["merges"]} if kind == "gpt2" else {"scores": facts["scores"].tolist()}
    try:
        backend, more = convert_gguf_tokenizer(file.facts["general.architecture"], described)
        _split_as_llama_cpp(backend, kind, pre, facts.get("add_space_prefix", True))
        PreTrainedTokenizerFast(
            tokenizer_object=backend,
            **{name: tokens[token] for name, token in ids.items()},
            **({"chat_template": template} if isinstance(template, str) else {}),
            # Those who ask transformers for the tokens that begin and end a text get what llama.cpp would place.
            add_bos_token=bool(facts.get("add_bos_token", kind == "llama" or pre in _WHOLE_WORDS)),
            add_eos_token=bool(facts.get("add_eos_token", False)),
            **more,
        ).save_pretrained(str(folder))
    except Exception as error:  # the tokenizers library raises bare Exception
        reason = " ".join(str(error).split())
        raise InputError(
            f"{file.path}: its tokenizer cannot be read ({type(error).__name__}: {reason:.150})"
        ) from error
    return ids.get("bos_token", ids["eos_token"]), ids["eos_token"]


def _split_as_llama_cpp(backend: Any, kind: str, pre: Any, prefix_space: Any) -> None:
    """What transformers leaves out of a tokenizer."""
    from tokenizers import decoders, pre_tokenizers

    if kind == "gpt2" and pre in _DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if kind == "gpt2" and pre in _WHOLE_WORDS:
        backend.model.ignore_merges = True
    if kind == "llama" and not prefix_space:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
