"""Shards: the same global batches for any number of hosts, positions that go from any hosts to any others, and damaged
records that end no run."""

import dataclasses
import itertools
import json
import warnings
from collections import Counter

import numpy as np
import pytest

from data_pipelines.index import Index
from data_pipelines.loader import LatentLoader, LoaderConfig, TextLoader
from data_pipelines.order import SampleOrder, mixed_seed
from data_pipelines.packing import packed_batches
from data_pipelines.records import MotionRecord
from data_pipelines.streams import sample_stream
from data_pipelines.tasks import TASKS, Drawn, Said
from data_pipelines.windows import WindowBatches
from llamo_jax.errors import InputError, MotionWarning

EOM = 1000
CONFIG = LoaderConfig(text_len=80, motion_len=16, prefetch=2, shards=4)
ROWS = {"t2m": 8, "m2t": 4}


def latent_loader(records, statistics, tokenizer, config=CONFIG, rows=ROWS):
    return LatentLoader(records, Index.of(records), statistics, tokenizer, EOM, rows, config)


def motions(count=10):
    rng = np.random.default_rng(0)
    return [MotionRecord(f"clip{n}", rng.normal(size=(30 + n, 272)).astype(np.float32), ("a",)) for n in range(count)]


@pytest.fixture(params=["latents", "windows", "text"])
def batches(request, latent_records, statistics, tokenizer):
    if request.param == "latents":
        return latent_loader(latent_records, statistics, tokenizer)
    if request.param == "text":
        return TextLoader([record.captions for record in latent_records], tokenizer, 8, CONFIG)
    return WindowBatches(motions(), rows=8, frames=16, seed=3, shards=4)


def leaves(batch):
    """Path -> array of a batch of any kind."""
    flat = {}
    for name, value in batch.items():
        arrays = value.arrays() if hasattr(value, "arrays") else {"": value}
        flat |= {f"{name}/{path}": array for path, array in arrays.items()}
    return flat


def global_batches(iterators, count):
    """What hosts have together: shards in order, of hosts that each hold some."""
    for parts in itertools.islice(zip(*iterators, strict=True), count):
        parts = [leaves(part) for part in parts]
        yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_same(found, expected):
    for first, second in zip(found, expected, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            assert first[name].dtype == second[name].dtype
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)


HOSTS = {1: [[0, 1, 2, 3]], 2: [[0, 1], [2, 3]], 4: [[0], [1], [2], [3]]}


def test_batches_and_positions_do_not_depend_on_the_hosts(batches):
    whole = list(map(leaves, itertools.islice(iter(batches), 24)))
    assert all(np.any(whole[0][name] != whole[1][name]) for name in whole[0] if name.endswith(("tokens", "features")))
    states = {}
    for hosts, held in HOSTS.items():
        iterators = [batches.iterator(shards) for shards in held]
        assert_same(global_batches(iterators, 7), whole[:7])
        states[hosts] = json.loads(json.dumps([iterator.get_state() for iterator in iterators]))
    merged = [{shard: state for part in saved for shard, state in part.items()} for saved in states.values()]
    assert merged[0] == merged[1] == merged[2] and merged[0].keys() == {"0", "1", "2", "3"}
    for held in HOSTS.values():
        iterators = [batches.iterator(shards) for shards in held]
        for iterator in iterators:
            next(iterator)  # a position of its own, which is given up
            iterator.set_state(merged[1])
        assert_same(global_batches(iterators, 17), whole[7:])


def test_rows_come_in_the_order_that_is_asked_for(batches):
    whole, turned = leaves(next(iter(batches))), leaves(next(batches.iterator([2, 0])))
    for name, array in whole.items():
        parts = np.split(array, 4)
        np.testing.assert_array_equal(turned[name], np.concatenate([parts[2], parts[0]]), err_msg=name)


def test_an_epoch_draws_every_record_once_over_all_shards(latent_records, statistics, tokenizer):
    drawn = {shard: [] for shard in range(4)}

    class Watched(list):
        def __getitem__(self, number):
            drawn[shard].append(number)
            return super().__getitem__(number)

    config = dataclasses.replace(CONFIG, prefetch=0)
    loader = LatentLoader(
        Watched(latent_records), Index.of(latent_records), statistics, tokenizer, EOM, {"t2m": 4}, config
    )
    for shard in drawn:
        iterator = loader.iterator([shard])
        while len(drawn[shard]) < 30:
            next(iterator)
    for epoch in range(3):  # ten draws of each shard
        counts = Counter(n for numbers in drawn.values() for n in numbers[10 * epoch : 10 * epoch + 10])
        assert counts == dict.fromkeys(range(40), 1)


def test_one_shard_is_the_batches_without_shards(latent_records, statistics, tokenizer):
    """Written out: one order, one random stream and one packing a task."""
    config = dataclasses.replace(CONFIG, shards=1, seed=5, condition_dropout=0.2)
    expected = {}
    for number, (name, rows) in enumerate(ROWS.items()):
        order = SampleOrder(np.ones(40), mixed_seed(5, number))

        def sample(draw, rng, name=name, order=order):
            record = latent_records[order[draw]]
            caption = record.captions[rng.integers(2)]
            drawn = Drawn(Said(caption), statistics.normalise(record.latents), complete=True, condition_dropout=0.2)
            return TASKS[name].sample(drawn, tokenizer, EOM, rng)

        packed = packed_batches(
            sample_stream(sample, 5, number), rows=rows, text_len=80, motion_len=16, seed=mixed_seed(5, number)
        )
        expected[name] = iter(packed)
    iterator = iter(latent_loader(latent_records, statistics, tokenizer, config))
    for _ in range(12):
        assert_same([leaves(next(iterator))], [leaves({name: next(stream) for name, stream in expected.items()})])


