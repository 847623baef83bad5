"""The pieces of an MLP: linear layers, and GELU with a depthwise convolution."""
