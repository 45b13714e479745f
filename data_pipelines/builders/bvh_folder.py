"""A folder of BVH files of any known skeleton, with a JSON of captions.

captions.json maps the name of a recording to its sentences, or to an object as in the CMU set:

    {"01_05": ["a person walks.", ...],
     "02_03": {"file": "bvh/02_03.bvh",                        # else NAME.bvh, anywhere in the folder
               "captions": ["a person runs."],                 # sentences of the whole recording
               "kit_ml": ["Someone is jogging."],              # the same
               "cmu_index": "run/jog",                         # a phrase, which is made a sentence
               "humanml3d_test": [{"start20": 0, "end20": 99, "captions": [...]}]}}   # a part, in frames at 20 frames/s
"""

import math
from pathlib import Path
from typing import Any

from data_pipelines.builders.takes import Rejected, Rejections, Span, Take, build, split_by_hash
from data_pipelines.shards import MotionShards
from llamo_jax.errors import InputError
from llamo_jax.files import read_json

_SPAN_FPS = 20  # HumanML3D counts frames at this rate

# The verbs of index phrases; what is not here is taken for a noun ("a forward jump").
_VERBS = frozenset((
    "walk", "run", "jog", "jump", "hop", "leap", "balance", "punch", "strike", "wash", "reach", "grab", "tiptoe", "start",
    "stop", "stride", "turn", "kick", "throw", "catch", "climb", "crawl", "dance", "sit", "stand", "bend", "lift", "push",
    "pull", "wave", "bow", "step", "skip", "spin", "twirl", "swing", "lean", "bring", "hang", "curl", "fold", "arch", "march",
    "sneak", "stretch", "squat", "roll",
))  # fmt: skip
_UNCOUNTED = frozenset(("swordplay", "acrobatics", "yoga", "tai chi", "ballet", "gymnastics"))


def build_bvh_folder(source: str | Path, out: str | Path, *, captions: str | Path | None = None, workers: int = 2) -> MotionShards:
    """Builds the motion shards. 80 / 10 / 10 % of the recordings, by the hash of their names, train, validate and test.

    A part of a recording that has sentences of its own becomes a record too, in the split of its recording.

    Args:
      source: folder of BVH files, at any depth.
      out: data folder to write.
      captions: the captions file; `source`/captions.json by default.
      workers: processes.

    Raises:
      InputError: there are no BVH files, the captions cannot be read, or no recording can be used.
    """
    source = Path(source)
    rejections = Rejections()
    takes = find_takes(source, Path(captions) if captions else source / "captions.json", rejections)
    names = {"builder": "bvh", "source": str(source.resolve()), "licence": "that of the recordings"}
    return build(out, takes, rejections, **names, workers=workers)


def find_takes(source: Path, captions: Path, rejections: Rejections) -> list[Take]:
    """The recordings with their captions and splits, in the order of their names."""
    if not source.is_dir():
        raise InputError(f"{source}: no such folder; expected a folder of BVH files")
    files = sorted(source.rglob("*.bvh"))
    named: dict[str, list[Path]] = {}
    for path in files:
        named.setdefault(path.stem, []).append(path)
    if not files:
        raise InputError(f"{source}: no .bvh file in it; expected a folder of BVH files")
    entries = read_json(captions)
    if not isinstance(entries, dict):
        raise InputError(f'{captions}: holds a {type(entries).__name__}; expected an object, {{"clip": ["caption", ...]}}')
    takes, captioned = [], set()
    splits = split_by_hash(entries)
    for name, entry in sorted(entries.items()):
        spans = _spans(name, entry, captions)
        path = source / (entry["file"] if isinstance(entry, dict) and "file" in entry else f"{name}.bvh")
        same_name = named.get(Path(name).name, [])
        if not path.is_file() and len(same_name) == 1:
            path = same_name[0]
        captioned.add(path)
        if not path.is_file() and len(same_name) > 1:
            rejections.add(Rejected(name, "several files of that name", ", ".join(str(found) for found in same_name)))
        elif not path.is_file():
            rejections.add(Rejected(name, "captioned, but no file", str(path)))
        elif not spans:
            rejections.add(Rejected(name, "no caption"))
        else:
            takes.append(Take(path, splits[name], spans))
    for path in files:
        if path not in captioned:
            rejections.add(Rejected(path.stem, "no caption", f"not in {captions.name}"))
    if not takes:
        raise InputError(f"{source}: none of {len(files)} BVH files has a caption in {captions}")
    return takes


