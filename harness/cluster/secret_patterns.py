"""What a secret looks like: names of files that hold secrets, and secrets in a text.

A text is judged by two kinds of pattern: formats that are secrets wherever they stand (keys of cloud providers, tokens,
private keys), and values assigned to a name such as `password`. In program text and prose the latter must be quoted,
since `password: str` is a type.
"""

import codecs
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import PurePosixPath

from harness.borders import SECRETS

SCANNED_BYTES = 2**20
"""Larger files are data, not settings, and are not scanned."""
NAMES = (
    # Environments, keys, and certificates with keys.
    *(".env", ".env.*", "*.env", ".envrc", ".flaskenv", "*.pem", "*.key", "*.p12", "*.pfx", "*.pkcs12", "*.p8"),
    *("*.jks", "*.keystore", "*.ppk", "*.gpg", "*.pgp", "*.agekey", "*.keytab", "*.kdb", "*.kdbx", "*.ovpn"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.secret", "*.pwd", "key[34].db", "logins.json"),
    # Settings of tools, with a password or a token in them.
    *(".netrc", "_netrc", ".npmrc", ".yarnrc*", ".pypirc", ".pgpass", "pgpass.conf", ".my.cnf", ".mylogin.cnf"),
    *(".git-credentials", "*htpasswd", ".s3cfg", ".boto", ".dockercfg", ".dockerconfigjson", ".vault-token"),
    *(".curlrc", ".wgetrc", ".condarc", ".databrickscfg", ".modal.toml", ".comet.config", ".terraformrc"),
    *("terraform.rc", "*.tfstate", "*.tfstate.*", "*.tfvars", "*.tfvars.json", "rclone.conf", "pip.conf"),
    *("nuget.config", "kaggle.json", "auth.json", "kubeconfig*", "*.kubeconfig", "wp-config.php", "sftp-config.json"),
    *("sftp.json", ".ftpconfig", "settings-security.xml", "jupyter_*config.json", "*firebase-adminsdk*.json"),
    *("cookies.txt", "token", ".token", "token.json", "token.txt", "token.pickle", "*auth_token"),
    # What was typed.
    *(".*_history", ".histfile", ".zhistory", ".rhistory", ".viminfo", ".lesshst", "history.sqlite"),
)
"""Patterns of file names, without case."""
FOLDERS = (
    *(".ssh", ".gnupg", ".aws", ".azure", ".gcloud", ".kube", ".docker", ".kaggle", ".huggingface", ".password-store"),
    *(".oci", ".databricks", ".vault", ".terraform", ".cache/huggingface", ".cargo/credentials*", ".gem/credentials"),
    *(".config/gcloud", ".config/gh", ".config/hub", ".config/rclone", ".config/containers", ".config/pip"),
    *(".m2/settings.xml", ".sstkd-bench-*"),  # the latter has the token of a running Slurm job
)
"""Patterns of folders, whatever is in them, and of files in such a folder; without case."""
_WORDS = (
    r"credentials?|secrets?|passwords?|passwd|service[-_]?accounts?|client[-_]?secrets?"
    r"|(?:api|private|secret|access|root|openai|anthropic|gcp|aws)[-_]?keys?"
    r"|(?:auth|oauth|access|refresh|api|hf|huggingface|wandb|github|openai)[-_]?tokens?"
)
_DATA = r"json|ya?ml|toml|ini|cfg|conf|cnf|txt|csv|xml|properties|plist|pickle|dat|db|bak|old|enc"
_NAMED = re.compile(rf"(?:.*[._-])?(?:{_WORDS})(?:[._-][\w-]+)*?(?:\.(?:{_DATA}))?")
"""Such as `prod-secrets.yaml` and `my-service-account-key.json`; `secrets.py` is a program."""
_COPY = re.compile(r"(?<=.)(?:~|\.(?:bak|backup|old|orig|save|copy|swp|[0-9]+))+")
"""The end of a copy's name: `server.pem.old` is what `server.pem` is."""
_PROGRAM = re.compile(
    r".*\.(?:py|pyi|pyx|c|cc|cpp|cu|cuh|h|hpp|js|mjs|ts|tsx|css|html|md|rst|tex|rs|go|java|r|jl|lua|m)"
)

_KEYS = r"passw(?:or)?d|pwd|secret(?:[_-]?key)?|token|api[_-]?key|access[_-]?key|account[_-]?key"
_FORMATS = (*SECRETS, ("://", r"://[^/\s:@]*:(?![$<{*])[^/\s@]+@", "a URL with a password"))
# In what is written for a job, any value of such a name is refused.
_STRICT = (
    # The look-ahead takes what stands before the name at once, without a second try: linear in the line's length.
    rf"^(?=([^\w\n]*))\1[\w.-]*(?:{_KEYS})[^\w\n]*[:=][ \t]*[^\s#]",
    # Anywhere in a line: in a mapping, an address or a shell command; `$...` is only a reference.
    rf"[{{,][ \t]*[\"']?[\w.-]*(?:{_KEYS})[\"']?[ \t]*:[ \t]*[^\s#$]",
    rf"[\s?&;'\"][\w.-]*(?:{_KEYS})=[\"']?[^\s$\"'&]",
)


def _assigned(quote: str) -> tuple[str, str]:
    """Values in other files: `"pad_token": "[PAD]"` is a tokenizer's, `token: ${X}` and `password: null`  nothing."""
    end = rf"[\"'\]]{{0,3}}[ \t]*[:=][ \t]*{quote}"
    word = r"(?!(?:null|none|true|false)\b)(?!os\.)[^\s\"'$<>{}\[\]()!*%~|&,;]{4}"
    return (
        rf"(?:passw(?:or)?d|pwd){end}{word}",
        rf"(?:secret(?:[_-]?key)?|token|(?:api|access|account)[_-]?key){end}(?=[\w+/=.-]{{0,40}}[0-9])[\w+/=.-]{{16}}",
    )


_Patterns = list[tuple[Sequence[str], re.Pattern[str], str]]


def _compiled(assigned: Sequence[str]) -> _Patterns:
    formats: _Patterns = [(words.split(), re.compile(pattern), what) for words, pattern, what in _FORMATS]
    return formats + [([""], re.compile(pattern, re.IGNORECASE | re.MULTILINE), "a secret") for pattern in assigned]


_FOR_A_JOB = _compiled(_STRICT)
_IN_SETTINGS = _compiled([*_assigned("[\"']?"), rf"<[\w.-]*(?:{_KEYS})>\s*[^\s<${{]{{4}}"])
_IN_PROGRAMS = _compiled(_assigned("[\"']"))


def is_secret(name: str) -> bool:
    """Whether a file of this relative path holds secrets, judged by the path alone."""
    *folders, last = PurePosixPath(name.lower()).parts
    end = next((found.start() for found in _COPY.finditer(last) if found.end() == len(last)), len(last))
    parts = (*folders, last[:end])
    if any(fnmatchcase(part, pattern) for part in parts for pattern in NAMES):
        return True
    if _NAMED.fullmatch(parts[-1]) and not _PROGRAM.fullmatch(parts[-1]):
        return True
    pairs = [f"{a}/{b}" for a, b in pairwise(parts)]
    return any(fnmatchcase(place, pattern) for place in (*parts, *pairs) for pattern in FOLDERS)


def in_text_for_a_job(text: str) -> list[tuple[int, str]]:
    """Line and kind of everything like a secret in an experiment file or an option."""
    return _found(text, _FOR_A_JOB)


def in_file(name: str, content: bytes) -> list[tuple[int, str]]:
    """Line and kind of everything like a secret in a file; nothing in one that is large or not text."""
    if len(content) > SCANNED_BYTES:
        return []
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16", errors="replace")
    elif b"\0" in content:
        return []
    else:
        text = content.decode(errors="replace")
    return _found(text, _IN_PROGRAMS if _PROGRAM.fullmatch(name.lower()) else _IN_SETTINGS)


def _found(text: str, patterns: _Patterns) -> list[tuple[int, str]]:
    lines: dict[int, str] = {}
    for words, pattern, what in patterns:
        if not any(word in text for word in words):  # much faster than the pattern
            continue
        line, counted = 1, 0
        for match in pattern.finditer(text):
            begin = match.end() - len(match[0].lstrip())  # a match may begin with the end of a line
            line, counted = line + text.count("\n", counted, begin), begin
            lines.setdefault(line, what)
    return sorted(lines.items())
