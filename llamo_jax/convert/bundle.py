"""A bundle: a folder that holds a whole model, for use, in JAX and in PyTorch alike.

    config.json               format version, architecture, hashes of all files, where the model came from
    llm/                      the LLM as a plain Hugging Face folder with its tokenizer: copied, or linked to, or left on the Hub
    motion.safetensors        motion tower, adapter, embeddings, flow head, exit head
    motion_vae.safetensors    the VAE, with the statistics of its features and latents
    README.md                 the model card

Tensors have the names and axes that PyTorch users expect (`layout.py`). Reading is strict: a file or tensor that is missing, left over, of
another shape or of other bytes than were written is an error.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llamo_jax.config import LlamoConfig, MotionVAEConfig
from llamo_jax.convert import huggingface, layout
from llamo_jax.convert.card import model_card
from llamo_jax.convert.hub import Source
from llamo_jax.convert.layout import Leaf, Rule
from llamo_jax.convert.tensor_files import sha256
from llamo_jax.convert.weights import Weights, declared, some, write_tree
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, read_json, write_json
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models import llamo
from llamo_jax.models.layers import abstract, count
from llamo_jax.models.motion_vae import NUM_FEATURES, MotionVAE
from llamo_jax.tokenizer import Tokenizer
from llamo_jax.trees import flatten

FORMAT_VERSION = 2
"""2: one tensor a layer, under PyTorch's names, and hashes. 1 had the tree's own paths, with stacked layers; it is still read."""

LLMStorage = Literal["copy", "link", "pin"]
"""How a bundle holds its LLM: as a copy, as links to its files on this machine, or as id, revision and hashes of what is on the Hub."""

FILES = ("motion.safetensors", "motion_vae.safetensors")

_STATISTICS = ("feature_mean", "feature_std", "latent_mean", "latent_std")


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The contents of a bundle.

    Attributes:
      config: of the model.
      text: the text tower.
      motion: `motion`, `flow` and `exit`.
      codec: the VAE with its statistics.
      llm: the Hugging Face folder of the text tower, and where it is from.
      info: JSON on the training: "trained" (bool: False for a bundle made from an LLM alone), data, recipe, figures.
      eos_id: the token that ends a text; None to find it from the tokenizer and the text tower.
    """

    config: LlamoConfig
    text: dict[str, Any]
    motion: dict[str, Any]
    codec: MotionCodec
    llm: Source
    info: dict[str, Any]
    eos_id: int | None = None

    def tokenizer(self) -> Tokenizer:
        """The LLM's, as the model uses it."""
        return Tokenizer(self.llm.folder, llamo.output_rows(self.text), self.eos_id)


def write_bundle(path: str | Path, bundle: Bundle, *, llm_storage: LLMStorage = "copy") -> None:
    """Writes a bundle whole, or not at all; one that is already at `path` is replaced.

    Raises:
      InputError: something else is at `path`, the LLM's folder does not hold the text tower, bit for bit, a weight is not finite, or an
        LLM that is not from the Hub is to be pinned.
    """
    path = Path(path)
    require_replaceable(path)
    if llm_storage == "pin" and not (bundle.llm.repo_id and bundle.llm.revision):
        raise InputError(f"{bundle.llm.folder}: a folder cannot be pinned, only an id on the Hugging Face Hub; use copy or link")
    with atomic_path(path, directory=True) as folder:
        _require_same_llm(bundle)
        llm_files = huggingface.files_of(bundle.llm.folder)
        _store_llm(llm_files, folder / "llm", llm_storage)
        motion, codec = flatten(bundle.motion), _codec_tensors(bundle.codec)
        _require_finite(motion | codec)
        hashes = {
            "motion.safetensors": write_tree(folder / "motion.safetensors", motion, layout.MOTION),
            "motion_vae.safetensors": write_tree(folder / "motion_vae.safetensors", codec, layout.VAE),
        }
        tokenizer = bundle.tokenizer()
        values = {
            "format_version": FORMAT_VERSION,
            "model": bundle.config.to_json(),
            "motion_vae": bundle.codec.config.to_json(),
            "tokens": {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "eom": bundle.config.text.eom_id},
            "llm": {
                "storage": llm_storage,
                "id": bundle.llm.repo_id,
                "revision": bundle.llm.revision,
                "files": {file.name: _record(file, digest) for file, digest in sha256(llm_files).items()},
            },
            "files": {name: _record(folder / name, digest) for name, digest in hashes.items()},
            "info": bundle.info,
        }
        _write_config(folder, values)


