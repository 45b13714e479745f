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

_BOTH = r"(both|two)( of)?( the| his| her| their| your| my)? (hands|arms)"


def _hands() -> dict[str, str]:
    """Pattern of the words that name a hand, by the end of a content's name."""
    return {"left-hand": r"left (hand|arm)", "right-hand": r"right (hand|arm)", "both-hands": _BOTH}


_CONTENT_WORDS: tuple[tuple[str, str], ...] = (
    ("slash", r"(swords?|blades?|slash\w*)"),
    ("kick", r"(kick\w*|(hit|hits|hitting|strik\w+)( \w+){0,3} foot)"),
    ("punch", r"(punch\w*|fists?)"),
    ("dance", r"danc(e|es|ing)"),
    ("respond", r"(answer\w*|repl(y|ies|ying)|respond\w*)"),
    (
        "guide",
        r"((show|point|lead|tell|help)(s|ing)?( \w+){0,3} (the way|where to go)|guid(e|es|ing)|escort\w*|accompan\w+|"
        r"(lead|welcom|motion)(e|s|es|ing)?( \w+){0,2} in)",
    ),
    (
        "bow",
        r"(bow|bows|bowing|(bend|lean|fold|tip)(s|ing|ping)? (forward|over|at)|"
        r"(lower|dip)(s|ing|ping)? \w+ (head|upper body))",
    ),
    ("call", r"(call|calls|calling|beckon\w*|to come (over|closer))"),
    *(
        (
            f"wave-{end}",
            rf"((wav(e|es|ing)|(say|signal)(s|ing)? (hello|goodbye|hi))( \w+)* {hand}|"
            rf"mov(e|es|ing)( \w+)? {hand} (back and forth|from side to side))",
        )
        for end, hand in _hands().items()
    ),
    *(
        (
            f"raise-up-{end}",
            rf"((rais|mov)(e|es|ing)|put(s|ting)?|(lift|hold|bring|push|pull|throw|shoot|point|extend)(s|es|ing)?)"
            rf"( \w+)* {hand}",
        )
        for end, hand in _hands().items()
    ),
    (
        "run",
        r"(run|runs|running|(rac|hurtl|chas)(e|es|ing)|(rush|dash)(es|ing)?|hurr(y|ies|ying)|(speed|zoom)(s|ing)?)",
    ),
    *(
        (
            f"walk-turn-{side}",
            rf"((turn|wheel|bend)(s|ing)?( off)?( to the)? {side}|{side} turn|"
            rf"(arc|course|off|rotat(e|es|ing)) to the {side})",
        )
        for side in ("left", "right")
    ),
    *(
        (
            f"walk-{side}",
            rf"((sideways|sidestep(s|ping)?|steps?|stepping|over|aside|glid(e|es|ing)|dodg(e|es|ing))( \w+)* {side}|"
            rf"{side} with sideways steps)",
        )
        for side in ("left", "right")
    ),
    ("walk-back", r"(back|backs|backing|backwards?|rear)"),
    ("walk", r"(walk|walks|walking|steps?|stepping|on foot|pac(e|es|ing)|tread(s|ing)?)"),
)
"""Content -> pattern of the words that name it. The first that is found is it: "walk" is in what says more, too."""

_STYLE_WORDS: dict[str, str] = {
    "normal": r"(normal|normally|ordinary|usual|usually)",
    "active": r"(active|actively|energy|energetic|energetically|lively|bouncy|brisk|briskly|zest|life)",
    "elderly": r"(old|elderly|senior|aged|age|retired)",
    "exhausted": (
        r"(tired|tiredly|exhausted|weary|wearily|worn out|asleep|slept|"
        r"sleepy|sleepily|dog tired|rest|last legs)"
    ),
    "feminine": r"(feminine|female|like a (woman|lady)|as a woman would|as women do|ladylike|ladies)",
    "masculine": r"(masculine|male|manly|like a man|as a man would|as men do|fellows?|chap)",
    "youthful": r"(young|youth|youthful|youthfully|youngsters?|grown up)",
    "happy": (
        r"(happy|happily|cheerful|cheerfully|joy|joyful|joyfully|good mood|"
        r"jolly|glad|gladly|overjoyed|smile|smiling|laughing|high spirits)"
    ),
    "sad": (
        r"(sad|sadly|sadness|unhappy|unhappily|tears|tearfully|cry|heavy heart|"
        r"sorrow|sorrowful|sorrowfully|lonely|dejected|crying|low spirits|lost a friend)"
    ),
    "angry": r"(angry|angrily|anger|annoyed|mad|tempered|temper|rage|enraged|irritated|cross|hostile|clenched teeth)",
    "proud": (
        r"(proud|proudly|pride|self assured|sure of (him|her|your|them)sel(f|ves)|chest out|"
        r"boastful|boastfully|conceited|self satisfied|vain|winner|won|nose)"
    ),
    "shy": (
        r"(shy|shyly|timid|timidly|nervous|nervously|confidence|unsure|"
        r"coy|coyly|meek|meekly|awkward|awkwardly|self conscious|scared|hide|blushing)"
    ),
    "childish": r"(child|children|childish|childishly|kid|kids|boy|infant|playful|playfully)",
    "musical": r"(music|musical|rhythm|rhythmic|rhythmically|song|headphones|humming|band|guitar)",
    "giant": r"(giant|giants|huge|as a house|enormous|gigantic|monster|towering|tons|shake)",
    "tough": r"(tough|rough|trouble|fight|threatening|threateningly|villain|outlaw|criminal|rowdy|rude|rudely|roughly)",
}
"""Style -> pattern of the words that name it."""

_WEAK_STYLE_WORDS = {"feminine": r"(woman|lady)", "masculine": r"man"}
"""Nouns that name a style only where nothing else does: an old man moves like the old."""


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
    """The content and the style that a sentence names, of `all_captions` or of ordinary English.

    Of several contents it is that which says most ("walks backwards", not "walks"). Without a word on the style it is
    normal. None stands for no content, or several styles.
    """
    text = " ".join(re.findall(r"[a-z]+", caption.lower()))
    content = next((content for content, words in _CONTENT_PATTERNS if words.search(text)), None)
    styles = [style for style, words in _STYLE_PATTERNS.items() if words.search(text)]
    styles = styles or [style for style, words in _WEAK_PATTERNS.items() if words.search(text)]
    style = "normal" if not styles else styles[0] if len(styles) == 1 else None
    return content, style


def _templates(style: str) -> tuple[str, ...]:
    return TEMPLATES + PLAIN_TEMPLATES if style == "normal" else TEMPLATES


def _pattern(words: str) -> re.Pattern:
    return re.compile(rf"\b{words}\b")


_CONTENT_PATTERNS = [(content, _pattern(words)) for content, words in _CONTENT_WORDS]
_STYLE_PATTERNS = {style: _pattern(words) for style, words in _STYLE_WORDS.items()}
_WEAK_PATTERNS = {style: _pattern(words) for style, words in _WEAK_STYLE_WORDS.items()}
