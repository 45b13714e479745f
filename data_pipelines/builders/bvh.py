"""A folder of BVH files of any known skeleton, with captions as JSON or CSV.

captions.json maps the name of a recording to its sentences, or to an object:

    {"01_05": ["a person walks.", ...],
     "02_03": {"file": "bvh/02_03.bvh",                        # else NAME.bvh, anywhere in the folder
               "captions": ["a person runs."]}}

captions.csv has a row for each sentence, under the header name,caption.
"""

import csv
import dataclasses
import io
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

from data_pipelines.builders.dataset import Dataset
from data_pipelines.builders.takes import CaptionedWindow, Take, split_by_hash
from data_pipelines.filters import Rejected, Rejections
from llamo_jax.errors import InputError
from llamo_jax.files import find_files, read_json, read_text
from llamo_jax.motion.axes import Axis
from llamo_jax.motion.read import ReadOptions, settle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bvh(Dataset):
    """A folder of BVH files with captions as JSON or CSV.

    captions.json maps the path of a recording, or its name alone where only one file has it, with or without .bvh, to
    its sentences: {"walks/walk_01": ["a person walks.", "someone goes for a walk."], ...}. captions.csv has the columns
    name and caption, and a row for each sentence. 80 / 10 / 10 % of the recordings, by the hash of their names, train,
    validate and test.
    """

    name: ClassVar[str] = "bvh"
    licence: ClassVar[str] = "that of the recordings"
    keys: ClassVar[tuple[str, ...]] = ("file", "captions")
    """What an entry of the captions file may say."""

    source: Path
    """Folder of BVH files, at any depth."""
    captions: Path | None = None
    """The captions file, .json or .csv; captions.json or captions.csv in SOURCE by default."""
    skeleton: Path | None = None
    """JSON that names the joints, where they are not found: {"left_knee": "LeftLeg", ...}."""
    up: Axis | None = None
    """The axis of the files' world that points up; found by default."""
    fps: float | None = None
    """Frames a second, in place of what the files say."""
    person: int = 1
    """Which of several bodies in a file, counted from 1."""
    unit: str | None = None
    """The files' unit of length; found by default, the same for all files of a folder that share a skeleton."""

    def takes(self, rejections: Rejections) -> list[Take]:
        """The recordings with their captions and splits, in the order of their names."""
        if not self.source.is_dir():
            raise InputError(f"{self.source}: no such folder; expected a folder of BVH files")
        files = find_files(self.source, (".bvh",))
        if not files:
            raise InputError(f"{self.source}: no .bvh file in it; expected a folder of BVH files")
        placed: dict[str, list[Path]] = {}  # by their path in the folder, without .bvh
        named: dict[str, list[Path]] = {}
        for path in files:
            placed.setdefault(path.relative_to(self.source).with_suffix("").as_posix(), []).append(path)
            named.setdefault(path.stem, []).append(path)
        captions = self._captions_file()
        entries = read_entries(captions)
        folders: dict[Path, list[Path]] = {}
        for path in files:
            folders.setdefault(path.parent, []).append(path)
        reading = ReadOptions(skeleton=self.skeleton, up=self.up, unit=self.unit, fps=self.fps, person=self.person)
        readings = defaultdict(lambda: reading, {place: settle(paths, reading) for place, paths in folders.items()})
        takes, captioned = [], set()
        splits = split_by_hash(entries)
        for name, entry in sorted(entries.items()):
            entry = as_object(name, entry, captions)
            windows = self._windows(name, entry, captions)
            elsewhere = self.source / entry.get("file", f"{name}.bvh").replace("\\", "/")  # a file may be anywhere
            found = (
                placed.get(_plain(entry.get("file", name)))
                or ([elsewhere] if elsewhere.is_file() else [])
                or named.get(name.rpartition("/")[2], [])
            )
            path = found[0] if len(found) == 1 else elsewhere
            captioned.add(path)
            if len(found) > 1:
                rejections.add(Rejected(name, "several files of that name", ", ".join(map(str, found))))
            elif not found:
                rejections.add(Rejected(name, "captioned, but no file", str(path)))
            elif not windows:
                rejections.add(Rejected(name, "no caption"))
            else:
                takes.append(Take(path, splits[name], windows, readings[path.parent]))
        for path in files:
            if path not in captioned:
                rejections.add(Rejected(path.stem, "no caption", f"not in {captions.name}"))
        if not takes:
            raise InputError(f"{self.source}: none of {len(files)} BVH files has a caption in {captions}")
        return takes

    def _captions_file(self) -> Path:
        if self.captions:
            return self.captions
        files = [path for kind in ("json", "csv") if (path := self.source / f"captions.{kind}").is_file()]
        if len(files) > 1:
            raise InputError(f"{self.source}: has captions.json and captions.csv; say which one with --captions")
        return files[0] if files else self.source / "captions.json"

    def _windows(self, name: str, entry: dict[str, Any], where: Path) -> tuple[CaptionedWindow, ...]:
        """The windows of a recording that have captions."""
        if unknown := sorted(set(entry) - set(self.keys)):
            known = ", ".join(self.keys)
            hint = "; the CMU set has a builder of its own, `cmu`" if "cmu_index" in unknown else ""
            raise InputError(f'{where}: "{name}" has {", ".join(unknown)}; expected among {known}{hint}')
        captions = tuple(dict.fromkeys(sentences(entry, "captions", name, where)))
        return (CaptionedWindow(name, captions),) if captions else ()


def read_entries(path: Path) -> dict[str, Any]:
    """The entries of a captions file by the plain names of their recordings: without .bvh, with slashes.

    Raises:
      InputError: it is none, or two entries are of one recording.
    """
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    entries = read_json(path)
    if not isinstance(entries, dict):
        raise InputError(f'{path}: holds a {type(entries).__name__}; expected an object, {{"clip": ["caption", ...]}}')
    plain: dict[str, Any] = {}
    for name, entry in entries.items():
        if _plain(name) in plain:
            raise InputError(
                f'{path}: "{name}" is there twice, with and without .bvh; expected one entry of all captions'
            )
        plain[_plain(name)] = entry
    return plain


def _read_csv(path: Path) -> dict[str, list[str]]:
    text = read_text(path, "CSV file")
    header = text.partition("\n")[0]
    # Spreadsheets write the separator of their country.
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), restkey="")
    columns = {str(column).strip().lower(): column for column in rows.fieldnames or ()}
    of_name, of_text = (next((columns[name] for name in names if name in columns), None) for names in _COLUMNS)
    if of_name is None or of_text is None:
        expected = " and one of ".join(", ".join(names) for names in _COLUMNS)
        raise InputError(f"{path}: its header is {header.strip()!r:.60}; expected one of {expected}")
    entries: dict[str, list[str]] = {}
    try:
        for row in rows:
            if row.get("") or not (row[of_name] or "").strip():
                what = "more values than the header; put captions with commas in quotes" if row.get("") else "no name"
                raise InputError(f"{path}: line {rows.line_num} has {what}")
            entries.setdefault(_plain(row[of_name].strip()), []).append(row[of_text] or "")
    except csv.Error as error:
        raise InputError(f"{path}: line {rows.line_num} is no CSV ({error})") from error
    return entries


_COLUMNS = (("name", "file", "path", "filename"), ("caption", "captions", "text"))


def _plain(name: str) -> str:
    """The name of a recording, or its path, however a captions file writes it."""
    name = name.replace("\\", "/").removeprefix("./")
    return name[:-4] if name.lower().endswith(".bvh") else name


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