def update_info(path: str | Path, **entries: Any) -> None:
    """Adds to what a bundle says of its training (measured figures), and brings its card up to date.

    Raises:
      InputError: no bundle of the present format.
    """
    values = read_config(Path(path))
    if values["format_version"] != FORMAT_VERSION:
        raise InputError(f"{path}: bundle format {values['format_version']}; load and save it to bring it to format {FORMAT_VERSION}")
    _write_config(Path(path), values | {"info": values["info"] | entries})


def _write_config(folder: Path, values: dict[str, Any]) -> None:
    write_json(folder / "config.json", values)
    (folder / "README.md").write_text(model_card(values))


def read_bundle(path: str | Path, *, dtype: Any | None = None, verify: bool = True) -> Bundle:
    """Reads a bundle.

    Args:
      path: of its folder.
      dtype: of the text tower; None is that of the LLM's files. The motion side is float32.
      verify: compare every file with the hash that the bundle has of it.

    Raises:
      InputError: the folder is not a bundle, its format is newer than this code, or a file or tensor is missing, left over, wrongly shaped
        or changed.
    """
    path = Path(path)
    values = read_config(path)
    config, vae_config = _configs(path, values)
    if vae_config.latent_channels != config.latent_channels:
        channels = f"{vae_config.latent_channels} latent channels, the model {config.latent_channels}"
        raise InputError(f"{path}: the VAE has {channels}; expected the same")
    llm = _llm_of(path, values)
    version = values["format_version"]
    motion_leaves = declared(_rules(layout.MOTION, version), lambda rngs: llamo.Motion(rngs, config))
    # What is wrong with a tensor says more than what is wrong with a hash, and headers are quickly read.
    if huggingface.require_llm(llm.folder) != config.text:
        raise InputError(f"{path}: the LLM's config.json describes another LLM than the bundle's; the bundle was put together from two")
    _open(path / "motion.safetensors", motion_leaves).close()
    _open(path / "motion_vae.safetensors", _vae_leaves(vae_config, version)).close()
    eos_id = values["tokens"]["eos"] if version > 1 else None
    with ThreadPoolExecutor(1) as pool:
        # Hashing takes as long as reading, and another core.
        hashes = pool.submit(_require_files, path, values, llm.folder) if verify and version > 1 else None
        _, text = huggingface.load_llm(llm.folder, dtype=dtype)
        motion = _read(path / "motion.safetensors", motion_leaves)
        codec = _read_codec(path, vae_config, version)
        if hashes:
            hashes.result()
    return Bundle(config, text, motion, codec, llm, values["info"], eos_id)


def _configs(path: Path, values: dict[str, Any]) -> tuple[LlamoConfig, MotionVAEConfig]:
    try:
        return LlamoConfig.from_json(values.get("model")), MotionVAEConfig.from_json(values.get("motion_vae"))
    except InputError as error:
        raise InputError(f"{path / 'config.json'}: {error}") from error


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a bundle, its format checked.

    Raises:
      InputError: no bundle, or one of a format that this version does not read.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such bundle; expected a folder with config.json (`llamo convert from-hf LLM -o BUNDLE` makes one)")
    values = read_json(path / "config.json")
    if not isinstance(values, dict) or "format_version" not in values:
        raise InputError(f"{path / 'config.json'}: not a bundle's config (no format_version); is this a plain Hugging Face folder?")
    version = values["format_version"]
    if version not in range(1, FORMAT_VERSION + 1):
        raise InputError(f"{path}: bundle format {version}; this llamo_jax reads formats 1 to {FORMAT_VERSION}: upgrade llamo_jax")
    if not isinstance(info := values.get("info"), dict):
        raise InputError(f'{path / "config.json"}: "info" is {info!r:.40}; expected an object')
    return values


