"""Conversions between a graph and what other code calls a mask; those that have two names go both ways, without loss.

    masks           dense bool (True = attend), MultiheadAttention's bool (True = blocked), additive (0 or -inf)
    hugging_face    padded 4-D masks of a batch
    flex            BlockMask and mask_mod of FlexAttention, by `runs` of consecutive sources
    xformers        lengths of block-diagonal masks
    bsr             blocks of a block-sparse matrix, as FlashInfer takes them
    sparse          scipy CSR, torch CSR
    pyg, networkx   graphs of other libraries
    files           safetensors, npz

Each function is a method of `AttentionGraph` under the same name; its first argument is the graph, or the class to
make. Other libraries are imported on use.
"""
