import re
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from torch_geometric.data import Data

from graphattn.data import Task, custom, from_data, load, random_split

EDGES = torch.tensor([[0, 1], [1, 0]])


def pair(label: float = 0.5, **fields) -> Data:
    return Data(**({"x": torch.zeros(2, 3), "edge_index": EDGES, "y": torch.tensor([label])} | fields))


def pairs(**broken) -> list[Data]:
    """Five graphs, of which number 3 is broken."""
    return [pair(**broken) if index == 3 else pair(index / 7) for index in range(5)]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a module into the current directory and forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    written = []

    def write(name: str, source: str) -> str:
        Path(f"{name}.py").write_text(textwrap.dedent(source))
        written.append(name)
        return name

    before = list(sys.path)
    yield write
    assert sys.path == before
    for name in written:
        sys.modules.pop(name, None)


def test_ten_lines_of_user_code_make_a_data_set(module) -> None:
    lines = custom.__doc__.split("    # shapes.py\n")[1].split("\n\n`load")[0]
    assert len([line for line in lines.splitlines() if line.strip()]) <= 10
    module("shapes", lines)
    dataset = load("shapes:rings")
    assert repr(dataset) == "GraphDataset(shapes:rings: 37 graphs, train 31, valid 3, test 3, regression, rmse)"
    assert dataset.task == Task("shapes:rings", "regression", 1, "rmse")
    for n, data in enumerate(dataset, start=3):
        assert (data.num_nodes, data.num_edges) == (n, 2 * n)
        assert_close(data.y, torch.tensor([[float(n)]]))
    assert dataset.num_edges.tolist() == [2 * n for n in range(3, 40)]


def test_a_generator_may_import_what_lies_beside_it(module) -> None:
    module("beside", "LABELS = [0, 1, 1, 0]")
    source = """
        import torch
        from torch_geometric.data import Data
        def graphs():
            import beside
            for label in beside.LABELS:
                yield Data(x=torch.zeros(1, 2), y=label)
    """
    assert load(f"{module('mine', source)}:graphs").task.kind == "binary"


def test_a_dict_of_splits_is_kept(module) -> None:
    dataset = from_data({"test": [pair(3.5)], "valid": [], "train": [pair(1.5), pair(2.5)]})
    assert dataset.labels.flatten().tolist() == [1.5, 2.5, 3.5]
    assert {part: indices.tolist() for part, indices in dataset.split.items()} == {
        "train": [0, 1], "valid": [], "test": [2],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("returned", "kind", "metric"),
    [
        ("graphs", "regression", "rmse"),
        ("(graphs, 'regression')", "regression", "rmse"),
        ("(binary, 'binary')", "binary", "rocauc"),
        ("(binary, Task('a', 'binary', 1, 'ap'))", "binary", "ap"),
        ("(tuple(binary), 'regression')", "regression", "rmse"),
        ("({'train': binary, 'valid': [], 'test': binary[:0]}, 'binary')", "binary", "rocauc"),
        ("tuple(graphs[:3])", "regression", "rmse"),
    ],
)
def test_a_function_may_say_the_task(module, returned: str, kind: str, metric: str) -> None:
    source = f"""
        import torch
        from torch_geometric.data import Data
        from graphattn.data import Task
        graphs = [Data(x=torch.zeros(2, 3), y=index / 7) for index in range(5)]
        binary = [Data(x=torch.zeros(2, 3), y=index % 2) for index in range(5)]
        def make():
            return {returned}
    """
    task = load(f"{module('said', source)}:make").task
    assert (task.kind, task.metric) == (kind, metric)


def test_the_task_is_read_off_the_labels() -> None:
    nan = float("nan")
    binary = from_data([pair(y=torch.tensor([value, nan])) for value in (0, 1, nan)])
    assert binary.task == Task("data", "binary", 2, "rocauc")
    assert from_data([pair(value) for value in (0.0, 1.0, 2.0)]).task.kind == "regression"
    assert from_data([pair(y=torch.tensor([value > 1])) for value in range(3)]).task.kind == "binary"
    assert from_data([pair(nan)] * 3).task.kind == "regression"


def test_classes_are_not_taken_for_numbers() -> None:
    classes = [pair(y=torch.tensor([value])) for value in (0, 1, 2)]
    with pytest.raises(ValueError, match=r"integer labels other than 0 and 1.*one 0/1 column of y per class"):
        from_data(classes)
    assert from_data(classes, "regression").task.kind == "regression"


def test_graphs_are_not_changed_and_other_attributes_stay() -> None:
    graph = pair(x=torch.ones(2, 3, dtype=torch.float64), pos=torch.zeros(2, 2), y=2.5)
    dataset = from_data([graph, graph, graph])
    assert (graph.x.dtype, graph.y) == (torch.float64, 2.5)
    assert (dataset[0].x.dtype, list(dataset[0].pos.shape)) == (torch.float32, [2, 2])
    assert_close(dataset[0].y, torch.tensor([[2.5]]))
    assert from_data([pair(x=torch.ones(2, 3, dtype=torch.int32))] * 3)[0].x.dtype == torch.int64
    assert from_data([pair(y=np.array([1.0, np.nan]))] * 3)[1].y.shape == (1, 2)


def test_graphs_without_edges_or_with_one_node_work() -> None:
    with_edges = pair(edge_attr=torch.zeros(2, 4))
    lonely = Data(x=torch.zeros(1, 3), y=0.25)
    dataset = from_data([lonely, with_edges, pair(edge_index=EDGES[:, :0])])
    assert [list(data.edge_index.shape) for data in dataset] == [[2, 0], [2, 2], [2, 0]]
    assert [list(data.edge_attr.shape) for data in dataset] == [[0, 4], [2, 4], [0, 4]]
    assert dataset.statistics()["graphs_of_one_node"] == 1
    assert lonely.edge_index is None


