"""Builds motion shards: python -m data_pipelines.build synthetic|bandai_namco|bvh --out DIR [--source DIR] [options]."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from data_pipelines.builders.bandai_namco import build_bandai_namco
from data_pipelines.builders.bvh_folder import build_bvh_folder
from data_pipelines.shards import MotionShards
from llamo_jax.errors import run_reporting_mistakes
from llamo_jax.files import write_json


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """The procedural corpus: bodies that walk, run, jump, wave and more, with captions. Needs no data."""

    out: Path
    """Data folder to write."""
    num_clips: int = 2000
    """Clips to generate."""
    seed: int = 0
    """The same seed gives the same corpus."""
    json: Path | None = None
    """Write the manifest to this file too."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> MotionShards:
        from data_pipelines.builders.synthetic_builder import build_synthetic

        return build_synthetic(self.out, num_clips=self.num_clips, seed=self.seed)


@dataclasses.dataclass(frozen=True)
class BandaiNamco:
    """The Bandai-Namco-Research-Motiondataset 1 and 2."""

    source: Path
    """Folder that holds the extracted data set."""
    out: Path
    """Data folder to write."""
    min_takes: int = 5
    """Leave out contents and styles with fewer takes."""
    workers: int = 2
    """Processes."""
    json: Path | None = None
    """Write the manifest to this file too."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> MotionShards:
        return build_bandai_namco(self.source, self.out, min_takes=self.min_takes, workers=self.workers)


@dataclasses.dataclass(frozen=True)
class BvhFolder:
    """A folder of BVH files with a JSON of captions (the CMU set, or your own).

    captions.json maps the path of a recording, without .bvh, or its name alone where only one file has it, to its sentences:
    {"walks/walk_01": ["a person walks.", "someone goes for a walk."], ...}
    """

    source: Path
    """Folder of BVH files, at any depth."""
    out: Path
    """Data folder to write."""
    captions: Path | None = None
    """The captions file; SOURCE/captions.json by default."""
    workers: int = 2
    """Processes."""
    json: Path | None = None
    """Write the manifest to this file too."""
    debug: bool = False
    """Show the traceback of a mistake."""

    def run(self) -> MotionShards:
        return build_bvh_folder(self.source, self.out, captions=self.captions, workers=self.workers)


Command = (
    Annotated[Synthetic, tyro.conf.subcommand("synthetic")]
    | Annotated[BandaiNamco, tyro.conf.subcommand("bandai_namco")]
    | Annotated[BvhFolder, tyro.conf.subcommand("bvh")]
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit code 0, or 2 for a user's mistake, told in one line."""
    command = tyro.cli(Command, prog="python -m data_pipelines.build", description=__doc__, args=arguments)

    def run() -> None:
        shards = command.run()
        if command.json:
            write_json(command.json, shards.manifest)
        print(report(shards))

    run_reporting_mistakes(run, debug=command.debug)


def report(shards: MotionShards) -> str:
    """What was written and what was left out, in a few lines."""
    manifest = shards.manifest
    lines = [
        f"{split:<12}{count:>7} motions {manifest['hours'][split]:8.2f} h   frames {_lengths(manifest['lengths'][split])}"
        for split, count in manifest["records"].items()
    ]
    rejected = manifest.get("rejected", {})
    lines.append(f"left out    {sum(rejected.values()):>7}" + "".join(f"\n  {count} {reason}" for reason, count in rejected.items()))
    for reason, names in manifest.get("rejected_names", {}).items():
        lines += [f"    {reason}: {name}" for name in names[:5]]
    return "\n".join([*lines, f"-> {shards.path}"])


def _lengths(lengths: dict[str, int]) -> str:
    return f"{lengths['min']} to {lengths['max']}, median {lengths['median']}"


if __name__ == "__main__":
    main()
