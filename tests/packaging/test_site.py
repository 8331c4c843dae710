"""The documentation site: every page in Chromium, from files, without a server or a network."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import harness
from tests.support.browser import needs_chromium, opened

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, needs_chromium]

WIDE = """() => [document.documentElement.scrollWidth - innerWidth, ...[...document.querySelectorAll("pre > code")]
  .filter(code => code.scrollWidth > code.clientWidth + 1).map(code => code.textContent.slice(0, 60))]"""

PALE = """() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = text => {  // whatever notation the browser gives
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], under) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
  const behind = node => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((under, colour) => over(colour, under), [255, 255, 255]);
  };
  const light = colour => colour.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const found = new Map();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent.trim(), node = walk.currentNode.parentElement;
    if (!text || !node.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (node.closest(".headerlink, script, style, .md-search, .md-clipboard")) continue;
    const under = behind(node);
    let opacity = 1;
    for (let at = node; at; at = at.parentElement) opacity *= getComputedStyle(at).opacity;
    const [r, g, b, a] = rgba(getComputedStyle(node).color);
    const [one, two] = [light(over([r, g, b, a * opacity], under)), light(under)].sort((x, y) => y - x);
    const ratio = (one + 0.05) / (two + 0.05);
    if (ratio < 4.5) found.set(`${node.tagName}.${node.className} ${ratio.toFixed(2)}`, text.slice(0, 40));
  }
  return [...found];
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pages(site: Path) -> list[Path]:
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


def visit(page: Any, site: Path, script: str) -> dict[str, Any]:
    """What a script gives on every page of the site."""
    found = {}
    for path in pages(site):
        page.goto(path.as_uri())
        found[path.relative_to(site).as_posix()] = page.evaluate(script)
    return found


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_cut(site: Path, width: int) -> None:
    with opened(site / "index.html", width, site=site) as page:
        found = visit(page, site, WIDE)
    assert len(found) > 30 and {name: wide for name, wide in found.items() if wide != [0]} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(site: Path, scheme: str) -> None:
    with opened(site / "index.html", 1280, scheme, site=site) as page:
        found = visit(page, site, PALE)
    assert {name: pale for name, pale in found.items() if pale} == {}


def test_search_copy_version_and_keyboard(site: Path) -> None:
    """The search finds without a server, code can be copied, the first tab stop skips the navigation."""
    with opened(site / "first-comparison.html", 1280, site=site) as page:
        assert f"sstkd-bench {harness.__version__}" in page.inner_text("footer")
        assert (
            page.locator("pre .md-code__button, pre .md-clipboard").count()
            or page.locator("[data-md-type=copy]").count()
        )
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className").startswith("md-skip")
        page.keyboard.press("/")
        page.keyboard.type("contourlet")
        page.wait_for_selector(".md-search-result__item")
        assert "ontourlet" in page.inner_text(".md-search-result__list")


def test_equations_are_drawn_by_the_browser(site: Path) -> None:
    """No TeX is left between dollars, and no script is needed."""
    page = (ROOT / "docs" / "reference-methods.md").read_text()
    drawn = (site / "reference-methods.html").read_text().count("<math ")
    assert drawn == page.count("\n$$\n") // 2 > 40
    for path in pages(site):
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", path.read_text(), flags=re.S)
        assert 'class="arithmatex"' not in text and not re.search(r"\$\$", text), path