def test_what_does_not_divide_is_told(latent_records, statistics, tokenizer):
    with pytest.raises(
        InputError,
        match=r"rows of a batch \(m2t 6\) cannot be divided into 4 shards; choose shards of 1, 2, or rows that are",
    ):
        latent_loader(latent_records, statistics, tokenizer, rows={"t2m": 8, "m2t": 6})
    with pytest.raises(
        InputError, match="3 records cannot be divided over 4 shards; expected one for each at least: choose 3 shards"
    ):
        latent_loader(latent_records[:3], statistics, tokenizer)
    with pytest.raises(InputError, match="10 motions cannot be divided over 16 shards"):
        WindowBatches(motions(), rows=32, shards=16)
    loader = latent_loader(latent_records, statistics, tokenizer)
    for shards in ([], [0, 0], [4], [-1]):
        with pytest.raises(InputError, match="expected different ones of 0 to 3"):
            loader.iterator(shards)
    with pytest.raises(InputError, match="has the shards 0, 1, and not 2, 3; expected those of a run with as many"):
        iter(loader).set_state(loader.iterator([0, 1]).get_state())
    with pytest.raises(InputError, match=r"LoaderConfig.shards is 0; expected at least 1"):
        LoaderConfig(shards=0)


class Damaged(list):
    """Records of which some cannot be read."""

    bad = frozenset()

    def __getitem__(self, number):
        if number in self.bad:
            raise InputError(f"data: record {number} cannot be read (checksum); build the data folder again")
        return super().__getitem__(number)


def test_a_damaged_record_ends_no_run(latent_records, statistics, tokenizer):
    records = Damaged(latent_records * 10)  # 2 of 400 are 0.5 %
    index = Index.of(records)
    records.bad = {17}
    records[30] = dataclasses.replace(records[30], latents=np.full((5, 4), np.nan, np.float32))
    config = dataclasses.replace(CONFIG, shards=1, prefetch=0)
    loader = LatentLoader(records, index, statistics, tokenizer, EOM, {"t2m": 8}, config)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        iterator, seen = iter(loader), Counter()
        while loader.skipped.drawn < 3000:
            batch = next(iterator)["t2m"].arrays()
            assert np.isfinite(batch["motion/latents"]).all()
            seen.update(np.unique(batch["motion/latents"][batch["motion/start"]][:, 0]).astype(int).tolist())
    assert len(seen) == 40 and 0 < loader.skipped.records + loader.skipped.damaged < 30
    assert loader.skipped.damaged == pytest.approx(3000 * 2 / 400, abs=2) and loader.skipped.captions == 0
    assert str(loader.skipped).endswith(f"; {loader.skipped.damaged} draws were of damaged records")
    said = sorted(str(warning.message) for warning in told if warning.category is MotionWarning)
    assert len(said) == 2  # each once
    assert "left out: data: record 17 cannot be read (checksum)" in said[0]
    assert "left out: record 30 (clip30) holds numbers that are not finite" in said[1]


@pytest.mark.filterwarnings("ignore::llamo_jax.errors.MotionWarning")
@pytest.mark.parametrize("prefetch", [0, 2])
def test_many_damaged_records_are_an_error(latent_records, statistics, tokenizer, prefetch):
    records = Damaged(latent_records)
    index = Index.of(records)
    records.bad = {3}  # 1 of 40
    config = dataclasses.replace(CONFIG, prefetch=prefetch)
    with pytest.raises(InputError, match=r"of \d{4} records that were drawn are damaged, and 1% .* build the data fol"):
        for _ in LatentLoader(records, index, statistics, tokenizer, EOM, ROWS, config):
            pass
    records.bad = set(range(40))
    with pytest.raises(InputError, match=r"40 of 40 records that were drawn are damaged, .*\(the last: data: record"):
        next(iter(LatentLoader(records, index, statistics, tokenizer, EOM, ROWS, config)))
    empty = [dataclasses.replace(record, features=record.features[:0]) for record in motions(4)]
    with pytest.raises(InputError, match=r"4 of 4 records .*clip\d\) is empty\)"):
        next(iter(WindowBatches(empty, rows=4, frames=16, prefetch=prefetch)))
    wide = [dataclasses.replace(record, latents=np.ones((3, 5), np.float32)) for record in latent_records]
    with pytest.raises(InputError, match=r"has an array of \(3, 5\); expected 4 columns"):
        next(iter(latent_loader(wide, statistics, tokenizer)))


def test_damaged_motions_are_passed_over():
    records = motions(200)
    records[7] = dataclasses.replace(records[7], features=np.full_like(records[7].features, np.inf))
    batches = WindowBatches(records, rows=8, frames=16, prefetch=0)
    with pytest.warns(MotionWarning, match=r"record 7 \(clip7\) holds numbers that are not finite"):
        for batch in itertools.islice(iter(batches), 50):
            assert np.isfinite(batch["features"]).all()
    assert batches.skipped.damaged == 2 and batches.skipped.drawn == 400 + 2
