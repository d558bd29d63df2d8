"""Real servers to test and measure against: Redis, NATS with JetStream, PostgreSQL.

Each is a context manager. It runs on a free loopback port, with its data in a directory of its own that
is gone afterwards, answers when the ``with`` begins and has ended when it is left::

    with servers.Redis(fsync="always") as redis:
        client = connect("127.0.0.1", redis.port)

Where a server was not installed, :func:`available` and :func:`require` say what to do. On Debian and its
like everything is installed by (as root)::

    python tools/servers.py install
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

HOST = "127.0.0.1"
KEPT_LOGS = Path(__file__).resolve().parents[1] / "build" / "servers"
"""Where the output of a server goes that ended by itself, or in whose ``with`` something failed."""
START_ATTEMPTS = 3  # another process may take the port that was free
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
ANSWER_TIMEOUT_S = 2
LOOK_S = 0.01
LOG_LINES_SHOWN = 30
HOW_TO_INSTALL = "install it as root with: python tools/servers.py install"


class ServerUnavailableError(Exception):
    """A server is not installed, cannot do what was asked for, or does not start; the text says more."""


class Server(ABC):
    """A server that runs while its ``with`` does.

    Args:
        parent: where its directory is made, and so which disk is used; None: where temporary files go.

    Not for several threads. It ends with the thread that started it, also if that is killed.

    Raises:
        ServerUnavailableError: as the ``with`` begins: not installed, or it did not answer.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    package: ClassVar[str]
    """Debian's."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    directory: Path
    """Its own; once in the ``with``."""
    port: int
    """On 127.0.0.1; it stays the same when the server is stopped and started."""

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent
        self._process: subprocess.Popen[bytes] | None = None

    # -- what differs ---------------------------------------------------------------------------------

    @abstractmethod
    def _command(self) -> list[str | Path]:
        """Runs in the foreground, on ``port``, with the data below ``directory``."""

    @abstractmethod
    def _answers(self) -> bool:
        """It does what it is for. May also raise OSError as long as it does not."""

    def _prepare(self) -> None:  # noqa: B027  most need nothing
        """Once, before it is started first."""

    def _user(self) -> str | None:
        """Whom it runs as; None: whoever we are."""
        return None

    # -- running --------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        assert self._process is not None, "it was not started"
        return self._process.pid

    @property
    def log_path(self) -> Path:
        """What it says."""
        return self.directory / "server.log"

    def __enter__(self) -> Self:
        require(self.name)
        self.directory = Path(
            tempfile.mkdtemp(prefix=f"eventlog-{self.name.lower()}-", dir=self._parent)
        ).resolve()
        try:
            if user := self._user():
                shutil.chown(self.directory, user)
            self._prepare()
            self._start_first()
        except BaseException:
            self._clean_up(keep_log=True)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        has_died = self._process is not None and self._process.poll() is not None
        self._clean_up(keep_log=has_died or error is not None)

    def start(self) -> None:
        """Start it again, with what it had on disk when it was stopped or killed."""
        with self.log_path.open("ab") as log:
            # setpriv: else it would go on alone where we are killed
            leash = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
            self._process = subprocess.Popen(
                [*leash, *self._command()],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us; we stop it then
                **_as_user(self._user()),
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                if self._answers():
                    return
            time.sleep(LOOK_S)
        self.stop()
        lines = self.log_path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        raise ServerUnavailableError(f"{self.name} did not start:\n" + "\n".join(lines))

    def stop(self) -> None:
        """End it as its operator would, so that it puts in order what it has on disk. Twice is fine."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def _start_first(self) -> None:
        for attempt in range(START_ATTEMPTS):
            self.port = _free_port()
            try:
                return self.start()
            except ServerUnavailableError:
                if attempt + 1 == START_ATTEMPTS:
                    raise
        raise AssertionError("unreachable")

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)  # which knows whether it ended before
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _clean_up(self, *, keep_log: bool) -> None:
        self.stop()
        if keep_log and self.log_path.exists():
            KEPT_LOGS.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.log_path, KEPT_LOGS / f"{self.directory.name}.log")
        shutil.rmtree(self.directory, ignore_errors=True)


