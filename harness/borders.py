"""Names and messages on their way out: one function per border, for text that rows, files or YAML keys have brought.

A terminal obeys escape sequences, Markdown and HTML make links, LaTeX runs macros, a spreadsheet computes formulas, a
shell splits words, a path leads elsewhere. What comes from here does none of that.
"""

import json
import re
import shlex
import sys
from collections.abc import Iterable
from html import escape
from typing import Any, TextIO

# C0 and C1 controls without \n and \t; marks that reverse or hide text; lone surrogates.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_FOLDERS = re.compile(r"(?:(?<=file://)|(?<![\w.:/~-]))/(?:[^\s/:'\"`,;)\]}]+/)+(?=[^\s/])")
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
SECRETS = (  # words of which one is in it, the pattern, what it is
    ("AKIA ASIA", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", "an access key"),
    ("ghp_ gho_ ghu_ ghs_ ghr_", r"\bgh[pousr]_[A-Za-z0-9]{16}", "an access token"),
    ("hf_ npm_ github_pat_ dop_v1_", r"\b(?:hf|npm|github_pat|dop_v1)_[A-Za-z0-9]{16}", "an access token"),
    ("glpat- GOCSPX- pypi-", r"\b(?:glpat|GOCSPX|pypi)-[\w-]{16}", "an access token"),
    ("xox ya29.", r"\b(?:xox[abeoprs]-|ya29\.)[\w-]{10}", "an access token"),
    ("sk-", r"(?<![\w-])sk-(?=[\w-]{0,40}[0-9])[\w-]{20}", "an API key"),
    ("sk_ rk_", r"\b[rs]k_(?:live|test)_\w{16}", "an API key"),
    ("AIza", r"\bAIza[\w-]{35}", "an API key of Google"),
    ("AccountKey= AccessKey=", r"(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/=]{20}", "a key of Azure"),
    ("sig=", r"[?&]sig=[A-Za-z0-9%+/]{30}", "a signed address of Azure"),
    ("eyJ", r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8}", "a JSON web token"),
    ("PRIVATE PuTTY", r"-----BEGIN [A-Z ]*PRIVATE KEY|PuTTY-User-Key-File-[0-9]", "a private key"),
)
"""What is a secret wherever it stands."""
QUOTED = 80
"""Characters of a user's text that a message shows."""
_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "▲": r"$\uparrow$",
    "▼": r"$\downarrow$",
    "−": "$-$",
    "–": "--",
    "[": "{[}",
    "*": "{*}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
_NEGATIVE = re.compile(r"(?<![\w.)\]-])-(?=\.?[0-9])")


def terminal(text: str) -> str:
    """Text that a terminal shows and does not obey: control characters are written as `\\x1b`."""
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


class Guarded:
    """Standard output or error that a terminal does not obey, whoever writes to it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write text as `terminal` shows it."""
        self.stream.write(terminal(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def guard() -> None:
    """Guard standard output and error of this process."""
    for name in ("stdout", "stderr"):
        if not isinstance(stream := getattr(sys, name), Guarded):
            setattr(sys, name, Guarded(stream))


def unguarded(stream: Any) -> Any:
    """The stream behind a guarded one, for a console that has its own guard and colours."""
    return stream.stream if isinstance(stream, Guarded) else stream


def one_line(text: object, most: int = 2_000) -> str:
    """Text on one line and not longer than `most` characters, for a cell or a message."""
    line = terminal(" ".join(str(text).split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def quoted(text: object, most: int = QUOTED) -> str:
    """A user's text as a message quotes it: at most `most` characters, what is not printable escaped."""
    whole = str(text)
    part = whole if len(whole) <= most else whole[: most - 3] + "..."
    return part if part.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in part)


def markdown(text: str) -> str:
    """Text that Markdown shows as it is: it must not open a cell, a tag, a link or a new line."""
    escaped = re.sub(r"([\\|<>`*_#~&$])", r"\\\1", one_line(text))
    # Links and their definitions; a bracket on its own is an interval.
    return re.sub(r"\](?=[(\[:])", r"]\\", escaped)


def html(text: object) -> str:
    """Text for HTML, attributes included."""
    return escape(terminal(str(text)), quote=True)


def latex(text: object) -> str:
    """Text for LaTeX: a star or bracket at the beginning of a line is no argument of the line before, and the hyphen of
    a negative number is a minus."""
    return "".join(_LATEX.get(c, c) for c in _NEGATIVE.sub("−", one_line(text)))


def label(text: str) -> str:
    """A name for `\\label`, an anchor or a file: letters, digits, '.', '_' and '-', no others."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:100] or "unnamed"


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet computes: a text that begins as a formula does gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = terminal(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def shell(*words: str) -> str:
    """A command for a POSIX shell, on one line."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """A word for a shell; one with control characters in bash's notation."""
    if "\n" not in word and terminal(word) == word:
        return shlex.quote(word)
    return "$'" + "".join(_coded(c) if c in "'\\\n" or terminal(c) != c else c for c in word) + "'"


def _coded(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that is no text
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def without_folders(text: str) -> str:
    """Text without the folders of absolute paths, which say how a machine and its users are named: `…/name`."""
    return _FOLDERS.sub("…/", text) if "/" in text else text


def without_secrets(text: str) -> str:
    """Text without passwords in URLs and without what is a key or a token wherever it stands: `***` in their place."""
    text = re.sub(r"(://[^/\s:@]*:)[^/\s@]+(?=@)", r"\1***", text)
    for words, pattern, _ in SECRETS:
        if any(word in text for word in words.split()):
            text = re.sub(rf"(?:{pattern})[\w+/=.%~-]*", "***", text)
    return text


def script_json(value: Any) -> str:
    """JSON for a script element of HTML, which it cannot end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
