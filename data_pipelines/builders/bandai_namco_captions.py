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
    "walk": (("walks", "walking"), ("walks forward", "walking forward"), ("takes a walk", "taking a walk")),
    "run": (("runs", "running"), ("runs forward", "running forward"), ("runs ahead", "running ahead")),
    "walk-back": (("walks back", "walking back"), ("walks backwards", "walking backwards"), ("steps backwards", "stepping backwards")),
    **_for_side("left"),
    **_for_side("right"),
    "wave-both-hands": (("waves both hands", "waving both hands"), ("waves with both hands", "waving with both hands")),
    "raise-up-both-hands": (("raises both hands", "raising both hands"), ("lifts up both hands", "lifting up both hands")),
    "bow": (("bows", "bowing"), ("takes a bow", "taking a bow"), ("bows down", "bowing down")),
    "guide": (("shows the way", "showing the way"), ("points the way with a hand", "pointing the way with a hand")),
    "call": (("calls someone over", "calling someone over"), ("calls to a friend", "calling to a friend")),
    "respond": (("answers a call", "answering a call"), ("answers by raising a hand", "answering by raising a hand")),
    "punch": (("punches", "punching"), ("throws punches", "throwing punches")),
    "kick": (("kicks", "kicking"), ("kicks high", "kicking high")),
    "slash": (("slashes with a sword", "slashing with a sword"), ("swings a sword", "swinging a sword")),
    "dance": (("dances", "dancing"), ("does a dance", "doing a dance")),
}
"""Content -> what the person does, as (third person, -ing form)."""

STYLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "normal": ("normal", ("in a normal way", "normally", "as usual")),
    "active": ("active", ("in an active way", "actively", "with a lot of energy")),
    "elderly": ("old", ("like an old person", "the way old people do", "as if very old")),
    "exhausted": ("tired", ("in a tired way", "like a tired person", "as if very tired")),
    "feminine": ("feminine", ("in a feminine way", "like a woman", "the way a lady does")),
    "masculine": ("masculine", ("in a masculine way", "like a man", "the way a strong man does")),
    "youthful": ("young", ("like a young person", "the way young people do", "in a young way")),
    "happy": ("happy", ("in a happy way", "happily", "in a happy mood")),
    "sad": ("sad", ("in a sad way", "sadly", "in a sad mood")),
    "angry": ("angry", ("in an angry way", "angrily", "in an angry mood")),
    "proud": ("proud", ("in a proud way", "proudly", "full of pride")),
    "shy": ("shy", ("in a shy way", "shyly", "like a shy person")),
    "childish": ("childish", ("in a childish way", "like a child", "the way a child does")),
    "musical": ("musical", ("in a musical way", "as if to music", "like a musical person")),
    "giant": ("giant", ("like a giant", "the way a giant does", "as a giant would")),
    "tough": ("tough", ("in a tough way", "like a tough person", "the way a tough guy does")),
}
"""Style -> (adjective, manners)."""

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
    "normal": ("normal", "normally", "usual"), "active": ("active", "actively", "energy"), "elderly": ("old",), "exhausted": ("tired",),
    "feminine": ("feminine", "woman", "lady"), "masculine": ("masculine", "man"), "youthful": ("young",), "happy": ("happy", "happily"),
    "sad": ("sad", "sadly"), "angry": ("angry", "angrily"), "proud": ("proud", "proudly", "pride"), "shy": ("shy", "shyly"),
    "childish": ("childish", "child"), "musical": ("musical", "music"), "giant": ("giant",), "tough": ("tough",),
}  # fmt: skip


def all_captions(content: str, style: str) -> list[str]:
    """Every sentence there is for a content and a style."""
    adjective, manners = STYLES[style]
    sentences = [
        _fill(template, does, doing, manner, adjective)
        for template in _templates(style)
        for does, doing in CONTENTS[content]
        for manner in (manners if "{manner}" in template else manners[:1])
    ]
    return list(dict.fromkeys(sentences))


def captions(content: str, style: str, name: str, count: int = 5) -> tuple[str, ...]:
    """`count` of the sentences, in as many templates, chosen by the recording's name."""
    rng = np.random.default_rng(stable_hash(name))
    adjective, manners = STYLES[style]
    templates, phrases = _templates(style), CONTENTS[content]
    chosen = rng.choice(len(templates), count, replace=False)
    return tuple(
        _fill(templates[template], *phrases[rng.integers(len(phrases))], manners[rng.integers(len(manners))], adjective)
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


def _fill(template: str, does: str, doing: str, manner: str, adjective: str) -> str:
    article = "an" if adjective[0] in "aeiou" else "a"
    return template.format(does=does, doing=doing, manner=manner, subject=f"{article} {adjective} person")
