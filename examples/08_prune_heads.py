"""A model of molecules that learns which of its heads it needs, and the smaller model without the others.

What you will learn: one gate per head, over all layers, is trained with the weights (`SubsetHeadGate`). Its gates
always sum to the number of heads that are to stay; while it cools they become ones and zeros. Then `nn.prune` takes the
closed heads out: fewer weights, less time, the same predictions.

    python examples/08_prune_heads.py [PICTURE.svg]

Takes about a minute; `--steps 50` is faster and learns less. The molecules are shipped in datasets/. The last line
reads

    5 of 16 heads are left, and every prediction is as before
"""

import argparse
import time

import torch
from torch.nn.functional import mse_loss

import graphattn as ga
from graphattn.data import load
from graphattn.inputs import GraphCollate, parse_edges
from graphattn.models import GraphTransformer

STEPS, NUM_KEEP = 450, 5
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("picture", nargs="?", help="a file to draw into, .svg, .png or .pdf; needs matplotlib")
parser.add_argument("--steps", type=int, default=STEPS, help="of training")
arguments = parser.parse_args()
steps = arguments.steps
torch.manual_seed(0)
torch.set_num_threads(1)  # batches are small: threads would wait for one another longer than they work

# 1. Molecules with their solubility in water.
dataset = load("ogbg-molesol")
collate = GraphCollate(parse_edges("bonds | virtual(1)"))
train = dataset.indices("train")
test = collate([dataset[number] for number in dataset.indices("test").tolist()])
mean, spread = dataset.labels[train].mean(), dataset.labels[train].std()

# 2. Four layers of four heads, of which five are to stay, wherever they are.
gate = (
    f"SubsetHeadGate(num_keep={NUM_KEEP}, start_temperature=10, end_temperature=0.001, num_cooling_steps={steps // 2})"
)
model = GraphTransformer.from_size("small", collate, head_gate=gate)
gates = [weight for name, weight in model.named_parameters() if name.startswith("head_gate")]
others = [weight for name, weight in model.named_parameters() if not name.startswith("head_gate")]

# 3. Train in a loop of your own; the gates at a rate of their own, without decay.
optimizer = torch.optim.AdamW([{"params": others}, {"params": gates, "lr": 0.1, "weight_decay": 0.0}], lr=2e-3)
for step in range(steps):
    numbers = train[torch.randint(len(train), (64,))]
    batch = collate([dataset[number] for number in numbers.tolist()])
    loss = mse_loss(model(batch), (batch.y - mean) / spread)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step in (0, steps // 4, steps // 2, steps - 1):
        with torch.no_grad():
            seen = model.head_gate()
        print(
            f"step {step:3}  temperature {model.head_gate.temperature:7.3f}  gates {seen.min():.2f} to {seen.max():.2f}"
        )

# 4. The heads that stay, and the model that has no others.
model.eval()
kept = model.head_gate.kept()
small = ga.nn.prune(model, kept)  # graphattn does its work here
print("\n" + "\n".join(f"layer {layer}: heads {heads}" for layer, heads in enumerate(kept)))


@torch.no_grad()
def predict(some: GraphTransformer) -> tuple[torch.Tensor, float]:
    some(test)
    start = time.perf_counter()
    predicted = some(test) * spread + mean
    return predicted, 1e3 * (time.perf_counter() - start)


(before, slow), (after, fast) = predict(model), predict(small)
error = mse_loss(after, test.y).sqrt().item()
print(f"\ntest rmse {error:.3f}, of the mean label {mse_loss(mean.expand_as(test.y), test.y).sqrt():.3f}")
print(f"weights {model.num_parameters():,} before, {small.num_parameters():,} after")
print(f"one pass over the test split {slow:.0f} ms before, {fast:.0f} ms after")
torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
assert small.num_parameters() < 0.7 * model.num_parameters()
if steps >= STEPS:
    assert error < 0.7 * mse_loss(mean.expand_as(test.y), test.y).sqrt()
if arguments.picture:
    print(ga.viz.save_picture(ga.viz.draw_head_gates(model.head_gate.hard()), arguments.picture))
left, of = (sum(block.attention.num_heads for block in each.blocks) for each in (small, model))
print(f"\n{left} of {of} heads are left, and every prediction is as before")
