"""An export folder on a hub: its own files and no others, the token nowhere but in the requests, errors on one line."""

import json
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from harness.deployment.place import DESCRIPTION, KIND
from harness.deployment.push import push
from tests.support.receiving import COMMIT, TOKEN, Receiver, receiving

pytestmark = pytest.mark.torch  # of the rest of the package
NAME = "a-lab/road_fpn.v2"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Receiver]:
    """A hub, a token for it in the environment, and none of this machine's."""
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with receiving(Receiver()) as found:
        monkeypatch.setenv("HF_ENDPOINT", found.address)
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export, and beside its files what is the user's."""
    to = tmp_path / "kd-onnx"
    to.mkdir()
    (to / "model.onnx").write_bytes(bytes(range(256)) * 400)
    (to / "README.md").write_text("---\nlibrary_name: onnx\n---\n\n# A network\n")
    (to / DESCRIPTION).write_text(json.dumps({"kind": KIND, "run_id": "0" * 16, "files": ["README.md", "model.onnx"]}))
    return to


def received(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("README.md", "export.json", "model.onnx")}


@pytest.mark.parametrize("large", [(), (".onnx",)])
def test_the_bytes_arrive_in_one_commit(hub: Receiver, folder: Path, large: tuple[str, ...]) -> None:
    hub.large = large
    assert push(folder, NAME) == f"{hub.address}/{NAME}/commit/{COMMIT}"
    assert hub.repositories == {NAME: received(folder)} and hub.commits == 1
    assert hub.visibility == {NAME: "private"} and bool(hub.stored) == bool(large)


def test_they_arrive_by_the_other_protocol_too(hub: Receiver, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a hub without its storage can show: files that are in the commit."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    push(folder, NAME)
    assert hub.repositories == {NAME: received(folder)} and hub.commits == 1


def test_a_repository_that_is_there_is_added_to(hub: Receiver, folder: Path) -> None:
    hub.repositories[NAME] = {"LICENSE": b"mine", "README.md": b"old"}
    push(folder, NAME)
    assert hub.repositories[NAME] == {"LICENSE": b"mine", **received(folder)}
    assert NAME not in hub.visibility


def test_images_of_the_dataset_stay_here(hub: Receiver, folder: Path) -> None:
    said = json.loads((folder / DESCRIPTION).read_text())
    for name in ("bench.py", "inputs.npz"):
        (folder / name).write_text("images")
        said["files"].append(name)
    (folder / DESCRIPTION).write_text(json.dumps(said))
    push(folder, NAME)
    assert hub.repositories[NAME].keys() == {"README.md", "export.json", "model.onnx"}


def test_what_is_not_the_exports_stays_here(hub: Receiver, folder: Path) -> None:
    for name in ("notes.txt", ".env", "model.onnx.bak"):
        (folder / name).write_text("mine")
    (folder / "sub").mkdir()
    (folder / "sub" / "model.onnx").write_text("mine")
    push(folder, NAME)
    assert hub.repositories[NAME] == received(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "sub/model.onnx", ".env", "*", "", ".."])
def test_a_description_cannot_name_other_files(hub: Receiver, folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("mine")
    (folder / ".env").write_text("mine")
    (folder / DESCRIPTION).write_text(json.dumps({"kind": KIND, "files": ["model.onnx", name]}))
    with pytest.raises(ValueError, match=r"export\.json names .*, which is no file of an export"):
        push(folder, NAME)
    assert hub.asked == []


def test_a_link_is_not_followed(hub: Receiver, folder: Path) -> None:
    (folder.parent / "secret").write_text("mine")
    (folder / "model.onnx").unlink()
    (folder / "model.onnx").symlink_to(folder.parent / "secret")
    with pytest.raises(ValueError, match=r"lacks model\.onnx as a file of its own"):
        push(folder, NAME)
    assert hub.asked == []


def test_what_is_no_export_is_not_pushed(hub: Receiver, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"elsewhere: is no folder of an export.*sstkd-bench export"):
        push(tmp_path / "elsewhere", NAME)
    for text in ("{", "[]", json.dumps({"kind": "other", "files": []}), json.dumps({"kind": KIND, "files": 3})):
        (folder / DESCRIPTION).write_text(text)
        with pytest.raises(ValueError, match="is no folder of an export"):
            push(folder, NAME)
    (folder / DESCRIPTION).write_text(json.dumps({"kind": KIND, "files": ["model.onnx", "config.json"]}))
    with pytest.raises(ValueError, match=r"lacks config\.json.*export it again"):
        push(folder, NAME)
    (folder / DESCRIPTION).write_text(json.dumps({"kind": KIND, "files": ["model.onnx"]}))
    (folder / "README.md").unlink()
    with pytest.raises(ValueError, match=r"lacks README\.md.*export it again"):
        push(folder, NAME)
    assert hub.asked == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "name",
        "a/b/c",
        "a/..",
        "a/b..c",
        "a/b--c",
        "-a/b",
        "a/b.git",
        "a/b c",
        "a/é",
        "https://x/y",
        "a/" + "b" * 95,
        "a/b\n",
    ],
)
def test_a_wrong_name_is_refused_before_anything_is_asked(hub: Receiver, folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"ORGANISATION/NAME.*letters, digits, '-', '_' and '\.'.*96") as caught:
        push(folder, name)
    assert "\n" not in str(caught.value) and hub.asked == []


