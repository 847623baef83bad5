"""The page as text: whole, loading nothing, and with hostile names as text. What it does is tested in a browser."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis.report.model import MARK, Panel, Picture, Report
from analysis.report.page import render, write_page
from tests.analysis.report.example import HOSTILE, NAMES, example
from utils.errors import InputError

ASSETS = Path(__file__).resolve().parents[3] / "analysis" / "report" / "assets"


class Elements(HTMLParser):
    """The elements of a page: (tag, attributes), and the text of its scripts by id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and self.get_starttag_text() is not None and self.cdata_elem:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)

    def data(self, name: str) -> Any:
        [text] = [text for attributes, text in self.scripts if attributes.get("id") == name]
        return json.loads(text)


@pytest.fixture(scope="module")
def report() -> Report:
    return example(images=2, side=64, points=20)


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render(report)


def test_data_of_the_report_stands_in_the_page(report: Report, page: str) -> None:
    elements = Elements(page)
    data = elements.data("report")
    assert [run["name"] for run in data["runs"]] == list(NAMES)
    assert data["sets"][0]["mean"]["bicubic"]["psnr"] == report.sets[0].mean["bicubic"]["psnr"]
    assert data["sets"][0]["images"][1]["scores"][NAMES[1]]["psnr"] is None  # NaN is no JSON
    assert data["curves"][1]["series"][0]["values"] == pytest.approx(report.curves[1].series[0].values, rel=1e-5)
    for index, picture in enumerate(report.pictures):
        sources = elements.data(f"picture-{index}")
        assert [panel["src"] for panel in sources["panels"]] == [panel.src for panel in picture.panels]
        assert sources["crops"] == {crop.label: crop.src for crop in picture.crops}
    assert MARK in page[:1000]


def test_page_loads_nothing(page: str) -> None:
    elements = Elements(page)
    for tag, attributes in elements.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")
        assert not [name for name in attributes if name.startswith("on")]
    styles = "".join(path.read_text(encoding="utf-8") for path in ASSETS.rglob("*.css"))
    assert "url(" not in styles
    assert "@import" not in styles
    own = "".join(path.read_text(encoding="utf-8") for path in ASSETS.glob("*.js"))
    assert not re.findall(r"fetch\(|XMLHttpRequest|WebSocket|import\(|https?:", own)
    assert "sourceMappingURL" not in page


def test_policy_names_the_programs_of_the_page(page: str) -> None:
    elements = Elements(page)
    [policy] = [a["content"] for _, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    programs = [text for attributes, text in elements.scripts if attributes.get("type") != "application/json"]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in programs]
    assert re.findall(r"'sha256-([^']+)'", policy) == hashes
    assert policy.startswith("default-src 'none'")


def test_hostile_names_stay_text(report: Report, page: str) -> None:
    ours = dataclasses.replace(report.runs[0], name=HOSTILE, folder=HOSTILE, options={HOSTILE: HOSTILE})
    picture = dataclasses.replace(report.pictures[0], image=HOSTILE, set=HOSTILE)
    hostile = dataclasses.replace(report, title=HOSTILE, runs=(ours, report.runs[1]), pictures=(picture,))
    elements = Elements(render(hostile))
    assert elements.data("report")["runs"][0]["options"] == {HOSTILE: HOSTILE}
    assert elements.data("report")["title"] == HOSTILE
    assert [tag for tag, _ in elements.tags if tag in ("img", "script")] == ["script"] * (1 + 3 + 1)
    program = "".join(path.read_text(encoding="utf-8") for path in ASSETS.glob("*.js"))
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\(", program)


def test_names_with_braces_of_the_template_are_text(report: Report) -> None:
    assert "<title>{{programs}}</title>" in render(dataclasses.replace(report, title="{{programs}}"))


@pytest.mark.parametrize("src", ["https://host/a.png", "//host/a.png", "data:text/html,a", "/a.png", "file:///a.png"])
def test_pictures_from_elsewhere_are_refused(report: Report, src: str) -> None:
    picture = Picture("Set5", "a", (Panel("HR", src, None, 8, 8),))
    with pytest.raises(ValueError, match="a data URI or a path beside the page"):
        render(dataclasses.replace(report, pictures=(picture,)))


def test_paths_beside_the_page_stay(report: Report) -> None:
    picture = Picture("Set5", "a", (Panel("HR", "small/a.jpg", "full/50%25%20%231.png", 8, 8),))
    sources = Elements(render(dataclasses.replace(report, pictures=(picture,)))).data("picture-0")
    assert sources["panels"] == [{"src": "small/a.jpg", "full": "full/50%25%20%231.png"}]


def test_an_empty_report_makes_a_page(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "index.html"
    write_page(Report("nothing", "now", "python scripts/report.py", ()), path)
    assert Elements(path.read_text(encoding="utf-8")).data("report")["runs"] == []


def test_names_that_are_no_utf8_are_written(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "index.html"
    write_page(dataclasses.replace(report, title="a\udcffb"), path)
    assert Elements(path.read_text(encoding="utf-8")).data("report")["title"] == "a\udcffb"


def test_the_page_stays_where_the_new_one_cannot_be_written(tmp_path: Path, report: Report) -> None:
    path = tmp_path / "index.html"
    path.mkdir()
    with pytest.raises(InputError):
        write_page(report, path)
    assert not [file for file in tmp_path.iterdir() if file != path]


def test_components_are_those_of_the_notice() -> None:
    notice = (ASSETS / "vendor" / "NOTICE.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"^\| \[([\w-]+)\].*`([0-9a-f]{64})` \|$", notice, re.MULTILINE))
    files = {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in ASSETS.glob("vendor/*.js")}
    assert found == files
    versions = dict(re.findall(r"^\| \[([\w-]+)\]\S+ \| ([\d.]+) \|", notice, re.MULTILINE))
    page = (ASSETS / "page.html").read_text(encoding="utf-8")
    for name, version in versions.items():
        assert (ASSETS / "vendor" / f"{name}.LICENSE").is_file()
        assert f"{name} {version}," in page