def describe(path: str | Path) -> dict[str, Any]:
    """What a bundle holds, from its config alone: no weights are read.

    Raises:
      InputError: as `read_config`.
    """
    values = read_config(Path(path))
    config, vae = _configs(Path(path), values)
    llm = values.get("llm", {})
    return {
        "format": values["format_version"],
        "text parameters": count(abstract(lambda rngs: llamo.LLM(rngs, config.text))),
        "motion parameters": count(abstract(lambda rngs: llamo.Motion(rngs, config))),
        "VAE parameters": count(abstract(lambda rngs: MotionVAE(rngs, vae))),
        "LLM": {"storage": llm.get("storage", "copy"), "id": llm.get("id"), "revision": llm.get("revision")},
        "text tower": config.text.to_json(),
        "motion tower": config.motion.to_json(),
        "flow head": config.flow.to_json(),
        "motion VAE": vae.to_json(),
        **values["info"],
    }


def write_codec(path: str | Path, codec: MotionCodec) -> None:
    """Writes a VAE alone, with its statistics, as a folder of config.json and motion_vae.safetensors."""
    require_replaceable(Path(path))
    with atomic_path(path, directory=True) as folder:
        tensors = _codec_tensors(codec)
        _require_finite(tensors)
        digest = write_tree(folder / "motion_vae.safetensors", tensors, layout.VAE)
        files = {"motion_vae.safetensors": _record(folder / "motion_vae.safetensors", digest)}
        write_json(folder / "config.json", {"format_version": FORMAT_VERSION, "motion_vae": codec.config.to_json(), "files": files})


def read_codec(path: str | Path) -> MotionCodec:
    """Reads the VAE of a bundle or of a folder that `write_codec` made.

    Raises:
      InputError: as `read_bundle`.
    """
    path = Path(path)
    values = read_json(path / "config.json")
    if not isinstance(values, dict) or "motion_vae" not in values:
        raise InputError(f"{path}: config.json describes no motion VAE; expected a bundle, or the vae folder of a training run")
    config, version = MotionVAEConfig.from_json(values["motion_vae"]), values.get("format_version", FORMAT_VERSION)
    _open(path / "motion_vae.safetensors", _vae_leaves(config, version)).close()
    if version > 1:
        _require_hashes({path / "motion_vae.safetensors": _recorded(path, values.get("files")).get("motion_vae.safetensors")})
    return _read_codec(path, config, version)


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


def _store_llm(files: list[Path], folder: Path, storage: LLMStorage) -> None:
    if storage == "pin":
        return
    folder.mkdir()
    for file in files:
        if storage == "link":
            (folder / file.name).symlink_to(file.resolve())
        else:
            shutil.copyfile(file, folder / file.name)


def _llm_of(path: Path, values: dict[str, Any]) -> Source:
    llm = values.get("llm", {})
    if not isinstance(llm, dict) or llm.get("storage", "copy") not in ("copy", "link", "pin"):
        raise InputError(f'{path / "config.json"}: "llm" is {llm!r:.60}; expected storage (copy, link or pin), id, revision and files')
    if llm.get("storage") == "pin":
        return huggingface.resolve_llm(llm["id"], llm["revision"])
    return Source(path / "llm", llm.get("id"), llm.get("revision"))


def _require_same_llm(bundle: Bundle) -> None:
    """What was trained beside is what is written: the files hold the tower in memory."""
    if not huggingface.holds(bundle.llm.folder, bundle.text):
        raise InputError(f"{bundle.llm.folder}: no longer holds the text tower of this model; the LLM changed in memory or on disk")


