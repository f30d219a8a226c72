"""The batch plan: coverage, shares, determinism."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.plan import MAX_PERIOD, Cycle, Plan, StreamSpec


@dataclass
class Counts:
    """A data set of which the plan sees only how much there is."""

    buckets: dict[str, int] = field(default_factory=lambda: {"a": 10})


RELAXED = settings(deadline=None, max_examples=60)  # other work may share the core

BUCKETS = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 40), min_size=1)


def _length(plan: Plan, stream: int = 0) -> int:
    """Steps of an epoch."""
    return sum(bucket.batches for bucket in plan.buckets[stream])


def _epoch(plan: Plan, stream: int = 0, epoch: int = 0) -> list:
    """The batches of one epoch of a plan of one stream."""
    n = _length(plan, stream)
    return [plan.batch(step) for step in range(epoch * n, (epoch + 1) * n)]


def _seen(batches) -> Counter:
    return Counter((b.bucket, int(i)) for b in batches for i in b.indices)


@RELAXED
@given(BUCKETS, st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**64), st.integers(0, 3))
def test_an_epoch_takes_every_sample_but_the_dropped(buckets, batch, repeats, seed, epoch):
    plan = Plan([StreamSpec(Counts(buckets), batch, repeats=repeats)], seed, 10**9)
    batches = _epoch(plan, epoch=epoch)
    assert {b.epoch for b in batches} == {epoch}
    seen = _seen(batches)
    for bucket, count in buckets.items():
        times = max(repeats, -(-batch // count))
        draws = [seen[bucket, i] for i in range(count)]
        assert max(draws) <= times and max(draws) - min(draws) <= 1
        assert batch > count or min(draws) >= times - 1
        assert sum(draws) == count * times // batch * batch
    assert sum(seen.values()) == sum(len(b.indices) for b in batches)  # nothing outside
    assert all(len(b.indices) == batch for b in batches)


@RELAXED
@given(BUCKETS, st.integers(1, 8))
def test_no_sample_twice_in_an_epoch_without_repeats(buckets, batch):
    buckets = {name: count + 7 for name, count in buckets.items()}  # at least one batch
    plan = Plan([StreamSpec(Counts(buckets), batch)], 5, 10**6)
    assert max(_seen(_epoch(plan)).values()) == 1


def test_epochs_are_shuffled_anew_and_buckets_mixed():
    plan = Plan([StreamSpec(Counts({"a": 64, "b": 64}), 4)], 0, 10**6)
    first, second = _epoch(plan), _epoch(plan, epoch=1)
    assert [b.bucket for b in first] != [b.bucket for b in second]
    assert [b.bucket for b in first] != sorted(b.bucket for b in first)
    for bucket in "ab":
        orders = [
            np.concatenate([b.indices for b in epoch if b.bucket == bucket])
            for epoch in (first, second)
        ]
        assert not np.array_equal(*orders) and not np.array_equal(orders[0], np.arange(64))


def test_what_is_dropped_differs_from_epoch_to_epoch():
    plan = Plan([StreamSpec(Counts({"a": 11}), 4)], 0, 10**6)
    assert sum(_seen(_epoch(plan)).values()) == 8
    assert len(_seen(b for epoch in range(8) for b in _epoch(plan, epoch=epoch))) == 11


@pytest.mark.parametrize("count", [65_536, 65_537, 70_001])
def test_large_buckets_are_covered_as_small_ones_are(count):
    batch = count // 8
    plan = Plan([StreamSpec(Counts({"a": count}), batch)], 4, 10**6)
    seen = np.concatenate([b.indices for b in _epoch(plan)])
    assert len(np.unique(seen)) == len(seen) == 8 * batch
    assert seen.min() >= 0 and seen.max() < count and not np.array_equal(seen, np.sort(seen))


def test_seeds_and_streams_have_orders_of_their_own():
    def order(seed, stream=0):
        plan = Plan([StreamSpec(Counts({"a": 100}), 4)] * 2, seed, 100)
        batches = [plan.batch(step) for step in range(40)]
        return [b.indices.tolist() for b in batches if b.stream == stream]

    assert order(1) == order(1)
    assert order(1) != order(2) and order(1) != order(1, stream=1)


@RELAXED
@given(st.integers(0, 999), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_ranks_share_one_global_batch(step, world):
    plan = Plan([StreamSpec(Counts({"a": 50, "b": 7}), 12), StreamSpec(Counts(), 24)], 3, 1000)
    whole = plan.batch(step)
    parts = [plan.batch(step, rank, world) for rank in range(world)]
    assert np.array_equal(np.concatenate([p.indices for p in parts]), whole.indices)
    assert [n for p in parts for n in p.positions] == list(range(len(whole.indices)))
    assert {p.bucket for p in parts} == {whole.bucket}


def test_ranks_that_do_not_divide_the_batch_are_refused():
    plan = Plan([StreamSpec(Counts(), 8)], 0, 10)
    with pytest.raises(ValueError, match="batch of 8 does not divide by 3 ranks: make it 6 or 9"):
        plan.check_world(3)
    with pytest.raises(ValueError, match="batch of 8 does not divide by 16 ranks: make it 16"):
        plan.batch(0, 0, 16)


def test_a_batch_larger_than_the_data_repeats_it_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        plan = Plan([StreamSpec(Counts({"a": 4}), 8, name="clips")], 0, 100)
    assert "clips: bucket a has 4 samples for batches of 8" in caplog.text
    assert sorted(plan.batch(0).indices) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_batches_by_bucket():
    plan = Plan([StreamSpec(Counts({"a": 40, "b": 40}), {"a": 4, "b": 10})], 0, 100)
    assert {(b.bucket, len(b.indices)) for b in _epoch(plan)} == {("a", 4), ("b", 10)}
    assert _length(plan) == 14


def test_a_longer_run_begins_the_same():
    streams = [StreamSpec(Counts({"a": 9, "b": 30}), 4, weight=0.7), StreamSpec(Counts(), 2, 0.3)]
    short, long = Plan(streams, 1, 50), Plan(streams, 1, 5000)
    for step in range(50):
        assert short.batch(step).bucket == long.batch(step).bucket
        assert np.array_equal(short.batch(step).indices, long.batch(step).indices)
    with pytest.raises(IndexError, match="step 50"):
        short.batch(50)


def test_ninety_million_samples():
    plan = Plan([StreamSpec(Counts({"a": 60_000_000, "b": 30_000_000}), 256)], 0, 2**40)
    batch = plan.batch(2**39)  # some million epochs away
    assert len(set(batch.indices.tolist())) == 256 and batch.indices.max() < 60_000_000
    assert _length(plan) == 60_000_000 // 256 + 30_000_000 // 256


# --- shares of streams


@RELAXED
@given(
    st.lists(st.integers(1, 60) | st.floats(0.01, 1).map(lambda w: round(w, 2)), min_size=1)
    .filter(lambda weights: len(weights) <= 6)
    .map(tuple)
)
def test_shares_are_within_one_of_exact_at_every_step(weights):
    cycle = Cycle(weights)
    shares = np.array(weights) / sum(weights)
    had = np.zeros(len(weights))
    for k in range(min(2 * cycle.period, 3000)):
        who, nth = cycle[k]
        assert nth == had[who]
        had[who] += 1
        assert np.abs(had - shares * (k + 1)).max() < 1


@RELAXED
@given(st.integers(0, 10**15))
def test_turns_count_up_across_cycles(k):
    cycle = Cycle([0.5, 0.3, 0.2])
    who, nth = cycle[k]
    assert abs(nth - [0.5, 0.3, 0.2][who] * k) < 1.5


def test_weights_without_a_short_cycle_are_rounded():
    weights = [0.1234567891, 0.7654321987, 1e-9]
    cycle = Cycle(weights)
    assert cycle.period == MAX_PERIOD and min(cycle.turns) >= 1
    shares = np.array(cycle.turns) / cycle.period
    assert np.abs(shares - np.array(weights) / sum(weights)).max() < 2 / MAX_PERIOD


def test_thirds_are_exact():
    assert Cycle([1 / 3, 2 / 3]).turns == [1, 2]
    assert Cycle([0.1, 0.2]).turns == [1, 2]


# --- refusals


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weights_must_be_positive(weight):
    with pytest.raises(ValueError, match=f"weight {weight}"):
        Plan([StreamSpec(Counts(), 2, weight=weight)], 0, 1)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"dataset": Counts({}), "batch": 1}, "no samples"),
        ({"dataset": Counts({"a": 0}), "batch": 1}, "no samples"),
        ({"dataset": Counts(), "batch": 0}, "batch 0 for bucket a"),
        ({"dataset": Counts(), "batch": {"b": 4}}, "bucket a"),
        ({"dataset": Counts(), "batch": 1, "repeats": 0}, "repeats 0"),
        ({"dataset": Counts({"a": 2**32}), "batch": 1}, "2\\^32"),
    ],
)
def test_streams_that_make_no_plan(spec, message):
    with pytest.raises(ValueError, match=message):
        Plan([StreamSpec(**spec)], 0, 1)


def test_no_streams():
    with pytest.raises(ValueError, match="at least one stream"):
        Plan([], 0, 1)
