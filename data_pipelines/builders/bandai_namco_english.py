"""Ordinary English for the labels of the Bandai-Namco recordings: sentences that describe a motion, and sentences that
ask for one.

A sentence is a frame ("Could you show me {who} {doing}?") with a phrase of the content ("walk along") and one of the
style ("an old man", "wearily", "as if he hadn't slept for days") in it. What these phrases do not say is kept for
`bandai_namco_unseen.csv`: a word that is added here must not be one of those.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping

import numpy as np

from data_pipelines.order import stable_hash

_HANDS = {
    "left": ("the left hand", "{their} left hand", "{their} left arm"),
    "right": ("the right hand", "{their} right hand", "{their} right arm"),
    "both": ("both hands", "both arms", "both of {their} hands"),
}
_WAVES = (
    "<wave> {hand}",
    "<wave> with {hand}",
    "<wave> hello with {hand}",
    "<wave> goodbye with {hand}",
    "<say> hello with {hand}",
    "<say> goodbye with {hand}",
    "<give> a wave with {hand}",
    "<wave> to someone with {hand}",
    "<wave> at somebody with {hand}",
    "<wave> {hand} back and forth",
    "<say> hi with {hand}",
    "<signal> hello with {hand}",
    "<move> {hand} back and forth",
    "<move> {hand} from side to side",
)
_RAISES = (
    "<raise> {hand}",
    "<lift> {hand}",
    "<put> {hand} up",
    "<put> up {hand}",
    "<hold> up {hand}",
    "<hold> {hand} up",
    "<lift> {hand} up",
    "<raise> {hand} high",
    "<bring> {hand} up",
    "<move> {hand} up",
    "<push> {hand} up",
    "<pull> {hand} up",
    "<throw> {hand} up",
    "<shoot> {hand} up",
    "<point> {hand} up",
    "<extend> {hand} upwards",
)


def _with_hand(phrases: tuple[str, ...], side: str) -> tuple[str, ...]:
    return tuple(phrase.replace("{hand}", hand) for phrase in phrases for hand in _HANDS[side])


def _to_side(side: str) -> dict[str, tuple[str, ...]]:
    return {
        f"walk-{side}": (
            f"<walk> sideways to the {side}",
            f"<step> sideways to the {side}",
            f"<move> sideways to the {side}",
            f"<go> sideways to the {side}",
            f"<step> to the {side}",
            f"<sidestep> to the {side}",
            f"<take> a few steps to the {side}",
            f"<take> some sideways steps to the {side}",
            f"<go> {side} with sideways steps",
            f"<take> side steps to the {side}",
            f"<step> aside to the {side}",
            f"<slide> over to the {side}",
            f"<slide> sideways to the {side}",
            f"<slip> sideways to the {side}",
            f"<shift> over to the {side}",
            f"<move> over to the {side}",
            f"<drift> over to the {side}",
            f"<glide> to the {side}",
            f"<dodge> to the {side}",
        ),
        f"walk-turn-{side}": (
            f"<walk> and <turn> {side}",
            f"<walk> and <turn> to the {side}",
            f"<walk> forward and then <turn> {side}",
            f"<walk> ahead and <turn> to the {side}",
            f"<go> forward on foot and <turn> {side}",
            f"<turn> {side} while walking",
            f"<turn> to the {side} while walking",
            f"<take> a {side} turn while walking",
            f"<make> a {side} turn on foot",
            f"<make> a turn to the {side} while walking",
            f"<walk> on and <make> a {side} turn",
            f"<walk> round a bend to the {side}",
            f"<walk> and <bend> off to the {side}",
            f"<walk> in an arc to the {side}",
            f"<walk> on and <change> course to the {side}",
            f"<walk> and then <go> off to the {side}",
            f"<follow> a path that bends to the {side}",
            f"<walk> ahead and <rotate> to the {side}",
            f"<wheel> to the {side} while walking",
        ),
        f"wave-{side}-hand": _with_hand(_WAVES, side),
        f"raise-up-{side}-hand": _with_hand(_RAISES, side),
    }


ACTIONS: Mapping[str, tuple[str, ...]] = {
    "walk": (
        "<walk>",
        "<walk> forward",
        "<walk> along",
        "<walk> ahead",
        "<walk> straight ahead",
        "<walk> on",
        "<take> a walk",
        "<go> for a walk",
        "<step> forward",
        "<move> ahead on foot",
        "<go> forward on foot",
        "<take> a few steps forward",
        "<head> forward on foot",
        "<make> {their} way on foot",
        "<advance> step by step",
        "<travel> on foot",
        "<proceed> on foot",
        "<pace> along",
        "<pace> ahead",
        "<tread> along",
    ),
    "run": (
        "<run>",
        "<run> forward",
        "<run> along",
        "<run> ahead",
        "<run> straight ahead",
        "<go> for a run",
        "<race> ahead",
        "<race> along",
        "<rush> forward",
        "<rush> ahead",
        "<dash> forward",
        "<dash> ahead",
        "<move> forward at a run",
        "<break> into a run",
        "<hurry> ahead",
        "<hurry> along",
        "<speed> ahead",
        "<speed> along",
        "<zoom> ahead",
        "<hurtle> along",
        "<chase> after somebody",
    ),
    "walk-back": (
        "<walk> backwards",
        "<walk> backward",
        "<step> backwards",
        "<step> back",
        "<go> backwards",
        "<go> backwards on foot",
        "<move> back step by step",
        "<back> away",
        "<take> a few steps back",
        "<take> some steps backwards",
        "<go> back without turning around",
        "<walk> without turning around, backwards",
        "<move> to the rear",
        "<step> to the rear",
        "<draw> back",
        "<pull> back",
        "<fall> back",
        "<shrink> back",
        "<step> away backwards",
    ),
    **_to_side("left"),
    **_to_side("right"),
    "wave-both-hands": _with_hand(_WAVES, "both"),
    "raise-up-both-hands": _with_hand(_RAISES, "both"),
    "bow": (
        "<bow>",
        "<take> a bow",
        "<make> a bow",
        "<give> a bow",
        "<bow> down",
        "<bow> to someone",
        "<bow> {their} head",
        "<bow> from the waist",
        "<bend> forward from the waist",
        "<bend> forward to bow",
        "<lean> forward in a bow",
        "<take> a deep bow",
        "<bend> at the waist",
        "<bend> over politely",
        "<fold> forward at the hips",
        "<lower> {their} head",
        "<lower> {their} upper body",
        "<dip> {their} head",
        "<tip> forward from the hips",
    ),
    "guide": (
        "<show> the way",
        "<show> someone the way",
        "<show> a visitor the way",
        "<show> somebody where to go",
        "<show> a guest where to go",
        "<point> the way",
        "<point> out the way",
        "<point> out where to go",
        "<guide> someone",
        "<guide> a visitor",
        "<lead> the way",
        "<lead> a visitor in",
        "<tell> a visitor where to go",
        "<help> a guest find the way",
        "<escort> a guest",
        "<accompany> a visitor",
        "<welcome> a visitor in",
        "<motion> a guest in",
    ),
    "call": (
        "<call> someone over",
        "<call> somebody over",
        "<call> a friend over",
        "<call> somebody closer",
        "<beckon> someone over",
        "<beckon> to somebody",
        "<ask> someone to come over",
        "<ask> somebody to come closer",
        "<tell> someone to come over",
    ),
    "respond": (
        "<answer> a call",
        "<answer> someone's call",
        "<answer> someone",
        "<answer> when called",
        "<reply> to a call",
        "<reply> to somebody",
        "<reply> when called",
        "<respond> to a call",
        "<respond> to someone",
        "<give> an answer to a call",
    ),
    "punch": (
        "<punch>",
        "<punch> forward",
        "<punch> someone",
        "<throw> a punch",
        "<throw> punches",
        "<land> a punch",
        "<hit> out with a fist",
        "<hit> something with {their} fist",
        "<strike> with {their} fist",
    ),
    "kick": (
        "<kick>",
        "<kick> out",
        "<kick> forward",
        "<kick> something",
        "<kick> with one leg",
        "<give> a kick",
        "<throw> a kick",
        "<hit> something with {their} foot",
        "<strike> out with {their} foot",
    ),
    "slash": (
        "<swing> a sword",
        "<swing> {their} sword",
        "<swing> a blade",
        "<slash> with a sword",
        "<slash> with a blade",
        "<cut> with a sword",
        "<strike> with a sword",
        "<attack> with a sword",
        "<strike> a blow with a sword",
    ),
    "dance": (
        "<dance>",
        "<dance> around",
        "<dance> on the spot",
        "<dance> a little",
        "<dance> a few steps",
        "<do> a dance",
        "<do> some dancing",
        "<perform> a dance",
    ),
}
"""Content -> verb phrases; verbs that agree with the subject are in <>."""


def _acts_to_side(side: str) -> dict[str, tuple[str, ...]]:
    return {
        f"walk-{side}": (f"sideways walk to the {side}", f"step to the {side}"),
        f"walk-turn-{side}": (f"walk with a turn to the {side}", f"walk with a {side} turn"),
        f"wave-{side}-hand": (f"wave of the {side} hand", f"wave with the {side} arm"),
        f"raise-up-{side}-hand": (f"lift of the {side} hand", f"lift of the {side} arm"),
    }


ACTS: Mapping[str, tuple[str, ...]] = {
    "walk": ("walk", "walk forward"),
    "run": ("run", "run forward"),
    "walk-back": ("walk backwards", "step backwards"),
    **_acts_to_side("left"),
    **_acts_to_side("right"),
    "wave-both-hands": ("wave with both hands", "wave with both arms"),
    "raise-up-both-hands": ("lift of both hands", "lift of both arms"),
    "bow": ("bow", "bow from the waist"),
    "guide": ("gesture that shows the way", "gesture that points the way"),
    "call": ("gesture that calls someone over",),
    "respond": ("answer to a call", "reply to a call"),
    "punch": ("punch",),
    "kick": ("kick",),
    "slash": ("swing of a sword", "cut with a sword"),
    "dance": ("dance",),
}
"""Content -> noun phrases without an article."""

_ANYONE = ("a person", "someone", "somebody", "the person", "a figure", "the figure", "a character", "the character")


@dataclasses.dataclass(frozen=True)
class Manner:
    """How a style is put into words. A kind without a phrase is not used with it.

    Attributes:
      who: somebody of that style.
      how: adverbials at the end of a clause; "" says nothing.
      adverbs: words that go before the verb, too.
      looks: what the person looks.
      adjectives: of a motion ("a tired walk").
    """

    who: tuple[str, ...]
    how: tuple[str, ...]
    adverbs: tuple[str, ...] = ()
    looks: tuple[str, ...] = ()
    adjectives: tuple[str, ...] = ()


MANNERS: Mapping[str, Manner] = {
    "normal": Manner(
        who=(*("a person", "someone", "somebody") * 3, "a normal person", "an ordinary person"),
        how=(
            *("",) * 14,
            "as usual",
            "normally",
            "in the usual way",
            "in a normal way",
            "in an ordinary way",
            "as people usually do",
        ),
        adjectives=("", "", "", "", "normal", "ordinary"),
    ),
    "active": Manner(
        who=(
            "an active person",
            "an energetic person",
            "a lively person",
            "a very active person",
            "someone active",
            "someone energetic",
            "somebody full of energy",
            "somebody with a lot of energy",
            "a bouncy person",
            "a brisk person",
            "somebody full of life",
        ),
        how=(
            "actively",
            "energetically",
            "in an active way",
            "in a lively way",
            "full of energy",
            "with a lot of energy",
            "like an energetic person",
            "like somebody full of energy",
            "as if {they} had a lot of energy",
            "briskly",
            "with plenty of zest",
            "like somebody full of life",
        ),
        adverbs=(
            "actively",
            "energetically",
            "briskly",
        ),
        looks=(
            "active",
            "energetic",
            "lively",
            "full of energy",
            "bouncy",
            "full of life",
        ),
        adjectives=(
            "active",
            "energetic",
            "lively",
            "brisk",
            "bouncy",
        ),
    ),
    "elderly": Manner(
        who=(
            "an old man",
            "an old woman",
            "an old lady",
            "an old person",
            "a very old man",
            "an elderly man",
            "an elderly woman",
            "an elderly person",
            "someone old",
            "somebody who is very old",
            "a senior",
            "a senior citizen",
            "an aged person",
            "a retired person",
            "somebody of great age",
        ),
        how=(
            "like an old man",
            "like an old woman",
            "like an old person",
            "like an elderly person",
            "like somebody who is very old",
            "as if {they} were very old",
            "as if {they} were ninety years old",
            "as old people do",
            "with old bones",
            "like a senior citizen",
            "as if {they} had retired long ago",
            "as one does at a great age",
        ),
        looks=(
            "old",
            "very old",
            "elderly",
            "aged",
        ),
    ),
    "exhausted": Manner(
        who=(
            "a tired person",
            "a very tired person",
            "an exhausted person",
            "a weary person",
            "a worn-out person",
            "someone tired",
            "somebody who is very tired",
            "somebody who hasn't slept for days",
            "a sleepy person",
            "a dog-tired person",
            "somebody about to fall asleep",
            "somebody who needs a rest",
        ),
        how=(
            "tiredly",
            "wearily",
            "in a tired way",
            "like a tired person",
            "like someone who is worn out",
            "as if {they} hadn't slept for days",
            "as if {they} were very tired",
            "as if exhausted",
            "as if {they} were half asleep",
            "sleepily",
            "on {their} last legs",
            "as if {they} needed a rest",
        ),
        adverbs=(
            "tiredly",
            "wearily",
            "sleepily",
        ),
        looks=(
            "tired",
            "very tired",
            "exhausted",
            "weary",
            "worn out",
            "sleepy",
            "dog-tired",
        ),
        adjectives=(
            "tired",
            "weary",
            "exhausted",
            "sleepy",
        ),
    ),
    "feminine": Manner(
        who=(
            "a woman",
            "a lady",
            "one woman",
            "a feminine person",
            "a feminine figure",
            "a female figure",
            "a female character",
            "someone feminine",
            "a female person",
            "a ladylike person",
        ),
        how=(
            "like a woman",
            "like a lady",
            "in a feminine way",
            "in a feminine manner",
            "in a very feminine way",
            "as a woman would",
            "as women do",
            "as ladies do",
            "in a ladylike way",
        ),
        looks=(
            "feminine",
            "very feminine",
            "like a woman",
            "ladylike",
        ),
        adjectives=(
            "feminine",
            "very feminine",
            "ladylike",
        ),
    ),
    "masculine": Manner(
        who=(
            "a man",
            "one man",
            "a masculine person",
            "a masculine figure",
            "a male figure",
            "a male character",
            "someone masculine",
            "a male person",
            "a fellow",
            "a chap",
        ),
        how=(
            "like a man",
            "in a masculine way",
            "in a masculine manner",
            "in a manly way",
            "in a very masculine way",
            "as a man would",
            "as men do",
            "like a fellow",
            "as fellows do",
        ),
        looks=(
            "masculine",
            "very masculine",
            "manly",
            "like a man",
            "male",
        ),
        adjectives=(
            "masculine",
            "manly",
            "male",
        ),
    ),
    "youthful": Manner(
        who=(
            "a young person",
            "a very young person",
            "a young man",
            "a young woman",
            "a youthful person",
            "a youthful figure",
            "someone young",
            "somebody who is young",
            "a youngster",
            "a youth",
            "somebody barely grown up",
        ),
        how=(
            "youthfully",
            "in a youthful way",
            "in a youthful manner",
            "like a young person",
            "like someone young",
            "like somebody in {their} youth",
            "as if {they} were young",
            "as young people do",
            "like a youngster",
            "as youngsters do",
            "as if {they} were barely grown up",
        ),
        adverbs=("youthfully",),
        looks=(
            "young",
            "very young",
            "youthful",
        ),
        adjectives=("youthful", "very youthful"),
    ),
    "happy": Manner(
        who=(
            "a happy person",
            "a very happy person",
            "a cheerful person",
            "a joyful person",
            "someone happy",
            "someone cheerful",
            "somebody in a good mood",
            "somebody full of joy",
            "a jolly person",
            "a glad person",
            "an overjoyed person",
            "a smiling person",
            "someone in high spirits",
        ),
        how=(
            "happily",
            "cheerfully",
            "joyfully",
            "with joy",
            "full of joy",
            "in a happy way",
            "in a good mood",
            "like a happy person",
            "as if {they} were very happy",
            "gladly",
            "with a smile",
            "laughing",
            "in high spirits",
        ),
        adverbs=(
            "happily",
            "cheerfully",
            "joyfully",
            "gladly",
        ),
        looks=(
            "happy",
            "very happy",
            "cheerful",
            "joyful",
            "jolly",
            "glad",
            "overjoyed",
        ),
        adjectives=(
            "happy",
            "cheerful",
            "joyful",
            "jolly",
            "glad",
        ),
    ),
    "sad": Manner(
        who=(
            "a sad person",
            "a very sad person",
            "an unhappy person",
            "someone sad",
            "someone in tears",
            "somebody who is sad",
            "somebody close to tears",
            "somebody with a heavy heart",
            "a sorrowful person",
            "a lonely person",
            "a dejected person",
            "a crying person",
            "someone in low spirits",
        ),
        how=(
            "sadly",
            "unhappily",
            "in a sad way",
            "in tears",
            "full of sadness",
            "with a heavy heart",
            "like a sad person",
            "as if {they} were about to cry",
            "as if {they} were close to tears",
            "sorrowfully",
            "with sorrow",
            "crying",
            "in low spirits",
            "as if {they} had lost a friend",
        ),
        adverbs=(
            "sadly",
            "unhappily",
            "tearfully",
            "sorrowfully",
        ),
        looks=(
            "sad",
            "very sad",
            "unhappy",
            "close to tears",
            "sorrowful",
            "lonely",
            "dejected",
        ),
        adjectives=(
            "sad",
            "unhappy",
            "sorrowful",
            "dejected",
        ),
    ),
    "angry": Manner(
        who=(
            "an angry person",
            "a very angry person",
            "an annoyed person",
            "a bad-tempered person",
            "someone angry",
            "somebody who is angry",
            "somebody in a bad temper",
            "somebody full of anger",
            "an enraged person",
            "an irritated person",
            "a cross person",
            "a hostile person",
            "someone in a rage",
        ),
        how=(
            "angrily",
            "in anger",
            "full of anger",
            "in an angry way",
            "in a bad temper",
            "like an angry person",
            "as if {they} were very angry",
            "as if someone had made {them} angry",
            "as if {they} were mad at someone",
            "in a rage",
            "full of rage",
            "with clenched teeth",
            "like somebody in a rage",
        ),
        adverbs=("angrily",),
        looks=(
            "angry",
            "very angry",
            "annoyed",
            "mad",
            "enraged",
            "irritated",
            "cross",
            "hostile",
        ),
        adjectives=(
            "angry",
            "very angry",
            "bad-tempered",
            "cross",
            "hostile",
        ),
    ),
    "proud": Manner(
        who=(
            "a proud person",
            "a very proud person",
            "a self-assured person",
            "someone proud",
            "somebody who is proud",
            "somebody full of pride",
            "someone sure of themselves",
            "a boastful person",
            "a conceited person",
            "a self-satisfied person",
            "a vain person",
            "a winner",
        ),
        how=(
            "proudly",
            "with pride",
            "full of pride",
            "in a proud way",
            "with {their} chest out",
            "like a proud person",
            "like someone sure of themselves",
            "as if {they} were very proud of {themselves}",
            "boastfully",
            "like a winner",
            "as if {they} had won",
            "with {their} nose up",
        ),
        adverbs=(
            "proudly",
            "boastfully",
        ),
        looks=(
            "proud",
            "very proud",
            "sure of {themselves}",
            "self-assured",
            "boastful",
            "conceited",
            "self-satisfied",
        ),
        adjectives=(
            "proud",
            "very proud",
            "self-assured",
            "boastful",
            "self-satisfied",
        ),
    ),
    "shy": Manner(
        who=(
            "a shy person",
            "a very shy person",
            "a timid person",
            "a nervous person",
            "someone shy",
            "someone timid",
            "somebody who is shy",
            "somebody unsure of themselves",
            "a coy person",
            "a meek person",
            "an awkward person",
            "a self-conscious person",
            "a scared person",
            "somebody who would rather hide",
        ),
        how=(
            "shyly",
            "timidly",
            "nervously",
            "in a shy way",
            "without confidence",
            "with no confidence at all",
            "like a shy person",
            "like someone unsure of themselves",
            "as if {they} were very shy",
            "coyly",
            "meekly",
            "awkwardly",
            "blushing",
            "as if {they} would rather hide",
        ),
        adverbs=(
            "shyly",
            "timidly",
            "nervously",
            "coyly",
            "meekly",
            "awkwardly",
        ),
        looks=(
            "shy",
            "timid",
            "nervous",
            "unsure of {themselves}",
            "coy",
            "meek",
            "self-conscious",
            "scared",
        ),
        adjectives=(
            "shy",
            "timid",
            "nervous",
            "coy",
            "meek",
            "awkward",
        ),
    ),
    "childish": Manner(
        who=(
            "a child",
            "one child",
            "a little child",
            "a small child",
            "a kid",
            "a little kid",
            "a childish person",
            "a little boy",
            "a small boy",
            "an infant",
        ),
        how=(
            "childishly",
            "in a childish way",
            "like a child",
            "like a little child",
            "like a kid",
            "like a small child",
            "as a child would",
            "as if {they} were a child",
            "as children do",
            "playfully",
            "like a little boy",
            "like an infant",
        ),
        adverbs=(
            "childishly",
            "playfully",
        ),
        looks=(
            "childish",
            "like a child",
            "like a little kid",
            "like a little boy",
        ),
        adjectives=(
            "childish",
            "very childish",
            "playful",
        ),
    ),
    "musical": Manner(
        who=(
            "a musical person",
            "a very musical person",
            "someone musical",
            "somebody with rhythm",
            "someone who hears music",
            "someone who feels the music",
            "somebody with a song in {their} head",
            "someone with headphones on",
            "somebody humming a song",
        ),
        how=(
            "rhythmically",
            "with rhythm",
            "as if to music",
            "to music",
            "in a musical way",
            "in time with the music",
            "to the rhythm of a song",
            "as if {they} heard music",
            "as if a song were playing",
            "as if a band were playing",
            "to the sound of a guitar",
            "humming",
        ),
        adverbs=("rhythmically",),
        adjectives=("musical", "rhythmic"),
    ),
    "giant": Manner(
        who=(
            "a giant",
            "one giant",
            "a huge giant",
            "a huge person",
            "a huge figure",
            "someone huge",
            "somebody who is huge",
            "somebody as big as a house",
            "an enormous person",
            "a gigantic person",
            "a monster",
            "a huge monster",
            "a towering figure",
        ),
        how=(
            "like a giant",
            "like a huge person",
            "as a giant would",
            "as giants do",
            "as if {they} were a giant",
            "as if {they} were huge",
            "as if {they} were as big as a house",
            "as if {they} were as tall as a house",
            "like a monster",
            "as if {they} weighed ten tons",
            "as if {they} made the ground shake",
        ),
        looks=(
            "huge",
            "like a giant",
            "as big as a house",
            "enormous",
            "gigantic",
            "like a monster",
        ),
    ),
    "tough": Manner(
        who=(
            "a tough person",
            "a very tough person",
            "a rough person",
            "a tough character",
            "someone tough",
            "somebody who is tough",
            "somebody looking for trouble",
            "somebody looking for a fight",
            "a villain",
            "an outlaw",
            "a criminal",
            "a rowdy person",
            "a rude person",
        ),
        how=(
            "in a tough way",
            "in a rough way",
            "in a threatening way",
            "threateningly",
            "like a tough person",
            "like somebody looking for trouble",
            "like somebody who wants a fight",
            "as if looking for a fight",
            "as if {they} were very tough",
            "roughly",
            "rudely",
            "like a villain",
            "like an outlaw",
            "like a criminal",
        ),
        adverbs=(
            "threateningly",
            "roughly",
            "rudely",
        ),
        looks=(
            "tough",
            "very tough",
            "rough",
            "ready for a fight",
            "rowdy",
            "rude",
            "like a villain",
        ),
        adjectives=(
            "tough-looking",
            "threatening",
            "rowdy",
            "rude",
        ),
    ),
}

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
