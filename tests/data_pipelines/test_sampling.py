"""The order of draws: each record as often as its weight says, hosts disjoint."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.sampling import SampleOrder, balanced_weights, mixed_seed, record_weights, stable_hash
from data_pipelines.shards import LatentRecord
from llamo_jax.errors import InputError


def draws(order, count):
    return [order[draw] for draw in range(count)]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**31))
def test_equal_weights_draw_each_record_once_an_epoch(size, seed):
    order = SampleOrder(np.ones(size), seed)
    for epoch in range(2):
        assert sorted(order[epoch * size + draw] for draw in range(size)) == list(range(size))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=50), st.integers(0, 2**31))
def test_a_share_is_drawn_to_within_one(weights, seed):
    weights = np.array(weights)
    counts = Counter(draws(SampleOrder(weights, seed), len(weights)))
    for record, share in enumerate(weights * len(weights) / weights.sum()):
        assert np.floor(share - 1e-6) <= counts[record] <= np.ceil(share + 1e-6)


def test_epochs_and_seeds_differ():
    first, second = SampleOrder(np.ones(50), 0), SampleOrder(np.ones(50), 1)
    assert draws(first, 50) != draws(second, 50)
    assert draws(first, 50) != [first[50 + draw] for draw in range(50)]
    assert draws(first, 50) == draws(SampleOrder(np.ones(50), 0), 50)


@pytest.mark.parametrize("hosts", [2, 3, 7])
def test_hosts_share_the_draws(hosts):
    weights = np.random.default_rng(0).uniform(0.1, 3, 30)
    whole = draws(SampleOrder(weights, 5), 60 * hosts)
    shares = [draws(SampleOrder(weights, 5, host, hosts), 60) for host in range(hosts)]
    assert [record for together in zip(*shares, strict=True) for record in together] == whole


def test_hosts_are_disjoint_in_an_epoch():
    shares = [set(draws(SampleOrder(np.ones(40), 5, host, 4), 10)) for host in range(4)]
    assert sorted(record for share in shares for record in share) == list(range(40))


def test_weights_by_label():
    labels = ["walk"] * 100 + ["run"] * 4
    np.testing.assert_allclose(balanced_weights(labels), [0.1] * 100 + [0.5] * 4)
    counts = Counter()
    order = SampleOrder(balanced_weights(labels), 0)
    for draw in range(104 * 50):
        counts[labels[order[draw]]] += 1
    assert counts["run"] / counts["walk"] == pytest.approx(4 * 0.5 / (100 * 0.1), rel=0.02)


def test_missing_label():
    labels = {"a": {"content": "walk"}, "b": {"style": "old"}}
    records = [LatentRecord(name, np.zeros((1, 1)), ("x",), of) for name, of in labels.items()]
    with pytest.raises(InputError, match='record "b" has no label "content" to balance by; it has style: choose one of them'):
        record_weights(records, "content")


def test_hashes_and_seeds_never_change():
    # Splits and captions hang on these.
    assert stable_hash("dataset-2_walk_normal_001") == stable_hash("dataset-2_walk_normal_001")
    assert stable_hash("") == 0xE4A6A0577479B2B4
    assert mixed_seed(0, 1) != mixed_seed(1, 0)
    assert 0 <= mixed_seed(2**40, 3) < 2**31
