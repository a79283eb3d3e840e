"""A sentence, an image and a molecule through the same layer object.

What you will learn: attention needs a list of who may look at whom, and nothing else. A sentence, an image cut into
patches and a molecule differ in how that list is made; the layer, its weights and its gradients are the same.

    python examples/01_attention_is_a_graph.py

Takes some seconds, and longer the first time, when the kernel is compiled. The last line reads

    one layer, 3 kinds of input, 1 set of weights: 16,640 parameters
"""

import torch
from torch import nn
from torch_geometric.data import Data

import graphattn as ga

torch.manual_seed(0)
embed_dim = 64
layer = ga.nn.GraphAttention(embed_dim, num_heads=4)  # graphattn does its work here, three times below


def show(title: str, graph: ga.AttentionGraph, mixed: torch.Tensor) -> None:
    print(f"\n{title}\n{graph}\n  output {list(mixed.shape)}")


# 1. A sentence. Each word looks two words to either side; the first word sees and is seen by all; nobody looks ahead.
words = "attention is message passing over an explicit graph of who may look at whom".split()
vocabulary = {word: number for number, word in enumerate(sorted(set(words)))}
tokens = nn.Embedding(len(vocabulary), embed_dim)(torch.tensor([vocabulary[word] for word in words]))
sentence = ga.connectivity.sliding_window(len(words), radius=2) | ga.connectivity.global_tokens(len(words), [0])
sentence = sentence.keep(ga.rules.is_causal)
show("A sentence: a causal window and a global token", sentence, layer(tokens, sentence))

# 2. An image of 12 x 12 pixels in 4 x 4 patches. Each of the nine patches looks at its neighbours on the grid.
image = torch.linspace(0, 1, 144).view(1, 1, 12, 12)
patches = nn.Conv2d(1, embed_dim, kernel_size=4, stride=4)(image).flatten(2)[0].T  # [9, embed_dim], row by row
picture = ga.connectivity.grid((3, 3), radius=1)
show("An image: patches and their neighbours", picture, layer(patches, picture))

# 3. A molecule, ethanol: atoms C, C, O. Bonds are edges both ways, and each atom also sees itself.
atoms = nn.Embedding(119, embed_dim)(torch.tensor([6, 6, 8]))
bonds = Data(edge_index=torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]), num_nodes=3)
molecule = ga.connectivity.bonds(bonds) | ga.connectivity.sliding_window(3, radius=0)
show("A molecule: bonds and self edges", molecule, layer(atoms, molecule))

# 4. All three at once: side by side they are one graph without edges between them, and one call.
together = ga.disjoint_union([sentence, picture, molecule])
mixed = layer(torch.cat([tokens, patches, atoms]), together)
apart = torch.cat([layer(tokens, sentence), layer(patches, picture), layer(atoms, molecule)])
torch.testing.assert_close(mixed, apart)
show("All three as one batch, equal to each alone", together, mixed)

# 5. Who looked at whom: a weight per edge and head, for whichever of the three you ask.
query, key = layer.score(atoms, atoms)
alpha = ga.attention_weights(query, key, molecule)  # [num_edges, num_heads]
print("\nWhat the oxygen atom (2) reads, averaged over heads:")
for (source, target), weight in zip(molecule.edge_index.T.tolist(), alpha.mean(1).tolist(), strict=True):
    if target == 2:
        print(f"  atom {source} → atom {target}: {weight:.2f}")

mixed.square().mean().backward()
assert all(weight.grad is not None for weight in layer.parameters())
num_parameters = sum(weight.numel() for weight in layer.parameters())
print(f"\none layer, 3 kinds of input, 1 set of weights: {num_parameters:,} parameters")
