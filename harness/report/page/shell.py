"""What every page of results shares: one file with its style, its script and its data inside, which loads nothing.

Every text from a row is escaped by `harness.borders.html`, or is data that the script writes as text. In addition, the
content security policy forbids the browser to load anything or to run another script.
"""

import base64
import hashlib
import re
from pathlib import Path
from string import Template

from harness.borders import html as _e
from harness.borders import label

SCRIPT, STYLE = (Path(__file__).with_name(name).read_text("utf-8") for name in ("page.js", "page.css"))

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title: distillation for semantic segmentation</title>
<style>$style</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="lead">$lead</p>
</header>
<main>
$blocks
<section>
$runs_head
<p>Every run behind this page. Click a run, or a number in the tables above, to see its provenance and the command that
repeats it. Rows are in <code>runs/</code> $where.</p>
<div id="runs"><noscript>The list needs scripts; without them: <code>sstkd-bench results list</code> and
<code>results show</code>.</noscript></div>
</section>
</main>
<footer>$foot</footer>
<script type="application/json" id="data">$data</script>
<script>$script</script>
</body>
</html>
""")


def whole(title: str, lead: str, sections: str, data: str, where: str, foot: str) -> str:
    """A page: head, sections with anchors, the list of runs.

    Args:
        title: its heading, a text.
        lead: what it is about, a text.
        sections: HTML.
        data: JSON of `page_data`.
        where: the rows are, as the end of a sentence: a text.
        foot: the last line, a text.
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return _PAGE.substitute(
        title=_e(title),
        lead=_e(lead),
        style=STYLE,
        blocks=_anchored(sections),
        runs_head=_anchored("<h2>Runs</h2>"),
        where=_e(where),
        foot=_e(foot),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        data=data,
        script=SCRIPT,
    )


def _anchored(text: str) -> str:
    """HTML whose headings have ids, those of h3 below their h2's, and links to themselves."""
    used: set[str] = set()
    above = ""

    def one(found: re.Match[str]) -> str:
        nonlocal above
        level, inside = found.groups()
        words = re.sub(r"<[^>]*>", "", inside)
        name = label(words) if level == "2" else f"{above}--{label(words)}"
        name = next(x for x in (name, *(f"{name}-{n}" for n in range(2, len(used) + 3))) if x not in used)
        used.add(name)
        above = name if level == "2" else above
        link = f'<a class="anchor" href="#{name}" aria-label="Link to {words}"></a>'
        return f'<h{level} id="{name}">{inside}{link}</h{level}>'

    return re.sub(r"<h([23])>(.*?)</h\1>", one, text, flags=re.DOTALL)
