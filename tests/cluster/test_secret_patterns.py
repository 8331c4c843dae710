"""Typical secrets stay here, by name and by content; typical files that look a little like them are sent."""

import os
import shutil
import subprocess

import pytest
import yaml

from harness.cluster import package, secret_patterns
from tests.support import users
from tests.support.commands import ROOT

SECRET_FILES = [
    *(".env", ".ENV", ".env.local", "prod.env", "config/.env.production", ".envrc", ".flaskenv"),
    *("server.pem", "server.PEM", "tls/server.key", "Server.Key", "id_rsa", "id_dsa", "ID_ECDSA", "keys/id_ed25519"),
    *("client.p12", "client.PFX", "AuthKey_ABC.p8", "app.jks", "release.keystore", "login.ppk", "backup.gpg"),
    *("passwords.kdbx", "krb5.keytab", "office.ovpn", ".ssh/config", ".gnupg/trustdb", ".gnupg/pubring.kbx"),
    *("credentials.json", "Credentials.JSON", "client_secret_123.json", "service-account.json", "service_account.json"),
    *("my-service-account-key.json", "app-firebase-adminsdk-x1.json", "application_default_credentials.json"),
    *(
        "secrets.yaml",
        "secrets.yml",
        "secrets.toml",
        "prod-secrets.yaml",
        "secrets.prod.yaml",
        ".streamlit/secrets.toml",
    ),
    *("passwords.txt", "api_key.txt", "api-keys.json", "token.json", "auth_token", "access_token.txt", "token"),
    *(".aws/credentials", ".aws/config", ".azure/accessTokens.json", ".config/gcloud/access_tokens.db", ".kube/config"),
    *("prod.kubeconfig", ".docker/config.json", ".dockercfg", ".npmrc", ".yarnrc.yml", ".pypirc", ".netrc", "_netrc"),
    *(".pgpass", ".my.cnf", ".git-credentials", ".htpasswd", ".s3cfg", ".boto", "rclone.conf", "pip.conf", "auth.json"),
    *(
        ".vault-token",
        "terraform.tfstate",
        "terraform.tfstate.backup",
        "prod.tfvars",
        "kaggle.json",
        ".kaggle/kaggle.json",
    ),
    *(".huggingface/token", ".cache/huggingface/token", ".databrickscfg", ".config/gh/hosts.yml", ".modal.toml"),
    *(".bash_history", ".zsh_history", ".python_history", ".psql_history", ".ipython/profile/history.sqlite"),
    *(".cargo/credentials.toml", ".m2/settings.xml", "wp-config.php", "sftp-config.json", ".sstkd-bench-7/token"),
    # Copies of such files, and names put together.
    *("prod.env.bak", "Prod.ENV.old", ".env~", "server.pem.orig", "app.jks.2", "kaggle.json.swp", ".npmrc.save~"),
    *("hf_token", ".hf_token", "hf_token.txt", "oauth_token.json", "openai_key.txt", "OPENAI_API_KEY", "gcp-key.json"),
    *("accessKeys.csv", "rootkey.csv", "kubeconfig.yaml"),
]
SENT = [
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokens.txt", "environment.yml", "env.py"),
    *("environments/base.txt", "secrets.py", "credentials.py", "password_strength.py", "keys.py", "keyboard.png"),
    *("requirements.txt", "pyproject.toml", "experiments/e.yaml", "config.json", "docs/secrets.md", "monkey.txt"),
    *("history.csv", "training_history.json", "docker/Dockerfile", "Dockerfile", "kube.yaml", "id_map.json", "pem.py"),
    *(
        "authors.txt",
        "classes.txt",
        "key_points.json",
        "terraform.md",
        "tokenization.py",
        "environments.old",
        "model.py.bak",
        "sort_key.json",
        "photo.1.2",
        ".github/workflows/ci.yml",
    ),
]


def test_there_are_the_usual_75():
    assert len(SECRET_FILES) == len(set(SECRET_FILES)) >= 75


@pytest.fixture(scope="module")
def sent(tmp_path_factory):
    """What is sent of a folder that has all of them."""
    folder = tmp_path_factory.mktemp("project")
    for name in (*SECRET_FILES, *SENT):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x\n")
    return package.contents(folder)


@pytest.mark.parametrize("name", SECRET_FILES)
def test_a_secret_file_is_left_out_and_named(sent, name):
    assert name not in sent.names and sent.left_out[name] == "its name is that of a file with secrets"


