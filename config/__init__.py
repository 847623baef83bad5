"""Option files: YAML with BasicSR's keys in, frozen dataclasses out."""

from typing import TYPE_CHECKING

from utils.on_demand import on_demand

if TYPE_CHECKING:
    from config.description import describe, to_dict
    from config.reader import only_sets, read
    from config.schema import NetworkOptions, Options, TestOptions, TrainOptions

__all__ = ["NetworkOptions", "Options", "TestOptions", "TrainOptions", "describe", "only_sets", "read", "to_dict"]

__getattr__ = on_demand(
    __name__,
    {
        "config.description": ("describe", "to_dict"),
        "config.reader": ("only_sets", "read"),
        "config.schema": ("NetworkOptions", "Options", "TestOptions", "TrainOptions"),
    },
)
