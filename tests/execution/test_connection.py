"""How Ray is started: again when it is late, with a token and a folder of this user alone. `ray.init` is a stand-in."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from harness.execution import connection
from harness.execution.connection import connected, keep_token_private, session_folder
from harness.experiment.resources import Resources

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without a token, and a umask that lets everybody read."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    before = os.umask(0)
    yield tmp_path / "home"
    os.umask(before)
    connection.AuthenticationTokenLoader.instance().reset_cache()


class Starts:
    """Stands for `ray.init`: raises each error in turn, then starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
        self.errors, self.options, self.shutdowns = list(errors), [], 0
        monkeypatch.setattr(connection.ray, "init", self)
        monkeypatch.setattr(connection.ray, "shutdown", self.shutdown)

    def shutdown(self) -> None:
        self.shutdowns += 1

    def __call__(self, **options: Any) -> None:
        self.options.append(options)
        assert mode(Path(options["_temp_dir"]).parent) == 0o700
        assert connection.ray_constants.ENABLE_RAY_CLUSTER is False  # or Ray listens on all interfaces
        if self.errors:
            raise self.errors.pop(0)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_ray_that_is_late_is_started_again_with_a_line_that_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray, said = Starts(monkeypatch, Exception(LATE)), []
    with connected(Resources(), said.append):
        assert len(ray.options) == 2 and ray.options[1]["_node_ip_address"] == "127.0.0.1"
        assert os.environ["GLOO_SOCKET_IFNAME"] == "lo"
    (line,) = said
    assert line.startswith("Ray did not start (The current node timed out") and line.endswith("; trying once more")
    assert "; load " in line and " CPUs)" in line
    assert "GLOO_SOCKET_IFNAME" not in os.environ and connection.ray_constants.ENABLE_RAY_CLUSTER is True
    assert ray.shutdowns == 2 and not any(Path(each["_temp_dir"]).parent.exists() for each in ray.options)


@pytest.mark.parametrize("error", [Exception(LATE), RuntimeError("Failed to start GCS"), ConnectionError("refused")])
def test_ray_that_does_not_start_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    ray = Starts(monkeypatch, error, error)
    with (
        pytest.raises(ValueError, match="did not start in 2 tries") as caught,
        connected(Resources(), lambda text: None),
    ):
        pass
    assert str(error)[:30] in str(caught.value) and "; load " in str(caught.value) and "\n" not in str(caught.value)
    assert not any(Path(each["_temp_dir"]).parent.exists() for each in ray.options)


def test_what_is_not_rays_is_not_tried_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = Starts(monkeypatch, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError), connected(Resources()):
        pass
    assert len(ray.options) == 1


def test_a_token_is_made_for_its_owner_alone(home: Path) -> None:
    keep_token_private(create=False)
    assert not home.exists()
    keep_token_private(create=True)
    token = home / ".ray" / "auth_token"
    assert mode(token) == 0o600 and mode(token.parent) == 0o700 and len(token.read_text()) >= 32
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
    before = token.read_text()
    token.chmod(0o644)
    keep_token_private(create=True)
    assert mode(token) == 0o600 and token.read_text() == before


def test_a_token_elsewhere_is_tightened_and_none_is_made_where_none_is_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    keep_token_private(create=True)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 32)
    keep_token_private(create=True)
    assert not home.exists()
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    other = tmp_path / "token"
    other.write_text("x" * 32)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(other))
    assert mode(other) == 0o666
    keep_token_private(create=False)
    assert mode(other) == 0o600
    other.chmod(0o644)
    monkeypatch.setattr(Path, "chmod", lambda self, mode: (_ for _ in ()).throw(PermissionError(1, "not yours")))
    with pytest.raises(ValueError, match="others can read this token; its owner must run: chmod 600"):
        keep_token_private(create=False)


def test_a_session_folder_is_private_short_and_gone_afterwards(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * connection.LONGEST_FOLDER)
    long.mkdir()
    monkeypatch.setattr(connection.tempfile, "tempdir", str(long))
    with session_folder() as name:
        assert mode(Path(name).parent) == 0o700 and name.startswith("/tmp/sb-") and len(name) <= 41
        (Path(name) / "session").mkdir(parents=True)
    assert not Path(name).parent.exists()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    with session_folder() as name:
        assert mode(Path(name).parent) == 0o700 and Path(name).parent.parent == long
    assert Path(name).parent.exists()  # who chose the place wants to look at it
