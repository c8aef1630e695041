"""ResumableSampler and StatefulDataLoader: the order of samples, its digests, and resuming."""

import gc
import hashlib
import json
import struct
import time
import weakref
from array import array

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset, SequentialSampler

from counting import counted
from lightning_dtool.data.loaders import StatefulDataLoader, _chained
from lightning_dtool.data.sampler import ResumableSampler
from lightning_dtool.errors import ConfigurationError

SIZES = st.integers(1, 40)


def order(length=10, epoch=0, **arguments):
    sampler = ResumableSampler(range(length), **arguments)
    sampler.set_epoch(epoch)
    return list(sampler)


@given(SIZES, st.integers(), st.integers(0, 1000))
def test_an_epoch_is_a_reproducible_permutation(length, seed, epoch):
    first = order(length, epoch, seed=seed)
    assert sorted(first) == list(range(length))
    assert first == order(length, epoch, seed=seed)


def test_epochs_and_seeds_differ_in_order():
    orders = {tuple(order(20, epoch, seed=seed)) for epoch in range(5) for seed in range(5)}
    assert len(orders) == 25


def test_the_order_never_changes_between_versions():
    assert order(8, 1, seed=0) == [3, 7, 6, 0, 1, 2, 4, 5]


def test_without_shuffling_the_order_of_the_items_is_kept():
    assert order(5, 3, shuffle=False) == [0, 1, 2, 3, 4]


@given(SIZES, st.integers(1, 5), st.booleans(), st.booleans())
def test_processes_divide_an_epoch_among_them(length, replicas, shuffle, drop_last):
    parts = [
        order(length, num_replicas=replicas, rank=rank, shuffle=shuffle, drop_last=drop_last)
        for rank in range(replicas)
    ]
    assert len({len(part) for part in parts}) == 1
    everything = sorted(index for part in parts for index in part)
    if drop_last:
        assert len(set(everything)) == len(everything) == length // replicas * replicas
    else:
        assert set(everything) == set(range(length))
        assert len(everything) < length + replicas


@given(SIZES, st.integers(1, 3), st.data())
def test_sampling_resumes_at_any_position(length, replicas, data):
    rank = data.draw(st.integers(0, replicas - 1))
    sampler = ResumableSampler(range(length), num_replicas=replicas, rank=rank, seed=1)
    sampler.set_epoch(4)
    whole = list(sampler)
    taken = data.draw(st.integers(0, len(whole) - 1))
    iterator = iter(sampler)
    for _ in range(taken):
        next(iterator)
    resumed = ResumableSampler(range(length), num_replicas=replicas, rank=rank, seed=1)
    resumed.load_state_dict(sampler.state_dict())
    resumed.set_epoch(4)
    assert list(resumed) == whole[taken:]
    resumed.set_epoch(5)
    assert len(list(resumed)) == len(whole) == len(resumed)


def test_a_finished_epoch_is_not_resumed():
    sampler = ResumableSampler(range(4))
    list(sampler)
    resumed = ResumableSampler(range(4))
    resumed.load_state_dict(sampler.state_dict())
    assert len(list(resumed)) == 4


@pytest.mark.parametrize(("name", "other"), [("seed", {"seed": 1}), ("length", {"data_source": range(9)})])
def test_a_position_in_another_order_is_refused(name, other):
    sampler = ResumableSampler(range(10))
    next(iter(sampler))
    with pytest.raises(ConfigurationError, match=f"had {name}"):
        ResumableSampler(**{"data_source": range(10), **other}).load_state_dict(sampler.state_dict())


def test_the_global_random_state_is_neither_used_nor_changed():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = order(50)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert order(50) == first


def test_an_invalid_rank_is_refused():
    with pytest.raises(ConfigurationError, match="rank=2"):
        ResumableSampler(range(4), num_replicas=2, rank=2)
    with pytest.raises(ConfigurationError, match="give both"):
        ResumableSampler(range(4), rank=1)


class Slow(Dataset):
    """Counts up, slowly enough for workers to prefetch."""

    def __init__(self, length=20):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        time.sleep(0.001)
        return torch.tensor(index)


def loader(length=20, *, sampler=ResumableSampler, **arguments):
    data = Slow(length)
    return StatefulDataLoader(data, batch_size=3, sampler=sampler(data), **arguments)


def batches(iterable):
    return [batch.tolist() for batch in iterable]


def chain(expected):
    """Return the digest that the documentation promises."""
    digest = b""
    for batch in expected:
        digest = hashlib.sha256(digest + struct.pack(f"<{len(batch)}q", *batch)).digest()
    return f"sha256:{digest.hex()}"


