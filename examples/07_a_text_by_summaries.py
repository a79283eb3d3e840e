"""A text, character by character, in which what lies further back is read as summaries: Combiner.

What you will learn: a `connect` seat puts two graphs in the place of one. Characters are summarised, segment by
segment; then each reads the characters of its own segment and the summaries of all before, under one softmax. Nothing
is left out, and the cost falls from n² to about n√n. The encoder is that of examples 04 to 06.

    python examples/07_a_text_by_summaries.py [PICTURE.svg]

Takes about a minute; `--steps 50` is faster and learns less. The plays are shipped in datasets/. The last line reads

    each of 64 characters reaches all before it, over 576 edges where dense attention has 2,080
"""

import argparse
import math
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import graphattn as ga
from graphattn.inputs import GraphBatch
from graphattn.models import GraphTransformer, GraphTransformerConfig

STEPS = 600
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("picture", nargs="?", help="a file to draw into, .svg, .png or .pdf; needs matplotlib")
parser.add_argument("--steps", type=int, default=STEPS, help="of training")
arguments = parser.parse_args()
steps = arguments.steps
torch.manual_seed(0)
torch.set_num_threads(1)  # batches are small: threads would wait for one another longer than they work

# 1. A text as numbers of its letters, the last tenth of it held out.
plays = Path(__file__).resolve().parents[1] / "datasets" / "tinyshakespeare" / "input.txt"
text = plays.read_text(encoding="utf-8")
letters = sorted(set(text))
number = {letter: place for place, letter in enumerate(letters)}
code = torch.tensor([number[letter] for letter in text])
train, held_out = code.split([len(code) * 9 // 10, len(code) - len(code) * 9 // 10])
frequency = code.bincount() / len(code)
entropy = -(frequency * frequency.log2()).sum().item()

# 2. Two graphs in the place of one: who is summarised in what, and who reads which characters and summaries.
context, segment, num_pieces = 64, 8, 16
summarise, attend = ga.connectivity.combiner.fixed(context, segment, causal=True)
dense = ga.connectivity.full(context).keep(ga.rules.is_causal)
print(f"dense      {dense.num_edges:,} edges\nsummarise  {summarise}\nattend     {attend}")


def draw(source: torch.Tensor, count: int) -> tuple[GraphBatch, torch.Tensor]:
    pieces = source[torch.randint(len(source) - context, (count, 1)) + torch.arange(context + 1)]
    place = torch.arange(context).expand(count, -1)
    graph = ga.connectivity.full(torch.full((count,), context)).keep(ga.rules.is_causal)
    x = torch.stack([pieces[:, :-1], place], 2).flatten(0, 1)
    return GraphBatch.of(x, graph), pieces[:, 1:].flatten()  # what comes next is to be predicted


# 3. The model: one row per character, a score for each letter that could come next.
config = GraphTransformerConfig(
    num_tasks=len(letters),
    num_layers=3,
    atom_dims=(len(letters), context),
    edge_dim=0,
    num_virtual=0,
    norm="layer",
    dropout_p=0.0,
    readout="nodes",
    connect=f"Fixed(segment={segment})",  # graphattn does its work here
)
model = GraphTransformer(config)
optimizer = torch.optim.AdamW(model.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
for _ in range(steps):
    batch, following = draw(train, num_pieces)
    loss = cross_entropy(model(batch), following)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

# 4. How many bits a character costs, and how much of what a character reads it reads through summaries.
model.eval()
bits = {}
for name, source in (("train", train), ("held out", held_out)):
    batch, following = draw(source, 16 * num_pieces)
    with torch.no_grad():
        bits[name] = cross_entropy(model(batch), following).item() / math.log(2)
print(f"\nbits per character: {entropy:.2f} by the frequencies of letters, ", end="")
print(", ".join(f"{value:.2f} {name}" for name, value in bits.items()))
piece, _ = draw(held_out, 1)
with ga.viz.record(model) as recording, torch.no_grad():
    model(piece)
for layer, read_by in enumerate(step for step in recording.steps if step.kind == "attention"):
    src, dst = read_by.graph.edge_index
    through = read_by.alpha.mean(1)[(src >= context) & (dst >= context // 2)].sum() / (context - context // 2)
    print(f"layer {layer + 1}: characters of the second half read {through:.0%} through summaries")

if arguments.picture:
    written = [letters[place] for place in piece.x[:, 0].tolist()]
    pathways = ga.viz.pathways(recording, labels=["␣" if letter == " " else repr(letter)[1:-1] for letter in written])
    # what the last character holds: the strongest edges, up to nine tenths of the influence on it
    print(ga.viz.save_picture(ga.viz.draw_layers(pathways.prune(0.9, outputs=[context - 1])), arguments.picture))
if steps >= STEPS:
    assert bits["held out"] < 3.2 < entropy
direct, read = attend.to_mask().split([context, summarise.num_dst_nodes], 1)
assert torch.equal(direct | (read.float() @ summarise.to_mask().float() > 0), dense.to_mask())
num_edges = summarise.num_edges + attend.num_edges
print(
    f"\neach of {context} characters reaches all before it, over {num_edges:,} edges where dense attention has "
    f"{dense.num_edges:,}"
)
