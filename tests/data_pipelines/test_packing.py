"""Packing: literal arrays for examples made by hand, and nothing lost or repeated."""

from collections import Counter

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.packing import motion_to_text, packed_batches, text_only, text_to_motion

BOS, EOS, EOM = 1, 2, 300


def latents(*values):
    return np.array(values, np.float32)[:, None]


def check(sample, expected):
    assert set(sample) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(sample[name], values, err_msg=name)


def test_text_to_motion():
    check(
        text_to_motion([BOS, 11, 12], latents(5, 6), complete=True),
        {
            "text/tokens": [BOS, 11, 12],
            "text/positions": [0, 1, 2],
            "text/targets": [0, 0, 0],
            "text/loss_mask": [0, 0, 0],
            "motion/latents": [[5], [6], [0]],
            "motion/start": [True, False, False],
            "motion/positions": [3, 4, 5],
            "motion/flow_mask": [1, 1, 0],
            "motion/exit_targets": [0, 0, 1],
            "motion/exit_mask": [1, 1, 1],
        },
    )


def test_a_motion_that_is_cut_teaches_no_end():
    sample = text_to_motion([BOS], latents(5, 6), complete=False)
    np.testing.assert_array_equal(sample["motion/exit_targets"], [0, 0, 0])
    np.testing.assert_array_equal(sample["motion/exit_mask"], [1, 1, 0])
    np.testing.assert_array_equal(sample["motion/flow_mask"], [1, 1, 0])


def test_motion_to_text():
    check(
        motion_to_text([BOS, 11], latents(5, 6), [EOM, 12], [21, 22, EOS]),
        {
            "text/tokens": [BOS, 11, EOM, 12, 21, 22, EOS],
            "text/positions": [0, 1, 5, 6, 7, 8, 9],  # 2, 3 and 4 are the motion's
            "text/targets": [0, 0, 0, 21, 22, EOS, 0],  # never [EOM], which is outside of the vocabulary
            "text/loss_mask": [0, 0, 0, 1, 1, 1, 0],
            "motion/latents": [[5], [6], [0]],
            "motion/start": [True, False, False],
            "motion/positions": [2, 3, 4],
            "motion/flow_mask": [0, 0, 0],
            "motion/exit_targets": [0, 0, 0],
            "motion/exit_mask": [0, 0, 0],
        },
    )


def test_text_only():
    check(
        text_only([BOS, 11, 12, EOS]),
        {
            "text/tokens": [BOS, 11, 12, EOS],
            "text/positions": [0, 1, 2, 3],
            "text/targets": [11, 12, EOS, 0],
            "text/loss_mask": [1, 1, 1, 0],
        },
    )


def packed(samples, **options):
    dataset = grain.MapDataset.source(samples).to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    return [batch.arrays() for batch in packed_batches(dataset, seed=0, **options)]


def test_packed_row():
    samples = [
        text_to_motion([BOS, 11, 12], latents(5, 6), complete=True),
        motion_to_text([BOS], latents(7), [EOM], [21, EOS]),
    ]
    (batch,) = packed(samples, rows=1, text_len=9, motion_len=7)
    check(
        batch,
        {
            "text/tokens": [[BOS, 11, 12, BOS, EOM, 21, EOS, 0, 0]],
            "text/positions": [[0, 1, 2, 0, 3, 4, 5, 0, 0]],
            "text/segments": [[1, 1, 1, 2, 2, 2, 2, 0, 0]],
            "text/targets": [[0, 0, 0, 0, 21, EOS, 0, 0, 0]],
            "text/loss_mask": [[0, 0, 0, 0, 1, 1, 0, 0, 0]],
            "motion/latents": [[[5], [6], [0], [7], [0], [0], [0]]],
            "motion/start": [[True, False, False, True, False, False, False]],
            "motion/positions": [[3, 4, 5, 1, 2, 0, 0]],
            "motion/segments": [[1, 1, 1, 2, 2, 0, 0]],
            "motion/flow_mask": [[1, 1, 0, 0, 0, 0, 0]],
            "motion/exit_targets": [[0, 0, 1, 0, 0, 0, 0]],
            "motion/exit_mask": [[1, 1, 1, 0, 0, 0, 0]],
        },
    )
    kinds = {name: array.dtype for name, array in batch.items()}
    assert kinds.pop("motion/start") == np.dtype(bool)
    floats = {"text/loss_mask", "motion/latents", "motion/flow_mask", "motion/exit_targets", "motion/exit_mask"}
    assert {name for name, kind in kinds.items() if kind == np.float32} == floats
    assert all(kind == np.int32 for name, kind in kinds.items() if name not in floats)


def test_a_full_stream_opens_another_row():
    # The text has room for both samples, the motion has not.
    samples = [text_to_motion([BOS], latents(*range(1, 6)), complete=True) for _ in range(2)]
    batches = packed(samples, rows=1, text_len=9, motion_len=7)
    assert [batch["motion/segments"].max() for batch in batches] == [1, 1]


def test_a_sample_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match="must be truncated"):
        packed([text_only([BOS] * 10)], rows=1, text_len=9, motion_len=None)


lengths = st.tuples(st.integers(1, 9), st.integers(1, 6))


@settings(max_examples=60, deadline=None)
@given(st.lists(lengths, min_size=1, max_size=40))
def test_nothing_is_lost_or_repeated(sizes):
    samples = [
        text_to_motion([number + 1] * text, latents(*[number + 1] * motion), complete=True)
        for number, (text, motion) in enumerate(sizes)
    ]
    # Rows of 1, so that the last batch is never a part of one, which is dropped (the loader's streams are endless).
    batches = packed(samples, rows=1, text_len=9, motion_len=7)
    seen = Counter()
    for batch in batches:
        for row in range(len(batch["text/tokens"])):
            segments = batch["text/segments"][row].max()
            assert segments == batch["motion/segments"][row].max()
            for segment in range(1, segments + 1):
                tokens = batch["text/tokens"][row][batch["text/segments"][row] == segment]
                motion = batch["motion/latents"][row][batch["motion/segments"][row] == segment][:, 0]
                (number,) = set(tokens.tolist())
                assert motion.tolist() == [number] * (len(motion) - 1) + [0]
                seen[number] += 1
                assert (len(tokens), len(motion) - 1) == sizes[number - 1]
                positions = np.concatenate([
                    batch["text/positions"][row][batch["text/segments"][row] == segment],
                    batch["motion/positions"][row][batch["motion/segments"][row] == segment],
                ])  # fmt: skip
                assert positions.tolist() == list(range(len(positions)))
    assert seen == Counter(range(1, len(sizes) + 1))
