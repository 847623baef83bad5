"""Write docs/options.md and docs/options.schema.json from the option dataclasses, and tables of docs/reproducing.md.

python scripts/make_docs.py            write the files
python scripts/make_docs.py --check    change nothing; leave with 1 if a file is stale
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from any folder

if __name__ == "__main__":
    from utils.start import start

    start()  # what follows takes seconds

import argparse
import json
from collections.abc import Sequence

from config import published
from config.docs_generator import json_schema, markdown
from models.weights import published as published_weights
from utils.command import run_command

ROOT = Path(__file__).resolve().parents[1]
REPRODUCING = Path("docs/reproducing.md")
# What is generated in that page: the marks before and after, and the text between them.
PARTS = (
    (
        "<!-- published scores, from config/published.py -->\n",
        "<!-- end of the published scores -->\n",
        published.markdown,
    ),
    (
        "<!-- published weights, from models/weights/published.py -->\n",
        "<!-- end of the published weights -->\n",
        published_weights.markdown,
    ),
)


def pages() -> dict[Path, str]:
    """Path from the repository root -> text that the file should have."""
    return {
        Path("docs/options.md"): markdown(),
        Path("docs/options.schema.json"): json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        REPRODUCING: _with_tables((ROOT / REPRODUCING).read_text(encoding="utf-8")),
    }


def _with_tables(text: str) -> str:
    """The page about reproducing with the generated tables between their marks."""
    for begin, end, markdown_of in PARTS:
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{markdown_of()}\n{end}{after}"
    return text


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Write or check the files below ``root``; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the pages generated from the option dataclasses.")
    parser.add_argument("--check", action="store_true", help="change nothing; leave with 1 if a file is stale")
    check = parser.parse_args(arguments).check
    stale = [path for path, text in pages().items() if not _is_current(root / path, text)]
    for path in stale:
        print(f"{path} is stale; run: python scripts/make_docs.py" if check else f"wrote {path}")
        if not check:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(pages()[path], encoding="utf-8")
    return 1 if check and stale else 0


def _is_current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(run_command(main))
