import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Data

from graphattn.data import EpochSampler, from_data, load, make_loader
from graphattn.data.registry import SHIPPED
from graphattn.inputs import GraphCollate


def numbers(batch: list[Data]) -> list[int]:
    return [int(data.y) for data in batch]


@pytest.fixture
def dataset():
    graphs = [Data(x=torch.zeros(1, 2), y=float(index) + 100) for index in range(29)]
    return from_data({"train": graphs[:19], "valid": graphs[19:26], "test": graphs[26:]})


def test_each_epoch_is_an_order_of_all_records_and_another_one() -> None:
    sampler = EpochSampler(53, seed=3)
    orders = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        orders.append(tuple(sampler))
    assert all(sorted(order) == list(range(53)) for order in orders)
    assert len(set(orders)) == 5


def test_the_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    first = EpochSampler(53, seed=3)
    first.set_epoch(7)
    order = list(first)
    torch.manual_seed(99)
    torch.rand(5)
    second = EpochSampler(53, seed=3)
    for epoch in (2, 11, 7):  # another history
        second.set_epoch(epoch)
        list(second)
    assert list(second) == order
    third = EpochSampler(53, seed=4)
    third.set_epoch(7)
    assert list(third) != order
    swapped = EpochSampler(53, seed=7)
    swapped.set_epoch(3)
    assert list(swapped) != order


def test_places_are_uniform() -> None:
    sampler = EpochSampler(7, seed=0)
    place = torch.zeros(7, 7)
    for epoch in range(2100):
        place[torch.arange(7), sampler.order(epoch)] += 1
    chi_squared = ((place - 300) ** 2 / 300).sum()
    assert 10 < chi_squared < 75  # 36 degrees of freedom: mean 36, standard deviation 8.5


@pytest.mark.parametrize("position", [0, 1, 8, 52, 53])
def test_a_resumed_epoch_is_the_rest_of_the_same_order(position: int) -> None:
    sampler = EpochSampler(53, seed=3)
    sampler.set_epoch(2)
    order = list(sampler)
    resumed = EpochSampler(53, seed=3)
    resumed.load_state(sampler.state(position))
    resumed.set_epoch(2)  # as trainers do at the start of an epoch: the position stays
    assert list(resumed) == order[position:]
    assert len(resumed) == 53 - position
    resumed.set_epoch(3)
    sampler.set_epoch(3)
    assert list(resumed) == list(sampler)


def test_a_state_of_other_data_or_another_seed_is_refused() -> None:
    state = EpochSampler(53, seed=3).state(5)
    with pytest.raises(ValueError, match=r"saved with num_records 53, and this run has 47. Resume with the same data"):
        EpochSampler(47, seed=3).load_state(state)
    with pytest.raises(ValueError, match=r"saved with seed 3, and this run has 4"):
        EpochSampler(53, seed=4).load_state(state)
    with pytest.raises(ValueError, match=r"between 0 and 53, got 54. It counts records, not batches"):
        EpochSampler(53).state(54)
    with pytest.raises(ValueError, match=r"must not be negative, got -1 and 0"):
        EpochSampler(-1)
    with pytest.raises(ValueError, match=r"epoch must not be negative"):
        EpochSampler(5).set_epoch(-1)


def test_train_is_shuffled_anew_and_the_rest_stays_in_order(dataset) -> None:
    train = make_loader(dataset, "train", numbers, batch_size=5)
    epochs = []
    for epoch in range(3):
        train.sampler.set_epoch(epoch)
        epochs.append([number for batch in train for number in batch])
    assert [sorted(epoch) for epoch in epochs] == [list(range(100, 119))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert list(make_loader(dataset, "valid", numbers, batch_size=5)) == [[119, 120, 121, 122, 123], [124, 125]]
    assert list(make_loader(dataset, "valid", numbers, batch_size=5, drop_last=True)) == [[119, 120, 121, 122, 123]]
    assert list(make_loader(dataset, torch.tensor([3, 28]), numbers)) == [[103, 128]]
    assert list(make_loader(dataset, "train", numbers, batch_size=19, shuffle=False)) == [list(range(100, 119))]


def test_a_loader_resumes_in_the_middle_of_an_epoch(dataset) -> None:
    whole = make_loader(dataset, "train", numbers, batch_size=5, seed=1)
    whole.sampler.set_epoch(4)
    batches = list(whole)
    resumed = make_loader(dataset, "train", numbers, batch_size=5, seed=1)
    resumed.sampler.load_state(whole.sampler.state(position=10))
    assert list(resumed) == batches[2:]
    assert len(resumed) == 2


def test_a_loader_leaves_the_global_generator_alone(dataset) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    list(make_loader(dataset, "train", numbers))
    assert torch.equal(torch.rand(3), expected)


def test_workers_bring_the_same_batches_from_mapped_data() -> None:
    esol = load("ogbg-molesol", SHIPPED)
    here = list(make_loader(esol, "valid", atoms, batch_size=16))
    for _ in range(2):
        assert list(make_loader(esol, "valid", atoms, batch_size=16, num_workers=1)) == here


def atoms(batch: list[Data]) -> list[tuple[int, int]]:
    return [(data.num_nodes, int(data.x.sum())) for data in batch]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_each_batch_says_which_records_it_holds(dataset, num_workers: int) -> None:
    for numbered in (dataset, load("ogbg-molfreesolv", SHIPPED)):
        loader = make_loader(numbered, "train", GraphCollate(), batch_size=5, seed=3, num_workers=num_workers)
        assert loader.sampler.shuffle
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            batches = list(loader)
            order = numbered.indices("train")[loader.sampler.order(epoch)]
            assert torch.equal(torch.cat([batch.index for batch in batches]), order)
            assert_close(torch.cat([batch.y for batch in batches]), numbered.labels[order])


def test_what_cannot_be_loaded_is_refused(dataset) -> None:
    with pytest.raises(ValueError, match=r"one of train, valid, test, got 'dev'"):
        make_loader(dataset, "dev", numbers)
    with pytest.raises(ValueError, match=r"the indices are empty"):
        make_loader(dataset, torch.tensor([], dtype=torch.int64), numbers)
    with pytest.raises(ValueError, match=r"batch_size must be at least 1, got 0"):
        make_loader(dataset, "train", numbers, batch_size=0)
