"""Ordinary English for the labels of the Bandai-Namco recordings: sentences that describe a motion, and sentences that
ask for one.

A sentence is a frame ("Could you show me {who} {doing}?") with a phrase of the content ("walk along") and one of the
style ("an old man", "wearily", "as if he hadn't slept for days") in it (`bandai_namco_phrases.py`).
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping

import numpy as np

from data_pipelines.builders.bandai_namco_phrases import ACTIONS, ACTS, MANNERS
from data_pipelines.order import stable_hash

_ANYONE = ("a person", "someone", "somebody", "the person", "a figure", "the figure", "a character", "the character")

DESCRIPTIONS = (
    "{who} {does}.",
    "{who} is {doing}.",
    "{who} {doing}.",
    "{anyone} {does} {how}.",
    "{anyone} is {doing} {how}.",
    "{someone} {doing} {how}.",
    "{someone} {adverb} {does}.",
    "{anyone} is {adverb} {doing}.",
    "{adverb}, {anyone} {does}.",
    "looking {looks}, {anyone} {does}.",
    "{anyone} is {doing} and looks {looks}.",
    "{someone} looks {looks} as {they} {they_do}.",
    "{anyone} {does}, and {they} {they_make} it {remark}.",
    "this is {who} {doing}.",
    "here is {who} {doing}.",
    "there is {who} {doing}.",
    "you see {who} {doing}.",
    "we see {anyone} {doing} {how}.",
    "you can see {someone} {doing} {how}.",
    "in this scene, {who} {does}.",
    "here, {anyone} is {doing} {how}.",
    "what you see is {who} {doing}.",
    "{who} can be seen {doing}.",
    "{act}.",
    "this is {act}.",
    "{whose}.",
)
"""What describes a motion. {who} is of the style, {anyone} and {someone} are not."""

REQUESTS = (
    "{do} {how}.",
    "{do} {how}.",
    "please {do} {how}.",
    "{do} {how}, please.",
    "can you {do} {how}?",
    "could you {do} {how}?",
    "would you {do} {how}, please?",
    "I want you to {do} {how}.",
    "try to {do} {how}.",
    "pretend to be {role} and {do}.",
    "act like {role} and {do}.",
    "imagine you are {role} and {do}.",
    "show me {who} {doing}.",
    "show me {someone} {doing} {how}.",
    "could you show me {who} {doing}?",
    "can you show me {someone} {doing} {how}?",
    "please show me {who} {doing}.",
    "I'd like to see {who} {do}.",
    "I want to see {someone} {do} {how}.",
    "I would love to see {who} {doing}.",
    "let me see {who} {do}.",
    "let's see {someone} {do} {how}.",
    "make {figure} {do} {how}.",
    "have {figure} {do} {how}.",
    "how does {who} {do}?",
    "how would {who} {do}?",
    "what does it look like when {who} {does}?",
    "{who} {doing}, please.",
    "animate {who} {doing}.",
    "an animation of {who} {doing}, please.",
    "I need {someone} {doing} {how}.",
    "show me {act}.",
    "give me {act}.",
)
"""What asks for a motion. Without a subject the asked one acts: "you", "your"."""

_FIGURES = ("the person", "the figure", "the character", "someone", "a person")
_SOMEONE = ("a person", "someone", "somebody", "a figure", "a character")

_PRONOUNS = {
    "he": {"they": "he", "their": "his", "them": "him", "themselves": "himself"},
    "she": {"they": "she", "their": "her", "them": "her", "themselves": "herself"},
    "they": {"they": "they", "their": "their", "them": "them", "themselves": "themselves"},
    "you": {"they": "you", "their": "your", "them": "you", "themselves": "yourself"},
}
_IRREGULAR = {"go": "goes", "do": "does", "reply": "replies", "hurry": "hurries", "accompany": "accompanies"}
_DOUBLED = ("run", "put", "hit", "cut", "step", "sidestep", "slip", "dip", "tip")


@dataclasses.dataclass(frozen=True)
class Slots:
    """What fills the slots of a frame."""

    frame: str
    action: str
    act: str
    who: str
    anyone: str
    how: str
    adverb: str
    looks: str
    adjective: str


def _third(verb: str) -> str:
    return _IRREGULAR.get(verb) or verb + ("es" if verb.endswith(("sh", "ch", "s", "x")) else "s")


def _ing(verb: str) -> str:
    if verb in _DOUBLED:
        return verb + verb[-1] + "ing"
    return (verb[:-1] if verb.endswith("e") and not verb.endswith("ee") else verb) + "ing"


def _verbs(action: str, form: str) -> str:
    forms = {"do": str, "does": _third, "doing": _ing}
    return re.sub(r"<(\w+)>", lambda match: forms[form](match[1]), action)


def _with_article(noun: str) -> str:
    return f"{'an' if noun.startswith(tuple('aeiou')) else 'a'} {noun}"


def _pronoun(subject: str) -> str:
    words = subject.split()
    if {"woman", "lady", "female"} & set(words):
        return "she"
    return "he" if {"man", "male", "fellow", "chap", "boy"} & set(words) else "they"


def _in_words(slots: Slots) -> str:
    frame = slots.frame
    if "{who}" in frame or "{whose}" in frame:
        pronoun = _pronoun(slots.who)
    elif re.search(r"{(anyone|someone|figure)}", frame):
        pronoun = "they"
    else:
        pronoun = "you"
    fillings = {
        **{form: _verbs(slots.action, form) for form in ("do", "does", "doing")},
        "they_do": _verbs(slots.action, "does" if pronoun in ("he", "she") else "do"),
        "they_make": "does" if pronoun in ("he", "she") else "do",
        "who": slots.who.replace("{their}", "their"),
        "role": slots.who.replace("{their}", "your"),
        "whose": f"{slots.who}'s {slots.act}",
        "act": _with_article(f"{slots.adjective} {slots.act}".strip()),
        "anyone": slots.anyone,
        "someone": slots.anyone,
        "figure": slots.anyone,
        "how": slots.how,
        "remark": slots.how,
        "adverb": slots.adverb,
        "looks": slots.looks,
        **_PRONOUNS[pronoun],
    }
    text = frame.format(**fillings).format(**_PRONOUNS[pronoun])
    return re.sub(r"\s+([.,?])", r"\1", text)


def _choices(frame: str, content: str, style: str) -> dict[str, tuple[str, ...]]:
    """Slot -> what it may hold in a frame; a slot that the frame lacks holds "" alone, and one without phrases none."""
    manner = MANNERS[style]
    normal = style == "normal"  # nobody asks anybody to act like a person, or remarks on nothing
    simple = tuple(who for who in manner.who if not re.search("some|with|as big", who))
    people = {
        "{who}": manner.who,
        "{role}": () if normal else manner.who,
        "{whose}": () if normal else simple,
    }
    anyone = {"{anyone}": _ANYONE, "{someone}": _SOMEONE, "{figure}": _FIGURES}
    how = {"{how}": manner.how, "{remark}": () if normal else manner.how}

    def of(slots: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        return next((phrases for slot, phrases in slots.items() if slot in frame), ("",))

    has_act = "{act}" in frame or "{whose}" in frame
    return {
        "action": ("",) if has_act else ACTIONS[content],
        "act": ACTS[content] if has_act else ("",),
        "who": of(people),
        "anyone": of(anyone),
        "how": of(how),
        "adverb": of({"{adverb}": manner.adverbs}),
        "looks": of({"{looks}": manner.looks}),
        "adjective": of({"{act}": manner.adjectives}),
    }


def sentences(frame: str, content: str, style: str) -> Iterator[str]:
    """Every sentence that a frame makes for a content and a style, in lower case as far as English allows."""
    choices = _choices(frame, content, style)
    for values in itertools.product(*choices.values()):
        yield _in_words(Slots(frame, **dict(zip(choices, values, strict=True))))


def english(
    content: str, style: str, name: str, captions: int = 6, requests: int = 4
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """So many descriptions and requests, each in another frame, drawn by the recording's name.

    Most descriptions are written with a capital and a full stop, and a good half of the requests, as people write.
    """
    rng = np.random.default_rng(stable_hash(name))
    return _drawn(DESCRIPTIONS, content, style, captions, 0.85, rng), _drawn(
        REQUESTS, content, style, requests, 0.6, rng
    )


def _drawn(
    frames: tuple[str, ...], content: str, style: str, count: int, neat: float, rng: np.random.Generator
) -> tuple[str, ...]:
    texts: dict[str, str] = {}
    for number in rng.permutation(len(frames)):
        choices = _choices(frames[number], content, style)
        if len(texts) < count and all(choices.values()):
            values = {slot: phrases[rng.integers(len(phrases))] for slot, phrases in choices.items()}
            sentence = _in_words(Slots(frames[number], **values))
            # Two frames may make the same sentence.
            texts.setdefault(sentence, _written(sentence, neat, rng))
    return tuple(texts.values())


def _written(text: str, neat: float, rng: np.random.Generator) -> str:
    if rng.random() < neat:
        return text[0].upper() + text[1:]
    return text.removesuffix(".") if rng.random() < 0.6 else text
