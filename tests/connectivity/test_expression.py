"""Expressions build what the same calls build, and refuse everything else where it stands, within bounds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from graphattn import connectivity as c
from graphattn.connectivity._allocation import LimitedTensors, TooLarge
from graphattn.connectivity.expression import BUILDERS, ExpressionError, read_graph, read_rule
from graphattn.graph import disjoint_union, rules

ROOT = Path(__file__).resolve().parents[2]


def read(text: str, seed: int = 0):
    return read_graph(text, generator=torch.Generator().manual_seed(seed))


def refusal(text: str) -> list[str]:
    with pytest.raises(ExpressionError) as refused:
        read(text)
    return str(refused.value).split("\n")


WINDOW, HUB = c.sliding_window(11, 2), c.global_tokens(11, [0, -1])
SAME = {
    "sliding_window(11, radius=2) | global_tokens(11, [0, -1])": WINDOW | HUB,
    "  sliding_window(11, 2) & global_tokens(11, (0, -1)) ": WINDOW & HUB,
    "sliding_window(11, 2) - global_tokens(11, [0, -1])": WINDOW - HUB,
    "sliding_window(11, 2) ^ global_tokens(11, [0, -1])": WINDOW ^ HUB,
    "~sliding_window(11, 2)": ~WINDOW,
    "sliding_window(11, 2) @ sliding_window(11, 2)": WINDOW @ WINDOW,
    "sliding_window(11, 2).keep(is_causal).T": WINDOW.keep(rules.is_causal).T,
    "(full(11)\n - sliding_window(11, 2)).keep(within(7))": (c.full(11) - WINDOW).keep(rules.within(7)),
    "full(5).keep(same_document([0, 0, 1, 1, 1]))": c.full(5).keep(rules.same_document(torch.tensor([0, 0, 1, 1, 1]))),
    "full([2, 3])": c.full(torch.tensor([2, 3])),
    "grid([[2, 3], [4, 1]], radius=1)": c.grid(torch.tensor([[2, 3], [4, 1]]), radius=1),
    "grid((2, 3), radius=(0, 1))": c.grid((2, 3), radius=(0, 1)),
    "hops(sliding_window(11, 1), 2)": c.hops(c.sliding_window(11, 1), 2),
    "hops(sliding_window(11, 1), 1000000000000)": c.hops(WINDOW, 10),
    "disjoint_union([full(2), sliding_window(11, 2)])": disjoint_union([c.full(2), WINDOW]),
    "knn([[0.0, 1.0], [2.0, 3.0], [0.5, 1.0]], 1)": c.knn(torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.5, 1.0]]), 1),
}


@pytest.mark.parametrize("text", SAME)
def test_an_expression_builds_what_the_call_builds(text: str) -> None:
    found = read(text)
    assert found == SAME[text] and found.kinds == SAME[text].kinds
    assert torch.equal(found.src_ptr, SAME[text].src_ptr)


def test_the_origin_of_a_graph_reads_back() -> None:
    graph = ((WINDOW | HUB) - c.sliding_window(11, 1)).keep(rules.within(5)).T
    assert read(graph.origin) == graph


def test_draws_come_from_the_seed_in_the_order_they_are_written() -> None:
    text = "random_regular(31, 3) | expander(31, 4)"
    generator = torch.Generator().manual_seed(7)
    expected = c.random_regular(31, 3, generator=generator) | c.expander(31, 4, generator=generator)
    assert read(text, seed=7) == expected == read(text, seed=7)
    assert read(text, seed=8) != expected


def test_every_builder_but_those_of_other_objects_can_be_named() -> None:
    assert set(c.__all__) - set(BUILDERS) == {"bonds", "hop_distance"}
    for name in BUILDERS:  # annotations can be read, so that arguments can be bound
        assert refusal(f"{name}(nothing_named_so=1)")[0].startswith(f"{name}(")


# text, the character under which the mark stands, what is said
REFUSED = [
    ("sliding_windw(4, radius=1)", 0, "there is no builder 'sliding_windw'. Did you mean 'sliding_window'?"),
    ("full(3) | foo(3)", 10, "there is no builder 'foo'. These are: "),
    ("full(3).keep(is_causl)", 13, "Did you mean 'is_causal'?"),
    ("full(3).edge_index", 8, "only .T and .keep(rule) can be written, not .edge_index"),
    ("full(3).permute([0, 2, 1])", 8, "not .permute"),
    ("().__class__.__bases__", 13, "not .__bases__"),
    ("__import__('os').system('true')", 17, "not .system"),
    ("__import__('os')", 0, "there is no builder '__import__'"),
    ("open('/etc/passwd')", 0, "there is no builder 'open'"),
    ("lambda: full(3)", 0, "an expression is made of builders"),
    ("[full(3) for x in (1, 2)]", 0, "an expression is made of builders"),
    ("full(3) if True else full(4)", 0, "an expression is made of builders"),
    ("full(3)(4)", 0, "an expression is made of builders"),
    ("full(x := 3)", 5, "an expression is made of builders"),
    ("full(*[3])", 5, "an expression is made of builders"),
    ("full(**{})", 7, "** is not allowed"),
    ("f'{1}'", 0, "an expression is made of builders"),
    ("full(3) and full(4)", 0, "an expression is made of builders"),
    ("full(3) < full(4)", 0, "an expression is made of builders"),
    ("full(3)[0]", 0, "an expression is made of builders"),
    ("full(3) + full(3)", 0, "graphs are combined by | & - ^ @ and ~ alone"),
    ("full(10**9)", 5, "graphs are combined by"),
    ("-full(3)", 0, "graphs are combined by"),
    ("tree([0] * 5)", 5, "graphs are combined by"),
    ("full(3) | 4", 10, "a graph is expected here, not a literal"),
    ("full", 0, "full needs its arguments: full(…)"),
    ("is_causal", 0, "is_causal is a rule, no graph"),
    ("within(3)", 0, "within is a rule, no graph"),
    ("full(3).keep(within)", 13, "needs its argument: within(…)"),
    ("full(3).keep(is_causal())", 13, "write it without brackets"),
    ("full(3).keep(lambda s, t: s)", 13, "a rule is expected here: is_causal, within, same_document"),
    ("full(3).keep(full(3))", 13, "there is no rule 'full'"),
    ("full(3).keep(within(-1))", 13, "distance must be at least 0, got -1"),
    ("full(3).keep()", 0, ".keep takes one rule"),
    ("full(3, radius=1)", 0, "full(sizes, dst_sizes): got an unexpected keyword argument 'radius'"),
    ("sliding_window(4)", 0, "missing a required argument: 'radius'"),
    ("full(3) | sliding_window(4, -1)", 10, "radius must"),
    ("full(3) | full(4)", 0, "needs graphs over the same nodes"),
    ("random_regular(5, 2, generator=3)", 21, "use --seed"),
    ("full(1j)", 5, "complex is no argument"),
    ("full(b'3')", 5, "bytes is no argument"),
    ("full(99999999999999999999)", 5, "the number is too large: at most 2^53"),
    ("full(0x" + "f" * 9999 + ")", 5, "the number is too large"),
    ("full(1e999)", 5, "the number is too large"),
    ("full([[1], [2, 3]])", 0, "sizes is no table of numbers"),
    ("full(3) |", 9, "this is no expression"),
    ("full(3))", 7, "this is no expression: unmatched ')'"),
    ("full(3)) | (full(3)", 7, "this is no expression: unmatched ')'"),
    ("full(3", 4, "this is no expression: '(' was never closed"),
    ("full(3) | x = 3", 12, "this is no expression"),
    ("import os", 0, "this is no expression"),
    ("'größe' | wrong(3)", 0, "a graph is expected here"),
    ("größe(3) | full(2)", 0, "there is no builder 'größe'"),
    ("full(3).keep(within('größe')).T | wrong(3)", 13, "not supported"),
    ("~sliding_window(100000, 1)", 0, "its complement would hold 10,000,000,000 edges"),
]


@pytest.mark.parametrize(("text", "column", "said"), REFUSED, ids=[text[:32] for text, _, _ in REFUSED])
def test_what_is_refused_is_marked(text: str, column: int, said: str) -> None:
    reason, shown, mark = refusal(text)
    assert said in reason
    assert shown.startswith(f"  {text[: column + 1]}")
    assert mark == f"  {' ' * column}^"


def test_the_mark_counts_characters_and_finds_its_line() -> None:
    assert refusal("(full(2) |\n wrong(3))")[1:] == ["   wrong(3))", "   ^"]
    assert refusal("per_head([full(2), 'größe', wrong(2)])")[1:] == [
        "  per_head([full(2), 'größe', wrong(2)])",
        "                              ^",
    ]
    long = "full(2) | " * 40 + "wrong(3) | " + "full(2) | " * 4 + "full(2)"
    _, shown, mark = refusal(long)
    assert shown.startswith("  … ") and shown.endswith(" …") and shown[mark.index("^") :].startswith("wrong(3)")


def test_nothing_and_too_much_is_refused() -> None:
    assert refusal(" \n ") == ["the expression is empty. Write a builder, such as sliding_window(4096, radius=64)."]
    assert "more than 65,536" in refusal("full(3)" + " " * 70_000 + "| full(3)")[0]
    assert "no expression" in refusal("full(3)\0")[0]


def test_rules_are_read_alone() -> None:
    assert read_rule("is_causal") is rules.is_causal
    assert read_rule("within(3)").__name__ == "within(3)"
    for text in ("full(3)", "print", "within(3).x", ""):
        with pytest.raises(ExpressionError):
            read_rule(text)


DEEP = [
    "(" * 30_000, "~" * 60_000 + "full(3)", "[" * 30_000, "full(3)" + ".T" * 20_000, "full(" * 10_000,
    " | ".join(["full(3)"] * 6_000), "not " * 10_000 + "x", "lambda:" * 9_000 + "x", "x if x else " * 5_000 + "x",
    "-" * 60_000 + "1", "full(" + "-" * 60_000 + "1)", "x[" * 20_000, "f(" * 20_000 + ")" * 20_000, "{" * 30_000,
    "full([" + "[" * 80 + "]" * 80 + "])", "x**" * 20_000 + "x", "full(" + "9" * 60_000 + ")",
]  # fmt: skip
HUGE = [
    "sliding_window(1000000000000, radius=1)", "sliding_window(1000000, radius=1000000)", "full(9007199254740992)",
    "random_regular(100000000, 3)", "random_regular(1000000, 1000000)", "grid((1000000, 1000000))",
    "prefix_lm(100000000000, 5)", "full(100000) & full(100000)", "full([4000000000000, 4])",
    "strided(10000000, 2)", "full(20000) @ full(20000)", "global_tokens(100000000000, [0])",
    "neighborhood((50000, 50000), kernel_size=99)", "disjoint_union([full(1000000000000)])",
]  # fmt: skip
IN_BOUNDS = """
import resource, sys, time, torch
from graphattn.connectivity import expression
torch.set_num_threads(1)
expression.read_graph("sliding_window(9, 1)", generator=torch.Generator())
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 3 * 2**30,) * 2)
for text in __import__("json").load(sys.stdin):
    start = time.process_time()
    try:
        expression.read_graph(text, generator=torch.Generator())
    except expression.ExpressionError as error:
        print(round(time.process_time() - start, 3), repr(str(error)[:100]))
    else:
        print("made", text[:80])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("texts", [DEEP, HUGE], ids=["deep", "huge"])
def test_deep_and_huge_expressions_are_refused_soon_in_little_memory(texts: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", IN_BOUNDS], input=json.dumps(texts), env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == len(texts)
    for line, text in zip(lines, texts):
        seconds, _ = line.split(" ", 1)
        assert seconds != "made" and float(seconds) < 5, (text[:80], line)
        assert "not enough memory" not in line and "can't allocate" not in line  # refused, not run into


def test_a_tensor_above_the_limit_is_not_made() -> None:
    with LimitedTensors(2**26):
        small = torch.arange(1000)
        for make in (
            lambda: torch.arange(10**12),
            lambda: torch.empty(10**6, 10**6),
            lambda: small.repeat_interleave(torch.full((1000,), 10**5)),
            lambda: torch.arange(10**4)[:, None] * torch.arange(10**4),
            lambda: torch.cat([torch.arange(5 * 10**6)] * 4),
            lambda: torch.randint(9, (10**9,), generator=torch.Generator()),
            lambda: (torch.ones(9 * 10**6) > 0).nonzero(),
        ):
            with pytest.raises(TooLarge, match=r"this needs a tensor of .* GiB, above the limit of 0\.06 GiB"):
                make()
        torch.testing.assert_close(small.repeat_interleave(3)[small * 3], small)
