"""The Bandai-Namco-Research-Motiondataset 1 and 2 (CC BY-NC 4.0), as published: BVH and a JSON of label numbers for
each take."""

import dataclasses
import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from data_pipelines.builders.bandai_namco_captions import CONTENTS, STYLES, captions, labels_of
from data_pipelines.builders.bandai_namco_english import english
from data_pipelines.builders.bandai_namco_unseen import unseen_wordings
from data_pipelines.builders.dataset import Dataset
from data_pipelines.builders.takes import CaptionedWindow, Take, split_stratified
from data_pipelines.filters import Filter, Rejected, Rejections
from data_pipelines.records import MotionRecord, Wording
from llamo_jax.errors import InputError
from llamo_jax.files import find_files, read_json, read_text
from llamo_jax.motion.read import ReadOptions
from llamo_jax.motion.representation import headings

# The two sets name some things differently. Seen in the recordings: "bye" waves the right hand and "byebye" both,
# "dash" is as fast as the run of set 2, and "walk-left" and "walk-right" go sideways.
_CONTENT = {
    "bye": "wave-right-hand",
    "byebye": "wave-both-hands",
    "dash": "run",
    "dance-long": "dance",
    "dance-short": "dance",
}
_STYLE = {
    "masculinity": "masculine",
    "old": "elderly",
    "tired": "exhausted",
    "not-confident": "shy",
    "chimpira": "tough",
}

_READING = ReadOptions(up="y", unit="centimetre")  # as its publication says

_TAKE = re.compile(r"(dataset-\d+)_.+_\d+")


def contradiction(record: MotionRecord) -> Rejected | None:
    """Turns to the other side than the label says, of which the data set has a few."""
    content = record.labels["content"]
    if content.startswith("walk-turn-"):
        turn = float(np.degrees(headings(record.features)[-1]))
        if (turn > 0) != content.endswith("left"):
            return Rejected(record.name, "turns the other way", f"by {turn:.0f} degrees, positive to the left")
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BandaiNamco(Dataset):
    """The Bandai-Namco-Research-Motiondataset 1 and 2.

    Takes are kept whole: median 4 s, 95 % under 9 s. Contents and styles of both sets are merged where they are the
    same; 85 / 5 / 10 % of the takes of each content train, validate and test.
    """

    name: ClassVar[str] = "bandai_namco"
    licence: ClassVar[str] = "CC BY-NC 4.0"
    labels: ClassVar[tuple[str, ...]] = ("content", "style")
    caption_labels: ClassVar[tuple[str, ...]] = labels
    filters: ClassVar[tuple[Filter, ...]] = (contradiction,)
    recipe: ClassVar[str] = "bandai_namco"

    source: Path
    """Folder that holds the extracted data set, at any depth."""
    min_takes: int = 5
    """Leave out contents and styles with fewer takes: too few to learn, and to hold any out."""
    captions: Literal["templates", "english"] = "templates"
    """templates: five captions a take, in few plain words that a very small LLM can learn. english: six captions and
    four requests ("Could you show me an old man walking?") in ordinary English of many wordings, for a pretrained
    LLM."""

    @staticmethod
    def facts(caption: str) -> Mapping[str, str | None]:
        """The content and the style that a caption names."""
        return dict(zip(("content", "style"), labels_of(caption), strict=True))

    @staticmethod
    def unseen() -> tuple[Wording, ...]:
        """Hand-written sentences in words that no training caption has."""
        return unseen_wordings()

    def takes(self, rejections: Rejections) -> list[Take]:
        """The takes with their captions, labels and splits, in the order of their names."""
        return find_takes(self.source, rejections, self.min_takes, self.captions)


def find_takes(
    source: Path, rejections: Rejections, min_takes: int, wording: Literal["templates", "english"] = "templates"
) -> list[Take]:
    """The takes with their captions, labels and splits, in the order of their names."""
    found = find_files(source, (".bvh", "_label.txt"))
    paths = sorted(
        (path for path in found if fnmatch.fnmatch(path.name.lower(), "dataset-*_*.bvh")), key=lambda path: path.name
    )
    if not paths:
        raise InputError(
            f"{source}: no file dataset-*_*.bvh in it; expected the extracted Bandai-Namco-Research-Motiondataset "
            f"(data/ and cfg/)"
        )
    names = {kind: _label_names(source, kind, found) for kind in ("content", "style")}
    labelled = {}
    for path in paths:
        labels = _labels(path, names)
        if isinstance(labels, Rejected):
            rejections.add(labels)
        else:
            labelled[path] = labels
    counts = {kind: Counter(labels[kind] for labels in labelled.values()) for kind in names}
    kept: dict[str, dict[Path, dict[str, str]]] = defaultdict(dict)
    for path, labels in labelled.items():
        rare = [
            f"{kind} {labels[kind]} has fewer than {min_takes} takes"
            for kind in names
            if counts[kind][labels[kind]] < min_takes
        ]
        if rare:
            rejections.add(Rejected(path.stem, rare[0]))
        else:
            kept[labels["content"]][path] = labels
    takes = []
    for labels_by_path in kept.values():
        splits = split_stratified(path.stem for path in labels_by_path)
        for path, labels in labels_by_path.items():
            of_take = (labels["content"], labels["style"], path.stem)
            sentences, requests = english(*of_take) if wording == "english" else (captions(*of_take), ())
            windows = (CaptionedWindow(path.stem, sentences, labels, requests=requests),)
            takes.append(Take(path, splits[path.stem], windows, _READING))
    if not takes:
        raise InputError(f"{source}: none of {len(paths)} takes can be used ({rejections.counts})")
    return sorted(takes, key=lambda take: take.path.name)


def _labels(path: Path, names: dict[str, dict[str, list[str]]]) -> dict[str, str] | Rejected:
    match = _TAKE.fullmatch(path.stem)
    if not match:
        return Rejected(path.stem, "file name", "expected dataset-N_content_style_number.bvh")
    try:
        numbers = read_json(path.with_suffix(".json"))
    except InputError as error:
        return Rejected(path.stem, "no labels", str(error))
    merged = {"content": (_CONTENT, CONTENTS), "style": (_STYLE, STYLES)}
    labels = {"dataset": match[1]}
    for kind, (renamed, known) in merged.items():
        table = names[kind].get(match[1], [])
        number = numbers.get(kind) if isinstance(numbers, dict) else None
        if not isinstance(number, int) or not 0 <= number < len(table):
            return Rejected(
                path.stem,
                "no labels",
                f"{kind} {number} is not a number of cfg/{kind}_label.txt, which has {len(table)}",
            )
        name = table[number].removeprefix(f"{match[1]}_")
        labels[kind] = renamed.get(name, name)
        if labels[kind] not in known:
            return Rejected(path.stem, f"unknown {kind}", name)
    return labels


def _label_names(source: Path, kind: str, found: list[Path]) -> dict[str, list[str]]:
    """Data set ("dataset-1") -> its labels by number."""
    names = {}
    for path in (path for path in found if path.name.lower() == f"{kind}_label.txt"):
        lines = read_text(path).split()
        if lines:
            names[lines[0].partition("_")[0]] = lines
    if not names:
        raise InputError(
            f"{source}: no cfg/{kind}_label.txt in it; expected the extracted Bandai-Namco-Research-Motiondataset"
        )
    return names
