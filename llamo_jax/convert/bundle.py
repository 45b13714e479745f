"""A bundle: a folder that holds a whole model, for use.

    config.json               format version, architecture, where it came from
    llm/                      the LLM as a plain Hugging Face folder, with its tokenizer
    motion.safetensors        motion tower, adapter, embeddings, flow head, exit head
    motion_vae.safetensors    the VAE, with the statistics of its features and latents

Tensor names are the paths of the parameter tree. Reading is strict: a missing, extra or wrongly shaped tensor is an error.
"""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from llamo_jax.config import LlamoConfig, MotionVAEConfig
from llamo_jax.convert import huggingface
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, read_json, write_json
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models import llamo
from llamo_jax.models.layers import abstract
from llamo_jax.models.motion_vae import NUM_FEATURES, MotionVAE
from llamo_jax.trees import flatten, unflatten

FORMAT_VERSION = 1

_STATISTICS = ("feature_mean", "feature_std", "latent_mean", "latent_std")


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The contents of a bundle.

    Attributes:
      config: of the model.
      text: the text tower.
      motion: `motion`, `flow` and `exit`.
      codec: the VAE with its statistics.
      llm_folder: the Hugging Face folder of the text tower.
      info: JSON on the training: "trained" (bool: False for a bundle made from an LLM alone), recipe, figures.
    """

    config: LlamoConfig
    text: dict[str, Any]
    motion: dict[str, Any]
    codec: MotionCodec
    llm_folder: Path
    info: dict[str, Any]


def write_bundle(path: str | Path, bundle: Bundle) -> None:
    """Writes a bundle whole, or not at all; one that is already at `path` is replaced.

    Raises:
      InputError: something else is at `path`, or `llm_folder` does not hold the text tower, bit for bit.
    """
    path = Path(path)
    require_replaceable(path)
    with atomic_path(path, directory=True) as folder:
        _copy_llm(bundle.llm_folder, folder / "llm")
        _require_same_llm(folder / "llm", bundle)
        save_file(_to_numpy(flatten(bundle.motion)), folder / "motion.safetensors")
        _save_codec_tensors(folder, bundle.codec)
        values = {
            "format_version": FORMAT_VERSION,
            "model": bundle.config.to_json(),
            "motion_vae": bundle.codec.config.to_json(),
            "info": bundle.info,
        }
        write_json(folder / "config.json", values)


def read_bundle(path: str | Path) -> Bundle:
    """Reads a bundle.

    Raises:
      InputError: the folder is not a bundle, its format is newer than this code, or a tensor is missing, extra or wrongly shaped.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such bundle; expected a folder with config.json (`llamo convert from-hf LLM -o BUNDLE` makes one)")
    values = read_json(path / "config.json")
    if not isinstance(values, dict) or "format_version" not in values:
        raise InputError(f"{path / 'config.json'}: not a bundle's config (no format_version); is this a plain Hugging Face folder?")
    if values["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path}: bundle format {values['format_version']}; this version of llamo_jax reads format {FORMAT_VERSION}: upgrade llamo_jax"
        )
    try:
        config = LlamoConfig.from_json(values.get("model"))
        vae_config = MotionVAEConfig.from_json(values.get("motion_vae"))
    except InputError as error:
        raise InputError(f"{path / 'config.json'}: {error}") from error
    if not isinstance(info := values.get("info"), dict):
        raise InputError(f'{path / "config.json"}: "info" is {info!r:.40}; expected an object')
    llm_config, text = huggingface.load_llm(path / "llm")
    if llm_config != config.text:
        raise InputError(f"{path}: llm/config.json describes another LLM than config.json; the bundle was put together from two")
    motion = _read_tensors(path / "motion.safetensors", _shapes(abstract(lambda rngs: llamo.Motion(rngs, config))))
    if vae_config.latent_channels != config.latent_channels:
        channels = f"{vae_config.latent_channels} latent channels, the model {config.latent_channels}"
        raise InputError(f"{path}: the VAE has {channels}; expected the same")
    return Bundle(config, text, _to_jax(motion), _read_codec_tensors(path, vae_config), path / "llm", info)


