"""What the site needs beyond Markdown: the version in its footer; equations as MathML, which browsers draw by
themselves, without a script or a font; and nothing that has to come from elsewhere."""

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.utils import get_relative_url

ROOT = Path(__file__).parents[2]
SHIM = "https://unpkg.com/iframe-worker/shim"
"""What the theme loads so that the search works from files; the site has a copy."""
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_config(config: Any) -> Any:
    """Put the package's version into the footer."""
    (version,) = re.findall(r'^__version__ = "(.*)"$', (ROOT / "harness/__init__.py").read_text(), re.MULTILINE)
    config.copyright = f"sstkd-bench {version} · Apache-2.0"
    return config


def on_page_content(content: str, **_: Any) -> str:
    """Replace TeX between dollars, as pymdownx's arithmatex marks it, by MathML."""
    return EQUATION.sub(_mathml, content)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Load the search's helper from the site."""
    return output.replace(SHIM, get_relative_url("theme/iframe-worker.js", page.url))


def on_post_template(output_content: str, **_: Any) -> str:
    """The page of a missing address needs no search."""
    return output_content.replace(f'<script src="{SHIM}"></script>', "")


def _mathml(found: re.Match[str]) -> str:
    inline, tex = found[1] == "span", html.unescape(found[2]).strip()
    return convert(tex, display="inline" if inline else "block")
