"""What is done with a network: training, evaluation, upscaling, checkpoints."""

from models.inference.upscale import upscale
from models.training.checkpoint import load_weights

__all__ = ["load_weights", "upscale"]
