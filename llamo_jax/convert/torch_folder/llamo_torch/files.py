"""Bundles on disk: strict reading, and hashes."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

MOTION_FILE, VAE_FILE = "motion.safetensors", "motion_vae.safetensors"

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file; expected a LLaMo bundle") from error
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from error


def llm_folder(folder: Path, values: dict[str, Any]) -> Path:
    """llm/ of the bundle, or, where the bundle only says which LLM of the Hugging Face Hub it is, what was or is
    downloaded from there."""
    llm = values.get("llm")
    if not isinstance(llm, dict) or llm.get("storage", "copy") != "pin":
        return folder / "llm"
    from huggingface_hub import snapshot_download  # comes with transformers

    try:
        return Path(snapshot_download(llm["id"], revision=llm["revision"], allow_patterns=sorted(llm["files"])))
    except (OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{folder}: its LLM, {llm.get('id')}, is on the Hugging Face Hub, which cannot be reached ({reason})"
        ) from error


def verify(folder: Path, llm_folder: Path, values: dict[str, Any]) -> None:
    """Compares files with the sizes and sums in config.json; those of the LLM where they are listed."""
    listed, llm = values.get("files"), values.get("llm")
    llm = llm.get("files", {}) if isinstance(llm, dict) else {}
    if not isinstance(listed, dict) or not isinstance(llm, dict) or not {MOTION_FILE, VAE_FILE} <= set(listed):
        raise ValueError(
            f'{folder / "config.json"}: "files" is {listed!r:.60}; expected {MOTION_FILE} and {VAE_FILE} with their '
            f"sums"
        )
    paths = {folder / name: entry for name, entry in listed.items()} | {
        llm_folder / name: entry for name, entry in llm.items()
    }
    for path, entry in paths.items():
        expected = entry if isinstance(entry, dict) else {}
        if not path.is_file():
            raise ValueError(f"{path}: no such file; config.json lists it: the bundle is incomplete")
        if (size := path.stat().st_size) != expected.get("bytes"):
            raise ValueError(f"{path}: has {size} bytes; config.json lists {expected.get('bytes')}: fetch it again")
        if (found := sha256(path)) != expected.get("sha256"):
            raise ValueError(f"{path}: SHA-256 is {found}; config.json lists {expected.get('sha256')}: fetch it again")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(folder: Path, shapes: dict[str, torch.Size], tied: bool, device: torch.device | str) -> dict[str, Tensor]:
    """The LLM's tensors, of one file, else of the shards that the index names. A tied head may be there too; then it is
    the embeddings."""
    index, head, embeddings = folder / "model.safetensors.index.json", "lm_head.weight", "model.embed_tokens.weight"
    names = ["model.safetensors"]
    if index.exists() and not (folder / names[0]).exists():
        values = read_json(index)
        weight_map = values.get("weight_map") if isinstance(values, dict) else None
        if (
            not isinstance(weight_map, dict)
            or not weight_map
            or any(Path(str(file)).name != file for file in weight_map.values())
        ):
            raise ValueError(
                f'{index}: no "weight_map" of tensor names to files beside it; the download may be damaged'
            )
        names = sorted(set(weight_map.values()))
    optional = {head: shapes[embeddings]} if tied else {}
    tensors = read_tensors([folder / name for name in names], shapes, _FLOATS, device, optional)
    if tied and head in tensors:
        first, second = tensors.pop(head), tensors[embeddings]
        if first.dtype != second.dtype or not torch.equal(first.view(torch.uint8), second.view(torch.uint8)):
            raise ValueError(
                f'{folder}: tensor "{head}" differs from "{embeddings}"; expected the same bits (tie_embeddings)'
            )
    return tensors


# What old checkpoints store beside the weights: frequencies, which the config gives, and causal masks.
_BUFFERS = re.compile(r"(.*\.)?(rotary_emb\.(inv_freq|cos_cached|sin_cached)|(self_)?attn\.bias|masked_bias)")
_NO_WEIGHTS = ("I64", "I32", "U8", "BOOL")


def _is_buffer(name: str, dtype: str) -> bool:
    return dtype in _NO_WEIGHTS or _BUFFERS.fullmatch(name) is not None


def read_tensors(
    paths: Sequence[Path],
    shapes: dict[str, torch.Size],
    dtypes: tuple[torch.dtype, ...],
    device: torch.device | str,
    optional: dict[str, torch.Size] | None = None,
) -> dict[str, Tensor]:
    """Exactly the tensors of `shapes`, and any of `optional`, out of safetensors files."""
    allowed, tensors = shapes | (optional or {}), {}
    for path in paths:
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118
                    if name not in allowed and _is_buffer(name, file.get_slice(name).get_dtype()):
                        continue
                    if name not in allowed or name in tensors:
                        raise ValueError(
                            f'{path}: tensor "{name}" is one too many; the config asks for {len(shapes)} tensors '
                            f"without it"
                        )
                    tensors[name] = tensor = file.get_tensor(name)
                    if tensor.shape != allowed[name]:
                        raise ValueError(
                            f'{path}: tensor "{name}" has shape {list(tensor.shape)}; the config asks for '
                            f"{list(allowed[name])}"
                        )
                    if tensor.dtype not in dtypes:
                        raise ValueError(
                            f'{path}: tensor "{name}" is of type {tensor.dtype}; expected '
                            f"{' or '.join(map(str, dtypes))}"
                        )
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
    if missing := sorted(set(shapes) - set(tensors)):
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"{paths[0].parent}: {len(missing)} tensors are missing: {some}; the config asks for {len(shapes)} tensors"
        )
    return tensors
