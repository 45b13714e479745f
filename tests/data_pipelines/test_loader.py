"""The loader: what batches hold, in which mixture, from where; exact resume."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from data_pipelines.index import Index
from data_pipelines.loader import LatentLoader, LoaderConfig, TextLoader
from llamo_jax import prompts
from llamo_jax.errors import InputError

EOM = 1000
CONFIG = LoaderConfig(text_len=80, motion_len=16, prefetch=0)


def take(iterator, count):
    return [arrays(next(iterator)) for _ in range(count)]


def arrays(batches):
    return {task: batch.arrays() for task, batch in batches.items()}


def make(records, statistics, tokenizer, rows=None, config=CONFIG):
    rows = rows or {"t2m": 3, "m2t": 2}
    return LatentLoader(records, Index.of(records), statistics, tokenizer, EOM, rows, config)


def samples(batch):
    """(text tokens, motion latents, positions of both) of each sample of a batch."""
    for row in range(len(batch["text/tokens"])):
        for segment in range(1, batch["text/segments"][row].max() + 1):
            text, motion = batch["text/segments"][row] == segment, batch["motion/segments"][row] == segment
            yield {name: array[row][text if name.startswith("text/") else motion] for name, array in batch.items()}


def numbers(batch):
    return [int(sample["motion/latents"][0, 0]) - 1 for sample in samples(batch)]


def test_mixture_and_shapes(latent_records, statistics, tokenizer):
    batch = arrays(next(iter(make(latent_records, statistics, tokenizer))))
    assert list(batch) == ["t2m", "m2t"]
    for task, rows in (("t2m", 3), ("m2t", 2)):
        assert batch[task]["text/tokens"].shape == (rows, 80)
        assert batch[task]["motion/latents"].shape == (rows, 16, 4)
    assert (batch["t2m"]["text/loss_mask"] == 0).all() and (batch["t2m"]["motion/flow_mask"] > 0).any()
    assert (batch["m2t"]["motion/flow_mask"] == 0).all() and (batch["m2t"]["text/loss_mask"] > 0).any()


def test_samples_are_those_of_inference(latent_records, statistics, tokenizer):
    """Every prompt in a batch is token for token one that inference would make, with the latents of its record."""
    batch = arrays(next(iter(make(latent_records, statistics, tokenizer))))
    for sample in samples(batch["t2m"]):
        record = latent_records[int(sample["motion/latents"][0, 0]) - 1]
        np.testing.assert_array_equal(sample["motion/latents"][:-1], record.latents)
        allowed = [prompts.unconditional_prompt(tokenizer)]
        allowed += [
            prompts.motion_prompt(tokenizer, c, n) for c in record.captions for n in range(len(prompts.TEXT_TO_MOTION))
        ]
        assert sample["text/tokens"].tolist() in allowed
    for sample in samples(batch["m2t"]):
        record = latent_records[int(sample["motion/latents"][0, 0]) - 1]
        allowed = []
        for number in range(len(prompts.MOTION_TO_TEXT)):
            before, after = prompts.caption_prompt(tokenizer, EOM, number)
            allowed += [[*before, *after, *prompts.caption_target(tokenizer, caption)] for caption in record.captions]
        assert sample["text/tokens"].tolist() in allowed
        learnt = sample["text/targets"][sample["text/loss_mask"] > 0].tolist()
        assert learnt in [prompts.caption_target(tokenizer, caption) for caption in record.captions]


def test_requests_are_answered_and_not_written(latent_records, statistics, tokenizer):
    """Text-to-motion draws from captions and requests alike, motion-to-text from captions alone."""
    requests = ("Run!", "Could you walk?", "Show me a dance.")
    asked = [dataclasses.replace(record, requests=requests) for record in latent_records]
    iterator = iter(make(asked, statistics, tokenizer))
    every = len(prompts.TEXT_TO_MOTION)
    of_requests = [prompts.motion_prompt(tokenizer, text, n) for text in requests for n in range(every)]
    drawn, seen = 0, set()
    for _ in range(30):
        batch = arrays(next(iterator))
        for sample in samples(batch["t2m"]):
            drawn += 1
            if (prompt := sample["text/tokens"].tolist()) in of_requests:
                seen.add(of_requests.index(prompt) // every)
        for sample in samples(batch["m2t"]):
            record = asked[int(sample["motion/latents"][0, 0]) - 1]
            learnt = sample["text/targets"][sample["text/loss_mask"] > 0].tolist()
            assert learnt in [prompts.caption_target(tokenizer, caption) for caption in record.captions]
    assert drawn > 50 and seen == {0, 1, 2}


def test_an_epoch_has_every_record_once(latent_records, statistics, tokenizer):
    iterator = iter(make(latent_records, statistics, tokenizer, {"t2m": 1}))
    seen = []
    while len(seen) < 200:
        seen += numbers(arrays(next(iterator))["t2m"])
    # Rows of one group come in random order, so that epochs overlap at their borders: count over five of them.
    counts = np.bincount(seen, minlength=40)
    assert counts.min() >= 4 and counts.max() <= 6


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("position", [0, 1, 7, 23])
def test_resumes_exactly(latent_records, statistics, tokenizer, prefetch, position):
    loader = make(
        latent_records,
        statistics,
        tokenizer,
        config=dataclasses.replace(CONFIG, prefetch=prefetch, balance_by="content"),
    )
    iterator = iter(loader)
    take(iterator, position)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 12)
    resumed = iter(loader)
    resumed.set_state(state)
    for first, second in zip(expected, take(resumed, 12), strict=True):
        for task in first:
            for name in first[task]:
                np.testing.assert_array_equal(first[task][name], second[task][name])


def test_seeds(latent_records, statistics, tokenizer):
    def tokens(seed):
        loader = make(latent_records, statistics, tokenizer, config=dataclasses.replace(CONFIG, seed=seed))
        return arrays(next(iter(loader)))["t2m"]["text/tokens"]

    np.testing.assert_array_equal(tokens(1), tokens(1))
    assert (tokens(1) != tokens(2)).any()


def test_condition_dropout(latent_records, statistics, tokenizer):
    iterator = iter(
        make(latent_records, statistics, tokenizer, config=dataclasses.replace(CONFIG, condition_dropout=0.3))
    )
    lengths = [len(sample["text/tokens"]) for batch in take(iterator, 150) for sample in samples(batch["t2m"])]
    assert np.mean(np.array(lengths) == 1) == pytest.approx(0.3, abs=0.06)
    never = iter(make(latent_records, statistics, tokenizer, config=dataclasses.replace(CONFIG, condition_dropout=0.0)))
    assert all(len(sample["text/tokens"]) > 1 for batch in take(never, 20) for sample in samples(batch["t2m"]))


def test_balanced(latent_records, statistics, tokenizer):
    iterator = iter(
        make(latent_records, statistics, tokenizer, config=dataclasses.replace(CONFIG, balance_by="content"))
    )
    seen = [number for batch in take(iterator, 200) for number in numbers(batch["t2m"])]
    assert np.mean(np.array(seen) >= 32) == pytest.approx(8**0.5 / (8**0.5 + 32**0.5), abs=0.04)


def test_latents_are_normalised(latent_records, tokenizer, statistics):
    scaled = dataclasses.replace(statistics, mean=np.full(4, 1.0, np.float32), std=np.full(4, 2.0, np.float32))
    batch = arrays(next(iter(make(latent_records, scaled, tokenizer))))["t2m"]
    sample = next(samples(batch))
    record = latent_records[round(float(sample["motion/latents"][0, 0]) * 2 + 1) - 1]
    np.testing.assert_allclose(sample["motion/latents"][:-1], (record.latents - 1) / 2, rtol=1e-6)


def test_long_motions_are_cut_and_counted(latent_records, statistics, tokenizer):
    loader = make(latent_records, statistics, tokenizer, config=dataclasses.replace(CONFIG, motion_len=8))
    assert loader.cut == sum(len(record.latents) > 7 for record in latent_records) > 0
    for batch in take(iter(loader), 10):
        for sample in samples(batch["t2m"]):
            record = latent_records[int(sample["motion/latents"][0, 0]) - 1]
            assert len(sample["motion/latents"]) == min(len(record.latents), 7) + 1
            assert sample["motion/exit_targets"].sum() == (len(record.latents) <= 7)
            assert sample["motion/exit_mask"][-1] == (len(record.latents) <= 7)


def test_incomplete_records_teach_no_end(latent_records, statistics, tokenizer):
    records = [dataclasses.replace(record, complete=False) for record in latent_records]
    for batch in take(iter(make(records, statistics, tokenizer)), 5):
        assert (batch["t2m"]["motion/exit_targets"] == 0).all()
        assert all(
            sample["motion/exit_mask"].tolist() == [1] * (len(sample["motion/exit_mask"]) - 1) + [0]
            for sample in samples(batch["t2m"])
        )


def test_long_captions_are_dropped_and_counted(latent_records, statistics, tokenizer):
    records = [
        dataclasses.replace(latent_records[0], captions=("someone runs fast.", "a person walks " * 30)),
        dataclasses.replace(latent_records[1], captions=("a person walks " * 30,)),
    ]
    loader = make(records, statistics, tokenizer)
    assert {number for batch in take(iter(loader), 5) for number in numbers(batch["t2m"])} == {0}
    skipped = loader.skipped
    assert skipped.drawn > 2 * skipped.records > 0 and skipped.captions == skipped.drawn
    assert str(skipped).startswith(f"{skipped.records} of {skipped.drawn} draws, and {skipped.captions} captions")


def test_slow_motions_are_left_out_by_the_index(latent_records, statistics, tokenizer):
    records = [dataclasses.replace(record, speed=0.01 * number) for number, record in enumerate(latent_records)]
    loader = make(records, statistics, tokenizer, config=dataclasses.replace(CONFIG, min_speed=0.35))
    assert loader.numbers.tolist() == [35, 36, 37, 38, 39]
    assert {number for batch in take(iter(loader), 10) for number in numbers(batch["t2m"])} == {35, 36, 37, 38, 39}
    with pytest.raises(InputError, match=r"none of 40 records moves at 1.0 m/s: lower min_speed"):
        make(records, statistics, tokenizer, config=dataclasses.replace(CONFIG, min_speed=1.0))
    unknown = [records[0], dataclasses.replace(records[1], speed=float("nan"))]
    with pytest.raises(InputError, match="1 of 2 records have no measured speed"):
        make(unknown, statistics, tokenizer, config=dataclasses.replace(CONFIG, min_speed=0.35))
    assert len(make(unknown, statistics, tokenizer).numbers) == 2


def test_no_record_is_read_before_it_is_drawn(latent_records, statistics, tokenizer):
    class Watched(list):
        reads = 0

        def __getitem__(self, number):
            Watched.reads += 1
            return super().__getitem__(number)

        def __iter__(self):
            raise AssertionError("all records are visited")

    index = Index.of(latent_records)
    iterator = iter(LatentLoader(Watched(latent_records), index, statistics, tokenizer, EOM, {"t2m": 1}, CONFIG))
    assert Watched.reads == 0
    next(iterator)
    assert 0 < Watched.reads < 40


class TestText:
    def test_batches(self, tokenizer):
        motions = [("a person walks.", "someone walks."), ("someone runs fast.",), ("",)]
        batch = arrays(next(iter(TextLoader(motions, tokenizer, 4, CONFIG))))
        assert list(batch) == ["text"]
        assert set(batch["text"]) == {
            "text/tokens",
            "text/positions",
            "text/segments",
            "text/targets",
            "text/loss_mask",
        }
        allowed = []
        for captions in motions[:2]:
            for first, second in itertools.product(captions, repeat=2):
                for instruction, question in itertools.product(
                    range(len(prompts.TEXT_TO_MOTION)), range(len(prompts.MOTION_TO_TEXT))
                ):
                    (_, *before), (_, *after) = prompts.caption_prompt(tokenizer, EOM, question)
                    begin = prompts.motion_prompt(tokenizer, first, instruction)
                    allowed.append([*begin, *before, *after, *prompts.caption_target(tokenizer, second)])
        texts = batch["text"]
        for row in range(4):
            for segment in range(1, texts["text/segments"][row].max() + 1):
                here = texts["text/segments"][row] == segment
                tokens = texts["text/tokens"][row][here].tolist()
                assert tokens in allowed
                assert texts["text/targets"][row][here].tolist() == [*tokens[1:], 0]
                assert texts["text/loss_mask"][row][here].tolist() == [1] * (len(tokens) - 1) + [0]

    def test_resumes_exactly(self, tokenizer):
        loader = TextLoader([(f"a person walks {n} times.",) for n in range(30)], tokenizer, 4, CONFIG)
        iterator = iter(loader)
        take(iterator, 5)
        state, resumed = iterator.get_state(), iter(loader)
        resumed.set_state(state)
        np.testing.assert_array_equal(next(iterator)["text"].text.tokens, next(resumed)["text"].text.tokens)

    def test_counts_what_does_not_fit(self, tokenizer):
        assert TextLoader([("a person walks.",), ("a person walks " * 30,)], tokenizer, 1, CONFIG).dropped == 1
        with pytest.raises(InputError, match="none of 1 captions fits 80 text tokens with its prompt: raise text_len"):
            TextLoader([("a person walks " * 30,)], tokenizer, 1, CONFIG)

    def test_a_caption_that_fits_once_is_said_once(self, tokenizer):
        caption = "a person walks " * 12
        allowed = [
            [*prompts.motion_prompt(tokenizer, caption, n), tokenizer.eos_id]
            for n in range(len(prompts.TEXT_TO_MOTION))
        ]
        config = dataclasses.replace(CONFIG, text_len=max(map(len, allowed)))
        loader = TextLoader([(caption,)], tokenizer, 1, config)
        assert loader.dropped == 0
        texts = arrays(next(iter(loader)))["text"]
        tokens = texts["text/tokens"][0][texts["text/segments"][0] == 1].tolist()
        assert tokens in allowed


class TestBadInput:
    @pytest.mark.parametrize("rows", [{"m2m": 1}, {"t2m": 0}])
    def test_mixture(self, latent_records, statistics, tokenizer, rows):
        with pytest.raises(
            InputError, match=r'task mixture is .*; expected rows of at least one of "t2m" and "m2t", each 1 or more'
        ):
            make(latent_records, statistics, tokenizer, rows)

    def test_nothing_fits(self, latent_records, statistics, tokenizer):
        loader = make(latent_records, statistics, tokenizer, config=dataclasses.replace(CONFIG, text_len=4))
        with pytest.raises(
            InputError, match=r"none of 1000 records that were drawn has .* 4 text tokens .*: raise text_len"
        ):
            next(iter(loader))

    def test_label(self, latent_records, statistics, tokenizer):
        with pytest.raises(InputError, match='no record has a label "style" to balance by; they have content: choose'):
            make(latent_records, statistics, tokenizer, config=dataclasses.replace(CONFIG, balance_by="style"))

    def test_config(self):
        with pytest.raises(InputError, match=r"LoaderConfig.condition_dropout is 2; expected 0 to 1"):
            LoaderConfig(condition_dropout=2)
