"""Option files: YAML with BasicSR's keys in, frozen dataclasses out."""

from options.describe import describe, to_dict
from options.reader import read
from options.schema import NetworkOptions, Options, TestOptions, TrainOptions

__all__ = ["NetworkOptions", "Options", "TestOptions", "TrainOptions", "describe", "read", "to_dict"]
