"""Six masks from the literature, five lines each: Longformer, BigBird, Swin, NATTEN, packed documents, a molecule.

What you will learn: a sparse mask is a set of edges. Builders make them, `|` joins them, a rule filters them. No line
that builds one makes a matrix of all pairs, so it serves a hundred thousand tokens as well; these sizes can be drawn.

    python examples/02_build_a_mask.py

Takes some seconds, nearly all of them to import PyTorch. The last line reads

    6 masks, 856 edges, and no matrix of all pairs was made to build them
"""

import torch
from torch_geometric.data import Data

import graphattn as ga
from graphattn import connectivity as build  # graphattn does its work here: every builder is a function of sizes


def show(title: str, graph: ga.AttentionGraph) -> None:
    print(f"\n{title}\n{graph}\n\n{graph.raster()}")


print("Rows are queries (targets), columns are keys (sources), ■ is an edge.")

# 1. Longformer (Beltagy et al. 2020): a window around each token, and a first token that reads and is read by all.
num_tokens = 24
window = build.sliding_window(num_tokens, radius=2)
title_token = build.global_tokens(num_tokens, [0])
longformer = window | title_token
assert longformer == build.longformer(num_tokens, radius=2, global_indices=[0])  # it also goes by its name
show("Longformer", longformer)

# 2. BigBird (Zaheer et al. 2020): the same, and two random keys per token, drawn by a generator of yours.
generator = torch.Generator().manual_seed(0)
drawn = build.random_regular(num_tokens, degree=2, generator=generator)
bigbird = longformer | drawn
only_drawn = drawn - longformer  # algebra: what the draw added
assert only_drawn.num_edges == bigbird.num_edges - longformer.num_edges
show("BigBird", bigbird)

# 3. Swin (Liu et al. 2021): an image of 4 x 6 patches in boxes of 2 x 3, from layer to layer shifted by half a box.
patches, box = (4, 6), (2, 3)
plain = build.shifted_windows(patches, box)
swin = build.shifted_windows(patches, box, shift=(1, 1))
two_layers = swin @ plain  # who reaches whom over both
assert plain.num_edges < two_layers.num_edges
show("Swin, its shifted layer", swin)

# 4. NATTEN (Hassani et al. 2023): each patch reads the 3 x 3 around it, moved inwards at the border, so always nine.
natten = build.neighborhood(patches, kernel_size=3)
reads = natten.describe().in_degrees
assert (reads.min, reads.max) == (9, 9)
cut = build.grid(patches, radius=1)  # the relative that cuts its windows at the border
assert natten.diff(cut).only_right.num_edges == 0
show("NATTEN", natten)

# 5. Documents packed into one sequence (Krell et al. 2021), each causal: no token sees the document before its own.
lengths = [9, 4, 11]
documents = build.document(lengths)
packed = documents.keep(ga.rules.is_causal)
alone = [build.full(length).keep(ga.rules.is_causal) for length in lengths]
assert packed == ga.disjoint_union(alone)
show("Packed documents, causal", packed)

# 6. A molecule, caffeine without its hydrogens: every atom reads the atoms at most two bonds away.
pairs = "0-1 1-2 2-3 3-4 4-5 5-1 5-6 6-7 6-8 8-9 9-10 9-11 11-4 11-12 8-13".split()
ends = torch.tensor([[int(atom) for atom in pair.split("-")] for pair in pairs]).T
caffeine = Data(edge_index=torch.cat([ends, ends.flip(0)], 1), num_nodes=14)
bonds = build.bonds(caffeine)
molecule = bonds | build.hops(bonds, num_hops=2)
show("Caffeine, two bonds", molecule)

# What each is like: its share of all pairs, and over how many layers of it every token reaches every other.
masks = {
    "Longformer": longformer,
    "BigBird": bigbird,
    "Swin, shifted": swin,
    "NATTEN": natten,
    "documents": packed,
    "caffeine": molecule,
}
print()
for name, mask in masks.items():
    found = mask.describe()
    layers = f"all reach all over {found.hops.at_least} layers" if found.hops.covers else "some never reach each other"
    print(f"{name:14}{mask.num_edges:5} edges, {found.density:4.0%} of the pairs; {layers}")

num_edges = sum(mask.num_edges for mask in masks.values())
print(f"\n{len(masks)} masks, {num_edges:,} edges, and no matrix of all pairs was made to build them")
