"""The generated pages: current, deterministic, complete; and a schema that accepts what the reader accepts."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import config
from config.docs_generator import json_schema, markdown, sections
from scripts.make_docs import ROOT, main, pages
from tests.config.files import GAN, TEST, TRAIN, write
from utils.typed import fields_of


@pytest.mark.parametrize("page", ["docs/options.md", "docs/options.schema.json", "docs/reproducing.md"])
def test_generated_pages_are_current(page: str) -> None:
    assert (ROOT / page).read_text(encoding="utf-8") == pages()[Path(page)], "run: python scripts/make_docs.py"


def test_generated_pages_do_not_depend_on_the_process() -> None:
    """Hashes of texts differ from process to process: no order may come from a set."""
    code = "from scripts.make_docs import pages; print(*pages().values(), end='')"
    other = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout == " ".join(pages().values())


def test_make_docs_check_reports_stale_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"], tmp_path) == 1
    assert "docs/options.md is stale; run: python scripts/make_docs.py" in capsys.readouterr().out
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    (tmp_path / "docs/options.md").write_text("old")
    assert main(["--check"], tmp_path) == 1


def test_every_option_key_is_on_the_options_page() -> None:
    text = markdown()
    for section in sections():
        for name, field in fields_of(section.target).items():
            assert f"| `{name}` | " in text
            assert field.help.removesuffix(".").replace("|", "\\|") in text
        for name in section.types:
            assert f"`{name}`" in text
    assert not re.search(r"(?<!`)``(?!`)", text)


def test_json_schema_accepts_what_the_reader_accepts(tmp_path: Path) -> None:
    for text in (TRAIN, TEST):
        assert violations(yaml.safe_load(text.replace("2e-4", "0.0002").replace("5e3", "5000"))) == []
    found = config.read(write(tmp_path, TRAIN), mode="train")
    assert violations(config.to_dict(found)) == []
    edits = ["train:ldl_opt={type: L1Loss, detach_map: yes}", "train:losses=[{type: FFTLoss, name: spectrum}]"]
    adversarial = config.to_dict(config.read(write(tmp_path, GAN), edits, mode="train"))
    assert violations(adversarial) == []
    adversarial["network_d"]["num_feet"] = 3
    adversarial["train"]["ldl_opt"]["detach_mop"] = True
    adversarial["train"]["gan_opt"]["gan_type"] = "hunge"
    adversarial["train"]["losses"][0]["target"] = "lq"
    assert violations(adversarial) == [
        "network_d.num_feet", "train.gan_opt.gan_type", "train.ldl_opt.detach_mop", "train.losses"
    ]  # fmt: skip
    nulls = yaml.safe_load(TRAIN.replace("2e-4", "0.0002").replace("5e3", "5000"))
    nulls["datasets"]["val_2"] = nulls["val"]["metrics"]["psnr"] = nulls["logger"] = nulls["path"] = None
    assert violations(nulls) == []
    nulls["datasets"]["val_2"], nulls["train"] = "a", None
    assert violations(nulls) == ["datasets.val_2", "train"]


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("name: exp", "nme: exp", "nme"),
        ("name: exp", "nme: exp", "name"),
        ("scale: 2\nnum", "scale: two\nnum", "scale"),
        ("type: L1Loss", "type: L1loss", "train.pixel_opt.type"),
        ("lr: 2e-4", "lrr: 0.1", "train.optim_g.lrr"),
        ("lr: 2e-4", "lr: -1.0", "train.optim_g.lr"),
        ("[25, 40]", "[25, x]", "train.scheduler.milestones"),
        ("    gt_size: 64", "    gt_sise: 64", "datasets.train.gt_sise"),
        ("type: disk", "type: disc", "datasets.train.io_backend.type"),
    ],
)
def test_json_schema_refuses_mistakes(old: str, new: str, where: str) -> None:
    text = TRAIN.replace(old, new).replace("2e-4", "0.0002").replace("5e3", "5000")
    assert where in violations(yaml.safe_load(text))


def test_json_schema_accepts_a_file_with_a_base() -> None:
    """What a base may hold can be missing; what is there is checked as ever."""
    assert violations({"base": "common.yml", "network_g": {"upscale": 4}, "datasets": {"train": {"gt_size": 64}}}) == []
    assert violations({"base": ["a.yml", "b.yml"], "train": {"optim_g": {"lr": 0.1}}}) == []
    assert violations({"base": 3}) == ["base"]
    assert violations({"base": "a.yml", "scale": "two"}) == ["scale"]
    assert violations({"base": "a.yml", "network_g": {"type": "HAT", "upscle": 4}}) == ["network_g.upscle"]


WORDS = {
    *("$schema", "title", "description", "default", "definitions"),
    *("type", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
    *("items", "minItems", "maxItems"),
    *("properties", "required", "additionalProperties", "anyOf", "allOf", "if", "then", "else"),
}


def violations(value: Any, schema: dict[str, Any] | None = None, path: str = "") -> list[str]:
    """Where a value breaks a schema, for the few words of JSON Schema that ours uses."""
    schema = whole_schema() if schema is None else referred(schema)
    assert schema.keys() <= WORDS
    if "else" in schema:
        return violations(value, schema["else" if _mapping_violations(value, schema["if"], "") else "then"], path)
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    kinds["number"] = (int, float)
    value = int(value) if isinstance(value, float) and value.is_integer() else value  # 5000.0 is an integer there
    kind = schema.get("type")
    if isinstance(kind, list):
        options = [{**schema, "type": one} for one in kind] if value is not None else [{"type": one} for one in kind]
        return min((violations(value, option, path) for option in options), key=lambda found: found == [path])
    if kind == "null" and value is not None:
        return [path]
    if kind in kinds and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [path]
    found = [] if value in schema.get("enum", [value]) and value == schema.get("const", value) else [path]
    if "anyOf" in schema and all(violations(value, option) for option in schema["anyOf"]):
        found.append(path)
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        found.append(path)
    if isinstance(value, int | float) and (
        not schema.get("exclusiveMinimum", value - 1) < value < schema.get("exclusiveMaximum", value + 1)
    ):
        found.append(path)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(path)
        if any(violations(item, schema.get("items", {})) for item in value):
            found.append(path)
    return found + (_mapping_violations(value, schema, path) if isinstance(value, dict) else [])


@functools.cache
def whole_schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(json_schema()))
    return found


def referred(schema: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    if "$ref" not in schema:
        return schema
    assert list(schema) == ["$ref"], "siblings of a reference have no effect"
    found: dict[str, Any] = whole_schema()["definitions"][schema["$ref"].removeprefix("#/definitions/")]
    return found


def _mapping_violations(value: dict[str, Any], schema: dict[str, Any], path: str) -> list[str]:
    schema = referred(schema)
    start = f"{path}." if path else ""
    found = [start + key for key in schema.get("required", []) if key not in value]
    others = schema.get("additionalProperties", True)
    for key, item in value.items():
        if key in schema.get("properties", {}):
            found += violations(item, schema["properties"][key], start + key)
        elif others is False:
            found.append(start + key)
        elif isinstance(others, dict):
            found += violations(item, others, start + key)
    for rule in map(referred, schema.get("allOf", [])):
        if not _mapping_violations(value, rule["if"], path):
            found += _mapping_violations(value, rule["then"], path)
    return found
