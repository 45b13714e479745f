import pytest

from llamo_jax.errors import InputError
from llamo_jax.evaluation.captioning import caption_accuracy

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
