"""The page of a report: one HTML file that opens without a network or a server.

Template, styles and program lie in ``assets/``; this file puts them and the data of a report together. Whatever the
user has named (runs, images, options) stands in JSON alone, from which the program makes text, never HTML; the content
security policy of the page lets nothing run but that program, and nothing be loaded but pictures beside the page.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from analysis.report.model import MARK, Picture, Report, Series
from utils.files import json_text, write_text

_ASSETS = Path(__file__).with_name("assets")
_COMPONENTS = ("uPlot", "img-comparison-slider")
_PROGRAM = ("dom", "numbers", "theme", "curves", "scores", "quality", "pictures", "options", "start")
"""The parts of the program, in ``assets/NAME.js``; a part uses those before it."""
_ELSEWHERE = re.compile(r"[/\\]|[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_DIGITS = 6  # of a curve; more cannot be seen, and double the page


def write_page(report: Report, path: Path) -> None:
    """Write :func:`render`'s page; what was at ``path`` stays until the new page is whole.

    Raises:
        InputError: the folder cannot be made or written.
        StorageError: the disk is full or broken.
        ValueError: a picture is neither a data URI nor a path beside the page.
    """
    write_text(path, render(report))


def render(report: Report) -> str:
    """The page, as HTML.

    The sources of pictures stand in a block for each image, which the browser reads when the image is looked at.

    Raises:
        ValueError: a picture is neither a data URI nor a path beside the page.
    """
    styles = "\n".join(_asset(name) for name in (*(f"vendor/{name}.css" for name in _COMPONENTS), "page.css"))
    programs = [_without_map(_asset(f"vendor/{name}.js")) for name in _COMPONENTS]
    own = "\n".join(_asset(f"{name}.js") for name in _PROGRAM)
    programs.append(f'(() => {{\n"use strict";\n{own}\n}})();')
    parts = {
        "mark": MARK,
        "policy": _policy(programs),
        "title": escape(report.title),
        "styles": f"<style>\n{styles}\n</style>",
        "licences": "\n".join(_licence(name) for name in _COMPONENTS),
        "report": _data("report", _without_pictures(report)),
        "pictures": "\n".join(_data(f"picture-{i}", _sources(p)) for i, p in enumerate(report.pictures)),
        "programs": "\n".join(f"<script>{text}</script>" for text in programs),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("page.html"))


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _without_map(program: str) -> str:
    """A bundled program without the address of its source map, which a browser would look for beside the page."""
    return re.sub(r"\n//# sourceMappingURL=.*", "", program).strip()


def _policy(programs: Iterable[str]) -> str:
    """The content security policy: these programs by their hash, pictures of the page and beside it, no other thing."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in programs
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src 'self' data: file:; "
        "base-uri 'none'; form-action 'none'"
    )


def _licence(name: str) -> str:
    text = escape(_asset(f"vendor/{name}.LICENSE").strip())
    return f"<details><summary>Licence of {name}</summary><pre>{text}</pre></details>"


def _data(name: str, value: object) -> str:
    """JSON that the program reads by its id; with ``<`` escaped no text can end the element."""
    text = json_text(value).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def _without_pictures(report: Report) -> dict[str, object]:
    """The report as JSON has it, without the sources of its pictures, and with curves of as many digits as are seen."""
    data = report.as_json()
    data["curves"] = [
        {"title": curve.title, "group": curve.group, "log": curve.log, "series": [_series(s) for s in curve.series]}
        for curve in report.curves
    ]
    data["pictures"] = [
        {
            "set": picture.set,
            "image": picture.image,
            "crop": picture.crop,
            "panels": [
                {
                    "label": panel.label,
                    "width": panel.width,
                    "height": panel.height,
                    "scores": dict(panel.scores),
                }
                for panel in picture.panels
            ],
        }
        for picture in report.pictures
    ]
    data["analyses"] = [
        {
            "kind": analysis.kind,
            "title": analysis.title,
            "text": analysis.text,
            "src": None if analysis.src is None else _source(analysis.src),
        }
        for analysis in report.analyses
    ]
    return data


def _series(series: Series) -> dict[str, object]:
    return {
        "run": series.run,
        "steps": series.steps,
        "values": _rounded(series.values),
        "low": None if series.low is None else _rounded(series.low),
        "high": None if series.high is None else _rounded(series.high),
    }


def _rounded(values: Iterable[float]) -> list[float]:
    return [float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else math.nan for value in values]


def _sources(picture: Picture) -> dict[str, object]:
    return {
        "panels": [
            {"src": _source(panel.src), "full": None if panel.full is None else _source(panel.full)}
            for panel in picture.panels
        ],
        "crops": {crop.label: _source(crop.src) for crop in picture.crops},
    }


def _source(src: str) -> str:
    """A picture's address as the model has it, once it is sure that nothing else is loaded."""
    if not src.startswith("data:image/") and _ELSEWHERE.match(src):
        raise ValueError(f"a picture of a report is a data URI or a path beside the page, got {src[:60]!r}")
    return src
