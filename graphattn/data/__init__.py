"""Data sets as graphs with labels, a task and a split: OGB molecules, and whatever a function of yours returns."""

from graphattn.data.cards import card, names
from graphattn.data.custom import from_data, from_function, random_split
from graphattn.data.dataset import GraphDataset
from graphattn.data.loaders import EpochSampler, make_loader
from graphattn.data.registry import find, load
from graphattn.data.task import Task

__all__ = [
    "EpochSampler",
    "GraphDataset",
    "Task",
    "card",
    "find",
    "from_data",
    "from_function",
    "load",
    "make_loader",
    "names",
    "random_split",
]
