"""Local attribution maps (LAM), their diffusion index (DI), and pictures of them."""

from analysis.attribution.attribution import Attributed, Attribution, attribute
from analysis.attribution.diffusion import diffusion_index, gini
from analysis.attribution.objective import Window, most_detailed
from analysis.attribution.path import BlurPath

__all__ = [
    "Attributed",
    "Attribution",
    "BlurPath",
    "Window",
    "attribute",
    "diffusion_index",
    "gini",
    "most_detailed",
]
