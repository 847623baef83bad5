"""What is done with a network: training, evaluation, upscaling, checkpoints."""

from models.inference.upscale import upscale
from models.weights.files import load_weights

__all__ = ["load_weights", "upscale"]
