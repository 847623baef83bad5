"""Option files: YAML with BasicSR's keys in, frozen dataclasses out."""

from config.describe import describe, to_dict
from config.reader import only_sets, read
from config.schema import NetworkOptions, Options, TestOptions, TrainOptions

__all__ = ["NetworkOptions", "Options", "TestOptions", "TrainOptions", "describe", "only_sets", "read", "to_dict"]