class Redis(Server):
    """Redis with an append-only file.

    Args:
        fsync: when it is synced: ``"always"`` (before each answer), ``"everysec"`` or ``"no"``.
        parent: see :class:`Server`.
    """

    name = "Redis"
    program = "redis-server"
    package = "redis-server"

    def __init__(
        self,
        *,
        fsync: Literal["always", "everysec", "no"] = "always",
        parent: Path | None = None,
    ) -> None:
        super().__init__(parent)
        self.fsync = fsync

    def _command(self) -> list[str | Path]:
        return [
            *(find(self.program), "--bind", HOST, "--port", str(self.port)),
            *("--dir", self.directory, "--save", "", "--appendonly", "yes"),
            *("--appendfsync", self.fsync),
        ]

    def _answers(self) -> bool:
        # while it loads its file it answers with an error
        return _asked(self.port, b"PING\r\n").startswith(b"+PONG")


class Nats(Server):
    """NATS with JetStream in files.

    Args:
        is_synced: each message is synced before it is acknowledged. Needs a version that can, which
            :meth:`can_sync` tells. False: as it is by default, which is every two minutes.
        parent: see :class:`Server`.
    """

    name = "NATS"
    program = "nats-server"
    package = "nats-server"

    def __init__(self, *, is_synced: bool = False, parent: Path | None = None) -> None:
        super().__init__(parent)
        self.is_synced = is_synced

    @classmethod
    def can_sync(cls) -> bool:
        """The installed version can sync each message. (2.10 and later do.)"""
        require(cls.name)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "nats.conf"
            path.write_text(cls._configuration(Path(directory), 0, is_synced=True))
            done = subprocess.run(
                [find(cls.program), "-t", "-c", path], capture_output=True, check=False
            )
        return done.returncode == 0

    @staticmethod
    def _configuration(directory: Path, port: int, *, is_synced: bool) -> str:
        sync = "sync_interval: always" if is_synced else ""
        return f'listen: "{HOST}:{port}"\njetstream {{\n store_dir: "{directory}"\n {sync}\n}}\n'

    def _prepare(self) -> None:
        if self.is_synced and not self.can_sync():
            raise ServerUnavailableError(
                f"{version(self.name)} cannot sync each message; a version from 2.10 on can"
            )

    def _command(self) -> list[str | Path]:
        path = self.directory / "nats.conf"
        path.write_text(self._configuration(self.directory, self.port, is_synced=self.is_synced))
        return [find(self.program), "-c", path]

    def _answers(self) -> bool:
        # it speaks first, and says so once JetStream is there
        return b'"jetstream":true' in _asked(self.port, b"")


