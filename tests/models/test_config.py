"""What configurations of all models share, on one made up here."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from graphattn.inputs import GraphCollate, parse_edges
from graphattn.models.config import PROVIDED, GraphModelConfig, check_name
from graphattn.selection import SubsampleSources


@dataclass(frozen=True)
class Config(GraphModelConfig):
    SIZES: ClassVar[Mapping[str, Mapping[str, Any]]] = {"wide": {"embed_dim": 96, "num_layers": 3}}
    LEAST: ClassVar[Mapping[str, int]] = {**GraphModelConfig.LEAST, "colours": 2}

    colours: int = 5


COLLATE = GraphCollate(parse_edges("hops(2) | virtual(3)"), max_hops=2, num_walks=4, num_eigenvectors=5, num_singular=6)


def test_a_size_takes_what_the_collation_provides_and_overrides_come_last() -> None:
    config = Config.from_size("wide", COLLATE, num_layers=7)
    assert isinstance(config, Config)
    assert (config.embed_dim, config.num_layers, config.colours) == (96, 7, 5)
    assert [getattr(config, name) for name in PROVIDED] == [("hop", "virtual"), 2, 4, 5, 6, 3]


def test_what_a_configuration_says_survives_json_with_tuples_as_lists() -> None:
    config = Config.from_size("wide", COLLATE, select=SubsampleSources(keep_p=0.5), bond_dims=[3, 2])
    assert config.bond_dims == (3, 2) and isinstance(config.select, str)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_each_layer_selects_by_the_spec_or_by_its_own() -> None:
    half = SubsampleSources(keep_p=0.5)
    assert Config(num_layers=3).selections() == (None, None, None)
    assert Config(num_layers=3, select="SubsampleSources(keep_p=0.5)").selections() == (half, half, half)
    assert Config(num_layers=2, select="PerLayer(None, SubsampleSources(keep_p=0.5))").selections() == (None, half)


@pytest.mark.parametrize(
    "make, advice",
    [
        (lambda: Config.from_size("wid"), "size must be one of wide, got 'wid'. Did you mean 'wide'?"),
        (lambda: Config.from_dict({"colors": 3}), "a field of Config must be one of"),
        (lambda: Config(colours=1), "colours must be at least 2, got 1"),
        (lambda: Config(num_walks=-1), "num_walks must be at least 0, got -1"),
        (lambda: Config(num_tasks=0), "num_tasks must be at least 1, got 0"),
        (lambda: Config(dropout_p=-0.5), "dropout_p must lie in [0, 1], got -0.5"),
        (lambda: Config(readout="concat"), "readout must be one of sum, mean, max, virtual, nodes, got 'concat'"),
        (lambda: Config(readout="virtual", num_virtual=0), "readout 'virtual' needs virtual nodes"),
        (lambda: Config(impl="quick"), "impl must be one of auto, dense"),
        (lambda: Config(select="PerLayer(None)"), "one spec for each of the 4 layers, got 1"),
        (lambda: check_name("x", ["alpha"], "letter"), "letter must be one of alpha, got 'x'. Check the spelling."),
    ],
)
def test_what_does_not_fit_is_refused_with_the_next_step(make, advice: str) -> None:
    with pytest.raises(ValueError, match=re.escape(advice)):
        make()