@pytest.mark.parametrize("arguments", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
@pytest.mark.parametrize("drop_last", [False, True])
def test_a_loader_resumes_at_the_next_batch(arguments, drop_last):
    whole, stopped, resumed = (loader(drop_last=drop_last, **arguments) for _ in range(3))
    for each in (whole, stopped):
        each.sampler.set_epoch(2)
    expected = batches(whole)
    iterator = iter(stopped)
    assert [next(iterator).tolist(), next(iterator).tolist()] == expected[:2]
    state = stopped.state_dict()
    assert {**state, "order": {}} == {"seed": 0, "epoch": 2, "position": 6, "length": 20, "order": {}}
    assert state["order"] == {"2": chain(expected[:2])}
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert len(resumed) == len(expected)
    assert batches(resumed) == expected[2:]
    resumed.sampler.set_epoch(3)
    whole.sampler.set_epoch(3)
    assert batches(resumed) == batches(whole)
    assert resumed.order_digests == whole.order_digests
    assert whole.order_digests["2"] == chain(expected)


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_whole_epoch_follows_a_finished_one(drop_last):
    stopped, resumed = loader(drop_last=drop_last), loader(drop_last=drop_last)
    expected = batches(stopped)
    resumed.load_state_dict(stopped.state_dict())
    assert batches(resumed) == expected


def test_a_whole_epoch_follows_one_that_was_cut_short():
    stopped, resumed = loader(), loader()
    next(iter(stopped))
    resumed.load_state_dict(stopped.state_dict())
    resumed.sampler.set_epoch(1)  # as Lightning does after `limit_train_batches`
    assert len(batches(resumed)) == len(resumed)


def test_the_epoch_may_be_set_after_the_iterator_is_created():
    early, late = loader(num_workers=2), loader(num_workers=2)
    iterator = iter(early)
    for each in (early, late):
        each.sampler.set_epoch(1)
    assert batches(iterator) == batches(late)


def test_resuming_leaves_the_global_random_state_alone():
    stopped, resumed = loader(), loader()
    torch.manual_seed(5)
    next(iter(stopped))
    state = torch.get_rng_state()
    resumed.load_state_dict(stopped.state_dict())
    next(iter(resumed))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_a_loader_draws_no_global_random_number(options):
    """torch draws one for a new iterator but not for restarted persistent workers: a resumed run would differ."""
    torch.manual_seed(5)
    state = torch.get_rng_state()
    numbers = loader(**options)
    batches(numbers)
    batches(numbers)
    assert torch.equal(state, torch.get_rng_state())


def test_an_unused_loader_ends_its_persistent_workers_immediately():
    """They must not wait for the garbage collector, after which torch waits five seconds for each worker."""
    numbers = loader(num_workers=2, persistent_workers=True)
    batches(numbers)
    workers, gone = numbers._iterator._workers, weakref.ref(numbers)
    gc.disable()
    try:
        del numbers
        assert gone() is None
    finally:
        gc.enable()
    assert [worker.exitcode for worker in workers] == [0, 0]


def test_a_loader_with_another_sampler_has_no_state():
    plain = loader(sampler=SequentialSampler)
    next(iter(plain))
    assert plain.state_dict() == {}
    plain.load_state_dict({"epoch": 0, "position": 3})
    assert len(batches(plain)) == 7


# -- digests of the order -------------------------------------------------------------------------


@given(SIZES, st.integers(1, 7), st.integers(1, 3), st.data())
def test_a_resumed_digest_equals_an_uninterrupted_one(length, batch_size, replicas, data):
    rank = data.draw(st.integers(0, replicas - 1))

    def make():
        sampler = ResumableSampler(range(length), num_replicas=replicas, rank=rank, seed=3)
        return StatefulDataLoader(Numbers(length), batch_size=batch_size, sampler=sampler)

    whole, stopped, resumed = make(), make(), make()
    expected = batches(whole)
    iterator = iter(stopped)
    for _ in range(data.draw(st.integers(1, len(expected)))):
        next(iterator)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    if resumed._pending is not None:  # otherwise the epoch was complete
        batches(resumed)
    assert resumed.order_digests == whole.order_digests == {"0": chain(expected)}


class Numbers(Dataset):
    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor(index)


def epochs(seed, count=3):
    data = Numbers(20)
    each = StatefulDataLoader(data, batch_size=3, sampler=ResumableSampler(data, seed=seed))
    for epoch in range(count):
        each.sampler.set_epoch(epoch)
        batches(each)
    return each


def test_seeds_and_epochs_differ_in_their_digests():
    one, same, other = epochs(0), epochs(0), epochs(1)
    assert one.order_digests == same.order_digests
    assert list(one.order_digests) == ["0", "1", "2"]
    assert not set(one.order_digests.values()) & set(other.order_digests.values())
    assert len(set(one.order_digests.values())) == 3


def test_a_restarted_epoch_replaces_its_digest_and_later_ones():
    again = epochs(0)
    again.sampler.set_epoch(1)
    next(iter(again))
    assert list(again.order_digests) == ["0", "1"]
    assert again.order_digests["0"] == epochs(0).order_digests["0"]
    assert again.order_digests["1"] != epochs(0).order_digests["1"]


def test_a_state_without_digests_leaves_the_epoch_without_one():
    stopped, resumed = epochs(0, 1), epochs(0)
    next(iter(stopped))
    old = {name: value for name, value in stopped.state_dict().items() if name != "order"}
    resumed.load_state_dict(old)
    assert len(batches(resumed)) == 6
    assert resumed.order_digests == {}
    resumed.sampler.set_epoch(1)
    batches(resumed)
    assert resumed.order_digests == {"1": epochs(0).order_digests["1"]}


def test_a_digest_costs_a_few_calls_per_batch():
    data = Numbers(300_000)
    each = StatefulDataLoader(data, batch_size=32, sampler=ResumableSampler(data))
    indices = array("q", range(300_000))
    digest, calls = b"", 0
    for first in range(0, 300_000, each.batch_size):
        digest, more = counted(_chained, digest, indices[first : first + each.batch_size])
        calls += more
    assert calls < 10 * 300_000 / 32
