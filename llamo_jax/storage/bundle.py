"""A bundle: a folder that holds a whole model, for use, in JAX and in PyTorch alike.

    config.json               format version, architecture, hashes of all files, where the model came from
    llm/                      the LLM and its tokenizer, a Hugging Face folder: copied, linked to, or left on the Hub
    motion.safetensors        motion tower, adapter, embeddings, flow head, exit head
    motion_vae.safetensors    the VAE, with the statistics of its features and latents
    README.md                 the model card

Tensors have the names and axes that PyTorch users expect (`layout.py`). Reading is strict: a file or tensor that is
missing, left over, of another shape or of other bytes than were written is an error.
"""

import dataclasses
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from llamo_jax import files
from llamo_jax.config import LlamoConfig, MotionVAEConfig
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, read_json, write_json
from llamo_jax.inference.codec import MotionCodec
from llamo_jax.models import llamo
from llamo_jax.models.declaration import abstract, count
from llamo_jax.models.motion_vae import MotionVAE
from llamo_jax.motion.representation import FEATURES
from llamo_jax.motion.statistics import Statistics
from llamo_jax.remote import AnyPath
from llamo_jax.storage import huggingface, layout, older
from llamo_jax.storage.card import model_card
from llamo_jax.storage.hub import Source
from llamo_jax.storage.layout import Leaf, Rule, Shape, leaves
from llamo_jax.storage.tensor_files import sha256
from llamo_jax.storage.weights import Weights, shapes_of, some, write_tree
from llamo_jax.tokenizer import Tokenizer, Turns
from llamo_jax.trees import flatten, unflatten

FORMAT_VERSION = 4
"""4: says what stands around what a person says, which formats before it ask without a chat template. 3: each block of
the flow head has its own modulation. Formats 1 to 3 are still read (`older.py`)."""

_SAME_TENSORS = 3  # formats from this one on hold the tensors of today

LLMStorage = Literal["copy", "link", "pin"]
"""How a bundle holds its LLM: as a copy, as links to its files on this machine, or as id, revision and hashes of what
is on the Hub."""

FILES = ("motion.safetensors", "motion_vae.safetensors")


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The contents of a bundle.

    Attributes:
      config: of the model.
      params: the whole tree (`llamo.Model`). As read, its towers are one tree a layer, as decoding wants them, so that
        a loaded model holds every weight once.
      codec: the VAE with its statistics.
      llm: the Hugging Face folder of the text tower, and where it is from.
      bos_id: the token that starts every sequence.
      eos_id: the token that ends a text.
      turns: what stands around what a person says, as the model learnt it; None is the token that starts a sequence.
      info: JSON on the training: "trained" (bool: False for a bundle made from an LLM alone), data, recipe, figures.
    """

    config: LlamoConfig
    params: dict[str, Any]
    codec: MotionCodec
    llm: Source
    bos_id: int
    eos_id: int
    info: dict[str, Any]
    turns: Turns | None = None

    def tokenizer(self) -> Tokenizer:
        """The LLM's, as the model uses it."""
        rows = self.config.text.vocab_size
        return Tokenizer(self.llm.folder, rows=rows, bos_id=self.bos_id, eos_id=self.eos_id, turns=self.turns)

    @property
    def motion(self) -> dict[str, Any]:
        """All that training adds to the LLM."""
        return {name: tree for name, tree in self.params.items() if name != "text"}


