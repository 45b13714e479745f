"""Sentences for the procedural corpus: a small grammar of correct English, and its inverse."""

import re

# Action -> (does, doing). {h} is the named hand or hands, {s} a side. One verb each: with few wordings a tiny LLM is
# soon at home in them.
_VERBS = {
    "walk": ("walks forward", "walking forward"),
    "walk_turn": ("walks in a curve to the {s}", "walking in a curve to the {s}"),
    "walk_backward": ("walks backward", "walking backward"),
    "sidestep": ("steps sideways to the {s}", "stepping sideways to the {s}"),
    "run": ("runs forward", "running forward"),
    "turn": ("turns around to the {s}", "turning around to the {s}"),
    "jump": ("jumps", "jumping"),
    "wave": ("waves {h}", "waving {h}"),
    "raise": ("raises {h}", "raising {h}"),
    "kick": ("kicks with the {s} leg", "kicking with the {s} leg"),
    "squat": ("squats", "squatting"),
    "bow": ("bows", "bowing"),
    "sit": ("sits down", "sitting down"),
    "stand": ("stands still", "standing still"),
}
_HANDS = {"left": "the left hand", "right": "the right hand", "both": "both hands"}
_SUBJECTS = ("a person", "someone", "the person")
_SPEEDS = {"slow": "slowly", "normal": "", "fast": "quickly"}
_COUNTS = {1: "", 2: "twice", 3: "three times"}

# What a caption is recognised by; the first that is found counts.
_SIGNS = (
    ("walk_backward", r"\b(walk|step)\w* backward"), ("sidestep", r"\bsidestep|\bsideways"), ("walk", r"\bwalk"),
    ("turn", r"\bturn"),
    ("run", r"\brun"), ("jump", r"\bjump"), ("wave", r"\bwav"), ("raise", r"\brais|\blift"), ("kick", r"\bkick"),
    ("squat", r"\bsquat"),
    ("bow", r"\bbow"), ("sit", r"\bsit|\bseat"), ("stand", r"\bstand"),
)  # fmt: skip


def captions_of(action: str, side: str, speed: str, count: int) -> list[str]:
    """Every sentence for one action."""
    (does, doing), manner, times = _phrase(action, side), _SPEEDS[speed], _COUNTS[count]
    ending = f"{times}, {manner}" if times and manner else times or manner
    sentences = []
    for subject in _SUBJECTS:
        sentences += [_sentence(subject, does, ending), _sentence(subject, "is", doing, ending)]
        if manner:
            sentences += [_sentence(subject, manner, does, times), _sentence(f"{manner},", subject, does, times)]
    return sentences


def sequence_captions(first: tuple[str, str], second: tuple[str, str]) -> list[str]:
    """Sentences for two actions, each (action, side), one after the other."""
    (does, _), (does_next, _) = _phrase(*first), _phrase(*second)
    sentences = []
    for subject in _SUBJECTS:
        sentences += [
            _sentence(subject, does, "and then", does_next),
            _sentence(subject, "first", does, "and then", does_next),
            _sentence(subject, f"{does},", "then", does_next),
        ]
    return sentences


def caption_facts(caption: str) -> dict[str, str]:
    """What a caption says, as the labels of its clip (`Spec.labels`) have it.

    {"action", "side", "speed", "count"}; {"sequence", "sides"} for two actions; an empty dict for a caption that names
    no action.
    """
    text = caption.lower()
    parts = re.split(r"\band then\b|, then\b|\bbefore\b", text, maxsplit=1)
    actions = [_action(part) for part in parts]
    if None in actions:
        return {}
    if len(parts) == 2:
        return {"sequence": "+".join(actions), "sides": "+".join(map(_side, parts))}
    speed = (
        "slow"
        if re.search(r"\bslowly\b", text)
        else "fast"
        if re.search(r"\bquickly\b|\brapidly\b", text)
        else "normal"
    )
    count = "2" if re.search(r"\btwice\b|\btwo times\b", text) else "3" if re.search(r"\bthree times\b", text) else "1"
    return {"action": actions[0], "side": _side(text), "speed": speed, "count": count}


def _action(text: str) -> str | None:
    return next((action for action, sign in _SIGNS if re.search(sign, text)), None)


def _side(text: str) -> str:
    return next((side for side in ("both", "left", "right") if re.search(rf"\b{side}\b", text)), "none")


def _phrase(action: str, side: str) -> tuple[str, str]:
    verbs = _VERBS["walk_turn" if action == "walk" and side != "none" else action]
    does, doing = (form.format(h=_HANDS.get(side, ""), s=side) for form in verbs)
    return does, doing


def _sentence(*parts: str) -> str:
    return " ".join(part for part in parts if part) + "."
