"""The `llamo` command. Thin: every command calls the library."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from llamo_jax.errors import InputError, run_reporting_mistakes
from llamo_jax.files import read_json, write_json
from llamo_jax.motion import MotionClip

Positional = tyro.conf.Positional


@dataclasses.dataclass(frozen=True)
class Generate:
    """Generate motion from a sentence, and write it as video, BVH or arrays."""

    bundle: Positional[str]
    """Folder of the model, or its id on the Hugging Face Hub."""
    text: Positional[str]
    """What to do, as a sentence."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """File to write: .mp4 .gif .png (film strip) .bvh .npz or .npy (272 features), by suffix."""
    seed: int = 0
    """Same seed, same motion."""
    guidance: float = 2.0
    """Classifier-free guidance scale; 1 is off."""
    steps: int = 10
    """Steps of the ODE solver a latent."""
    solver: Literal["euler", "midpoint", "heun"] = "euler"
    """ODE solver; midpoint and heun look twice a step."""
    seconds: float | None = None
    """Exact length; without it the model ends the motion."""
    max_seconds: float = 20.0
    """Where to end a motion that the model does not."""
    source: Literal["positions", "rotations"] = "positions"
    """Which features the joints come from."""
    json: Path | None = None
    """Write the figures to this file too."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        _require_suffix(self.output)
        model = _load(self.bundle)
        started = time.perf_counter()
        options = dataclasses.asdict(self)
        names = ("seed", "guidance", "steps", "solver", "seconds", "max_seconds", "source")
        clip = model.generate(self.text, **{name: options[name] for name in names})
        took = time.perf_counter() - started
        clip.save(self.output)
        figures = {"frames": len(clip), "seconds": clip.seconds, "took_seconds": round(took, 3), "output": str(self.output)}
        _report(f"{clip.seconds:.1f} s of motion in {took:.1f} s (compilation included) -> {self.output}", figures, self.json)


@dataclasses.dataclass(frozen=True)
class Caption:
    """Describe a motion file in words."""

    bundle: Positional[str]
    """Folder of the model, or its id on the Hugging Face Hub."""
    motion: Positional[Path]
    """.bvh of any known skeleton, .npz or .npy (272 features)."""
    json: Path | None = None
    """Write the caption to this file too."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        clip = MotionClip.load(self.motion)
        caption = _load(self.bundle).caption(clip)
        _report(caption, {"motion": str(self.motion), "caption": caption}, self.json)


@dataclasses.dataclass(frozen=True)
class Render:
    """Draw a motion file as a video or a film strip."""

    motion: Positional[Path]
    """.bvh of any known skeleton, .npz or .npy (272 features)."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """File to write: .mp4, .gif or .png (film strip)."""
    title: str | None = None
    """Text above the picture; by default the motion's first caption."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        _require_suffix(self.output, (".mp4", ".gif", ".png"))
        clip = MotionClip.load(self.motion)
        clip.render(self.output, title=self.title)
        print(f"{len(clip)} frames, {clip.seconds:.1f} s -> {self.output}")


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Say what a bundle or a data folder holds."""

    path: Positional[Path]
    """A bundle, or a folder that `python -m data_pipelines.build` made."""
    json: Path | None = None
    """Write the facts to this file too."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        manifest = self.path / "dataset.json"
        facts = read_json(manifest) if manifest.exists() else _describe_bundle(self.path)
        if not isinstance(facts, dict):
            raise InputError(f"{manifest}: holds a {type(facts).__name__}; expected an object")
        _report("\n".join(f"{name:<22} {_compact(value)}" for name, value in facts.items()), facts, self.json)


@dataclasses.dataclass(frozen=True)
class FromHF:
    """Start a bundle from a Hugging Face LLM alone. Its text side works at once; its motion side is untrained."""

    llm: Positional[str]
    """Folder with config.json, *.safetensors and the tokenizer, or an id on the Hugging Face Hub, such as HuggingFaceTB/SmolLM2-135M."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """Folder to write."""
    revision: str | None = None
    """Branch, tag or commit, for ids."""
    llm_storage: Literal["copy", "link", "pin"] = "copy"
    """How the bundle holds the LLM: a copy, links to its files on this machine, or its id on the Hub with hashes of its files."""
    seed: int = 0
    """Of the motion side's initial weights."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        from llamo_jax.convert.from_hf import bundle_from_llm

        bundle_from_llm(self.llm, self.output, revision=self.revision, llm_storage=self.llm_storage, seed=self.seed)
        print(f"bundle with an untrained motion side -> {self.output}")


