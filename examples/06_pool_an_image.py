"""Digits in patches: attention reads a quarter of them at a time, and pools leave half of them after a layer.

What you will learn: two ways to do less in one encoder. `SubsampleSources` draws what a layer reads, anew for every
image and step; a pool between layers learns which patches are worth keeping, by successive halving. The encoder is that
of the molecules in example 04 and of the text in 05; here it attends over all pairs of the patches that are left.

    python examples/06_pool_an_image.py [PICTURE.png]

The picture shows what the first layer reads. Takes about a minute; `--steps 50` is faster and learns less. The images
are shipped in datasets/. The last line reads

    49 patches, 25 after a layer, 13 after two; in training a layer reads 13, 7, 4 and 4 of them
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import graphattn as ga
from graphattn.inputs import GraphBatch
from graphattn.models import GraphTransformer, GraphTransformerConfig

STEPS = 600
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("picture", nargs="?", help="where to write one, .png, .svg or .pdf")
parser.add_argument("--steps", type=int, default=STEPS, help="of training")
arguments = parser.parse_args()
torch.manual_seed(0)
torch.set_num_threads(1)  # batches are small: threads would wait for one another longer than they work

# 1. Images of 28 x 28 pixels in 4 x 4 patches. A patch is 16 pixels and its place, as waves over rows and columns: two
#    plain coordinates would do, and the model would need several times the steps to tell places apart.
size, side = 4, 7
shipped = np.load(Path(__file__).resolve().parents[1] / "datasets" / "mnist" / "mnist_first_5000.npz")
ramp = torch.linspace(-1, 1, side)
row_column = torch.stack(torch.meshgrid(ramp, ramp, indexing="ij"), 2).flatten(0, 1)  # [49, 2]
angles = torch.cat([row_column * wave * math.pi / 2 for wave in (1, 2, 3)], 1)
place = torch.cat([angles.sin(), angles.cos()], 1)  # [49, 12]


def patches_of(images: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(images).unflatten(2, (side, size)).unflatten(1, (side, size)).transpose(2, 3)
    pixels = pixels.reshape(len(images), side * side, size * size) / 255
    return torch.cat([(pixels - 0.13) / 0.31, place.expand(len(images), -1, -1)], 2)  # mean and deviation of all pixels


def batch_of(patches: torch.Tensor) -> GraphBatch:
    return GraphBatch.of(patches.flatten(0, 1), ga.connectivity.full(torch.full((len(patches),), side * side)))


train, test = patches_of(shipped["train_images"]), patches_of(shipped["test_images"])
train_digits, test_digits = (torch.from_numpy(shipped[name]).long() for name in ("train_labels", "test_labels"))

# 2. The model. Pools stand after the first and the second of its four layers, and each keeps half of what it gets.
config = GraphTransformerConfig(
    num_tasks=10,
    atom_dims=train.shape[2],
    edge_dim=0,
    num_virtual=0,
    norm="layer",
    dropout_p=0.0,
    readout="max",
    select=ga.selection.SubsampleSources(keep_p=0.25),  # graphattn does its work here
    pool_layers=(1, 2),  # and here
    pool_ratio=0.5,
)
model = GraphTransformer(config)
optimizer = torch.optim.AdamW(model.parameters())
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=arguments.steps)
for _ in range(arguments.steps):
    numbers = torch.randint(len(train), (50,))
    loss = cross_entropy(model(batch_of(train[numbers])), train_digits[numbers])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()

# 3. What it says of images that it has not seen, reading all of their patches, or a quarter of them in each layer.
accuracy = {}
for name, when in (("a quarter of the patches", "always"), ("all patches", "never")):
    ga.selection.set_drawing(model.eval(), when)
    with torch.no_grad():
        accuracy[name] = (model(batch_of(test)).argmax(1) == test_digits).float().mean().item()
    print(f"{accuracy[name]:.1%} of the test images are told by {name} in each layer")

# 4. Which patches survive on one digit. A pooled node holds two patches or one; it stands for the one it holds more of.
with ga.viz.record(model) as recording, torch.no_grad():
    told = int(model(batch_of(test[:1])).argmax())
left = [torch.arange(side * side)]
for step in (step for step in recording.steps if step.kind == "pool"):
    weight = torch.zeros(step.graph.num_dst_nodes, step.graph.num_src_nodes)
    source, pooled = step.graph.edge_index
    weight[pooled, source] = step.alpha[:, 0]
    left.append(left[-1][weight.argmax(1)])
marks = np.full(side * side, "·")
marks[left[1]], marks[left[2]] = "□", "■"
ink = torch.from_numpy(shipped["test_images"][0]).float().unfold(0, size, size).unfold(1, size, size).mean((2, 3))
shades = np.array(list(" ░▒▓█"))[(ink / ink.max() * 4).ceil().long()]
print(f"\na {test_digits[0]}, told as a {told}; patches left after one layer (□) and after two (■)\n")
for shade, mark in zip(shades, marks.reshape(side, side), strict=True):
    print(f"  {''.join(2 * each for each in shade)}    {' '.join(mark)}")
if arguments.picture:
    with ga.viz.record(model, layers=0) as first, torch.no_grad():  # what the first layer reads, before any pool
        model(batch_of(test[:1]))
    ax = ga.viz.draw_patches(ga.viz.pathways(first), shipped["test_images"][0], size)
    ga.viz.save_picture(ax, arguments.picture)

# 5. What training reads: the sources of each layer's own draw over the patches that are left to it.
sizes = [len(patches) for patches in (*left, left[-1])]
ga.selection.set_drawing(model.train(), None)
with ga.viz.record(model) as recording, torch.no_grad():
    model(batch_of(test[:1]))
reads = [step.graph.edge_index[0].unique().numel() for step in recording.steps if step.kind == "attention"]
assert reads == [math.ceil(number / 4) for number in sizes]
if arguments.steps >= STEPS:
    assert accuracy["all patches"] > 0.85
print(f"\n{sizes[0]} patches, {sizes[1]} after a layer, {sizes[2]} after two; ", end="")
print(f"in training a layer reads {reads[0]}, {reads[1]}, {reads[2]} and {reads[3]} of them")