def write_bundle(path: str | Path, bundle: Bundle, *, llm_storage: LLMStorage = "copy") -> None:
    """Writes a bundle whole, or not at all; one that is already at `path` is replaced.

    Raises:
      InputError: something else is at `path`, the LLM's folder does not hold the text tower, bit for bit, a weight is
        not finite, an LLM that is not from the Hub is to be pinned, or one that lies in `path` itself to be linked.
    """
    path = Path(path)
    require_replaceable(path)
    if llm_storage == "pin" and not (bundle.llm.repo_id and bundle.llm.revision):
        raise InputError(
            f"{bundle.llm.folder}: a folder cannot be pinned, only an id on the Hugging Face Hub; use copy or link"
        )
    with atomic_path(path, directory=True) as folder:
        _require_same_llm(bundle)
        llm_files = huggingface.files_of(bundle.llm.folder)
        if llm_storage == "link" and any(file.resolve().is_relative_to(path.resolve()) for file in llm_files):
            raise InputError(f"{path}: its own LLM would be replaced by links to itself; use copy, or another folder")
        _store_llm(llm_files, folder / "llm", llm_storage)
        motion, codec = flatten(bundle.motion), _codec_tensors(bundle.codec)
        _require_finite(motion | codec)
        hashes = {
            "motion.safetensors": write_tree(folder / "motion.safetensors", motion, layout.MOTION),
            "motion_vae.safetensors": write_tree(folder / "motion_vae.safetensors", codec, layout.VAE),
        }
        values = {
            "format_version": FORMAT_VERSION,
            "model": bundle.config.to_json(),
            "motion_vae": bundle.codec.config.to_json(),
            "tokens": {"bos": bundle.bos_id, "eos": bundle.eos_id, "eom": bundle.config.text.eom_id},
            "turns": bundle.tokenizer().turns,
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
        raise InputError(
            f"{path}: bundle format {values['format_version']}; load and save it to bring it to format {FORMAT_VERSION}"
        )
    _write_config(Path(path), values | {"info": values["info"] | entries})


def _write_config(folder: Path, values: dict[str, Any]) -> None:
    write_json(folder / "config.json", values)
    (folder / "README.md").write_text(model_card(values), encoding="utf-8")


def read_bundle(path: str | Path, *, dtype: Any | None = None, verify: bool = True) -> Bundle:
    """Reads a bundle.

    Args:
      path: of its folder.
      dtype: of the text tower; None is that of the LLM's files. The motion side is float32.
      verify: compare every file with the hash that the bundle has of it.

    Raises:
      InputError: the folder is not a bundle, its format is newer than this code, or a file or tensor is missing, left
        over, wrongly shaped or changed.
    """
    path = Path(path)
    values = read_config(path)
    config, vae_config = _configs(path, values)
    if vae_config.latent_channels != config.latent_channels:
        channels = f"{vae_config.latent_channels} latent channels, the model {config.latent_channels}"
        raise InputError(f"{path}: the VAE has {channels}; expected the same")
    llm = _llm_of(path, values)
    # What is wrong with a tensor says more than what is wrong with a hash, and headers are quickly read.
    if huggingface.require_llm(llm.folder) != config.text:
        raise InputError(
            f"{path}: the LLM's config.json describes another LLM than the bundle's; the bundle was put together "
            f"from two"
        )
    version = values["format_version"]
    motion = _Part(path / "motion.safetensors", layout.MOTION, shapes_of(llamo.MotionSide, config), version)
    vae = _vae_part(path, vae_config, version)
    for part in (motion, vae):
        part.open().close()
    bos_id, eos_id = _tokens_of(path, values, config, llm)
    turns = turns_of(path / "config.json", values.get("turns"), config.text.vocab_size) if version > 3 else None
    with ThreadPoolExecutor(1) as pool:
        # Hashing takes as long as reading, and another core.
        hashes = pool.submit(_require_files, path, values, llm.folder) if verify and version > 1 else None
        _, text = huggingface.load_llm(llm.folder, dtype=dtype, unstacked=True)
        params = {"text": text, **motion.read(unstacked=True)}
        codec = _codec_of(vae_config, vae.read())
        if hashes:
            hashes.result()
    return Bundle(config, params, codec, llm, bos_id, eos_id, values["info"], turns)


def _configs(path: Path, values: dict[str, Any]) -> tuple[LlamoConfig, MotionVAEConfig]:
    try:
        config = LlamoConfig.from_json(_model_values(values))
    except InputError as error:
        raise InputError(f"{path / 'config.json'}: {error}") from error
    return config, _vae_config(path, values)


def _model_values(values: dict[str, Any]) -> Any:
    model = values.get("model")
    return older.model_config(model) if values["format_version"] < 3 and isinstance(model, dict) else model


def _vae_config(path: Path, values: dict[str, Any]) -> MotionVAEConfig:
    try:
        return MotionVAEConfig.from_json(values.get("motion_vae"))
    except InputError as error:
        raise InputError(f"{path / 'config.json'}: {error}") from error


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a bundle, its format checked.

    Raises:
      InputError: no bundle, or one of a format that this version does not read.
    """
    if not path.is_dir():
        raise InputError(
            f"{path}: no such bundle; expected a folder with config.json (`llamo convert from-hf LLM -o BUNDLE` "
            f"makes one)"
        )
    values = read_json(path / "config.json")
    if not isinstance(values, dict) or "format_version" not in values:
        raise InputError(
            f"{path / 'config.json'}: not a bundle's config (no format_version); is this a plain Hugging Face folder?"
        )
    _version(path, values["format_version"])
    if not isinstance(info := values.get("info"), dict):
        raise InputError(f'{path / "config.json"}: "info" is {info!r:.40}; expected an object')
    return values


def _version(path: Path, version: Any) -> int:
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        raise InputError(
            f"{path}: bundle format {version!r:.40}; this llamo_jax reads formats 1 to {FORMAT_VERSION}: upgrade "
            f"llamo_jax"
        )
    return version


def describe(path: str | Path) -> dict[str, Any]:
    """What a bundle holds, from its config alone: no weights are read.

    Raises:
      InputError: as `read_config`.
    """
    values = read_config(Path(path))
    config, vae = _configs(Path(path), values)
    llm = _llm_record(Path(path), values)
    turns = {}
    if values["format_version"] > 3:
        turns = turns_of(Path(path) / "config.json", values.get("turns"), config.text.vocab_size)
    return {
        "format": values["format_version"],
        "text parameters": count(abstract(llamo.LLM, config.text)),
        "motion parameters": count(abstract(llamo.MotionSide, config)),
        "VAE parameters": count(abstract(MotionVAE, vae)),
        "LLM": llm,
        "text tower": config.text.to_json(),
        "motion tower": config.motion.to_json(),
        "flow head": config.flow_head.to_json(),
        "motion VAE": vae.to_json(),
        "asked": "through turns of a chat" if any(after for _, after in turns.values()) else "plainly",
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
        write_json(
            folder / "config.json",
            {"format_version": FORMAT_VERSION, "motion_vae": codec.config.to_json(), "files": files},
        )


def read_codec(path: str | Path) -> MotionCodec:
    """Reads the VAE of a bundle or of a folder that `write_codec` made.

    Raises:
      InputError: as `read_bundle`.
    """
    path = Path(path)
    values = read_json(path / "config.json")
    if not isinstance(values, dict) or "motion_vae" not in values:
        raise InputError(
            f"{path}: config.json describes no motion VAE; expected a bundle, or the vae folder of a training run"
        )
    config, version = _vae_config(path, values), _version(path, values.get("format_version"))
    vae = _vae_part(path, config, version)
    vae.open().close()
    if version > 1:
        _require_hashes({vae.path: _recorded(path, values.get("files")).get(vae.path.name)})
    return _codec_of(config, vae.read())


def require_replaceable(path: str | Path) -> None:
    """Only an earlier bundle or VAE of ours is replaced; called before long work.

    A plain Hugging Face folder has a config.json too.

    Raises:
      InputError: something else is there.
    """

    def is_ours(path: Path) -> bool:
        values = read_json(path / "config.json")
        return isinstance(values, dict) and "format_version" in values

    files.require_replaceable(path, is_ours, "a bundle")


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
    llm = _llm_record(path, values)
    if llm["storage"] == "pin":
        return huggingface.resolve_llm(llm["id"], llm["revision"])
    return Source(path / "llm", llm["id"], llm["revision"])


def _llm_record(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """How the bundle holds its LLM: `storage`, `id` and `revision`. Format 1 only knew copies of unknown origin."""
    llm = values.get("llm") if values["format_version"] > 1 else {"storage": "copy"}
    if isinstance(llm, dict):
        record = {key: llm.get(key) for key in ("storage", "id", "revision")}
        origin = str if record["storage"] == "pin" else str | None
        if (
            record["storage"] in get_args(LLMStorage)
            and isinstance(record["id"], origin)
            and isinstance(record["revision"], origin)
        ):
            return record
    raise InputError(
        f'{path / "config.json"}: "llm" is {llm!r:.60}; expected storage (copy, link or pin), id, revision and files'
    )


def _tokens_of(path: Path, values: dict[str, Any], config: LlamoConfig, llm: Source) -> tuple[int, int]:
    """The tokens that start and end a text. Format 1 did not say."""
    if values["format_version"] == 1:
        tokenizer = huggingface.load_tokenizer(llm.folder)
        return tokenizer.bos_id, tokenizer.eos_id
    tokens = values.get("tokens")
    found = [tokens.get(name) if isinstance(tokens, dict) else None for name in ("bos", "eos")]
    if any(type(token) is not int or not 0 <= token < config.text.vocab_size for token in found):
        expected = f"expected ids below {config.text.vocab_size}"
        raise InputError(f'{path / "config.json"}: "tokens" is {tokens!r:.60}; {expected}')
    return found[0], found[1]


def turns_of(path: AnyPath, turns: Any, vocab_size: int) -> Turns:
    """What stands around what a person says, as a file says it.

    Raises:
      InputError: names the file; not the turns of a tokenizer of so many tokens.
    """
    if isinstance(turns, dict) and turns.keys() == {"t2m", "m2t"}:
        known = all(
            isinstance(each, list) and len(each) == 2 and each[0] and all(_are_tokens(ids, vocab_size) for ids in each)
            for each in turns.values()
        )
        if known:
            return {task: (tuple(before), tuple(after)) for task, (before, after) in turns.items()}
    expected = 'expected {"t2m": [before, after], "m2t": [before, after]}, lists of token ids, the first not empty'
    raise InputError(f'{path}: "turns" is {turns!r:.60}; {expected}')


def _are_tokens(ids: Any, vocab_size: int) -> bool:
    return isinstance(ids, list) and all(type(token) is int and 0 <= token < vocab_size for token in ids)


def _require_same_llm(bundle: Bundle) -> None:
    """What was trained beside is what is written: the files hold the tower in memory."""
    if not huggingface.holds(bundle.llm.folder, bundle.params["text"]):
        raise InputError(
            f"{bundle.llm.folder}: no longer holds the text tower of this model; the LLM changed in memory or on disk"
        )


def _require_files(path: Path, values: dict[str, Any], llm: Path) -> None:
    """Every file is the one that was written, and there is no other that would be read."""
    recorded = _recorded(path, values.get("llm", {}).get("files"))
    if surplus := sorted({file.name for file in huggingface.files_of(llm)} - set(recorded)):
        raise InputError(f"{llm}: {some(surplus)} came after the bundle was written; expected {some(sorted(recorded))}")
    own = _recorded(path, values.get("files"))
    _require_hashes(
        {llm / name: record for name, record in recorded.items()} | {path / name: own.get(name) for name in FILES}
    )


def _recorded(path: Path, files: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(files, dict) or not all(
        isinstance(value, dict) and value.keys() == {"sha256", "bytes"} for value in files.values()
    ):
        raise InputError(f"{path / 'config.json'}: no hashes of its files; the config is damaged")
    return files


def _require_hashes(recorded: Mapping[Path, dict[str, Any] | None]) -> None:
    for file, record in recorded.items():
        if record is None:
            raise InputError(f"{file}: no hash of it in config.json; the config is damaged")
        if not file.exists():
            raise InputError(f"{file}: no such file; the bundle is incomplete")
        if (size := file.stat().st_size) != record["bytes"]:
            raise InputError(
                f"{file}: {size} bytes, {record['bytes']} when the bundle was written; it is damaged or was replaced"
            )
    for file, digest in sha256(recorded).items():
        if digest != (expected := recorded[file]["sha256"]):
            raise InputError(
                f"{file}: SHA-256 {digest}, {expected} when the bundle was written; it is damaged or was replaced"
            )


def _record(file: Path, digest: str) -> dict[str, Any]:
    return {"sha256": digest, "bytes": file.stat().st_size}


class _Part(NamedTuple):
    """One of the two files of a bundle: where it is, and what is in it according to its format."""

    path: Path
    rules: tuple[Rule, ...]
    shapes: dict[str, Shape]
    version: int

    def open(self) -> Weights:
        """The file, which holds just the expected tensors, of float32; nothing but its header has been read."""
        expected, file = self._leaves(), Weights([self.path])
        try:
            file.require(expected, self.path)
            if wrong := [name for leaf in expected for name in leaf.names if file.type(name) != "F32"]:
                raise InputError(f"{self.path}: {some(wrong)} are not of float32; expected float32 in all tensors")
        except InputError:
            file.close()
            raise
        return file

    def read(self, *, unstacked: bool = False) -> dict[str, Any]:
        """The tree of today, with one tree a layer if `unstacked`."""
        expected = self._leaves()
        if unstacked and self.version > 1:
            expected = [single for leaf in expected for single in leaf.unstacked()]
        with self.open() as file:
            flat = flatten(file.tree(expected))
        if self.version < _SAME_TENSORS:
            flat = older.modernised(flat, self.shapes, self.version)
        _require_finite(flat, self.path)
        tree = unflatten(flat)
        return llamo.decoding_params(tree) if unstacked else tree

    def _leaves(self) -> list[Leaf]:
        if self.version >= _SAME_TENSORS:
            return leaves(self.rules, self.shapes)
        shapes = older.shapes(self.shapes, self.version)
        rules = (*self.rules, *older.MODULATION) if self.version == 2 else older.rules_1(shapes)
        return leaves(rules, shapes)


_STATISTICS = ("feature_mean", "feature_std", "latent_mean", "latent_std")


def _vae_part(path: Path, config: MotionVAEConfig, version: int) -> _Part:
    sizes = (FEATURES, FEATURES, config.latent_channels, config.latent_channels)
    statistics = {name: (size,) for name, size in zip(_STATISTICS, sizes, strict=True)}
    return _Part(path / "motion_vae.safetensors", layout.VAE, shapes_of(MotionVAE, config) | statistics, version)


def _codec_tensors(codec: MotionCodec) -> dict[str, Any]:
    arrays = (codec.features.mean, codec.features.std, codec.latents.mean, codec.latents.std)
    statistics = {name: np.asarray(array, np.float32) for name, array in zip(_STATISTICS, arrays, strict=True)}
    return flatten(codec.params) | statistics


def _codec_of(config: MotionVAEConfig, tree: dict[str, Any]) -> MotionCodec:
    feature_mean, feature_std, latent_mean, latent_std = (np.asarray(tree.pop(name)) for name in _STATISTICS)
    return MotionCodec(config, tree, Statistics(feature_mean, feature_std), Statistics(latent_mean, latent_std))


def _require_finite(flat: Mapping[str, Any], path: Path | str = "the model") -> None:
    # A sum is not finite where a number is not, and reads each once.
    with np.errstate(invalid="ignore"):
        wrong = [name for name, leaf in flat.items() if not np.isfinite(np.asarray(leaf).sum())]
    if wrong:
        raise InputError(
            f"{path}: {some(wrong)} hold numbers that are not finite; expected finite weights (did training diverge?)"
        )
