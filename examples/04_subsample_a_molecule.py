"""A molecule read in part: attention over half of its atoms while training, then over many such draws, or all of it.

What you will learn: a model whose layers draw what they read (`SubsampleSources`) is many models in one set of weights.
Its predictions over several draws can be averaged, a self-ensemble; or it reads whole molecules, at best after some
last steps of training that do so as well.

    python examples/04_subsample_a_molecule.py

Takes about a minute; `--steps 50` is faster and learns less. The data are shipped in datasets/. The last line reads

    16 draws of half the atoms, averaged, are nearer to the measured solubility than one draw alone
"""

import argparse

import torch
from torch.nn.functional import mse_loss

import graphattn as ga
from graphattn.data import load
from graphattn.inputs import GraphCollate, parse_edges
from graphattn.models import GraphTransformer

STEPS = 500
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--steps", type=int, default=STEPS, help="of training")
steps = parser.parse_args().steps
torch.manual_seed(0)
torch.set_num_threads(1)  # batches are small: threads would wait for one another longer than they work

# 1. Molecules with their solubility in water, and who may read whom in one: every atom every atom, and a virtual node.
dataset = load("ogbg-molesol")
collate = GraphCollate(parse_edges("bonds | full | virtual(1)"))
train = dataset.indices("train")
test = collate([dataset[number] for number in dataset.indices("test").tolist()])
mean, spread = dataset.labels[train].mean(), dataset.labels[train].std()

# 2. A model each of whose layers reads a random half of the sources of each molecule, another one at every step.
half = ga.selection.SubsampleSources(keep_p=0.5)  # graphattn does its work here
model = GraphTransformer.from_size("small", collate, select=half)
read = model.connect(test.graph)[0]
print(f"{test.num_graphs} molecules: {test.graph.num_edges:,} edges to read, {read.num_edges:,} after a draw of half")

# 3. Train in a loop of your own. The last fifth of it is dense: whole molecules, as they will be read afterwards.
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)


def train_steps(num_steps: int) -> None:
    model.train()
    for _ in range(num_steps):
        numbers = train[torch.randint(len(train), (64,))]
        batch = collate([dataset[number] for number in numbers.tolist()])
        loss = mse_loss(model(batch), (batch.y - mean) / spread)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


@torch.no_grad()
def predict() -> torch.Tensor:
    return model(test) * spread + mean


def rmse(predicted: torch.Tensor) -> float:
    return mse_loss(predicted, test.y).sqrt().item()


train_steps(steps - steps // 5)
ga.selection.set_drawing(model, "always")  # from now on it draws in evaluation as well, so no two passes are alike
passes = torch.stack([predict() for _ in range(16)])
one, ensemble = sum(map(rmse, passes)) / 16, rmse(passes.mean(0))
ga.selection.set_drawing(model, "never")
dense = rmse(predict())
train_steps(steps // 5)
finished = rmse(predict())

# 4. What each way of reading is worth on the test split, whose molecules have other scaffolds than those of training.
print("\nroot mean squared error on the test split, log mol/l:")
print(f"  the mean label            {rmse(mean.expand_as(test.y)):.3f}")
print(f"  half the atoms, one draw  {one:.3f}")
print(f"  16 draws, averaged        {ensemble:.3f}, whose draws spread by {passes.std(0).mean():.3f}")
print(f"  all atoms                 {dense:.3f}")
print(f"  all atoms, dense finish   {finished:.3f}")
assert read.num_edges < 0.6 * test.graph.num_edges
assert ensemble < one  # always: the error of a mean is at most the mean of the errors
if steps >= STEPS:
    assert max(ensemble, finished) < 0.7 * rmse(mean.expand_as(test.y))
print("\n16 draws of half the atoms, averaged, are nearer to the measured solubility than one draw alone")
