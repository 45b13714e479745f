"""The sentences of the Bandai-Namco recordings in ordinary English, and those in words that training never has."""

import itertools
import random
import re
from collections import Counter

import pytest

from data_pipelines.builders.bandai_namco import BandaiNamco
from data_pipelines.builders.bandai_namco_captions import CONTENTS, STYLES, all_captions, labels_of
from data_pipelines.builders.bandai_namco_english import (
    DESCRIPTIONS,
    REQUESTS,
    Slots,
    _choices,
    _in_words,
    _verbs,
    english,
    sentences,
)
from data_pipelines.builders.bandai_namco_phrases import ACTIONS, ACTS, MANNERS
from data_pipelines.builders.bandai_namco_unseen import unseen_wordings

PAIRS = list(itertools.product(CONTENTS, STYLES))
LEARNT = set(CONTENTS) - {"call", "respond", "punch", "kick", "slash", "dance"}  # the others have under five takes
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an the of to for in on at with by from and or as if it is be being was were had you your my me us we i he "
        "his she her they their them one both two left right hand hands arm arms person someone somebody up over like "
        "not nothing after while still would all time that",
    )
)


@pytest.fixture(scope="module")
def drawn():
    """(content, style) -> [(captions, requests)] of three recordings."""
    return {pair: [english(*pair, f"{pair}{number}") for number in range(3)] for pair in PAIRS}


