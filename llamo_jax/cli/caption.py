"""`llamo caption`."""

import csv
import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

import llamo_jax
from llamo_jax.cli.motions import failure, find_sources, is_several, load_noted, options_of, told
from llamo_jax.commands import Reporting
from llamo_jax.errors import InputError
from llamo_jax.files import atomic_path, write_json
from llamo_jax.motion import MotionClip
from llamo_jax.motion.formats import require_suffix
from llamo_jax.motion.read import ReadOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption(Reporting):
    """Describe motion files in words: one file, or folders and patterns of them."""

    bundle: tyro.conf.Positional[str]
    """Folder of the model, or its id on the Hugging Face Hub."""
    motions: tyro.conf.Positional[tuple[Path, ...]]
    """Files, folders at any depth, and patterns ("takes/*.bvh"): .bvh of any skeleton whose joints can be found, .npz
    of this project or of AMASS, .npy."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("-o",))] = None
    """Write the captions to this file: .csv (file, caption, error) or .json."""
    reading: tyro.conf.OmitArgPrefixes[ReadOptions] = dataclasses.field(default_factory=ReadOptions)

    def run(self) -> None:
        if not self.motions:
            raise InputError("no motion file is named; expected files, folders or patterns")
        if self.output is not None:
            require_suffix(self.output, (".csv", ".json"))
        sources = find_sources(self.motions)
        model = llamo_jax.load(self.bundle)
        if not is_several(self.motions) and self.output is None:
            caption = model.caption(MotionClip.load(sources[0].path, self.reading))
            self.report(caption, {"motion": str(sources[0].path), "caption": caption})
            return
        options = options_of(sources, self.reading)
        rows: list[dict[str, str]] = []
        try:
            for source in tqdm(sources, desc="caption", unit="file", delay=1):
                row = {"file": str(source.path), "caption": "", "error": ""}
                try:
                    clip, notes = load_noted(source.path, options[source.path.parent])
                    row["caption"] = model.caption(clip)
                    row["notes"] = "; ".join(note.removeprefix(f"{source.path}: ") for note in notes)
                except InputError as error:
                    row["error"] = failure(source.path, error)
                rows.append({"notes": ""} | row)
        finally:  # what was described before an end that nobody planned is kept
            if self.output is not None:
                _write(self.output, rows)
        failures = [row["error"] for row in rows if row["error"]]
        if self.output is None:
            print("\n".join(f"{row['file']}: {row['caption']}" for row in rows if not row["error"]))
        done = f"{len(rows) - len(failures)} captions" + (f" -> {self.output}" if self.output else "")
        self.report(done, rows)
        told(failures, len(rows) - len(failures))


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    if path.suffix.lower() == ".json":
        write_json(path, rows)
        return
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("file", "caption", "error", "notes"))
        writer.writeheader()
        writer.writerows(rows)
