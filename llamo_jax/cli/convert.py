"""`llamo convert`: models in and out, and motion files."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

from llamo_jax.cli.motions import failure, find_sources, is_several, load_noted, options_of, told
from llamo_jax.commands import Command, require_seed
from llamo_jax.errors import InputError
from llamo_jax.motion import MotionClip
from llamo_jax.motion.clip import Format
from llamo_jax.motion.formats import WRITABLE, require_suffix
from llamo_jax.motion.read import ReadOptions

Output = Annotated[Path, tyro.conf.arg(aliases=("-o",))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromHF(Command):
    """Start a bundle from an LLM alone. Its text side works at once; its motion side is untrained."""

    llm: tyro.conf.Positional[str]
    """Folder with config.json, *.safetensors and the tokenizer, a GGUF file, or an id on the Hub
    (HuggingFaceTB/SmolLM2-135M)."""
    output: Output
    """Folder to write."""
    revision: str | None = None
    """Branch, tag or commit, for ids."""
    llm_storage: Literal["copy", "link", "pin"] = "copy"
    """How the bundle holds the LLM: a copy, links to files on this machine, or its id on the Hub with their hashes."""
    seed: int = 0
    """Of the motion side's initial weights."""

    def run(self) -> None:
        from llamo_jax.convert.from_hf import bundle_from_llm

        require_seed(self.seed, least=-(2**63))
        bundle_from_llm(self.llm, self.output, revision=self.revision, llm_storage=self.llm_storage, seed=self.seed)
        print(f"bundle with an untrained motion side -> {self.output}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToTorch(Command):
    """Write a folder that runs in PyTorch without this project: code, weights, LLM, an example and a check of
    itself."""

    bundle: tyro.conf.Positional[str]
    """Folder of the model, or its id on the Hugging Face Hub."""
    output: Output
    """Folder to write."""

    def run(self) -> None:
        from llamo_jax.convert.to_torch import to_torch
        from llamo_jax.storage.hub import resolve

        to_torch(resolve(self.bundle, ("*",)).folder, self.output)
        print(f"model for PyTorch -> {self.output}   (check it: python {self.output / 'verify.py'})")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromTorch(Command):
    """Write the bundle of a folder that `to-torch`, or `save_pretrained` in PyTorch, made."""

    folder: tyro.conf.Positional[Path]
    """Folder of the PyTorch model."""
    output: Output
    """Folder to write."""

    def run(self) -> None:
        from llamo_jax.convert.to_torch import from_torch

        from_torch(self.folder, self.output)
        print(f"bundle -> {self.output}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromMotionStreamer(Command):
    """Import the causal TAE of MotionStreamer as a motion VAE, for `python -m experiments.train_vae --vae`."""

    checkpoint: tyro.conf.Positional[Path]
    """.pth as published (needs PyTorch; read without unpickling objects), or the same tensors as .safetensors."""
    mean: Path
    """Mean.npy of the 272 features that it was trained with."""
    std: Path
    """Std.npy of them."""
    output: Output
    """Folder to write."""

    def run(self) -> None:
        from llamo_jax.convert.peers import read_motionstreamer_tae
        from llamo_jax.storage.bundle import write_codec

        codec = read_motionstreamer_tae(self.checkpoint, self.mean, self.std)
        write_codec(self.output, codec)
        print(f"motion VAE, {codec.config.latent_channels} channels -> {self.output}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Motion(Command):
    """Convert motion files: .bvh .npz .npy in; those and .mp4 .gif .png out. One file into another, or files, folders
    and patterns into a folder."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """What to read, and last the file or the folder to write."""
    to: str = ".npz"
    """Suffix of what is written into a folder."""
    format: Format = "llamo"
    """Of an .npz: our own arrays, or SMPL-X parameters as AMASS has them, which GMR reads."""
    reading: tyro.conf.OmitArgPrefixes[ReadOptions] = dataclasses.field(default_factory=ReadOptions)

    def run(self) -> None:
        *named, target = self.paths or [Path()]
        if not named:
            raise InputError("expected what to read, and last the file or the folder to write")
        if not is_several(named) and not target.is_dir():
            require_suffix(target, WRITABLE)
            clip = MotionClip.load(named[0], self.reading)
            clip.save(target, format=self.format)
            print(f"{len(clip)} frames, {clip.seconds:.1f} s -> {target}")
            return
        if target.suffix.lower() in WRITABLE:
            raise InputError(f"{target}: several files are read; expected a folder to write")
        suffix = f".{self.to.lstrip('.')}"
        require_suffix(Path(f"motion{suffix}"), WRITABLE)
        whole = target.resolve()
        # What an earlier run wrote into the folder that is read is no source.
        sources = [source for source in find_sources(named) if whole not in source.path.resolve().parents]
        if not sources:
            raise InputError(f"{target}: all that is read lies in it; expected another folder to write")
        outputs = {source: target / source.relative.with_suffix(suffix) for source in sources}
        options = options_of(sources, self.reading)
        failures, notes, taken = [], [], dict[Path, Path]()
        for source in tqdm(sources, desc="convert", unit="file", delay=1):
            try:
                if (other := taken.setdefault(outputs[source], source.path)) != source.path:
                    raise InputError(f"{source.path}: {outputs[source]} is written from {other} already")
                clip, told_of = load_noted(source.path, options[source.path.parent])
                clip.save(outputs[source], format=self.format)
                notes += told_of
            except InputError as error:
                failures.append(failure(source.path, error))
        for note in notes:
            print(f"note: {note}")
        print(f"{len(sources) - len(failures)} files -> {target}")
        told(failures, len(sources) - len(failures))


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert models and motion files."""

    what: tyro.conf.OmitSubcommandPrefixes[
        Annotated[FromHF, tyro.conf.subcommand("from-hf")]
        | Annotated[ToTorch, tyro.conf.subcommand("to-torch")]
        | Annotated[FromTorch, tyro.conf.subcommand("from-torch")]
        | Annotated[FromMotionStreamer, tyro.conf.subcommand("from-motionstreamer")]
        | Annotated[Motion, tyro.conf.subcommand("motion")]
    ]

    @property
    def debug(self) -> bool:
        """Whether to show the traceback of a mistake."""
        return self.what.debug

    def run(self) -> None:
        """Runs the command within."""
        self.what.run()