@pytest.mark.parametrize("name", SENT)
def test_a_harmless_file_is_sent(sent, name):
    assert name in sent.names


WORD = "hunter2"
RANDOM = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7"
"""No secret of anybody. Those below are put together, so that no scanner finds them here."""
SECRET_LINES = {
    "a.yaml": [
        *(f"password: {WORD}", f"db_password: '{WORD}'", f"pwd: {WORD}", f"  PASSWD = {WORD}", f"api-key: {RANDOM}"),
        *(f"wandb: {{token: {RANDOM}}}", f"export WANDB_API_KEY={RANDOM}", f'{{"access_key": "{RANDOM}"}}'),
        *(f"<password>{WORD}</password>", "url: postgres://me:" + "word@host/x"),
    ],
    "a.py": [
        *(f'password = "{WORD}"', f"os.environ['WANDB_API_KEY'] = '{RANDOM}'", f'connect(token="{RANDOM}")'),
        *("key = '" + "AKIA" + "ABCDEFGHIJKLMNOP'", "# " + "ghp_" + RANDOM, "x = '" + "hf_" + RANDOM + "'"),
        *(
            "k = '" + "sk-proj-" + RANDOM + "'",
            "k = '" + "AIza" + RANDOM + RANDOM[:8] + "'",
            "'" + "xoxb-" + RANDOM + "'",
        ),
        "'DefaultEndpointsProtocol=https;Account" + f"Key={RANDOM}=='",
        "https://x.blob.core.windows.net/c/a?sv=1&" + f"sig={RANDOM}{RANDOM}",
        "t = '" + ".".join(["eyJ" + RANDOM, "eyJ" + RANDOM, RANDOM]) + "'",
        *("-----BEGIN RSA " + "PRIVATE KEY-----", "-----BEGIN " + "PRIVATE KEY-----", "glpat-" + RANDOM),
        *("'sk_" + "live_" + RANDOM + "'", "GOCSPX-" + RANDOM, "npm_" + RANDOM),
    ],
}


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, lines in SECRET_LINES.items() for line in lines])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_secret_in_a_text_file_is_refused_with_its_line(tmp_path, name, line, encoding):
    (tmp_path / name).write_text(f"first\n{line}\nlast\n", encoding=encoding)
    with pytest.raises(ValueError, match=rf"{name}:2: looks like (?s:.*)--exclude GLOB.*--include GLOB") as error:
        package.contents(tmp_path)
    assert RANDOM not in str(error.value) and WORD not in str(error.value)
    assert package.contents(tmp_path, includes=[name]).names == (name,)
    assert package.contents(tmp_path, excludes=[name]).names == ()


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tokenizer_config.json", '{"pad_token": "[PAD]", "eos_token": "</s>", "bos_token": {"content": "<s>"}}'),
        ("a.yaml", "password: ${PASSWORD}\ntoken: null\nsecret: <your secret>\nmax_tokens: 4096\nlr: 1.0e-3"),
        ("a.py", 'def login(password: str, token: str = "") -> None:\n    password = os.environ["PASSWORD"]'),
        ("a.py", 'raise ValueError(f"http://{user}:{password}@host")\ntoken = "end_of_text"\nkey = "task-1234567890"'),
        ("a.css", ".sk-fading-circle .sk-circle-inner-something { color: red }"),
        ("a.md", "The password: one that you choose. `--env WANDB_API_KEY`"),
        ("a.bin", f"\0password: {WORD}"),
    ],
)
def test_what_is_no_secret_is_sent(tmp_path, name, line):
    (tmp_path / name).write_text(line)
    assert package.contents(tmp_path).names == (name,)


def test_large_files_are_data(tmp_path):
    (tmp_path / "log.txt").write_text(f"password: {WORD}\n" + "x" * secret_patterns.SCANNED_BYTES)
    assert package.contents(tmp_path).names == ("log.txt",)


@pytest.mark.parametrize(
    "text", ["-" * 200_000, "token=" * 30_000, "eyJaaaaaaaa-" * 20_000, f"password='{WORD}'\n" * 9_000]
)
def test_a_scan_does_not_depend_on_what_is_in_the_file(text, request):
    """By steps of the clock of this process: quadratic time would be minutes."""
    begin = os.times().user
    secret_patterns.in_file("a.yaml", text.encode())
    secret_patterns.in_text_for_a_job(text)
    assert os.times().user - begin < 10


