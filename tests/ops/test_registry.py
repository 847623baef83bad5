"""The choice of backends, its reasons, and the environment variable."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch

import ops
from ops import build, registry
from ops.registry import Backend, Operator
from tests.ops.inputs import CASES, make
from utils.errors import InputError
from utils.log import get_logger


def never(call: int) -> str | None:
    return None


def only_even(call: int) -> str | None:
    return f"{call} is odd, it takes even numbers" if call % 2 else None


def only_small(call: int) -> str | None:
    return f"{call} is large, plain code is quicker" if call > 9 else None


def examples() -> Mapping[str, int]:
    return {"two": 2, "three": 3, "twelve": 12}


REFERENCE = Backend("reference", lambda x: x, never, "plain", "slow")
PLAIN: Operator[int, Callable[[int], int]] = Operator(
    "halve", (Backend("fast", lambda x: x, only_even, "good", drawback=only_small), REFERENCE), examples
)


def kernel(missing: Callable[[int], str | None] = never) -> Operator[int, Callable[[int], int]]:
    return Operator("halve", (Backend("kernel", lambda x: x, only_even, "best", missing=missing), REFERENCE), examples)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(registry.ENVIRONMENT, raising=False)


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger, level = get_logger(), get_logger().level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    registry.log_once.cache_clear()
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_auto_takes_the_first_that_serves_and_says_why_once(log: list[str]) -> None:
    assert PLAIN.choose(2).name == "fast"
    assert not log
    assert [PLAIN.choose(call).name for call in (3, 3, 12)] == ["reference"] * 3
    assert log == [
        "halve: backend fast is not used: 3 is odd, it takes even numbers",
        "halve: backend fast is not used: 12 is large, plain code is quicker",
    ]


def test_an_explicit_choice_serves_or_raises() -> None:
    assert PLAIN.choose(2, "reference").name == "reference"
    assert PLAIN.choose(12, "fast").name == "fast"  # slower there, but it can
    with pytest.raises(InputError, match="halve: backend fast cannot be used: 3 is odd, it takes even numbers"):
        PLAIN.choose(3, "fast")
    with pytest.raises(InputError, match="no backend 'fats'; expected one of auto, fast, reference"):
        PLAIN.choose(3, "fats")


def test_environment_decides_where_the_call_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.ENVIRONMENT, "reference")
    assert PLAIN.choose(2).name == "reference"
    assert PLAIN.choose(2, "fast").name == "fast"
    monkeypatch.setenv(registry.ENVIRONMENT, "native")
    assert PLAIN.choose(3).name == "reference"  # an operator without kernels chooses as ever
    assert kernel().choose(2).name == "kernel"
    assert kernel().choose(3).name == "reference"  # so does a call that no kernel is made for
    broken = kernel(lambda call: "there is no compiler")
    with pytest.raises(InputError, match="FOCALSR_OPS=native, but halve: there is no compiler"):
        broken.choose(2)
    assert broken.choose(3).name == "reference"
    monkeypatch.setenv(registry.ENVIRONMENT, "fast")
    with pytest.raises(InputError, match="FOCALSR_OPS=fast means nothing; expected auto, native or reference"):
        PLAIN.choose(2)


def test_explain(monkeypatch: pytest.MonkeyPatch) -> None:
    table = registry.explain([PLAIN])
    assert [(line.example, line.backend) for line in table] == [
        ("two", "fast"),
        ("three", "reference"),
        ("twelve", "reference"),
    ]
    assert table[0].others == {"reference": "slow"}
    assert table[1].others == {"fast": "3 is odd, it takes even numbers"}
    assert [line.why for line in table] == ["good", "plain", "plain"]
    lines = [line.rstrip() for line in str(table).splitlines()]
    assert lines[0].split() == ["operator", "call", "backend", "why,", "and", "why", "not"]
    assert lines[6].split(maxsplit=3) == ["halve", "twelve", "reference", "plain"]
    assert lines[7].split(maxsplit=2) == ["not", "fast", "12 is large, plain code is quicker"]
    monkeypatch.setenv(registry.ENVIRONMENT, "reference")
    first = registry.explain([PLAIN])[0]
    assert first.why == "FOCALSR_OPS=reference asks for it"
    assert first.others == {"fast": "FOCALSR_OPS=reference asks for another"}
    monkeypatch.setenv(registry.ENVIRONMENT, "native")
    found = registry.explain([kernel(lambda call: "there is no compiler")])
    assert [line.backend for line in found] == ["none", "reference", "none"]
    assert found[0].why == "FOCALSR_OPS=native, but halve: there is no compiler"
    assert found[0].others == {
        "kernel": "there is no compiler",
        "reference": "FOCALSR_OPS=native asks for another",
    }


@pytest.mark.parametrize("environment", ["auto", "reference", "native"])
@pytest.mark.parametrize("compiler", [True, False])
def test_every_backend_of_every_call_is_explained(
    environment: str, compiler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(registry.ENVIRONMENT, environment)
    monkeypatch.setattr(build, "cpu_extension", lambda *_, **__: None if compiler else "there is no C++ compiler")
    merits = {backend.merit for operator in ops.OPERATORS for backend in operator.backends}
    for line in ops.explain():
        operator = next(operator for operator in ops.OPERATORS if operator.name == line.operator)
        names = {backend.name for backend in operator.backends}
        assert line.why
        assert line.others.keys() == names - {line.backend}
        for name, reason in line.others.items():
            assert reason, (line.operator, line.example, name)
            assert reason not in merits  # what speaks for a backend is no reason against it


def test_what_comes_later_says_why() -> None:
    for operator in ops.OPERATORS:
        assert all(backend.merit for backend in operator.backends)
        assert all(backend.shortfall for backend in operator.backends[1:])


def test_training_where_kernels_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.ENVIRONMENT, "native")
    x, weight = torch.randn(16, 8, requires_grad=True), torch.randn(8, 8)
    ops.linear_rows(x, weight).sum().backward()  # its kernel has no backward pass
    assert x.grad is not None


def test_explain_covers_every_operator() -> None:
    table = ops.explain()
    assert {line.operator for line in table} == {operator.name for operator in ops.OPERATORS}
    assert {line.operator for line in table} >= {"window_attention", "smm_qmk", "smm_amv"}
    chosen = {line.example: line.backend for line in table if line.operator == "window_attention"}
    assert chosen["cpu, training"] == ("chunked" if build.cpu_extension() else "native")
    assert chosen["cpu, dropout"] == "reference"


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "cpu_extension", lambda *_, **__: "there is no C++ compiler")
    table = [line for line in ops.explain() if line.operator == "window_attention"]
    chosen = {line.example: line.backend for line in table}
    assert chosen["cpu, evaluation"] == "sdpa"
    assert chosen["cpu, evaluation, shifted"] == chosen["cpu, training"] == "chunked"
    assert chosen["cpu, dropout"] == chosen["cpu, few keys"] == "reference"
    assert table[0].others["native"] == "there is no C++ compiler"


def test_every_operator_ends_with_its_reference() -> None:
    for operator in ops.OPERATORS:
        assert operator.backends[-1].name == "reference"
        assert all(operator.backends[-1].refusal(call) is None for call in operator.examples().values())
        assert callable(getattr(ops, operator.name))


def test_environment_reaches_the_public_function(monkeypatch: pytest.MonkeyPatch) -> None:
    i = make(CASES["bias"], torch.float32)
    monkeypatch.setenv(registry.ENVIRONMENT, "reference")
    out = ops.window_attention(i.q, i.k, i.v, i.bias)
    assert torch.equal(out, ops.window_attention(i.q, i.k, i.v, i.bias, backend="reference"))
    monkeypatch.setenv(registry.ENVIRONMENT, "never")
    with pytest.raises(InputError, match="FOCALSR_OPS=never"):
        ops.window_attention(i.q, i.k, i.v, i.bias)


def test_few_keys_go_to_the_reference_unless_a_backend_is_named(
    log: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "cpu_extension", lambda *_, **__: "there is no C++ compiler")
    q = torch.randn(2, 1, 4, 8)
    out = ops.window_attention(q, q, q)
    assert any("no more keys than a head has channels" in line for line in log)
    torch.testing.assert_close(ops.window_attention(q, q, q, backend="sdpa"), out)
