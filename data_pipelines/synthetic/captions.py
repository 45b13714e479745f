"""Sentences for the procedural corpus: a small grammar of correct English, and its inverse."""

import re
from itertools import product

# Action -> pairs (does, doing). {h} is the named hand or hands, {s} a side.
_VERBS = {
    "walk": (("walks forward", "walking forward"), ("walks ahead", "walking ahead")),
    "walk_turn": (
        ("walks in a curve to the {s}", "walking in a curve to the {s}"),
        ("walks and turns to the {s}", "walking and turning to the {s}"),
    ),
    "walk_backward": (("walks backward", "walking backward"), ("steps backward", "stepping backward")),
    "sidestep": (
        ("sidesteps to the {s}", "sidestepping to the {s}"),
        ("steps sideways to the {s}", "stepping sideways to the {s}"),
    ),
    "run": (("runs forward", "running forward"), ("runs ahead", "running ahead")),
    "turn": (
        ("turns around to the {s}", "turning around to the {s}"),
        ("turns on the spot to the {s}", "turning on the spot to the {s}"),
    ),
    "jump": (("jumps", "jumping"), ("jumps up", "jumping up"), ("jumps in place", "jumping in place")),
    "wave": (("waves {h}", "waving {h}"), ("waves with {h}", "waving with {h}")),
    "raise": (("raises {h}", "raising {h}"), ("lifts {h} up high", "lifting {h} up high")),
    "kick": (("kicks with the {s} leg", "kicking with the {s} leg"), ("kicks with the {s} foot", "kicking with the {s} foot")),
    "squat": (("squats", "squatting"), ("squats down", "squatting down")),
    "bow": (("bows", "bowing"), ("bows down", "bowing down")),
    "sit": (("sits down", "sitting down"), ("takes a seat", "taking a seat")),
    "stand": (("stands still", "standing still"), ("stands and waits", "standing and waiting")),
}
_HANDS = {
    "left": ("the left hand", "the left arm"),
    "right": ("the right hand", "the right arm"),
    "both": ("both hands", "both arms"),
}
_SUBJECTS = ("a person", "someone", "the person", "a human")
_SPEEDS = {"slow": ("slowly",), "normal": ("",), "fast": ("quickly", "rapidly")}
_COUNTS = {1: ("",), 2: ("twice", "two times"), 3: ("three times",)}

# What a caption is recognised by; the first that is found counts.
_SIGNS = (
    ("walk_backward", r"\b(walk|step)\w* backward"), ("sidestep", r"\bsidestep|\bsideways"), ("walk", r"\bwalk"), ("turn", r"\bturn"),
    ("run", r"\brun"), ("jump", r"\bjump"), ("wave", r"\bwav"), ("raise", r"\brais|\blift"), ("kick", r"\bkick"), ("squat", r"\bsquat"),
    ("bow", r"\bbow"), ("sit", r"\bsit|\bseat"), ("stand", r"\bstand"),
)  # fmt: skip


def captions_of(action: str, side: str, speed: str, count: int) -> list[str]:
    """Every sentence for one action."""
    sentences = []
    for (does, doing), manner, times, subject in product(_phrases(action, side), _SPEEDS[speed], _COUNTS[count], _SUBJECTS):
        ending = f"{times}, {manner}" if times and manner else times or manner
        sentences += [
            _sentence(subject, does, ending),
            _sentence(subject, "is", doing, ending),
            _sentence(subject, manner, does, times),
            _sentence(f"{manner},", subject, does, times) if manner else "",
        ]
    return [sentence for sentence in dict.fromkeys(sentences) if sentence]


def sequence_captions(first: tuple[str, str], second: tuple[str, str]) -> list[str]:
    """Sentences for two actions, each (action, side), one after the other."""
    sentences = []
    for (does, _), (does_next, doing_next), subject in product(_phrases(*first), _phrases(*second), _SUBJECTS):
        sentences += [
            _sentence(subject, does, "and then", does_next),
            _sentence(subject, "first", does, "and then", does_next),
            _sentence(subject, f"{does},", "then", does_next),
            _sentence(subject, does, "before", doing_next),
        ]
    return list(dict.fromkeys(sentences))


def caption_facts(caption: str) -> dict[str, str]:
    """What a caption says, as the labels of its clip (`Spec.labels`) have it.

    {"action", "side", "speed", "count"}; {"sequence", "sides"} for two actions; an empty dict for a caption that names no action.
    """
    text = caption.lower()
    parts = re.split(r"\band then\b|, then\b|\bbefore\b", text, maxsplit=1)
    actions = [_action(part) for part in parts]
    if None in actions:
        return {}
    if len(parts) == 2:
        return {"sequence": "+".join(actions), "sides": "+".join(map(_side, parts))}
    speed = "slow" if re.search(r"\bslowly\b", text) else "fast" if re.search(r"\bquickly\b|\brapidly\b", text) else "normal"
    count = "2" if re.search(r"\btwice\b|\btwo times\b", text) else "3" if re.search(r"\bthree times\b", text) else "1"
    return {"action": actions[0], "side": _side(text), "speed": speed, "count": count}


def _action(text: str) -> str | None:
    return next((action for action, sign in _SIGNS if re.search(sign, text)), None)


def _side(text: str) -> str:
    return next((side for side in ("both", "left", "right") if re.search(rf"\b{side}\b", text)), "none")


def _phrases(action: str, side: str) -> list[tuple[str, str]]:
    verbs = _VERBS["walk_turn" if action == "walk" and side != "none" else action]
    hands = _HANDS.get(side, ("",)) if "{h}" in verbs[0][0] else ("",)
    return [tuple(form.format(h=hand, s=side) for form in pair) for pair, hand in product(verbs, hands)]


def _sentence(*parts: str) -> str:
    return " ".join(part for part in parts if part) + "."
