"""A text, character by character, by attention that learns which few of the characters before it to read.

What you will learn: `TopKEdges` scores who could be read, keeps the best k for each character, and is trained with the
rest of the model. The encoder is that of the molecules in example 04; characters before one, and not bonds, are edges.

    python examples/05_a_text_by_characters.py

Takes about a minute; `--steps 50` is faster and learns less. The plays are shipped in datasets/. The last line reads

    in each of 3 layers a character reads the 8 that it scores best, of up to 32
"""

import argparse
import math
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import graphattn as ga
from graphattn.inputs import GraphBatch
from graphattn.models import GraphTransformer, GraphTransformerConfig

STEPS = 700
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=STEPS, help="of training")
steps = parser.parse_args().steps
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

# 2. Pieces of 32 characters. A node is a character and its place; it may read itself and those before it.
context, num_pieces, k = 32, 32, 8


def batch_of(pieces: torch.Tensor) -> GraphBatch:
    graph = ga.connectivity.full(torch.full((len(pieces),), context)).keep(ga.rules.is_causal)
    place = torch.arange(context).expand(len(pieces), -1)
    return GraphBatch.of(torch.stack([pieces, place], 2).flatten(0, 1), graph)


def draw(source: torch.Tensor, count: int) -> tuple[GraphBatch, torch.Tensor]:
    start = torch.randint(len(source) - context, (count, 1))
    pieces = source[start + torch.arange(context + 1)]
    return batch_of(pieces[:, :-1]), pieces[:, 1:].flatten()  # what comes next is to be predicted


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
    select=ga.selection.TopKEdges(k),  # graphattn does its work here
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

# 4. How many bits a character costs, and which of those before it each layer has learned to keep.
model.eval()
bits = {}
for name, source in (("train", train), ("held out", held_out)):
    batch, following = draw(source, 16 * num_pieces)
    with torch.no_grad():
        bits[name] = cross_entropy(model(batch), following).item() / math.log(2)
print(f"bits per character: {entropy:.2f} by the frequencies of letters, ", end="")
print(", ".join(f"{value:.2f} {name}" for name, value in bits.items()))
with ga.viz.record(model) as recording, torch.no_grad():
    model(draw(held_out, num_pieces)[0])
print(f"\nhow often the last of {context} characters keeps, as one of its {k}, the one so many characters back:")
print(f"  {'':8}{''.join(f'{back:6}' for back in range(9))}   others    (by chance {k / context:.0%})")
for layer, graph in enumerate(recording.graphs()):
    src, dst = graph.edge_index
    back = (dst - src)[dst % context == context - 1].bincount(minlength=context) / num_pieces
    print(f"  layer {layer + 1} {''.join(f'{share:6.0%}' for share in back[:9].tolist())}   {back[9:].mean():6.0%}")

# 5. A sample: the last row says what may follow, one of that is drawn, and the piece moves on by a character.
piece = held_out[:context]
written = []
with torch.no_grad():
    for _ in range(160):
        following = model(batch_of(piece[None]))[-1].softmax(0).multinomial(1)
        written.append(letters[int(following)])
        piece = torch.cat([piece[1:], following])
print(f"\nafter {''.join(letters[place] for place in held_out[:context].tolist())!r} it writes\n\n{''.join(written)}")

if steps >= STEPS:
    assert bits["held out"] < 3.2 < entropy
most = max(int(graph.edge_index[1].bincount().max()) for graph in recording.graphs())
assert most == k
print(f"\nin each of {config.num_layers} layers a character reads the {most} that it scores best, of up to {context}")
