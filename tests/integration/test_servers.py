"""The servers that tests and benchmarks start: they answer, keep what they were told to, and are gone
afterwards. A server that is not installed is skipped here; tools/servers.py can install it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools import servers
from tools.servers import Nats, Postgres, Redis, Server, ServerUnavailableError

MANY_BYTES = 65_536


def ask_redis(port: int, command: str) -> str:
    with socket.create_connection((servers.HOST, port), timeout=10) as connection:
        connection.sendall(command.encode() + b"\r\n")
        return connection.recv(MANY_BYTES).decode()


def ask_postgres(port: int, statement: str) -> str:
    client = [servers.find("psql"), "-h", servers.HOST, "-p", str(port), "-U", "postgres"]
    done = subprocess.run(
        [*client, "-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-c", statement],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def ask_nats(port: int, subject: str, payload: str = "") -> str:
    with socket.create_connection((servers.HOST, port), timeout=10) as connection:
        lines = connection.makefile("r")
        request = f"PUB {subject} answer {len(payload)}\r\n{payload}\r\n"
        connection.sendall(f'CONNECT {{"verbose":false}}\r\nSUB answer 1\r\n{request}'.encode())
        for line in lines:
            if line.startswith("MSG "):
                return next(lines)
    raise AssertionError("it did not answer")


@dataclass(frozen=True)
class Case:
    """A server with a setting, and how that and what it keeps are seen."""

    make: Callable[[], Server]
    setting: Callable[[int], object]
    expected: object
    write: Callable[[int], object]
    read: Callable[[int], object]


def redis(fsync: str) -> Case:
    return Case(
        lambda: Redis(fsync=fsync),  # type: ignore[arg-type]
        lambda port: ask_redis(port, "CONFIG GET appendfsync").split()[-1],
        fsync,
        lambda port: ask_redis(port, "XADD stream 1-1 key value"),
        lambda port: ask_redis(port, "XLEN stream"),
    )


def nats() -> Case:
    stream = json.dumps({"name": "kept", "subjects": ["kept"], "storage": "file"})
    return Case(
        Nats,
        lambda port: json.loads(ask_nats(port, "$JS.API.INFO"))["streams"],
        0,
        lambda port: ask_nats(port, "$JS.API.STREAM.CREATE.kept", stream),
        lambda port: json.loads(ask_nats(port, "$JS.API.STREAM.NAMES"))["streams"],
    )


def postgres(*, is_synced: bool) -> Case:
    return Case(
        lambda: Postgres(is_synced=is_synced),
        lambda port: (
            ask_postgres(port, "SHOW fsync"),
            ask_postgres(port, "SHOW synchronous_commit"),
        ),
        ("on", "on" if is_synced else "off"),
        lambda port: ask_postgres(port, "CREATE TABLE kept AS SELECT 1 AS one; CHECKPOINT"),
        lambda port: ask_postgres(port, "SELECT one FROM kept"),
    )


CASES = {
    "Redis, always": redis("always"),
    "Redis, everysec": redis("everysec"),
    "NATS": nats(),
    "PostgreSQL": postgres(is_synced=True),
    "PostgreSQL, asynchronous": postgres(is_synced=False),
}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(autouse=True)
def kept_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(servers, "KEPT_LOGS", tmp_path / "kept")
    return tmp_path / "kept"


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    if missing := servers.available()[request.param.partition(",")[0]]:
        pytest.skip(missing)
    return CASES[request.param]


def test_it_answers_and_is_gone_afterwards(case: Case, kept_logs: Path) -> None:
    with case.make() as server:
        assert case.setting(server.port) == case.expected
        assert is_alive(server.pid)
        assert server.directory.is_dir()
    assert not is_alive(server.pid)
    assert not server.directory.exists()
    assert not kept_logs.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((servers.HOST, server.port))


def test_what_was_written_is_there_after_a_stop_and_after_a_crash(case: Case) -> None:
    with case.make() as server:
        case.write(server.port)
        written, port = case.read(server.port), server.port
        for end in (server.stop, server.kill):
            end()
            assert not is_alive(server.pid)
            server.start()
            assert server.port == port
            assert case.read(port) == written


def test_two_run_at_once(case: Case) -> None:
    with case.make() as one, case.make() as other:
        assert one.port != other.port
        case.write(one.port)
        assert case.setting(other.port) == case.expected


@pytest.mark.parametrize("case", ["Redis, always"], indirect=True)
def test_what_it_said_is_kept_when_something_fails(case: Case, kept_logs: Path) -> None:
    with pytest.raises(ZeroDivisionError), case.make():
        _ = 1 / 0
    with case.make() as died:
        died.kill()
    assert {path.name for path in kept_logs.iterdir()} >= {f"{died.directory.name}.log"}
    assert len(list(kept_logs.iterdir())) == 2


@pytest.mark.parametrize("case", ["Redis, always"], indirect=True)
def test_a_server_that_does_not_start_says_why(case: Case) -> None:
    with pytest.raises(ServerUnavailableError, match="appendfsync"), Redis(fsync="never"):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize("case", ["NATS"], indirect=True)
def test_nats_that_cannot_sync_each_message_is_not_taken_for_one_that_does(case: Case) -> None:
    if Nats.can_sync():
        with Nats(is_synced=True) as server:
            assert case.setting(server.port) == case.expected
    else:
        with pytest.raises(ServerUnavailableError, match=r"2\.10"), Nats(is_synced=True):
            pass


def test_what_is_missing_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Redis, "program", "no-such-server")
    assert "tools/servers.py install" in str(servers.available()["Redis"])
    with pytest.raises(ServerUnavailableError, match=r"no-such-server is not installed"):
        servers.require("NATS", "Redis")
    with pytest.raises(ServerUnavailableError, match=r"tools/servers\.py install"), Redis():
        pass
