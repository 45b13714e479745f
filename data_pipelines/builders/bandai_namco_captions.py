"""Sentences for the labels of the Bandai-Namco recordings, and labels back from sentences.

Words are plain, so that a small LLM knows them.
"""

import re

import numpy as np

from data_pipelines.sampling import stable_hash


def _for_side(side: str) -> dict[str, tuple[tuple[str, str], ...]]:
    return {
        f"walk-{side}": (
            (f"walks sideways to the {side}", f"walking sideways to the {side}"),
            (f"side steps to the {side}", f"side stepping to the {side}"),
        ),
        f"walk-turn-{side}": (
            (f"walks and turns {side}", f"walking and turning {side}"),
            (f"walks and then turns to the {side}", f"walking and then turning to the {side}"),
        ),
        f"wave-{side}-hand": (
            (f"waves the {side} hand", f"waving the {side} hand"),
            (f"waves with the {side} hand", f"waving with the {side} hand"),
        ),
        f"raise-up-{side}-hand": (
            (f"raises the {side} hand", f"raising the {side} hand"),
            (f"lifts up the {side} hand", f"lifting up the {side} hand"),
        ),
    }


CONTENTS: dict[str, tuple[tuple[str, str], ...]] = {
    "walk": (("walks", "walking"), ("walks forward", "walking forward")),
    "run": (("runs", "running"), ("runs forward", "running forward")),
    "walk-back": (("walks back", "walking back"), ("walks backwards", "walking backwards")),
    **_for_side("left"),
    **_for_side("right"),
    "wave-both-hands": (("waves both hands", "waving both hands"), ("waves with both hands", "waving with both hands")),
    "raise-up-both-hands": (("raises both hands", "raising both hands"), ("lifts up both hands", "lifting up both hands")),
    "bow": (("bows", "bowing"), ("takes a bow", "taking a bow")),
    "guide": (("shows the way", "showing the way"), ("points the way with a hand", "pointing the way with a hand")),
    "call": (("calls someone over", "calling someone over"), ("calls to a friend", "calling to a friend")),
    "respond": (("answers a call", "answering a call"), ("answers by raising a hand", "answering by raising a hand")),
    "punch": (("punches", "punching"), ("throws punches", "throwing punches")),
    "kick": (("kicks", "kicking"), ("kicks high", "kicking high")),
    "slash": (("slashes with a sword", "slashing with a sword"), ("swings a sword", "swinging a sword")),
    "dance": (("dances", "dancing"), ("does a dance", "doing a dance")),
}
"""Content -> what the person does, as (third person, -ing form)."""

STYLES: dict[str, tuple[str, str]] = {
    "normal": ("normal", "as usual"),
    "active": ("active", "in an active way"),
    "elderly": ("old", "like an old person"),
    "exhausted": ("tired", "like a tired person"),
    "feminine": ("feminine", "like a woman"),
    "masculine": ("masculine", "like a man"),
    "youthful": ("young", "like a young person"),
    "happy": ("happy", "in a happy way"),
    "sad": ("sad", "in a sad way"),
    "angry": ("angry", "in an angry way"),
    "proud": ("proud", "in a proud way"),
    "shy": ("shy", "in a shy way"),
    "childish": ("childish", "like a child"),
    "musical": ("musical", "as if to music"),
    "giant": ("giant", "like a giant"),
    "tough": ("tough", "like a tough person"),
}
"""Style -> (adjective, manner)."""

TEMPLATES = (
    "a person {does} {manner}.",
    "{subject} {does}.",
    "someone is {doing} {manner}.",
    "moving {manner}, a person {does}.",
    "this is {subject} {doing}.",
    "the person {does} {manner}.",
    "{subject} is {doing}.",
    "here someone {does} {manner}.",
    "you can see a person {doing} {manner}.",
    "we see {subject} {doing}.",
    "someone {does}, moving {manner}.",
    "there is {subject} {doing}.",
)

PLAIN_TEMPLATES = ("a person {does}.", "someone {does}.", "a person is {doing}.", "the person {does}.")
"""Of the normal style besides: what nobody remarks on is normal, and most people's prompts are like this."""

_STYLE_WORDS = {
    "normal": ("normal", "usual"), "active": ("active",), "elderly": ("old",), "exhausted": ("tired",),
    "feminine": ("feminine", "woman"), "masculine": ("masculine", "man"), "youthful": ("young",), "happy": ("happy",),
    "sad": ("sad",), "angry": ("angry",), "proud": ("proud",), "shy": ("shy",),
    "childish": ("childish", "child"), "musical": ("musical", "music"), "giant": ("giant",), "tough": ("tough",),
}  # fmt: skip


def all_captions(content: str, style: str) -> list[str]:
    """Every sentence there is for a content and a style."""
    return [_fill(template, *phrase, style) for template in _templates(style) for phrase in CONTENTS[content]]


def captions(content: str, style: str, name: str, count: int = 5) -> tuple[str, ...]:
    """`count` of the sentences, in as many templates, chosen by the recording's name."""
    rng = np.random.default_rng(stable_hash(name))
    templates, phrases = _templates(style), CONTENTS[content]
    chosen = rng.choice(len(templates), count, replace=False)
    return tuple(
        _fill(templates[template], *phrases[rng.integers(len(phrases))], style)
        for template in chosen
    )


def labels_of(caption: str) -> tuple[str | None, str | None]:
    """The content and the style that a sentence names.

    Of several contents it is that with the longest words ("walks backwards", not "walks"). Without a word on the style it is normal. None
    stands for no content, or several styles.
    """
    text = " ".join(re.findall(r"[a-z]+", caption.lower()))
    found = [(len(words), content) for content, phrases in CONTENTS.items() for pair in phrases for words in pair if _within(words, text)]
    styles = [style for style, words in _STYLE_WORDS.items() if any(_within(word, text) for word in words)]
    style = "normal" if not styles else styles[0] if len(styles) == 1 else None
    return max(found)[1] if found else None, style


def _templates(style: str) -> tuple[str, ...]:
    return TEMPLATES + PLAIN_TEMPLATES if style == "normal" else TEMPLATES


def _within(words: str, text: str) -> bool:
    return f" {words} " in f" {text} "


def _fill(template: str, does: str, doing: str, style: str) -> str:
    adjective, manner = STYLES[style]
    article = "an" if adjective[0] in "aeiou" else "a"
    return template.format(does=does, doing=doing, manner=manner, subject=f"{article} {adjective} person")