def test_a_dataset_without_an_end_is_read_to_its_length() -> None:
    class Endless(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Data:
            return pair(index / 3)

    assert len(from_data(Endless())) == 4


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"x": None}, "data, graph 3: x must be a tensor [num_nodes, num_features], got none. Set data.x"),
        ({"x": torch.zeros(2)}, "graph 3: x must be a tensor [num_nodes, num_features], got [2]. data.x[:, None]"),
        ({"x": torch.tensor([[0.0] * 3, [1, float("nan"), 2]])}, "graph 3: x has NaN or infinity in row 1. Fill it in"),
        ({"x": torch.zeros(2, 4)}, "graph 3: x has 4 columns of torch.float32, other graphs have 3"),
        (
            {"x": torch.zeros(2, 3).long()},
            "graph 3: x has 3 columns of torch.int64, other graphs have 3 of torch.float32",
        ),
        ({"edge_index": EDGES + 1}, "graph 3: edge_index must name nodes 0 to 1, the rows of x, got 1 to 2. Number"),
        ({"edge_index": EDGES - 1}, "got -1 to 0"),
        (
            {"edge_index": torch.zeros(3, 2).long()},
            "edge_index must be int64 [2, num_edges], got torch.int64 [3, 2]. If",
        ),
        ({"edge_index": EDGES.float()}, "edge_index must be int64 [2, num_edges], got torch.float32 [2, 2]"),
        (
            {"edge_attr": torch.zeros(1, 4)},
            "graph 3: edge_attr must have one row per column of edge_index, 2, got 1. An",
        ),
        ({"edge_attr": torch.full((2, 4), float("inf"))}, "graph 3: edge_attr has NaN or infinity in row 0"),
        ({"edge_attr": torch.zeros(2, 4)}, "graph 0: has edges and no edge_attr, but others have"),
        ({"y": None}, "graph 3: has no y. Set data.y to its label"),
        ({"y": "soluble"}, "graph 3: y must be a number or numbers, got 'soluble'"),
        ({"y": torch.zeros(2)}, "graph 3: y has 2 columns of torch.float32, other graphs have 1"),
        ({"y": torch.tensor(float("inf"))}, "y of graph 3 is infinite. Use NaN for a label that is missing"),
    ],
)
def test_a_broken_graph_is_named_by_its_index_with_advice(broken, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        from_data(pairs(**broken))


def test_what_is_no_graph_is_named_by_its_index() -> None:
    with pytest.raises(TypeError, match=r"data, graph 1: must be torch_geometric.data.Data, got dict"):
        from_data([pair(), {"x": 1}, pair()])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_graphs_to_split_are_refused_with_advice(count: int) -> None:
    with pytest.raises(ValueError, match=f"has {count} graphs, too few to split in three. Return more, or a dict"):
        from_data([pair()] * count)


def test_splits_that_are_no_splits_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"must have the keys train, valid and test, got train, val. A part may be an empty list"
    ):
        from_data({"train": [pair()], "val": []})
    with pytest.raises(ValueError, match=r"data has no graphs. Return at least one"):
        from_data({"train": [], "valid": [], "test": []})
    with pytest.raises(ValueError, match=r"must be 'regression', 'binary' or a Task, got 'multiclass'"):
        from_data([pair()] * 3, "multiclass")


@pytest.mark.parametrize("num_graphs", [3, 11, 97])
def test_a_random_split_is_a_partition_that_its_seed_repeats(num_graphs: int) -> None:
    split = random_split(num_graphs, seed=5)
    assert sorted(torch.cat(list(split.values())).tolist()) == list(range(num_graphs))
    assert min(indices.numel() for indices in split.values()) >= 1
    for part, indices in random_split(num_graphs, seed=5).items():
        assert torch.equal(indices, split[part])
    if num_graphs > 50:
        assert not torch.equal(random_split(num_graphs, seed=6)["test"], split["test"])


def test_the_split_seed_reaches_the_split(module) -> None:
    lines = custom.__doc__.split("    # shapes.py\n")[1].split("\n\n`load")[0]
    module("shapes2", lines)
    a, b = load("shapes2:rings"), load("shapes2:rings", split_seed=1)
    assert not torch.equal(a.split["train"], b.split["train"])


def test_references_that_lead_nowhere_are_answered_with_advice(module, tmp_path: Path) -> None:
    module("here", "LIST = []\ndef graphs(): pass\ndef text(): return 'a'\n_hidden = print")
    module("broken", "import package_that_nobody_has")
    with pytest.raises(ImportError, match=f"there is no module 'nowhere' in {tmp_path} or on the Python path. Run in"):
        load("nowhere.data:graphs")
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'package_that_nobody_has'"):
        load("broken:graphs")
    with pytest.raises(ImportError, match=r"here has no 'graph'; it has graphs, text"):
        load("here:graph")
    with pytest.raises(TypeError, match=r"here:LIST must be a function or a class, got list"):
        load("here:LIST")
    with pytest.raises(TypeError, match=r"here:graphs must return a list of Data, .* got NoneType. Does it end with"):
        load("here:graphs")
    with pytest.raises(TypeError, match=r"got str"):
        load("here:text")
    for reference in (":graphs", "here:", "here:a b"):
        with pytest.raises(ValueError, match=r"named 'package.module:name', got"):
            load(reference)


def test_an_error_of_the_function_itself_comes_through(module) -> None:
    module("fails", "def graphs():\n    return 1 / 0")
    with pytest.raises(ZeroDivisionError):
        load("fails:graphs")