@dataclasses.dataclass(frozen=True)
class ToTorch:
    """Write a folder that runs in PyTorch without this project: model file, weights, LLM, an example and a check of itself (verify.py)."""

    bundle: Positional[str]
    """Folder of the model, or its id on the Hugging Face Hub."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """Folder to write."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        from llamo_jax.convert.hub import resolve
        from llamo_jax.convert.to_torch import to_torch

        to_torch(resolve(self.bundle, ("*",)).folder, self.output)
        print(f"model for PyTorch -> {self.output}   (check it: python {self.output / 'verify.py'})")


@dataclasses.dataclass(frozen=True)
class FromTorch:
    """Write the bundle of a folder that `to-torch`, or `save_pretrained` in PyTorch, made."""

    folder: Positional[Path]
    """Folder of the PyTorch model."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """Folder to write."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        from llamo_jax.convert.to_torch import from_torch

        from_torch(self.folder, self.output)
        print(f"bundle -> {self.output}")


@dataclasses.dataclass(frozen=True)
class FromMotionStreamer:
    """Import the causal TAE of MotionStreamer as a motion VAE, for `python -m experiments.train_vae --vae`."""

    checkpoint: Positional[Path]
    """Its checkpoint: .pth as published (needs PyTorch; read without unpickling objects), or the same tensors as .safetensors."""
    mean: Path
    """Mean.npy of the 272 features that it was trained with."""
    std: Path
    """Std.npy of them."""
    output: Annotated[Path, tyro.conf.arg(aliases=("-o",))]
    """Folder to write."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        from llamo_jax.convert.bundle import write_codec
        from llamo_jax.convert.peers import read_motionstreamer_tae

        codec = read_motionstreamer_tae(self.checkpoint, self.mean, self.std)
        write_codec(self.output, codec)
        print(f"motion VAE, {codec.config.latent_channels} channels -> {self.output}")


@dataclasses.dataclass(frozen=True)
class Motion:
    """Convert one motion file into another: .bvh .npz .npy in; those and .mp4 .gif .png out."""

    source: Positional[Path]
    """File to read."""
    target: Positional[Path]
    """File to write."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> None:
        _require_suffix(self.target)
        clip = MotionClip.load(self.source)
        clip.save(self.target)
        print(f"{len(clip)} frames, {clip.seconds:.1f} s -> {self.target}")


@dataclasses.dataclass(frozen=True)
class ConvertCommand:
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
        self.what.run()


Command = (
    Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Caption, tyro.conf.subcommand("caption")]
    | Annotated[Render, tyro.conf.subcommand("render")]
    | Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[ConvertCommand, tyro.conf.subcommand("convert")]
)


def main() -> None:
    """Entry point. Exit code 0, or 2 for a user's mistake, told in one line."""
    command = tyro.cli(Command, prog="llamo", description="Text and human motion in one pretrained LLM.")  # type: ignore[call-overload]
    run_reporting_mistakes(command.run, debug=command.debug)


def _load(path_or_id: str):
    import llamo_jax

    return llamo_jax.load(path_or_id)


def _require_suffix(path: Path, suffixes: tuple[str, ...] = (".mp4", ".gif", ".png", ".bvh", ".npz", ".npy")) -> None:
    # Said before the work, not after it.
    if path.suffix not in suffixes:
        raise InputError(f'{path}: suffix "{path.suffix}" is no output format; expected one of {" ".join(suffixes)}')


def _report(text: str, figures: object, json_path: Path | None) -> None:
    print(text)
    if json_path is not None:
        write_json(json_path, figures)
        print(f"figures -> {json_path}")


def _describe_bundle(path: Path) -> dict[str, object]:
    from llamo_jax.convert.bundle import describe

    return describe(path)


def _compact(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_compact(item)}" for name, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
