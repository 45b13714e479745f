"""The CMU motion capture database as BVH, with captions from three sources.

captions.json maps the name of a recording to an object:

    {"02_03": {"file": "bvh/02_03.bvh",
               "captions": ["a person runs."],                 # sentences of the whole recording
               "kit_ml": ["Someone is jogging."],              # the same
               "cmu_index": "run/jog",                         # a phrase, which is made a sentence
               "cmu_subject": "2 (various expressions)",
               "humanml3d_test": [{"start20": 0, "end20": 99, "captions": [...]}]}}   # a window, at 20 frames/s
"""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

from data_pipelines.builders.bvh import Bvh, sentences
from data_pipelines.builders.takes import CaptionedWindow
from llamo_jax.errors import InputError
from llamo_jax.motion.axes import Axis

_CAPTION_FPS = 20  # HumanML3D counts frames at this rate

# The verbs of index phrases; what is not here is taken for a noun ("a forward jump").
_VERBS = frozenset((
    "walk", "run", "jog", "jump", "hop", "leap", "balance", "punch", "strike", "wash", "reach", "grab", "tiptoe",
    "start",
    "stop", "stride", "turn", "kick", "throw", "catch", "climb", "crawl", "dance", "sit", "stand", "bend", "lift",
    "push",
    "pull", "wave", "bow", "step", "skip", "spin", "twirl", "swing", "lean", "bring", "hang", "curl", "fold", "arch",
    "march",
    "sneak", "stretch", "squat", "roll",
))  # fmt: skip
_UNCOUNTED = frozenset(("swordplay", "acrobatics", "yoga", "tai chi", "ballet", "gymnastics"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cmu(Bvh):
    """The CMU recordings as BVH, with index phrases, KIT-ML sentences and HumanML3D test sentences.

    A window of a recording that has sentences of its own becomes a record too, in the split of its recording.
    """

    name: ClassVar[str] = "cmu"
    up: Axis | None = "y"
    licence: ClassVar[str] = "free for any use, no resale; acknowledge mocap.cs.cmu.edu, NSF EIA-0196217"

    def _windows(self, name: str, entry: dict[str, Any], where: Path) -> tuple[CaptionedWindow, ...]:
        whole = [*sentences(entry, "captions", name, where), *sentences(entry, "kit_ml", name, where)]
        if isinstance(phrase := entry.get("cmu_index"), str) and any(letter.isalnum() for letter in phrase):
            whole += sentences_of_phrase(phrase)
        labels = {"subject": str(entry["cmu_subject"]).partition(" (")[0]} if "cmu_subject" in entry else {}
        windows = [CaptionedWindow(name, tuple(dict.fromkeys(whole)), labels)] if whole else []
        parts = entry.get("humanml3d_test", [])
        for number, part in enumerate(parts if isinstance(parts, list) else []):
            try:
                start, stop = float(part["start20"]) / _CAPTION_FPS, float(part["end20"]) / _CAPTION_FPS
                if not 0 <= start <= stop < math.inf:
                    raise ValueError("no window")
            except (KeyError, TypeError, ValueError) as error:
                found = f'"{name}", humanml3d_test {number} is {part!r:.80}'
                expected = "expected an object with the numbers 0 <= start20 <= end20"
                raise InputError(f"{where}: {found}; {expected}") from error
            if texts := sentences(part, "captions", name, where):
                windows.append(CaptionedWindow(f"{name}/{part.get('id', number)}", tuple(texts), labels, start, stop))
        return tuple(windows)


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
