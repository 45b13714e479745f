"""LLMs of the Llama family in Hugging Face's format <-> text towers, exactly.

Tensor names are `layout.LLM`'s. Weights keep the type that they are stored in unless another is asked for.
"""

import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from llamo_jax import families
from llamo_jax.config import LLMConfig, RopeScaling
from llamo_jax.errors import InputError
from llamo_jax.files import read_json, write_json
from llamo_jax.models import llamo
from llamo_jax.models.declaration import shardings
from llamo_jax.storage import hub, layout
from llamo_jax.storage.foreign import Listing, listing_of, refuse_foreign
from llamo_jax.storage.layout import Leaf
from llamo_jax.storage.tensor_files import INTEGERS
from llamo_jax.storage.weights import Weights, declared, tree_shape, write_sharded
from llamo_jax.tokenizer import Tokenizer
from llamo_jax.trees import flatten

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FILES = (
    "config.json", "generation_config.json", _INDEX,
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model",
    "vocab.json",
    "merges.txt", "chat_template.jinja",
)  # fmt: skip
"""What an LLM's folder is made of beside its weights; everything else in it (other formats, pictures, licences) is left
where it is."""

_DUPLICATE_HEAD = "lm_head.weight"
_BUFFERS = re.compile(r"(.*\.)?(rotary_emb\.(inv_freq|cos_cached|sin_cached)|(self_)?attn\.bias|masked_bias)")
"""What old checkpoints store beside the weights: frequencies, which the config gives, and causal masks."""


def resolve_llm(path_or_id: str | Path, revision: str | None = None) -> hub.Source:
    """The folder of an LLM: a path, or an id on the Hugging Face Hub. Of what is on the Hub the config is looked at
    first, and only the files that are read are fetched. A GGUF file, or a folder with one, gives the folder that
    `gguf_llm.converted` makes of it.

    Raises:
      InputError: as `hub.resolve`, or, for an id or a GGUF file, no LLM that this project runs.
    """
    from llamo_jax.storage import gguf_llm  # which writes by this module

    foreign = ("adapter_config.json", "*.gguf")
    source = hub.resolve(path_or_id, (*_FILES, _WHOLE), revision, also=foreign, choose=_needed_of_the_hub)
    file = None if source.repo_id else gguf_llm.file_in(source.folder)
    return hub.Source(gguf_llm.converted(file)) if file else source


def _needed_of_the_hub(listing: Listing) -> list[str]:
    names = _needed(listing)
    read_config(listing.file("config.json").parent if "config.json" in listing.names else Path(listing.where))
    return names


def _needed(listing: Listing) -> list[str]:
    weights = _weight_names(listing)
    unused = {_INDEX} if _INDEX in listing.names and not _names_just(listing, weights) else set()
    return sorted(({*_FILES} & {*listing.names} - unused) | {*weights})


def _names_just(listing: Listing, weights: list[str]) -> bool:
    try:
        return _indexed(listing) == weights
    except InputError:
        return False


