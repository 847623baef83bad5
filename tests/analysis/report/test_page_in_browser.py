"""What the page does, in headless Chromium: ``pytest -m browser``.

Needs the playwright package (``pip install playwright``; its own browsers are not used) and Chromium on the PATH.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from analysis.report.model import Report
from analysis.report.page import write_page
from tests.analysis.report.example import HOSTILE, NAMES, curve, example, methods_of, photograph, scores_of

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
LARGEST = 30_000_000  # bytes of a page
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report() -> Report:
    return example()


@pytest.fixture
def open_page(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens a report; fails at the end where the page complained or asked for anything but itself."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def opened(report: Report, width: int = 1280, height: int = 900, beside: Path | None = None, **options: Any) -> Any:
        path = tmp_path / "a folder" / "index.html"
        write_page(report, path)
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}") if not beside else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if foreign(request.url, path, beside) else None)
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong


def foreign(url: str, path: Path, beside: Path | None) -> bool:
    if beside is not None and url.startswith(beside.as_uri()):
        return False
    return url.split("#")[0] != path.as_uri() and not url.startswith("data:image/")


def wait(page: Any, condition: str, arg: object = None) -> None:
    """Wait until a condition holds; playwright's own waiting evaluates text, which the page's policy forbids."""
    for _ in range(300):
        if page.evaluate(condition, arg):
            return
        page.wait_for_timeout(50)
    raise AssertionError(condition)


def settle(page: Any) -> None:
    """Wait until the pictures and crops that were asked for are drawn."""
    wait(page, "document.querySelectorAll('#pictures .parts canvas').length > 0")
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 100)))")


def column(page: Any, number: int) -> list[str]:
    """A column of the table of scores that is shown; 0 is the name of the image."""
    cells = f"#scores .set:not(.closed) tbody tr > :nth-child({number + 1})"
    return [text.strip() for text in page.locator(cells).all_inner_texts()]


def test_divider_is_dragged(open_page: Open, report: Report) -> None:
    page = open_page(report)
    settle(page)
    slider = page.locator("img-comparison-slider")
    slider.scroll_into_view_if_needed()
    area = slider.bounding_box()
    middle = area["y"] + area["height"] / 2
    page.mouse.move(area["x"] + area["width"] / 2, middle)
    page.mouse.down()
    page.mouse.move(area["x"] + area["width"] / 4, middle, steps=5)
    page.mouse.up()
    assert slider.evaluate("slider => slider.value") == pytest.approx(25, abs=1)
    assert page.locator(".parts .hint").inner_text().startswith("Part at 24, 16")  # a drag moves no crop
    page.locator(".strip .thumb").nth(1).click()
    assert slider.evaluate("slider => slider.value") == pytest.approx(25, abs=1)


def test_methods_under_the_divider_are_chosen(open_page: Open, report: Report) -> None:
    page = open_page(report)
    settle(page)
    page.select_option("select[aria-label='method on the left']", "LR")
    page.select_option("select[aria-label='method on the right']", "HR")
    wait(page, "document.querySelector('[slot=first]').alt.startsWith('LR')")
    index = page.locator(".strip .thumb").evaluate_all("(all) => all.findIndex((e) => e.ariaPressed === 'true')")
    assert index == 0
    sources = {panel.src for picture in report.pictures for panel in picture.panels if panel.label == "HR"}
    assert page.locator("[slot=second]").get_attribute("src") in sources
    page.click("button[aria-label='exchange left and right']")
    wait(page, "document.querySelector('[slot=first]').alt.startsWith('HR')")


def test_grid_of_crops_has_the_scores_of_the_metrics(open_page: Open, report: Report) -> None:
    page = open_page(report)
    settle(page)
    page.select_option("#pictures select >> nth=1", "as tested")
    settle(page)
    found = methods_of(photograph(0, 96))
    part = {label: pixels[16:48, 24:56] for label, pixels in found.items() if label != "LR"}
    from metrics import calculate_psnr, calculate_ssim

    for place, label in ((1, "bicubic"), (2, NAMES[0]), (3, NAMES[1])):
        values = [
            calculate_psnr(part[label], part["HR"], 0, test_y_channel=True),
            calculate_ssim(part[label], part["HR"], 0, test_y_channel=True),
        ]
        caption = page.locator(".parts figcaption").nth(place).inner_text()
        assert f"{values[0]:.2f} / {values[1]:.4f}" in caption
        whole = scores_of(found)[label]
        assert f"image {whole['psnr']:.2f} / {whole['ssim']:.4f}" in caption


def test_a_click_moves_the_crop(open_page: Open, report: Report) -> None:
    page = open_page(report)
    settle(page)
    slider = page.locator("img-comparison-slider")
    slider.scroll_into_view_if_needed()
    area = slider.bounding_box()
    page.mouse.click(area["x"] + 0.8 * area["width"], area["y"] + 0.7 * area["height"])
    expected = f"Part at {round(0.8 * 96 - 16)}, {round(0.7 * 96 - 16)} of 32 × 32"
    wait(page, "text => document.querySelector('.parts .hint').textContent.startsWith(text)", arg=expected)
    page.select_option(".parts select", "own")
    wait(page, "document.querySelector('.parts .hint').textContent.startsWith('Part at 24, 16 of 32')")
    page.mouse.click(area["x"] + 0.8 * area["width"], area["y"] + 0.7 * area["height"])
    assert page.locator(".parts select").input_value() == "moved"
    page.select_option(".parts select", "24")
    wait(page, "document.querySelectorAll('.parts canvas')[1].width === 24")
    page.focus(".box")
    page.keyboard.press("ArrowUp")
    wait(page, "document.querySelector('.parts .hint').textContent.includes(', 49 of 24 × 24')")
    page.click("button:text-is('Enlarge')")
    page.wait_for_selector("dialog .large canvas >> nth=4")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").evaluate("dialog => dialog.open")


def test_full_pictures_lie_beside_the_page(open_page: Open, report: Report, tmp_path: Path) -> None:
    folder = tmp_path / "a folder" / "full 1"
    folder.mkdir(parents=True)
    Image.fromarray(photograph(7, 96)).save(folder / "a#b.png")
    first = report.pictures[0]
    panels = tuple(dataclasses.replace(panel, full="full%201/a%23b.png") for panel in first.panels[1:])
    lost = dataclasses.replace(first.panels[0], full="full%201/lost.png")  # the thumbnail is shown instead
    picture = dataclasses.replace(first, panels=(lost, *panels))
    page = open_page(dataclasses.replace(report, pictures=(picture,)), beside=folder.parent)
    settle(page)
    wait(page, "document.querySelector('[slot=first]').src.endsWith('a%23b.png')")
    page.focus(".box")
    page.keyboard.press("ArrowDown")
    wait(page, "document.querySelector('.parts .hint').textContent.includes('24, 24 of')")
    assert page.locator(".parts canvas").count() == 5
    page.select_option("select[aria-label='method on the left']", "LR")
    wait(page, "document.querySelector('[slot=first]').src.startsWith('data:')")


def test_arrows_go_to_other_images(open_page: Open, report: Report) -> None:
    page = open_page(report)
    settle(page)
    first = page.locator(".stage h3").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".stage .tools .muted").first.inner_text().split(", ")[1] == "3 of 6"
    page.keyboard.press("Shift+ArrowRight")
    assert page.locator("img-comparison-slider").evaluate("slider => slider.value") == 55
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")  # stays at the first
    assert page.locator(".stage h3").inner_text() == first


def test_images_are_ordered_and_filtered(open_page: Open, report: Report) -> None:
    page = open_page(report)
    settle(page)
    own = page.locator("#pictures select")

    def values() -> list[float]:
        texts = page.locator(".strip .gain").all_inner_texts()
        return [float(text.replace("−", "-")) for text in texts if text]

    own.nth(2).select_option(NAMES[1])
    assert values() == sorted(values())
    assert len(values()) == 5  # one image has no score, and stands last
    assert page.locator(".strip .thumb").last.inner_text().strip() == "img_002"
    own.nth(1).select_option("largest gain first")
    assert values() == sorted(values(), reverse=True)
    own.nth(0).select_option("Urban100")
    assert page.locator(".strip .thumb").count() == 3


def test_scores_are_sorted_by_any_column(open_page: Open, report: Report) -> None:
    page = open_page(report)
    assert column(page, 0) == ["img_001", "img_002", "img_003"]
    heads = page.locator("#scores .set:not(.closed) thead button")
    for head in range(2, heads.count()):
        for expected in ("descending", "ascending"):
            heads.nth(head).click()
            values = [float(text.replace("−", "-")) for text in column(page, head) if text != "–"]
            assert values == sorted(values, reverse=expected == "descending")
            assert page.locator(f"#scores th[aria-sort={expected}]").count() == 1
    heads.nth(0).click()
    assert column(page, 0) == ["img_001", "img_002", "img_003"]
    assert column(page, 4)[1] == "–"
    assert "the output has NaN" in page.locator("#scores .faults").inner_text()
    bold = page.locator("#scores .set:not(.closed) tbody tr").first.locator(".best").all_inner_texts()
    scores = report.sets[0].images[0].scores
    best = max(scores, key=lambda method: scores[method]["psnr"])
    assert bold == [f"{scores[best]['psnr']:.2f}", f"{scores[best]['ssim']:.4f}"]
    assert page.locator("#scores .published").first.inner_text().split() == ["published", "31.20", "0.8786"]


def test_a_row_opens_its_picture(open_page: Open, report: Report) -> None:
    page = open_page(report)
    settle(page)
    page.click("#tab-1")
    page.click("#scores .set:not(.closed) tbody tr:nth-child(3) .link")
    assert page.locator(".stage .tools .muted").first.inner_text().startswith("Urban100")
    assert page.locator(".stage h3").inner_text() == "img_003"
    assert page.locator(".viewer").bounding_box()["y"] < 900


def test_two_runs_are_compared(open_page: Open, report: Report) -> None:
    page = open_page(report)
    rows = page.locator("#options tbody tr")
    assert rows.count() == 2
    assert page.locator("#options .differs").count() == 2
    assert rows.nth(0).inner_text().split() == ["network_g.n_feat", "48", "32"]
    assert page.locator("#options .absent").inner_text() == "not set"
    page.uncheck("#options input[type=checkbox]")
    assert rows.count() == 24
    page.fill("#options input[type=search]", "optim_g")
    assert rows.all_inner_texts() == ["train.optim_g.lr\t0.0005\t0.0005"]
    page.locator("#options .run").nth(1).click()
    assert page.locator("#options thead th").count() == 2
    assert page.locator("#curves .run").nth(1).get_attribute("aria-pressed") == "false"
    page.locator("#curves .chart").first.scroll_into_view_if_needed()
    assert page.locator("#curves .chart").first.locator(".values .swatch").count() == 1


def test_curves_are_zoomed_together(open_page: Open, report: Report) -> None:
    page = open_page(report)
    charts = page.locator("#curves .u-over")
    wait(page, "document.querySelectorAll('#curves .u-over').length >= 3")
    charts.nth(1).scroll_into_view_if_needed()
    area = charts.nth(1).bounding_box()
    middle = area["y"] + area["height"] / 2
    page.mouse.move(area["x"] + area["width"] / 2, middle)
    assert re.search(r"at 150,\d{3}", page.locator("#curves .values").nth(0).inner_text())  # one cursor for all
    page.mouse.down()
    page.mouse.move(area["x"] + 0.75 * area["width"], middle, steps=4)
    page.mouse.up()
    low, high = (float(page.locator("#curves .iteration").nth(i).input_value()) for i in range(2))
    assert low == pytest.approx(150_000, abs=2_000)
    assert high == pytest.approx(225_000, abs=2_000)
    before = charts.nth(2).evaluate("over => over.previousElementSibling?.toDataURL?.() ?? ''")
    page.mouse.dblclick(area["x"] + 0.3 * area["width"], middle)
    assert page.locator("#curves .iteration").nth(1).input_value() == "300000"
    assert page.locator("#curves .zoom button").is_disabled()
    page.locator("#curves .iteration").nth(0).fill("100000")
    page.keyboard.press("Enter")
    assert not page.locator("#curves .zoom button").is_disabled()
    assert before is not None
    page.locator("#curves .log").nth(1).click()
    assert page.locator("#curves .log").nth(1).get_attribute("aria-pressed") == "false"


def test_hostile_names_are_shown_as_text(open_page: Open, report: Report) -> None:
    ours = dataclasses.replace(report.runs[0], folder=HOSTILE, options={HOSTILE: HOSTILE}, notes=(HOSTILE,))
    page = open_page(dataclasses.replace(report, title=HOSTILE, runs=(ours, report.runs[1])))
    assert page.locator("h1").text_content() == HOSTILE
    assert page.locator("img[onerror]").count() == 0


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_fits_the_window(open_page: Open, report: Report, width: int, scheme: str) -> None:
    page = open_page(report, width, color_scheme=scheme)
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    page.click(".theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background


def test_page_is_printed_in_full(open_page: Open, report: Report) -> None:
    page = open_page(report)
    settle(page)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#curves canvas").count() == len(report.curves)
    assert all(table.is_visible() for table in page.locator("#scores table").all())
    assert page.pdf()[:5] == b"%PDF-"


def test_a_report_without_pictures_or_tests_opens(open_page: Open, report: Report) -> None:
    bare = dataclasses.replace(report, sets=(), pictures=(), analyses=(), differences=(), curves=report.curves[:1])
    page = open_page(bare)
    assert page.locator("section:visible").count() == 3
    assert page.locator(".verdict").count() == 1
    assert open_page(Report("empty", "now", "python scripts/report.py", ())).locator("h1").inner_text() == "empty"


def test_two_hundred_images_and_long_curves(open_page: Open, tmp_path: Path) -> None:
    small = example(images=4, side=240, points=3000, kind="jpeg")
    rows = tuple(dataclasses.replace(small.sets[1].images[i % 4], name=f"img_{i:03d}", picture=i) for i in range(200))
    pictures = tuple(dataclasses.replace(small.pictures[4 + i % 4], image=f"img_{i:03d}") for i in range(200))
    curves = tuple(curve(f"l_{i}", "loss", 3000, True, thinned=True) for i in range(8))
    large = dataclasses.replace(
        small, sets=(dataclasses.replace(small.sets[1], images=rows),), pictures=pictures, curves=curves
    )
    page = open_page(large)
    assert (tmp_path / "a folder" / "index.html").stat().st_size < LARGEST
    settle(page)
    assert page.locator(".strip .thumb").count() == 200
    assert page.locator(".strip .thumb img[src]").count() < 40  # the rest is decoded when it comes into sight
    assert page.locator("#scores tbody tr").count() == 200
    page.locator("#scores thead button").nth(3).click()
    page.locator(".strip .thumb").first.click()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    settle(page)
    assert page.locator(".stage .tools .muted").first.inner_text().split(", ")[1] == "6 of 200"