def sentences_of_phrase(phrase: str) -> tuple[str, ...]:
    """Sentences for an index phrase: "run/jog" becomes "a person runs or jogs." and two more wordings."""
    does = _predicate(" ".join(phrase.lower().split()))
    return tuple(f"{subject} {does}." for subject in ("a person", "someone", "the person"))


def _predicate(phrase: str) -> str:
    head, dash, rest = phrase.partition(" - ")
    if dash:
        return f"{_predicate(head)}: {rest.replace('/', ' or ')}"
    if "," not in phrase and len(words := phrase.split()) > 1 and all(word in _VERBS for word in words):
        return _enumerated([_third_person(word) for word in words])  # "start walk stop"
    clauses = [clause.strip() for clause in phrase.split(",") if clause.strip()]
    actions = [_action(clause) for clause in clauses if _is_action(clause)]
    things = [_thing(clause) for clause in clauses if not _is_action(clause)]
    if not actions:
        return f"does {_enumerated(things)}"
    return _enumerated(actions) + (f" with {_enumerated(things)}" if things else "")


def _is_action(clause: str) -> bool:
    return all(word in _VERBS for word in clause.partition(" ")[0].split("/"))


def _action(clause: str) -> str:
    first, _, rest = clause.partition(" ")
    verbs = " or ".join(_third_person(word) for word in first.split("/"))
    return f"{verbs} {_as_object(first, rest)}".strip()


def _thing(clause: str) -> str:
    noun = clause.replace("/", " or ")
    plural = clause.endswith("s") and not clause.endswith("ss")
    return noun if plural or clause in _UNCOUNTED else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _as_object(verb: str, rest: str) -> str:
    return {("wash", "self"): "himself", ("reach", "for"): "for something"}.get((verb, rest), rest.replace("/", " or "))


def _third_person(verb: str) -> str:
    return verb + ("es" if verb.endswith(("sh", "ch", "s", "x", "o")) else "s")


def _enumerated(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _spans(name: str, entry: Any, where: Path) -> tuple[Span, ...]:
    if isinstance(entry, list):
        entry = {"captions": entry}
    if not isinstance(entry, dict):
        raise InputError(f'{where}: "{name}" has {entry!r:.60}; expected a list of captions or an object')
    if not isinstance(entry.get("file", ""), str):
        raise InputError(f'{where}: "{name}" has {entry["file"]!r:.60} as file; expected a path')
    whole = [*_texts(entry, "captions", name, where), *_texts(entry, "kit_ml", name, where)]
    if isinstance(phrase := entry.get("cmu_index"), str) and any(letter.isalnum() for letter in phrase):
        whole += sentences_of_phrase(phrase)
    labels = {"subject": str(entry["cmu_subject"]).partition(" (")[0]} if "cmu_subject" in entry else {}
    spans = [Span(name, tuple(dict.fromkeys(whole)), labels)] if whole else []
    parts = entry.get("humanml3d_test", [])
    for number, part in enumerate(parts if isinstance(parts, list) else []):
        try:
            start, stop = float(part["start20"]) / _SPAN_FPS, float(part["end20"]) / _SPAN_FPS
            if not 0 <= start <= stop < math.inf:
                raise ValueError("no span")
        except (KeyError, TypeError, ValueError) as error:
            found = f'"{name}", humanml3d_test {number} is {part!r:.80}'
            raise InputError(f"{where}: {found}; expected an object with the numbers 0 <= start20 <= end20") from error
        texts = _texts(part, "captions", name, where)
        if texts:
            spans.append(Span(f"{name}/{part.get('id', number)}", tuple(texts), labels, start, stop))
    return tuple(spans)


def _texts(entry: dict[str, Any], key: str, name: str, where: Path) -> list[str]:
    texts = entry.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f'{where}: "{name}" has {texts!r:.60} as {key}; expected a list of sentences')
    return [_sentence(text) for text in texts if text.strip(" .")]


def _sentence(text: str) -> str:
    """White space tidied, small first letter, one mark at the end: one form for all sources."""
    text = " ".join(text.split()).rstrip(" .")
    return text[0].lower() + text[1:] + ("" if text[-1] in "!?" else ".")