class Postgres(Server):
    """PostgreSQL, fsync on; user and database ``postgres``, no password.

    Args:
        is_synced: a commit waits for the disk. False: ``synchronous_commit`` is off, and what was
            committed in the last moments before a crash is lost.
        parent: see :class:`Server`. Root may not run PostgreSQL: for root the user ``postgres`` (or
            ``nobody``) does, who has to be able to get to that directory.
    """

    name = "PostgreSQL"
    program = "postgres"
    package = "postgresql"
    stop_signal = signal.SIGINT  # which does not wait until its clients have gone

    def __init__(self, *, is_synced: bool = True, parent: Path | None = None) -> None:
        super().__init__(parent)
        self.is_synced = is_synced

    def _user(self) -> str | None:
        if os.geteuid() != 0:
            return None
        names = {entry.pw_name for entry in pwd.getpwall()}
        return "postgres" if "postgres" in names else "nobody"

    def _prepare(self) -> None:
        command: list[str | Path] = [find("initdb"), "-D", self.directory / "data"]
        command += ["--auth=trust", "--username=postgres", "--no-locale", "--encoding=UTF8"]
        done = subprocess.run(
            command,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **_as_user(self._user()),
        )
        if done.returncode:
            raise ServerUnavailableError(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _command(self) -> list[str | Path]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "on",
            "synchronous_commit": "on" if self.is_synced else "off",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [find(self.program), "-D", self.directory / "data", *options]

    def _answers(self) -> bool:
        command = [str(find("pg_isready")), "-q", "-h", HOST, "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0


SERVERS: dict[str, type[Server]] = {each.name: each for each in (Redis, Nats, Postgres)}
_NEEDED = {"PostgreSQL": ("postgres", "initdb", "pg_isready")}


def find(program: str) -> Path:
    """Where a server's program lies: what the PATH has goes before where Debian puts it.

    Raises:
        ServerUnavailableError: it is not there.
    """

    def number(directory: Path) -> int:
        return int("".join(re.findall(r"\d", directory.parent.name)) or 0)

    clusters = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=number, reverse=True)
    places = [os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *map(str, clusters)]
    found = shutil.which(program, path=os.pathsep.join(places))
    if found is None:
        raise ServerUnavailableError(f"{program} is not installed; {HOW_TO_INSTALL}")
    return Path(found)


def available() -> dict[str, str | None]:
    """What is missing of each server, as a sentence that says what to do; None: it is there."""
    return {name: _missing(name) for name in SERVERS}


def require(*names: str) -> None:
    """Have these servers.

    Raises:
        ServerUnavailableError: one is not installed; the text says what to do.
    """
    missing = [text for name in names if (text := _missing(name))]
    if missing:
        raise ServerUnavailableError("; ".join(missing))


def version(name: str) -> str:
    """A server with its version, such as ``"Redis 7.0.15"``.

    Raises:
        ServerUnavailableError: it is not installed.
    """
    done = subprocess.run(
        [find(SERVERS[name].program), "--version"], capture_output=True, text=True, check=False
    )
    said = (done.stdout or done.stderr).strip()
    number = re.search(r"\d+(\.\d+)+", said)
    return f"{name} {number[0] if number else said}"


def _missing(name: str) -> str | None:
    try:
        for program in _NEEDED.get(name, (SERVERS[name].program,)):
            find(program)
    except ServerUnavailableError as error:
        return f"{name}: {error}"
    return None


def _as_user(name: str | None) -> dict[str, Any]:
    """Arguments of Popen."""
    if name is None:
        return {}
    entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _free_port() -> int:
    """One that nobody has at this moment."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        port: int = one.getsockname()[1]
        return port


def _asked(port: int, request: bytes) -> bytes:
    """The beginning of what a server answers."""
    with socket.create_connection((HOST, port), timeout=ANSWER_TIMEOUT_S) as connection:
        connection.sendall(request)
        return connection.recv(4096)


# -- installing -----------------------------------------------------------------------------------------

POLICY = Path("/usr/sbin/policy-rc.d")
"""Debian asks it whether a service may be started."""


def install() -> list[str]:
    """Install the packages of the servers that are missing, as root, with apt-get. The services that come
    with them are neither running afterwards nor started when the machine is.

    Returns:
        the packages that were installed.

    Raises:
        ServerUnavailableError: it cannot be done here, or apt-get failed; the text says why.
    """
    packages = [SERVERS[name].package for name, missing in available().items() if missing]
    if not packages:
        return []
    if not shutil.which("apt-get"):
        raise ServerUnavailableError("there is no apt-get here: install " + ", ".join(packages))
    if os.geteuid() != 0:
        raise ServerUnavailableError("only root can install " + ", ".join(packages))
    _run_as_root("apt-get", "update", "-q")
    with _no_service_starts():
        _run_as_root("apt-get", "install", "-q", "-y", "--no-install-recommends", *packages)
    for package in packages:  # a rule of the machine's own may have let it start
        subprocess.run(["service", package, "stop"], capture_output=True, check=False)
    if shutil.which("systemctl"):
        _run_as_root("systemctl", "--quiet", "disable", *packages)
    require(*SERVERS)
    return packages


@contextlib.contextmanager
def _no_service_starts() -> Iterator[None]:
    """Packages that are installed meanwhile do not start what they bring."""
    if POLICY.exists():  # this machine's own rule holds
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


def _run_as_root(*command: str) -> None:
    done = subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServerUnavailableError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def main(arguments: Sequence[str]) -> int:
    """``install``, or nothing: say what is there."""
    try:
        if list(arguments) == ["install"]:
            installed = install()
            print(f"installed: {', '.join(installed) or 'nothing, all was there'}")
        elif arguments:
            print("usage: python tools/servers.py [install]", file=sys.stderr)
            return 2
    except ServerUnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    missing = available()
    for name, text in missing.items():
        print(text or version(name))
    return 1 if any(missing.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