def files_of(folder: Path) -> list[Path]:
    """The files of an LLM's folder that are read.

    Raises:
      InputError: as `weight_files`.
    """
    return [folder / name for name in _needed(listing_of(folder))]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint: model.safetensors, else those that the index names.

    Raises:
      InputError: a damaged index, or no such file.
    """
    paths = [folder / name for name in _weight_names(listing_of(folder))]
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file; expected all of the model's weights, as safetensors")
    return paths


def _weight_names(listing: Listing) -> list[str]:
    # As transformers: an index beside a whole file is a left-over of another version.
    if _WHOLE in listing.names:
        return [_WHOLE]
    if _INDEX not in listing.names:
        refuse_foreign(listing)
        raise InputError(
            f"{listing.where}/{_WHOLE}: no such file; expected the model's weights as safetensors (other formats are "
            f"not read)"
        )
    return _indexed(listing)


def _indexed(listing: Listing) -> list[str]:
    values = read_json(listing.file(_INDEX))
    index = f"{listing.where}/{_INDEX}"
    found = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise InputError(f'{index}: no "weight_map" of tensor names to files; the download may be damaged')
    for name in found.values():
        if Path(name).name != name:
            raise InputError(f'{index}: names the file "{name}"; expected files beside it')
    return sorted(set(found.values()))


def read_config(folder: Path) -> LLMConfig:
    """The architecture in a Hugging Face `config.json`, in its old (`rope_theta`, `rope_scaling`) or new
    (`rope_parameters`) layout.

    Raises:
      InputError: no such file, or an architecture or option that this project does not run.
    """
    path = Path(folder) / "config.json"
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: found {type(values).__name__}, expected an object; is this the config.json of a model?"
        )
    try:
        return LLMConfig.from_json(_config_values(values))
    except KeyError as error:
        raise InputError(
            f"{path}: {error} is missing; expected the config.json of a model of the Llama family"
        ) from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise InputError(f"{path}: {error}") from error


def _config_values(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of an `LLMConfig`. Raises an InputError without the path, or what a field of another type raises."""
    names = values.get("architectures")
    name = names[0] if isinstance(names, list) and names else "none"
    if (family := families.of_architecture(name)) is None:
        known = ", ".join(facts.architecture for facts in families.FAMILIES.values())
        code = " (it needs code of its own, and nothing of a model folder is run)" if values.get("auto_map") else ""
        raise InputError(f'architecture "{name}" is not supported{code}; expected one of {known}')
    if (activation := values.get("hidden_act", "silu")) != "silu":
        raise InputError(f'hidden_act is "{activation}"; expected "silu"')
    if values.get("quantization_config") is not None:
        raise InputError(
            "the weights are quantised; expected those of the original model, in bfloat16, float16 or float32"
        )
    heads = values["num_attention_heads"]
    rope = _rope(values)
    scaling = _read_rope_scaling(rope)
    return dict(
        vocab_size=values["vocab_size"],
        width=values["hidden_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=values.get("num_key_value_heads") or heads,
        head_dim=values.get("head_dim") or values["hidden_size"] // heads,
        ffn_width=values["intermediate_size"],
        rope_theta=float(rope["rope_theta"]),
        rope_scaling=None if scaling is None else scaling.to_json(),
        norm_eps=values["rms_norm_eps"],
        tie_embeddings=values.get("tie_word_embeddings", False),
        max_positions=values["max_position_embeddings"],
        family=family,
        **families.FAMILIES[family].read(values),
    )


def _rope(values: dict[str, Any]) -> dict[str, Any]:
    key = "rope_parameters" if values.get("rope_parameters") else "rope_scaling"
    found = values.get(key) or {}
    if not isinstance(found, dict):
        raise InputError(f"{key} is {found!r:.60}; expected an object with rope_type and its numbers")
    rope = {"rope_theta": values.get("rope_theta", 10000.0)} | found
    if any(isinstance(value, dict) for value in rope.values()) or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise InputError("rotary embeddings that differ between layers or turn a part of each head are not supported")
    return rope


def _read_rope_scaling(rope: dict[str, Any]) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        return RopeScaling("llama3", float(rope["factor"]), low, high, rope["original_max_position_embeddings"])
    raise InputError(f'rope type "{kind}" is not supported; expected default, linear or llama3')


def load_llm(
    folder: str | Path, *, dtype: Any | None = None, mesh: Mesh | None = None, unstacked: bool = False
) -> tuple[LLMConfig, dict[str, Any]]:
    """Reads a Hugging Face folder (config.json, *.safetensors): its config and its weights, as a text tower.

    The host holds one array at a time beside what its own devices hold; with a mesh of several hosts, each reads its
    part of the files.

    Args:
      folder: of the LLM.
      dtype: of the tower; None keeps the files'.
      mesh: to place the tower on, by the rules of `sharding`; None is the default device.
      unstacked: one tree a layer, as decoding wants them, on the default device.

    Raises:
      InputError: not such a folder, an unsupported architecture, or tensors that are missing, left over or of the wrong
        shape.
    """
    folder = Path(folder)
    config, expected, weights = _open(folder)
    with weights:
        if config.tie_embeddings and _DUPLICATE_HEAD in weights.names:
            _require_tied(weights, config, folder)
        if unstacked:
            expected = [single for leaf in expected for single in leaf.unstacked()]
        placed = None if mesh is None else shardings(llamo.LLM, config, mesh)
        return config, weights.tree(expected, placed, None if dtype is None else np.dtype(dtype))


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer of an LLM, with the token that ends its texts.

    An LLM cannot say a token that it never saw: all such tokens have the same row in the head. Where the end of text is
    one of them, a text ends with the token that starts the next (llama2.c trains its models so).

    Tokens that were added to the tokenizer alone have no rows in the LLM: it cannot be told them, nor say them.

    Raises:
      InputError: no LLM that this project runs, no tokenizer, or that of another LLM.
    """
    folder = Path(folder)
    config, expected, weights = _open(folder)
    with weights:
        tokenizer = Tokenizer(folder, rows=config.vocab_size)
        leaves = {leaf.path: leaf for leaf in expected}
        rows = leaves["embed" if config.tie_embeddings else "head"]
        if tokenizer.eos_id >= config.vocab_size or not _can_be_said(weights, rows, tokenizer.eos_id):
            tokenizer.eos_id = tokenizer.bos_id
    return tokenizer


def _can_be_said(weights: Weights, rows: Leaf, token: int) -> bool:
    def read(start: int, stop: int) -> Float[np.ndarray, "n D"]:
        return weights.read(rows, (slice(start, stop), slice(None)), np.dtype(np.float32))

    own = read(token, token + 1)
    least = 0.01 * np.linalg.norm(own)
    for start in range(0, rows.shape[0], 4096):  # a part at a time: heads of large models fill gigabytes
        distances = np.linalg.norm(read(start, min(start + 4096, rows.shape[0])) - own, axis=-1)
        if start <= token < start + len(distances):
            distances[token - start] = np.inf
        if distances.min() <= least:
            return False
    return True


def holds(folder: Path, text: dict[str, Any]) -> bool:
    """Whether a Hugging Face folder has the very weights of a text tower, bit for bit (once they are of its type)."""
    _, expected, weights = _open(folder)
    own = flatten(text)
    with weights:
        if isinstance(text["layers"], tuple):
            expected = [single for leaf in expected for single in leaf.unstacked()]
        if {leaf.path for leaf in expected} != own.keys():
            return False
        for leaf in expected:
            array = jax.numpy.asarray(own[leaf.path])
            if array.shape != tree_shape(leaf):
                return False
            shards = [shard for shard in array.addressable_shards if shard.replica_id == 0]
            there = weights.local(leaf, [shard.index for shard in shards], np.dtype(array.dtype))
            if not all(_same_bits(there(shard.index), np.asarray(shard.data)) for shard in shards):
                return False
    return True


def _same_bits(first: np.ndarray, second: np.ndarray) -> bool:
    first, second = (np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in (first, second))
    # In parts: the comparison of a leaf would be as large as the leaf.
    step = 1 << 24
    return len(first) == len(second) and all(
        np.array_equal(first[i : i + step], second[i : i + step]) for i in range(0, len(first), step)
    )


def require_llm(folder: Path) -> LLMConfig:
    """The config of a checkpoint whose headers promise the tensors that it asks for.

    Raises:
      InputError: as `load_llm`.
    """
    config, _, weights = _open(folder)
    weights.close()
    return config


def _open(folder: Path) -> tuple[LLMConfig, list[Leaf], Weights]:
    """A checkpoint whose tensors are those that its config asks for; nothing but headers has been read."""
    listing = listing_of(folder)
    if not {_WHOLE, _INDEX} & listing.names:
        refuse_foreign(listing)
    config = read_config(folder)
    expected = declared(layout.LLM, llamo.LLM, config)
    weights = Weights(weight_files(folder))
    try:
        unused = {name for name in weights.names if weights.type(name) in INTEGERS or _BUFFERS.fullmatch(name)}
        weights.require(expected, folder, ignored=unused | ({_DUPLICATE_HEAD} if config.tie_embeddings else set()))
    except InputError:
        weights.close()
        raise
    return config, expected, weights


def _require_tied(weights: Weights, config: LLMConfig, folder: Path) -> None:
    """A tied head that is stored too says the same as the embeddings, or else the config is wrong."""
    shape = (config.vocab_size, config.width)
    embed = Leaf("embed", ("model.embed_tokens.weight",), shape)
    head = Leaf("head", (_DUPLICATE_HEAD,), shape)
    weights.require([embed, head], folder, ignored=weights.names)
    dtype = np.promote_types(np.float32, weights.dtype(embed))  # the head may be of another type
    for start in range(0, config.vocab_size, 4096):
        rows = (slice(start, start + 4096), slice(None))
        if not _same_bits(weights.read(embed, rows, dtype), weights.read(head, rows, dtype)):
            raise InputError(
                f"{folder}: tie_word_embeddings is true, and {_DUPLICATE_HEAD} is not the embeddings; expected the same"
            )


def save_llm(folder: str | Path, config: LLMConfig, text: dict[str, Any], *, bos_id: int, eos_id: int) -> None:
    """Writes a text tower into an existing folder as a Hugging Face model (config.json and safetensors files of at most
    5 GB)."""
    folder = Path(folder)
    write_sharded(folder, flatten(text), layout.LLM)
    write_config(folder, config, bos_id=bos_id, eos_id=eos_id, dtype=str(text["embed"].dtype))


def write_config(folder: Path, config: LLMConfig, *, bos_id: int, eos_id: int, dtype: str) -> None:
    """Writes the config.json of an LLM in transformers' layout; the inverse of `read_config`."""
    family = families.FAMILIES[config.family]
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
        "architectures": [family.architecture], "model_type": config.family, "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width, "num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim, "intermediate_size": config.ffn_width,
        "rope_parameters": rope, "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tie_embeddings,
        "max_position_embeddings": config.max_positions, "bos_token_id": bos_id, "eos_token_id": eos_id, "dtype": dtype,
    } | family.write(config)  # fmt: skip
    write_json(folder / "config.json", values)