def test_without_a_token_the_variable_is_named(hub: Receiver, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match=r"HF_TOKEN.*write"):
        push(folder, NAME)
    assert hub.asked == []


def test_the_librarys_own_place_of_the_token_is_used(
    hub: Receiver, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "no-token").write_text(TOKEN)
    push(folder, NAME)
    assert hub.repositories[NAME] == received(folder)


@pytest.mark.parametrize(
    ("name", "refusal", "said"),
    [
        (NAME, 401, r"127\.0\.0\.1 refuses the token.*HF_TOKEN.*write"),
        (NAME, 403, r"may not write.*HF_TOKEN.*a-lab"),
        ("foreign/x", None, r"may not write.*HF_TOKEN.*foreign"),
        (NAME, 404, r"no such organisation or repository"),
        (NAME, 400, r"answers with status 400"),
        (NAME, 500, r"answers with status 500.*again later"),
    ],
)
def test_a_refusal_is_one_line_with_a_remedy(
    hub: Receiver, folder: Path, name: str, refusal: int | None, said: str, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    hub.refusal = refusal
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ValueError, match=said) as caught:
        push(folder, name)
    assert str(caught.value).startswith(f"{folder} is not pushed to {name}: ") and "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ and hub.asked
    everything = str(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert TOKEN not in everything and TOKEN[3:] not in everything


def test_a_refusal_after_the_repository_was_created(
    hub: Receiver, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object, **__: object) -> None:
        hub.refusal = 403

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", cut)
    with pytest.raises(ValueError, match="may not write"):
        push(folder, NAME)
    assert hub.repositories == {}


def test_a_storage_that_refuses(hub: Receiver, folder: Path) -> None:
    hub.large, hub.storage = (".onnx",), 403
    with pytest.raises(ValueError, match="may not write"):
        push(folder, NAME)
    assert hub.repositories == {NAME: {}} and hub.commits == 0


@pytest.mark.parametrize("address", ["here", "ftp://127.0.0.1", "http://"])
def test_an_address_that_is_none(hub: Receiver, folder: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(ValueError, match=r"HF_ENDPOINT .*https://"):
        push(folder, NAME)


def test_a_hub_that_does_not_answer(hub: Receiver, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("HF_ENDPOINT", f"http://user:{'pass' + 'word'}@127.0.0.1:{port}")
    with pytest.raises(ValueError, match=r"127\.0\.0\.1 does not answer.*network") as caught:
        push(folder, NAME)
    assert "\n" not in str(caught.value) and "password" not in str(caught.value)


def test_offline_is_offline(hub: Receiver, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        push(folder, NAME)
    assert hub.asked == []


def test_the_token_is_in_no_file_and_no_log(
    hub: Receiver, folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    where = push(folder, NAME)
    assert all(token in ("", f"Bearer {TOKEN}") for _, _, token in hub.asked)
    files = b"".join(path.read_bytes() for path in folder.parent.rglob("*") if path.is_file())
    sent = b"".join(hub.repositories[NAME].values())
    assert TOKEN.encode() not in files + sent
    assert TOKEN not in where + caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("token", ["hf_line\nbreak" + "x" * 20, "hf_é" + "x" * 20])
def test_a_token_that_no_header_can_have_is_not_shown(
    hub: Receiver, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ValueError) as caught:
        push(folder, NAME)
    assert "x" * 20 not in str(caught.value) and "\n" not in str(caught.value)
    assert not isinstance(caught.value, UnicodeError)


def test_a_token_given_as_the_name_is_not_shown(hub: Receiver, folder: Path) -> None:
    with pytest.raises(ValueError, match="ORGANISATION/NAME") as caught:
        push(folder, TOKEN)
    assert TOKEN[3:] not in str(caught.value)