def test_this_project_can_be_sent():
    assert "harness/cluster/secrets.py" in package.contents(ROOT).names


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
@pytest.mark.parametrize("name", [".env", "prod.env", "a.pem", ".npmrc", ".kube/config", "secrets.yaml", "kaggle.json"])
def test_ray_up_leaves_out_the_usual_ones(tmp_path, name):
    """It copies the folder by rsync, with the patterns of the cluster file."""
    patterns = yaml.safe_load((ROOT / "experiments" / "cityscapes.yaml").read_text())["rsync_exclude"]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    for each in (name, "a.py", "secrets.py"):
        (tmp_path / each).touch()
    words = ["rsync", "-a", "--list-only", *(f"--exclude={pattern}" for pattern in patterns), f"{tmp_path}/"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in said.splitlines() if line.startswith("-")] == ["a.py", "secrets.py"]


# --- Links, and what git says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("git", [False, True])
def test_links_that_lead_out_are_left_out_and_named(tmp_path, git):
    outside, folder = tmp_path / "outside", tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    for path in (outside / "private", folder / ".env", folder / "sub" / "a.py"):
        path.write_text("x")
    links = {
        "absolute": outside / "private",
        "relative": "../outside/private",
        "sub/twice": "../absolute",
        "a-folder": "../outside",
        "inner-folder": "sub",
        "plain.txt": ".env",
        "inside.py": "sub/a.py",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    if git:
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
    found = package.contents(folder)
    assert found.names == ("inside.py", "sub/a.py")
    out = "a link that leads out of the folder"
    assert found.left_out == {
        ".env": "its name is that of a file with secrets",
        "a-folder": out,
        "absolute": out,
        "inner-folder": "a link to a folder",
        "plain.txt": "a link to a file with secrets",
        "relative": out,
        "sub/twice": out,
    }
    everything = package.contents(folder, includes=["*"])
    assert set(everything.names) == {".env", "inside.py", "plain.txt", "sub/a.py"}, "a link never leads out"


def test_where_git_fails_nothing_is_sent(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".git" / "config").write_text("[core\n")
    with pytest.raises(ValueError, match=r"git does not say which files it ignores.*bad config"):
        package.contents(tmp_path)


def test_a_checkouts_settings_start_no_program(tmp_path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    with (tmp_path / ".git" / "config").open("a") as config:
        config.write(f'[core]\n\tfsmonitor = "touch {tmp_path}/started; false"\n')
    package.contents(tmp_path)
    assert not (tmp_path / "started").exists()


# --- The list that is shown --------------------------------------------------------------------------------------------


def test_the_list_names_what_is_sent_and_what_is_not(tmp_path):
    for number in range(7):
        (tmp_path / f"{number}.py").write_text("x" * 200_000)
    (tmp_path / "a\x1b[31m.py").touch()
    (tmp_path / ".netrc").touch()
    found = package.contents(tmp_path)
    assert found.lines() == [
        f"the job gets 8 files, 1.3 MiB of {tmp_path}: 0.py, 1.py, 2.py, 3.py, 4.py and 3 more",
        "not sent, because secret or a link: .netrc",
        "all names: --list-files",
    ]
    every = found.lines(everything=True)
    assert every[0] == "     200,000  0.py" and every[-1] == "8 files, 1.3 MiB; 1 left out"
    assert every[7] == r"           0  a\x1b[31m.py"
    assert every[8] == "           -  .netrc: its name is that of a file with secrets"


def test_more_than_every_node_should_unpack_is_refused(tmp_path):
    with (tmp_path / "sparse.bin").open("wb") as file:
        file.truncate(package.MAX_BYTES + 1)
    with pytest.raises(ValueError, match=r"larger than 1024 MiB.*sparse.bin \(1024.0 MiB\).*--exclude NAME"):
        package.contents(tmp_path)


def test_a_file_that_may_not_be_read_is_named():
    with users.folder_of_all() as folder:
        (folder / "a.py").touch()
        (folder / "mine.py").touch(mode=0o600)
        (folder / "mine.py").chmod(0)

        def send():
            with pytest.raises(PermissionError, match=rf"{folder}/mine\.py"):
                package.contents(folder)
            assert package.contents(folder, excludes=["mine.py"]).names == ("a.py",)

        users.as_another_user(send)
