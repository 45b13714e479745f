"""Sentences for the labels of the Bandai-Namco recordings, and labels back from sentences.

Words are plain, so that a small LLM knows them.
"""

import re

import numpy as np

from data_pipelines.order import stable_hash


def _for_side(side: str) -> dict[str, tuple[str, str]]:
    return {
        f"walk-{side}": (f"walks sideways to the {side}", f"walking sideways to the {side}"),
        f"walk-turn-{side}": (f"walks and turns {side}", f"walking and turning {side}"),
        f"wave-{side}-hand": (f"waves the {side} hand", f"waving the {side} hand"),
        f"raise-up-{side}-hand": (f"raises the {side} hand", f"raising the {side} hand"),
    }


CONTENTS: dict[str, tuple[str, str]] = {
    "walk": ("walks", "walking"),
    "run": ("runs", "running"),
    "walk-back": ("walks backwards", "walking backwards"),
    **_for_side("left"),
    **_for_side("right"),
    "wave-both-hands": ("waves both hands", "waving both hands"),
    "raise-up-both-hands": ("raises both hands", "raising both hands"),
    "bow": ("bows", "bowing"),
    "guide": ("shows the way", "showing the way"),
    "call": ("calls someone over", "calling someone over"),
    "respond": ("answers a call", "answering a call"),
    "punch": ("punches", "punching"),
    "kick": ("kicks", "kicking"),
    "slash": ("swings a sword", "swinging a sword"),
    "dance": ("dances", "dancing"),
}
"""Content -> what the person does, as (third person, -ing form). One each: a very small LLM learns its wordings one by
one."""

STYLES: dict[str, tuple[str, str]] = {
    "normal": ("a normal person", "as usual"),
    "active": ("an active person", "in an active way"),
    "elderly": ("an old person", "like an old person"),
    "exhausted": ("a tired person", "like a tired person"),
    "feminine": ("a woman", "like a woman"),
    "masculine": ("a man", "like a man"),
    "youthful": ("a young person", "like a young person"),
    "happy": ("a happy person", "in a happy way"),
    "sad": ("a sad person", "in a sad way"),
    "angry": ("an angry person", "in an angry way"),
    "proud": ("a proud person", "in a proud way"),
    "shy": ("a shy person", "in a shy way"),
    "childish": ("a child", "like a child"),
    "musical": ("a musical person", "as if to music"),
    "giant": ("a giant", "like a giant"),
    "tough": ("a tough person", "like a tough person"),
}
"""Style -> (subject, manner)."""

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
    "feminine": ("woman",),
    "masculine": ("man",), "youthful": ("young",), "happy": ("happy",), "sad": ("sad",), "angry": ("angry",),
    "proud": ("proud",),
    "shy": ("shy",), "childish": ("child",), "musical": ("musical", "music"), "giant": ("giant",), "tough": ("tough",),
}  # fmt: skip


def all_captions(content: str, style: str) -> list[str]:
    """Every sentence there is for a content and a style."""
    does, doing = CONTENTS[content]
    subject, manner = STYLES[style]
    return [template.format(does=does, doing=doing, subject=subject, manner=manner) for template in _templates(style)]


def captions(content: str, style: str, name: str, count: int = 5) -> tuple[str, ...]:
    """`count` of the sentences, chosen by the recording's name."""
    rng = np.random.default_rng(stable_hash(name))
    sentences = all_captions(content, style)
    return tuple(sentences[index] for index in rng.choice(len(sentences), count, replace=False))


def labels_of(caption: str) -> tuple[str | None, str | None]:
    """The content and the style that a sentence names.

    Of several contents it is that with the longest words ("walks backwards", not "walks"). Without a word on the style
    it is normal. None stands for no content, or several styles.
    """
    text = " ".join(re.findall(r"[a-z]+", caption.lower()))
    found = [
        (len(words), content) for content, phrases in CONTENTS.items() for words in phrases if _within(words, text)
    ]
    styles = [style for style, words in _STYLE_WORDS.items() if any(_within(word, text) for word in words)]
    style = "normal" if not styles else styles[0] if len(styles) == 1 else None
    return max(found)[1] if found else None, style


def _templates(style: str) -> tuple[str, ...]:
    return TEMPLATES + PLAIN_TEMPLATES if style == "normal" else TEMPLATES


def _within(words: str, text: str) -> bool:
    return f" {words} " in f" {text} "
