"""The same molecules by three scores: the dot product, one without keys, and one whose keys are made of queries.

What you will learn: a score is a seat of the layer. `Symmetric` reads queries as keys; `Pairwise` puts a small matrix
per head between them, and its first values decide how learning begins. All are scaled dot products to whatever runs
them, so nothing else changes.

    python examples/09_pairwise_scores.py

Takes about a minute; `--steps 30` is faster and learns less. The molecules are shipped in datasets/. The last line
reads

    of 158,145 weights, pairwise scores save 12,544 and symmetric ones 16,640
"""

import argparse

import torch
from torch.nn.functional import mse_loss

from graphattn.data import load
from graphattn.inputs import GraphCollate, parse_edges
from graphattn.models import GraphTransformer

STEPS = 180
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=STEPS, help="of training, for each score")
steps = parser.parse_args().steps
torch.set_num_threads(1)  # batches are small: threads would wait for one another longer than they work

# 1. Molecules with their solubility in water.
dataset = load("ogbg-molesol")
collate = GraphCollate(parse_edges("bonds | virtual(1)"))
train = dataset.indices("train")
test = collate([dataset[number] for number in dataset.indices("test").tolist()])
mean, spread = dataset.labels[train].mean(), dataset.labels[train].std()
scores = [
    "DotProduct()", "Symmetric()", "Pairwise(init='paper')", "Pairwise(init='scaled')", "Pairwise(init='identity')",
]  # fmt: skip

# 2. One model per score, from the same seed, over the same batches in the same order.
found = {}
print("score                      weights   loss of each sixth of the training        test rmse")
for score in scores:
    torch.manual_seed(0)
    model = GraphTransformer.from_size("small", collate, score=score)  # graphattn does its work here
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    batches = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        numbers = train[torch.randint(len(train), (64,), generator=batches)]
        batch = collate([dataset[number] for number in numbers.tolist()])
        loss = mse_loss(model(batch), (batch.y - mean) / spread)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        predicted = model.eval()(test) * spread + mean
    error = mse_loss(predicted, test.y).sqrt().item()
    of_sixth = [sum(part) / len(part) for part in (losses[n * steps // 6 : (n + 1) * steps // 6] for n in range(6))]
    print(f"{score:25} {model.num_parameters():8,}   {'  '.join(f'{each:.3f}' for each in of_sixth)}   {error:.3f}")
    found[score] = model.num_parameters(), error

# 3. One seed and a short training say little of which is best; that all of them learn, and what they save, is certain.
by_mean = mse_loss(mean.expand_as(test.y), test.y).sqrt().item()
print(f"{'the mean label':77} {by_mean:.3f}")
if steps >= STEPS:
    assert all(error < 0.8 * by_mean for _, error in found.values())
dot, symmetric, pairwise = (found[score][0] for score in scores[:3])
print(f"\nof {dot:,} weights, pairwise scores save {dot - pairwise:,} and symmetric ones {dot - symmetric:,}")
