"""HAT and RGT by their published formulas, step by step with PyTorch's layers: baselines, never used otherwise.

Written from the description of the networks. Windows, heads and layouts are copied where the formulas change them,
logits are stored with bias and mask added, masks and tables are computed where the published networks compute them.
Weights are those of ``archs`` under the same names.
"""
