"""What is done with a network: training, evaluation, upscaling, checkpoints."""

from models.checkpoint import load_weights
from models.inference import upscale

__all__ = ["load_weights", "upscale"]
