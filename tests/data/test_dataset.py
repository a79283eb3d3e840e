import re

import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from graphattn.data import GraphDataset, Task, from_data, load

SPLIT = {"train": torch.tensor([2, 0]), "valid": torch.tensor([1]), "test": torch.tensor([], dtype=torch.int64)}
REGRESSION = Task("toy", "regression", 2, "rmse")


def dataset(labels: list[list[float]], task: Task = REGRESSION, split=SPLIT) -> GraphDataset:
    records = [Data(x=torch.zeros(n, 1)) for n in (1, 5, 3)][: len(labels)]
    return GraphDataset(
        "toy",
        task,
        split,
        records,
        labels=torch.tensor(labels),
        num_nodes=torch.tensor([1, 5, 3]),
        num_edges=torch.tensor([0, 8, 4]),
        source="a test",
    ).checked()


NAN = float("nan")


def test_statistics_count_nodes_edges_labels_and_splits() -> None:
    found = dataset([[1.0, NAN], [3.0, 5.0], [3.0, NAN]]).statistics()
    assert found == {
        "num_graphs": 3,
        "num_nodes": 9,
        "num_edges": 12,
        "nodes_per_graph": {"min": 1, "median": 3, "mean": 3.0, "max": 5},
        "edges_per_graph": {"min": 0, "median": 4, "mean": 4.0, "max": 8},
        "graphs_without_edges": 1,
        "graphs_of_one_node": 1,
        "labels": {"present": 4, "missing": 2, "mean": 3.0, "std": round(2**0.5, 4)},
        "split": {"train": 2, "valid": 1, "test": 0},
    }


def test_statistics_of_a_binary_task_count_positives() -> None:
    binary = Task("toy", "binary", 2, "ap")
    labels = dataset([[1.0, NAN], [0.0, 1.0], [0.0, NAN]], binary).statistics()["labels"]
    assert labels == {"present": 4, "missing": 2, "positive": 2}


def test_a_split_is_asked_for_by_name() -> None:
    toy = dataset([[1.0, NAN], [3.0, 5.0], [3.0, NAN]])
    assert toy.indices("train").tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"one of train, valid, test, got 'validation'"):
        toy.indices("validation")
    with pytest.raises(ValueError, match=r"the test split of toy is empty"):
        toy.indices("test")
    assert "train 2, valid 1, test 0, regression, rmse" in repr(toy)


def test_a_graph_carries_its_number_whichever_end_it_was_counted_from() -> None:
    for numbered in (load("ogbg-molfreesolv"), from_data([Data(x=torch.zeros(1, 2), y=n / 3) for n in range(11)])):
        count = len(numbered)
        for index, number in ((0, 0), (7, 7), (torch.tensor(5), 5), (-1, count - 1), (-count, 0)):
            assert numbered[index].record_number == number
            assert_close(numbered[index].y, numbered.labels[[number]])
        assert [data.record_number for data in numbered] == list(range(count))
        for index in (count, -count - 1):
            with pytest.raises(
                IndexError, match=f"graph {index} is not in {numbered.name}, which has {count}, counted"
            ):
                numbered[index]
        with pytest.raises(TypeError):
            numbered["0"]


def test_the_number_passes_through_batches_of_pyg() -> None:
    """An attribute whose name has "index" in it would not: PyG adds the nodes of the graphs before."""
    for numbered in (load("ogbg-molfreesolv"), from_data([Data(x=torch.zeros(3, 2), y=n / 3) for n in range(11)])):
        order = torch.randperm(len(numbered), generator=torch.Generator().manual_seed(0)).tolist()
        batch = next(iter(DataLoader(numbered, batch_size=7, sampler=order, num_workers=1)))
        assert batch.record_number.tolist() == order[:7]
        assert [int(data.record_number) for data in batch.to_data_list()] == order[:7]
        assert_close(batch.y, numbered.labels[order[:7]])


def test_numbering_changes_no_object_of_the_user() -> None:
    graph = Data(x=torch.zeros(1, 2), y=0.5, index="mine", record_number="mine too")
    same = from_data({"train": [graph, graph], "valid": [graph], "test": []})
    assert [data.record_number for data in same] == [0, 1, 2]
    assert {data.index for data in same} == {"mine"}
    assert (graph.index, graph.record_number) == ("mine", "mine too")
    part = from_data([same[2], same[0], same[1]])  # graphs of another set are numbered anew
    assert [data.record_number for data in part] == [0, 1, 2]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": [0], "test": [1]}, "must have the parts train, valid and test, got test, train"),
        ({"train": [0, 3], "valid": [1], "test": []}, "must name graphs 0 to 2, got indices from 0 to 3"),
        ({"train": [-1], "valid": [1], "test": []}, "got indices from -1 to 1"),
        ({"train": [0, 2], "valid": [2], "test": []}, "names graph 2 more than once, so a model would be tested on"),
    ],
)
def test_a_split_that_leaks_or_does_not_fit_is_refused(split, message: str) -> None:
    tensors = {part: torch.tensor(indices, dtype=torch.int64) for part, indices in split.items()}
    with pytest.raises(ValueError, match=message):
        dataset([[1.0, 2.0]] * 3, split=tensors)


def test_labels_that_do_not_fit_the_task_name_the_graph() -> None:
    with pytest.raises(ValueError, match=r"toy must have 2 labels per graph, got 1"):
        dataset([[1.0], [2.0], [3.0]])
    with pytest.raises(ValueError, match=r"y of graph 1 is infinite. Use NaN"):
        dataset([[1.0, NAN], [float("inf"), 5.0], [3.0, NAN]])
    with pytest.raises(
        ValueError, match=re.escape("y of graph 2 must be 0, 1 or NaN in a binary task, got [3.0, 0.0]")
    ):
        dataset([[1.0, NAN], [0.0, 1.0], [3.0, 0.0]], Task("toy", "binary", 2, "rocauc"))


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match=r"toy has no graphs. A data set needs at least one"):
        dataset([])
