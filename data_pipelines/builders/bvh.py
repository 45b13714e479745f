"""A folder of BVH files of any known skeleton, with a JSON of captions.

captions.json maps the name of a recording to its sentences, or to an object:

    {"01_05": ["a person walks.", ...],
     "02_03": {"file": "bvh/02_03.bvh",                        # else NAME.bvh, anywhere in the folder
               "captions": ["a person runs."]}}
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from data_pipelines.builders.dataset import Dataset
from data_pipelines.builders.takes import CaptionedWindow, Take, split_by_hash
from data_pipelines.filters import Rejected, Rejections
from llamo_jax.errors import InputError
from llamo_jax.files import read_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bvh(Dataset):
    """A folder of BVH files with a JSON of captions.

    captions.json maps the path of a recording, without .bvh, or its name alone where only one file has it, to its
    sentences: {"walks/walk_01": ["a person walks.", "someone goes for a walk."], ...}. 80 / 10 / 10 % of the
    recordings, by the hash of their names, train, validate and test.
    """

    name: ClassVar[str] = "bvh"
    licence: ClassVar[str] = "that of the recordings"
    keys: ClassVar[tuple[str, ...]] = ("file", "captions")
    """What an entry of the captions file may say."""

    source: Path
    """Folder of BVH files, at any depth."""
    captions: Path | None = None
    """The captions file; SOURCE/captions.json by default."""

    def takes(self, rejections: Rejections) -> list[Take]:
        """The recordings with their captions and splits, in the order of their names."""
        captions = self.captions or self.source / "captions.json"
        if not self.source.is_dir():
            raise InputError(f"{self.source}: no such folder; expected a folder of BVH files")
        files = sorted(self.source.rglob("*.bvh"))
        named: dict[str, list[Path]] = {}
        for path in files:
            named.setdefault(path.stem, []).append(path)
        if not files:
            raise InputError(f"{self.source}: no .bvh file in it; expected a folder of BVH files")
        entries = read_json(captions)
        if not isinstance(entries, dict):
            raise InputError(
                f'{captions}: holds a {type(entries).__name__}; expected an object, {{"clip": ["caption", ...]}}'
            )
        takes, captioned = [], set()
        splits = split_by_hash(entries)
        for name, entry in sorted(entries.items()):
            entry = as_object(name, entry, captions)
            windows = self._windows(name, entry, captions)
            path = self.source / (entry.get("file", f"{name}.bvh"))
            same_name = named.get(Path(name).name, [])
            if not path.is_file() and len(same_name) == 1:
                path = same_name[0]
            captioned.add(path)
            if not path.is_file() and len(same_name) > 1:
                rejections.add(
                    Rejected(name, "several files of that name", ", ".join(str(found) for found in same_name))
                )
            elif not path.is_file():
                rejections.add(Rejected(name, "captioned, but no file", str(path)))
            elif not windows:
                rejections.add(Rejected(name, "no caption"))
            else:
                takes.append(Take(path, splits[name], windows))
        for path in files:
            if path not in captioned:
                rejections.add(Rejected(path.stem, "no caption", f"not in {captions.name}"))
        if not takes:
            raise InputError(f"{self.source}: none of {len(files)} BVH files has a caption in {captions}")
        return takes

    def _windows(self, name: str, entry: dict[str, Any], where: Path) -> tuple[CaptionedWindow, ...]:
        """The windows of a recording that have captions."""
        if unknown := sorted(set(entry) - set(self.keys)):
            known = ", ".join(self.keys)
            hint = "; the CMU set has a builder of its own, `cmu`" if "cmu_index" in unknown else ""
            raise InputError(f'{where}: "{name}" has {", ".join(unknown)}; expected among {known}{hint}')
        captions = tuple(dict.fromkeys(sentences(entry, "captions", name, where)))
        return (CaptionedWindow(name, captions),) if captions else ()


def as_object(name: str, entry: Any, where: Path) -> dict[str, Any]:
    """An entry of a captions file; a list of sentences is an object of captions alone.

    Raises:
      InputError: it is neither.
    """
    if isinstance(entry, list):
        entry = {"captions": entry}
    if not isinstance(entry, dict):
        raise InputError(f'{where}: "{name}" has {entry!r:.60}; expected a list of captions or an object')
    if not isinstance(entry.get("file", ""), str):
        raise InputError(f'{where}: "{name}" has {entry["file"]!r:.60} as file; expected a path')
    return entry


def sentences(entry: dict[str, Any], key: str, name: str, where: Path) -> list[str]:
    """The sentences under a key, in one form.

    Raises:
      InputError: there is something else.
    """
    texts = entry.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f'{where}: "{name}" has {texts!r:.60} as {key}; expected a list of sentences')
    return [_sentence(text) for text in texts if text.strip(" .")]


def _sentence(text: str) -> str:
    """White space tidied, small first letter, one mark at the end: one form for all sources."""
    text = " ".join(text.split()).rstrip(" .")
    return text[0].lower() + text[1:] + ("" if text[-1] in "!?" else ".")
