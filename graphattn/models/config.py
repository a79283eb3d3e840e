"""What the configurations of all models of graphs have in common: fields, names that are checked, plain values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

from graphattn.inputs.graph import GraphCollate
from graphattn.models.seats import SELECTIONS, as_line, read_seat
from graphattn.nn import OGB_ATOM_DIMS, OGB_BOND_DIMS
from graphattn.ops import IMPLEMENTATIONS
from graphattn.selection import spec_of_each_layer

PROVIDED = ("kinds", "max_hops", "num_walks", "num_eigenvectors", "num_singular", "num_virtual")  # by the collation


@dataclass(frozen=True)
class GraphModelConfig:
    """Fields that every model of graphs has, one for each thing a configuration file can set.

    Args:
        num_tasks: width of the output.
        embed_dim, num_heads, num_layers: size of the trunk; `SIZES` of the class holds named ones.
        edge_dim: width of edge features.
        dropout_p: dropout of features.
        attention_dropout_p: dropout of attention weights.
        select: what each layer reads of the graph, as a line such as "SubsampleSources(keep_p=0.25)" or as such a spec:
            see `SELECTIONS`. `Ramp` moves its numbers while training, `PerLayer` gives each layer its own.
        readout: one of `READOUTS` of the class.
        atom_dims: categories of each node feature, or the number of features that are numbers.
        bond_dims: the same of bonds; 0 where bonds have no features.
        kinds: names of edge kinds, each with a vector of its own.
        max_hops, num_walks, num_eigenvectors, num_singular, num_virtual: what the collation provides (`GraphCollate`).
        impl: implementation of attention.

    Raises:
        ValueError: for a name that is none of these, suggesting the nearest, and for sizes that do not fit.
    """

    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    READOUTS: ClassVar[tuple[str, ...]] = ("sum", "mean", "max", "virtual", "nodes")
    OF_VIRTUAL: ClassVar[tuple[str, ...]] = ("virtual",)  # readouts that need virtual nodes
    LEAST: ClassVar[Mapping[str, int]] = {"num_tasks": 1, "num_layers": 0, "edge_dim": 0, "num_virtual": 0}
    PROBABILITIES: ClassVar[tuple[str, ...]] = ("dropout_p", "attention_dropout_p")

    num_tasks: int = 1
    embed_dim: int = 64
    num_heads: int = 4
    num_layers: int = 4
    edge_dim: int = 16
    dropout_p: float = 0.1
    attention_dropout_p: float = 0.0
    select: str = ""
    readout: str = "sum"
    atom_dims: tuple[int, ...] | int = OGB_ATOM_DIMS
    bond_dims: tuple[int, ...] | int = OGB_BOND_DIMS
    kinds: tuple[str, ...] = ("bond", "full", "virtual")
    max_hops: int = 0
    num_walks: int = 0
    num_eigenvectors: int = 0
    num_singular: int = 0
    num_virtual: int = 1
    impl: str = "auto"

    def __post_init__(self) -> None:
        for field in fields(self):  # YAML writes tuples as lists
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        check_name(self.readout, self.READOUTS, "readout")
        check_name(self.impl, ("auto", *IMPLEMENTATIONS), "impl")
        counts = dict.fromkeys(("max_hops", "num_walks", "num_eigenvectors", "num_singular"), 0)
        for name, least in {**counts, **self.LEAST}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}. Give a larger number.")
        for name in self.PROBABILITIES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)}. It is a probability.")
        object.__setattr__(self, "select", as_line(self.select, SELECTIONS, "select"))
        self.selections()
        if self.readout in self.OF_VIRTUAL and not self.num_virtual:
            raise ValueError(
                f"readout {self.readout!r} needs virtual nodes, got num_virtual = 0. Add virtual(1) to the edges of "
                "the collation and set num_virtual, or read out another way."
            )

    def selections(self) -> tuple[Any, ...]:
        """Returns the spec by which each layer selects what it reads, None where it reads all."""
        return spec_of_each_layer(read_seat(self.select, SELECTIONS, "select"), self.num_layers)

    @classmethod
    def from_size(cls, size: str, inputs: GraphCollate | None = None, **overrides: Any) -> Self:
        """Makes a configuration of a named size.

        Args:
            size: a name of `SIZES`.
            inputs: the collation, whose kinds, distances, positions and virtual nodes the model is to read.
            overrides: any field.

        Raises:
            ValueError: for a size or field that does not exist, suggesting the nearest.
        """
        check_name(size, cls.SIZES, "size")
        provided = {} if inputs is None else {name: getattr(inputs, name) for name in PROVIDED}
        return cls.from_dict({**cls.SIZES[size], **provided, **overrides})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Makes a configuration from plain values, as YAML holds them; fields that are left out have their defaults."""
        names = [field.name for field in fields(cls)]
        for name in values:
            check_name(name, names, f"a field of {cls.__name__}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Returns numbers, strings and lists, from which `from_dict` makes the same configuration."""
        return {name: listed(value) for name, value in asdict(self).items()}


def listed(value: Any) -> Any:
    """Returns a value with tuples as lists, however deep, as YAML and JSON hold it.

    >>> listed({"kinds": ("bond", "full")})
    {'kinds': ['bond', 'full']}
    """
    if isinstance(value, tuple | list):
        return [listed(inner) for inner in value]
    return {key: listed(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def check_name(name: str, valid: Iterable[str], what: str) -> None:
    """Raises a ValueError with the valid names, and the nearest of them, if `name` is none of them."""
    valid = list(valid)
    if name in valid:
        return
    near = difflib.get_close_matches(str(name), valid, n=1)
    suggestion = f"Did you mean {near[0]!r}?" if near else "Check the spelling."
    raise ValueError(f"{what} must be one of {', '.join(valid)}, got {name!r}. {suggestion}")
