from types import SimpleNamespace

import pytest

from llamo_jax.errors import InputError
from llamo_jax.evaluation.captioning import Captioning, caption_accuracy, invented_words
from llamo_jax.evaluation.language import perplexity
from llamo_jax.evaluation.suite import Held
from llamo_jax.motion import MotionClip
from llamo_jax.pretrained import Llamo

CONTENTS = {"walks": "walk", "runs": "run", "waves": "wave"}


def classify(caption: str) -> dict[str, str]:
    contents = [{"content": CONTENTS[word]} for word in caption.split() if word in CONTENTS]
    return (contents[0] if contents else {}) | ({"style": "tired"} if "tiredly" in caption else {})


def test_labels_and_exact_matches_are_counted():
    figures = caption_accuracy(
        ["A  person walks tiredly.", "a person runs", "a person mumbles", "a person waves"],
        [
            {"content": "walk", "style": "tired"},
            {"content": "walk", "style": "tired"},
            {"content": "run"},
            {"content": "wave"},
        ],
        classify,
        references=[
            ["someone walks", "a person walks, tiredly"],
            ["a person walks"],
            ["a person runs"],
            ["a person waves", "x"],
        ],
    )
    assert figures["content"] == 2 / 4
    assert figures["style"] == 1 / 2  # two of the clips have a style
    assert figures["all_labels"] == 2 / 4
    assert figures["exact_match"] == 2 / 4


def test_without_references_there_is_no_exact_match():
    assert caption_accuracy(["a person runs"], [{"content": "run"}], classify) == {"content": 1.0, "all_labels": 1.0}


def test_labels_that_captions_do_not_speak_of_are_left_out():
    labels = [{"content": "run", "take": "7"}, {"content": "walk", "take": "8"}]
    figures = caption_accuracy(["a person runs", "a person runs"], labels, classify, label_names=("content",))
    assert figures == {"content": 0.5, "all_labels": 0.5}


def test_a_motion_without_a_scored_label_is_neither_right_nor_wrong():
    figures = caption_accuracy(
        ["a person runs", "?"], [{"content": "walk"}, {"take": "8"}], classify, label_names=("content",)
    )
    assert figures == {"content": 0.0, "all_labels": 0.0}


def test_unequal_counts_are_refused():
    with pytest.raises(InputError, match="'captions': 2, 'labels': 1"):
        caption_accuracy(["a", "b"], [{}], classify)
    with pytest.raises(InputError, match="at least one"):
        caption_accuracy([], [], classify)


def test_invented_words_are_those_that_nobody_wrote():
    captions = ["An reackle. A silly person WALKS!", "a person's reackle, doesn't walk", "gesturees 3 times"]
    recorded = ["a silly person walks", "An old person doesn't walk 2 times."]
    assert invented_words(captions, recorded) == ["reackle", "person's", "gesturees"]
    assert invented_words(recorded, recorded) == []


def test_captions_are_judged_as_language(model: Llamo, clip: MotionClip) -> None:
    """Also where no labels are: the LLM alone says how likely they are, and the recordings which words there are."""
    said = ["a person walks.", "qx zv qx zv wub"]
    fake = SimpleNamespace(caption=lambda clips: said, **vars(model))
    example = SimpleNamespace(features=clip.features(), captions=("a person waves.",), labels={}, name="x")
    captioning = Captioning(classify, (), known=["someone walks", "someone runs"])
    figures = {figure.name: figure for figure in captioning.run(fake, Held([example, example]))}
    assert list(figures) == ["Perplexity of captions", "Invented words"]
    assert (figures["Invented words"].value, figures["Invented words"].note) == (3, "qx, zv, wub")
    expected = perplexity(model, said) / perplexity(model, ["someone walks", "someone runs"])
    assert figures["Perplexity of captions"].value == pytest.approx(expected, rel=1e-5)
    assert captioning.captions == said and captioning.right(Held([example]), 0) is None
