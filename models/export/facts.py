"""What an exported program says of itself, as text: ONNX files hold it in their metadata.

Nothing in it is needed to run a program; it is what makes the file usable without the options it was trained with.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

from archs.layers.size import Fill
from utils.errors import InputError

PREFIX = "focalsr."
FORMAT = 1
"""Raised when programs of an older version could not read a file rightly."""

Precision = Literal["fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclasses.dataclass(frozen=True)
class ExportFacts:
    """What a program takes and gives, and where it comes from.

    Attributes:
        network_g: the options of the network, with its type.
        weights_sha256: fingerprint of the weights, from :func:`models.export.fingerprint.fingerprint`.
        scale: output size / input size; None where it is an input of the program.
        channels: of input and output.
        precision: in which it computes. Input and output are float32 all the same.
        float32: names of the modules that compute in float32 all the same (:mod:`models.precision.keep`).
        least: height and width of the smallest image.
        most: height and width of the largest image; None for any.
        static: (height, width) of the only image it takes; None for any size in between.
        multiple: tiles whose place and size are multiples of this fit the network's grid best.
        mode: how a caller fills pixels that it adds.
        receptive_radius: how many low-resolution pixels away an input can change an output; None for the whole image.
        window_size: side of its attention windows; None where there are none.
        tolerance: the difference from the network that was allowed when it was checked, in the range 0 to 1.
        difference: the largest difference that was found.
        loss: the largest difference from the network in float32; that is how much a lower precision changes.
        checked_by: name and version of the runtime that ran it.
        input: name of the input: [batch, channels, height, width], R G B in [0, 1].
        output: name of the output, in the same layout and order, not clamped.
        scale_input: name of the input that holds the scale; None where there is none.
        color_order: of the channels.
        value_range: of the input.
    """

    network_g: Mapping[str, Any]
    weights_sha256: str
    scale: int | float | None
    channels: int = 3
    precision: Precision = "fp32"
    float32: tuple[str, ...] = ()
    least: int = 1
    most: int | None = None
    static: tuple[int, int] | None = None
    multiple: int = 1
    mode: Fill = "reflect"
    receptive_radius: int | None = None
    window_size: int | None = None
    tolerance: float | None = None
    difference: float | None = None
    loss: float | None = None
    checked_by: str | None = None
    input: str = "input"
    output: str = "output"
    scale_input: str | None = None
    color_order: str = "RGB"
    value_range: str = "0..1"

    def to_strings(self) -> dict[str, str]:
        """The facts as a file's metadata holds them: every value is JSON."""
        values = {"format": FORMAT, **dataclasses.asdict(self)}
        return {PREFIX + name: json.dumps(value) for name, value in values.items()}

    @classmethod
    def from_strings(cls, metadata: Mapping[str, str], source: str) -> ExportFacts:
        """The facts of a file.

        Args:
            metadata: of the file; other programs' entries are ignored.
            source: the file, for messages.

        Raises:
            InputError: another program has written the file, a later version of this one, or its metadata is damaged.
        """
        found = {name.removeprefix(PREFIX): text for name, text in metadata.items() if name.startswith(PREFIX)}
        if "format" not in found:
            raise InputError(
                f"{source}: does not say what it takes and gives (scale, sizes, order of colours); it was not written "
                "by scripts/export.py, which exports a network from its weights"
            )
        try:
            values = {name: json.loads(text) for name, text in found.items()}
            version = values.pop("format")
            if not isinstance(version, int) or version > FORMAT:
                raise InputError(f"{source}: was written by a later version ({version}; this one reads {FORMAT})")
            known = {field.name for field in dataclasses.fields(cls)}
            size = values.get("static")
            values["static"] = None if size is None else (size[0], size[1])
            values["float32"] = tuple(values.get("float32", ()))
            facts = cls(**{name: value for name, value in values.items() if name in known})
            facts.check()
        except (ValueError, TypeError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{source}: its metadata is damaged ({error}); export the network again") from error
        return facts

    def check(self) -> None:
        """Raise ValueError where a value is of another kind than it should be."""
        sizes: list[Any] = [self.channels, self.least, self.multiple, *(self.static or ())]
        sizes += [size for size in (self.most, self.window_size) if size is not None]
        network: Any = self.network_g
        names: tuple[Any, ...] = (self.input, self.output)
        kinds = {
            "network_g": isinstance(network, Mapping),
            "scale": self.scale is None or self.scale >= 1,
            "precision": self.precision in PRECISIONS,
            "mode": self.mode in get_args(Fill),
            "a size": all(isinstance(size, int) and size >= 1 for size in sizes),
            "a name": all(isinstance(name, str) and name != "" for name in names),
        }
        wrong = [name for name, right in kinds.items() if not right]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} cannot be used")
