"""From an ONNX file to a network: read, checked against what its user says of it, and loaded into a runtime."""

from __future__ import annotations

from pathlib import Path

from config.values import SCALE_KEYS
from models.export.facts import PREFIX, ExportFacts
from models.runtimes.network import AnyScaleOnnxNetwork, OnnxNetwork, RuntimeReport, check_scale, completed_facts
from models.runtimes.onnx_file import fingerprint, read_onnx
from models.runtimes.providers import choose
from models.runtimes.sessions import Session, open_session
from utils.errors import InputError
from utils.wording import first_few


def open_network(
    path: Path,
    provider: str | None = None,
    scale: float | None = None,
    *,
    provider_key: str = "provider",
    scale_key: str = "scale",
) -> OnnxNetwork:
    """The network that an ONNX file is, ready to run.

    Args:
        path: the file.
        provider: what runs it (:mod:`models.runtimes.providers`); None: what is there.
        scale: the factor. It has to be the file's own, where that says one, and to be given where the file was written
            by another program. None: the file's own; of a file with any scale, the one that it was trained for.
        provider_key: where the provider comes from, for messages.
        scale_key: where the scale comes from, for messages.

    Raises:
        InputError: the file cannot be read or run, or is one for another scale.
    """
    found = read_onnx(path)
    chosen = choose(provider, provider_key)
    own = any(name.startswith(PREFIX) for name in found.metadata)
    if not own and scale is None:
        raise InputError(
            f"{path}: was written by another program and does not say by how much it upscales; if it takes R, G and B "
            f"in [0, 1] and gives the same, say it by {scale_key}, as in 4"
        )
    facts = ExportFacts.from_strings(found.metadata, str(path)) if own else None
    if facts is not None:
        scale = _scale_of(facts, path, scale, scale_key)
    session = open_session(path, chosen)
    assert scale is not None
    said = completed_facts(session, path, scale) if facts is None else facts
    _check_ports(session, said, path)
    report = RuntimeReport(path, fingerprint(path, found), chosen, session.version, said)
    network = (OnnxNetwork if said.scale_input is None else AnyScaleOnnxNetwork)(session, said, report, scale)
    if facts is None:
        check_scale(network)
    return network


def _scale_of(facts: ExportFacts, path: Path, asked: float | None, key: str) -> float:
    """The factor of a file that says what it is."""
    if facts.scale is None:
        trained = (facts.network_g.get(key) for key in SCALE_KEYS)
        known = next((value for value in trained if isinstance(value, int | float)), None)
        if asked is None and known is None:
            raise InputError(f"{path}: is for any scale; say which one by {key}")
        return known if asked is None else asked  # type: ignore[return-value]  # one of them is a number
    if asked is not None and asked != facts.scale:
        raise InputError(
            f"{key}: {path} is a network for x{facts.scale:g}, not for x{asked:g}; export one for that scale"
        )
    return facts.scale


def _check_ports(session: Session, facts: ExportFacts, path: Path) -> None:
    """Raise InputError where a file has other inputs and outputs than it says."""
    there = {port.name for port in (*session.inputs, *session.outputs)}
    said = {facts.input, facts.output, *([] if facts.scale_input is None else [facts.scale_input])}
    if not said <= there or len(session.inputs) != len(said) - 1:
        raise InputError(
            f"{path}: says that it has {first_few(sorted(said), 4)}, and has {first_few(sorted(there), 4)}; its "
            "metadata is damaged: export the network again"
        )