def write_codec(path: str | Path, codec: MotionCodec) -> None:
    """Writes a VAE alone, with its statistics, as a folder of config.json and motion_vae.safetensors."""
    require_replaceable(Path(path))
    with atomic_path(path, directory=True) as folder:
        _save_codec_tensors(folder, codec)
        write_json(folder / "config.json", {"format_version": FORMAT_VERSION, "motion_vae": codec.config.to_json()})


def read_codec(path: str | Path) -> MotionCodec:
    """Reads the VAE of a bundle or of a folder that `write_codec` made.

    Raises:
      InputError: as `read_bundle`.
    """
    values = read_json(Path(path) / "config.json")
    if not isinstance(values, dict) or "motion_vae" not in values:
        raise InputError(f"{path}: config.json describes no motion VAE; expected a bundle, or the vae folder of a training run")
    return _read_codec_tensors(Path(path), MotionVAEConfig.from_json(values["motion_vae"]))


def require_replaceable(path: Path) -> None:
    """Only nothing, an empty folder, or an earlier bundle or VAE of ours is replaced: a plain Hugging Face folder has a config.json too.

    Raises:
      InputError: something else is there. Called before long work.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        values = read_json(path / "config.json")
    except InputError:
        values = None
    if not isinstance(values, dict) or "format_version" not in values:
        raise InputError(f"{path}: exists and is not a bundle; choose another output path, or remove it")


def _require_same_llm(copied: Path, bundle: Bundle) -> None:
    """What was trained beside is what is written: the files hold the tower in memory."""
    _, text = huggingface.load_llm(copied)
    copy, own = flatten(text), flatten(bundle.text)
    if copy.keys() != own.keys() or not all(np.array_equal(np.asarray(copy[path]), np.asarray(own[path])) for path in own):
        raise InputError(f"{bundle.llm_folder}: no longer holds the text tower of this model; the LLM changed in memory or on disk")


def _save_codec_tensors(folder: Path, codec: MotionCodec) -> None:
    statistics = {name: np.asarray(getattr(codec, name), np.float32) for name in _STATISTICS}
    save_file(_to_numpy(flatten(codec.params)) | statistics, folder / "motion_vae.safetensors")


def _read_codec_tensors(folder: Path, config: MotionVAEConfig) -> MotionCodec:
    sizes = (NUM_FEATURES, NUM_FEATURES, config.latent_channels, config.latent_channels)
    shapes = {name: (size,) for name, size in zip(_STATISTICS, sizes, strict=True)}
    tensors = _read_tensors(folder / "motion_vae.safetensors", _shapes(abstract(lambda rngs: MotionVAE(rngs, config))) | shapes)
    statistics = {name: tensors.pop(name) for name in _STATISTICS}
    return MotionCodec(config, _to_jax(tensors), **statistics)


def _shapes(tree: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in flatten(tree).items()}


def _read_tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; the bundle is incomplete") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from error
    if missing := sorted(set(shapes) - set(tensors)):
        raise InputError(f"{path}: {len(missing)} tensors are missing: {_some(missing)}; the config asks for {len(shapes)} tensors")
    if extra := sorted(set(tensors) - set(shapes)):
        raise InputError(f"{path}: {len(extra)} tensors too many: {_some(extra)}; the config asks for {len(shapes)} tensors")
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise InputError(f'{path}: tensor "{name}" has shape {tensors[name].shape}; the config asks for {shape}')
        if tensors[name].dtype != np.float32 or not np.isfinite(tensors[name]).all():
            raise InputError(f'{path}: tensor "{name}" is of type {tensors[name].dtype} or not finite; expected finite float32')
    return tensors


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _to_numpy(flat: dict[str, Any]) -> dict[str, np.ndarray]:
    return {path: np.ascontiguousarray(leaf) for path, leaf in flat.items()}


def _to_jax(flat: dict[str, np.ndarray]) -> dict[str, Any]:
    return unflatten({path: jnp.asarray(leaf) for path, leaf in flat.items()})


def _copy_llm(source: Path, target: Path) -> None:
    target.mkdir()
    names = ["config.json", "generation_config.json", "model.safetensors.index.json", *huggingface.TOKENIZER_FILES]
    files = [source / name for name in names if (source / name).exists()] + sorted(source.glob("*.safetensors"))
    for file in files:
        shutil.copyfile(file, target / file.name)