def _require_files(path: Path, values: dict[str, Any], llm: Path) -> None:
    """Every file is the one that was written, and there is no other that would be read."""
    recorded = _recorded(path, values.get("llm", {}).get("files"))
    if surplus := sorted({file.name for file in huggingface.files_of(llm)} - set(recorded)):
        raise InputError(f"{llm}: {some(surplus)} came after the bundle was written; expected {some(sorted(recorded))}")
    files = _recorded(path, values.get("files"))
    _require_hashes({llm / name: record for name, record in recorded.items()} | {path / name: files.get(name) for name in FILES})


def _recorded(path: Path, files: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(files, dict) or not all(isinstance(value, dict) and value.keys() == {"sha256", "bytes"} for value in files.values()):
        raise InputError(f"{path / 'config.json'}: no hashes of its files; the config is damaged")
    return files


def _require_hashes(recorded: Mapping[Path, dict[str, Any] | None]) -> None:
    for file, record in recorded.items():
        if record is None:
            raise InputError(f"{file}: no hash of it in config.json; the config is damaged")
        if not file.exists():
            raise InputError(f"{file}: no such file; the bundle is incomplete")
        if (size := file.stat().st_size) != record["bytes"]:
            raise InputError(f"{file}: {size} bytes, {record['bytes']} when the bundle was written; it is damaged or was replaced")
    for file, digest in sha256(recorded).items():
        if digest != (expected := recorded[file]["sha256"]):
            raise InputError(f"{file}: SHA-256 {digest}, {expected} when the bundle was written; it is damaged or was replaced")


def _record(file: Path, digest: str) -> dict[str, Any]:
    return {"sha256": digest, "bytes": file.stat().st_size}


def _rules(rules: tuple[Rule, ...], version: int) -> tuple[Rule, ...] | None:
    return rules if version > 1 else None


def _codec_tensors(codec: MotionCodec) -> dict[str, Any]:
    return flatten(codec.params) | {name: np.asarray(getattr(codec, name), np.float32) for name in _STATISTICS}


def _vae_leaves(config: MotionVAEConfig, version: int) -> list[Leaf]:
    sizes = (NUM_FEATURES, NUM_FEATURES, config.latent_channels, config.latent_channels)
    statistics = {name: (size,) for name, size in zip(_STATISTICS, sizes, strict=True)}
    return declared(_rules(layout.VAE, version), lambda rngs: MotionVAE(rngs, config), **statistics)


def _read_codec(folder: Path, config: MotionVAEConfig, version: int) -> MotionCodec:
    tree = _read(folder / "motion_vae.safetensors", _vae_leaves(config, version))
    return MotionCodec(config, **{name: np.asarray(tree.pop(name)) for name in _STATISTICS}, params=tree)


def _open(path: Path, expected: list[Leaf]) -> Weights:
    """A file that holds just the expected tensors, of float32; nothing but its header has been read."""
    weights = Weights([path])
    try:
        weights.require(expected, path)
        if wrong := [leaf.names[0] for leaf in expected if weights.dtype(leaf) != np.float32]:
            raise InputError(f"{path}: {some(wrong)} are not of float32; expected float32 in all tensors")
    except InputError:
        weights.close()
        raise
    return weights


def _read(path: Path, expected: list[Leaf]) -> dict[str, Any]:
    with _open(path, expected) as weights:
        tree = weights.tree(expected)
    _require_finite(flatten(tree), path)
    return tree


def _require_finite(flat: Mapping[str, Any], path: Path | str = "the model") -> None:
    # A sum is not finite where a number is not, and reads each once.
    with np.errstate(invalid="ignore"):
        wrong = [name for name, leaf in flat.items() if not np.isfinite(np.asarray(leaf).sum())]
    if wrong:
        raise InputError(f"{path}: {some(wrong)} hold numbers that are not finite; expected finite weights (did training diverge?)")
