"""Sentences in unseen words: what is asked, what came, and what is counted where."""

import dataclasses

import numpy as np

from data_pipelines.records import Wording
from llamo_jax.evaluation.generation import Generation
from llamo_jax.evaluation.suite import Held
from llamo_jax.evaluation.wordings import Wordings
from tests.evaluation.test_generation import Actor, Height, examples


class Judge(Height):
    """Height's contents, and the same style of all."""

    classes = Height.classes | {"style": ("calm", "wild")}

    def predict(self, features: list[np.ndarray]) -> dict[str, list[str]]:
        return super().predict(features) | {"style": ["calm"] * len(features)}


def test_what_is_new_is_what_is_counted() -> None:
    wordings = [
        Wording("lifts the left hand high", {"content": "wave-left-hand", "style": "calm"}, "content"),
        Wording("greets with the right", {"content": "wave-right-hand", "style": "wild"}, "both"),
        Wording("boxes", {"content": "punch", "style": "wild"}, "content"),  # nobody could recognise it
        Wording("ambles", {"content": "walk", "style": "wild"}, "content"),
        Wording("walks in a rage", {"content": "wave-left-hand", "style": "calm"}, "style"),
    ]
    actor = Actor()
    generation = Generation(Judge(), long_count=1, long_seconds=1.0)
    held = Held([dataclasses.replace(e, labels=e.labels | {"style": "calm"}) for e in examples()])
    list(generation.run(actor, held))
    actor.calls.clear()
    measure = Wordings(Judge(), wordings, generation, batch_size=3, settings={"steps": 4})
    content, style = measure.run(actor, held)
    assert content.name == "Recognised content of unseen wordings" and content.group == "Unseen wordings"
    assert content.value == 100 * 2 / 3 and content.control == 100  # "ambles" is not known to the actor
    assert content.note == "3 sentences; control: held-out captions, in words of training"
    assert style.name == "Recognised style of unseen wordings" and style.value == 50 and style.control == 100
    assert [wording.text for wording in measure.asked] == [each.text for each in wordings if each.text != "boxes"]
    assert [row["content"] for row in measure.recognised] == [
        "wave-left-hand",
        "wave-right-hand",
        "wave-right-hand",
        "walk",
    ]
    assert actor.calls == [(3, 0, None, {"steps": 4}), (3, 1, None, {"steps": 4})] and len(measure.clips) == 4


def test_without_a_control_there_is_none() -> None:
    wordings = [Wording("a stroll", {"content": "walk"}, "content")]
    (content,) = Wordings(Judge(), wordings).run(Actor(), Held(examples()))
    assert content.control is None and content.note == "1 sentences"
    assert list(Wordings(Judge(), [Wording("boxes", {"content": "punch"}, "content")]).run(Actor(), None)) == []
