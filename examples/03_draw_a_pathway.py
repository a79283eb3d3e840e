"""Who read whom in a model of three layers: recorded, followed through the layers, and drawn.

What you will learn: `record` listens to a forward pass of any model whose layers call graphattn, `pathways` makes one
graph of it (a node is a word at a layer, an edge what it read), and pictures, paths and files are made from that graph.

    python examples/03_draw_a_pathway.py

Name a folder behind it to keep the pictures. Takes some seconds, most of them to import PyTorch. The last line reads

    12 words over 3 layers, 207 edges, 5 pictures and 1 file for Gephi
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

import graphattn as ga

torch.manual_seed(0)
words = "the cat that chased the mouse slept because it was very tired".split()


# 1. A model: three layers, each with a residual. Nothing in it knows that it will be recorded.
class Reader(nn.Module):
    def __init__(self, embed_dim: int = 32):
        super().__init__()
        self.embed = nn.Embedding(len(words), embed_dim)
        self.layers = nn.ModuleList(ga.nn.GraphAttention(embed_dim, num_heads=4) for _ in range(3))
        nn.init.normal_(self.embed.weight, std=3.0)  # untrained weights are nearly even; these are worth a picture

    def forward(self, tokens: torch.Tensor, graph: ga.AttentionGraph) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + layer(x, graph)
        return x


model = Reader()
graph = ga.connectivity.sliding_window(len(words), radius=4) | ga.connectivity.global_tokens(len(words), [0])
graph = graph.keep(ga.rules.is_causal)

# 2. Record one forward pass, and make one graph of it. Half of each word stays its own: the residual.
with ga.viz.record(model) as recording, torch.no_grad():  # graphattn does its work here
    model(torch.arange(len(words)), graph)
print(recording)
layered = ga.viz.pathways(recording, labels=words)
print(layered)

# 3. Ask it: what is in the last word after three layers, and along which ways did it come there?
rollout = layered.rollout("tired")
print("\nWhat the last word holds of each word:")
for word, share in zip(words, rollout.weight[0].tolist(), strict=True):
    print(f"  {word:8} {share:6.1%}")
assert abs(float(rollout.weight.sum()) - 1) < 1e-9  # nothing was left out, so nothing is missing
# Two of them pass the same words: a word stays itself by its residual, and as well by reading itself.
print("\nThe strongest ways into it, from the input upwards:")
paths, names = layered.strongest_paths(3, target="tired"), layered.node_labels()
for nodes, share in zip(paths.nodes, paths.share.tolist(), strict=True):
    print(f"  {share:6.1%}  {' → '.join(names[node] for node in nodes.tolist())}")

# 4. Leave out what hardly matters: the fewest edges that carry 90 % of the influence on the last word. What then leads
#    nowhere goes as well, and the caption says how much is left.
pruned = layered.prune(0.9, outputs="tired")
assert pruned.num_edges < layered.num_edges / 2 and 0.8 < pruned.kept < 1
print(f"\n{pruned.caption}")

# 5. Draw it. Every function takes axes of yours (`ax=`) and returns them; nothing opens a window.
merged = ga.viz.merged(layered)  # all three layers as one, by rollout
pictures = {
    "layers.svg": ga.viz.draw(pruned),
    "arcs.svg": ga.viz.draw_arcs(merged, target="tired"),
    "last_layer.svg": ga.viz.draw_arcs(layered, layer=-1, max_edges=20),
    "heads.png": ga.viz.draw_heads(recording),
    "mask.svg": ga.viz.draw(graph),
}
with tempfile.TemporaryDirectory() as scratch:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
    folder.mkdir(parents=True, exist_ok=True)
    for name, ax in pictures.items():
        ga.viz.save_picture(ax, folder / name)
    layered.write(folder / "pathways.gexf")  # Gephi and Cytoscape read it; .graphml, .json and .dot are written as well
    found = sorted(path.name for path in folder.iterdir())
assert set(found) >= {*pictures, "pathways.gexf"}
print(
    f"\n{len(words)} words over {layered.num_ranks - 1} layers, {layered.num_edges} edges, "
    f"{len(pictures)} pictures and 1 file for Gephi"
)