def stem(word):
    for suffix in ("ingly", "edly", "fully", "ing", "ed", "ies", "es", "s", "ly", "er", "y"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word.removesuffix(suffix)
            break
    word = word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
    return word.rstrip("ei") if len(word) > 3 else word


def stems(text):
    return {stem(word) for word in re.findall(r"[a-z]+", text.lower().replace("'s", "")) if word not in STOP_WORDS}


def pieces():
    """All that sentences of training are made of."""
    yield from DESCRIPTIONS + REQUESTS
    yield from itertools.chain.from_iterable(ACTS.values())
    for action in itertools.chain.from_iterable(ACTIONS.values()):
        yield from (_verbs(action, form) for form in ("do", "does", "doing"))
    for manner in MANNERS.values():
        yield from manner.who + manner.how + manner.adverbs + manner.looks + manner.adjectives
    yield from itertools.chain.from_iterable(all_captions(*pair) for pair in PAIRS)


class TestEnglish:
    def test_rich(self):
        assert set(ACTIONS) == set(CONTENTS) and set(MANNERS) == set(STYLES)
        assert all(len(set(phrases)) >= 8 for phrases in ACTIONS.values())
        assert all(len(set(manner.who)) + len(set(manner.how)) >= 11 for manner in MANNERS.values())

    def test_every_phrase_names_its_labels(self):
        """In every frame that it fits, among random others."""
        rng = random.Random(0)
        pairs = [(content, rng.choice(list(STYLES))) for content in CONTENTS]
        pairs += [(rng.choice(list(CONTENTS)), style) for style in STYLES]
        for (content, style), frame in itertools.product(pairs, DESCRIPTIONS + REQUESTS):
            choices = _choices(frame, content, style)
            if not all(choices.values()):
                continue
            for number in range(max(map(len, choices.values()))):
                values = {
                    slot: phrases[number] if number < len(phrases) else rng.choice(phrases)
                    for slot, phrases in choices.items()
                }
                sentence = _in_words(Slots(frame, **values))
                assert labels_of(sentence) == (content, style), sentence

    def test_what_is_drawn(self, drawn):
        for pair, recordings in drawn.items():
            for captions, requests in recordings:
                assert len({text.lower() for text in captions}) == 6 and len({text.lower() for text in requests}) == 4
                for text in captions + requests:
                    assert labels_of(text) == pair, text
                    assert not re.search(r"[{}<>]|  | [.,?]|\.\.|^\W|\ba [aeio]|\ban [^aeiou]", text), text

    def test_descriptions_ask_for_nothing(self, drawn):
        for captions, _ in itertools.chain.from_iterable(drawn.values()):
            for caption in captions:
                assert not re.search(
                    r"\b(please|your|could|can you (?!see)|let|show me|give me)\b|\?", caption.lower()
                ), caption

    def test_recordings_of_one_label_differ(self, drawn):
        texts = Counter(text for recordings in drawn.values() for drawn_of in recordings for text in sum(drawn_of, ()))
        assert len(texts) > 0.9 * texts.total()
        assert english("walk", "sad", "a") == english("walk", "sad", "a") != english("walk", "sad", "b")

    def test_people_write_in_more_than_one_way(self, drawn):
        requests = [text for recordings in drawn.values() for _, texts in recordings for text in texts]
        small = sum(text[0].islower() for text in requests) / len(requests)
        bare = sum(text[-1].isalpha() for text in requests) / len(requests)
        assert 0.3 < small < 0.5 and 0.1 < bare < 0.4

    def test_grammar(self):
        assert "an old woman raises her left hand." in sentences("{who} {does}.", "raise-up-left-hand", "elderly")
        assert "raise your left hand as if you hadn't slept for days." in sentences(
            "{do} {how}.", "raise-up-left-hand", "exhausted"
        )
        assert "someone looks sure of themselves as they walk ahead." in sentences(
            "{someone} looks {looks} as {they} {they_do}.", "walk", "proud"
        )
        assert "an unhappy bow from the waist." in sentences("{act}.", "bow", "sad")

    @pytest.mark.parametrize(
        ("caption", "labels"),
        [
            ("A young woman waves her right arm, and she does it joyfully", ("wave-right-hand", None)),
            ("a weary old man", (None, None)),
            ("a happy woman runs", ("run", "happy")),
            ("someone raises the way", (None, "normal")),
            ("She puts both of her arms up.", ("raise-up-both-hands", "normal")),
            ("the old lady steps slowly to the left", ("walk-left", "elderly")),
        ],
    )
    def test_recombinations(self, caption, labels):
        assert labels_of(caption) == labels
        assert BandaiNamco.facts(caption) == dict(zip(("content", "style"), labels, strict=True))


class TestUnseen:
    def test_labels(self):
        wordings = unseen_wordings()
        assert len({wording.text for wording in wordings}) == len(wordings) >= 260
        assert {wording.labels["content"] for wording in wordings} == set(CONTENTS)
        contents, styles = (Counter(wording.labels[name] for wording in wordings) for name in ("content", "style"))
        kinds = Counter(wording.kind for wording in wordings)
        assert min(contents[content] for content in LEARNT) >= 8 and min(contents.values()) >= 4
        assert min(styles[style] for style in STYLES) >= 8
        assert kinds["content"] >= 100 and kinds["style"] >= 80 and kinds["both"] >= 80
        for content in contents:
            assert abs(contents[content] - contents[content.replace("left", "right")]) <= 3

    def test_the_side_is_said(self):
        for wording in unseen_wordings():
            said = set(re.findall(r"left|right|both", wording.text.lower()))
            assert said == set(re.findall(r"left|right|both", wording.labels["content"])), wording

    def test_what_is_not_unseen_is_of_training(self):
        for wording in unseen_wordings():
            content, style = labels_of(wording.text)
            if wording.kind == "content":
                assert style == wording.labels["style"], wording
            if wording.kind == "style":
                assert content == wording.labels["content"], wording

    def test_no_word_of_them_is_in_training(self, drawn):
        seen = set().union(*map(stems, pieces()))
        written = itertools.chain.from_iterable(texts for of in drawn.values() for texts in itertools.chain(*of))
        assert set().union(*map(stems, written)) <= seen | stems("yourself himself herself")
        for wording in unseen_wordings():
            for phrase in wording.unseen:
                assert phrase.lower() in wording.text.lower() and stems(phrase), wording
                assert not stems(phrase) & seen, (wording, stems(phrase) & seen)
