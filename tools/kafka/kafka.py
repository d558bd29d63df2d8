"""Apache Kafka itself, as the outside judge: its jars, its log dump tool and a broker of one node.

Everything comes from Maven Central by the exact versions of pom.xml beside this file and is kept
in ``.cache/kafka/`` of the project. On a machine without Java 17 or Maven they are installed with
apt-get. What cannot be had raises :class:`KafkaUnavailableError`: nothing here skips.

Run it to fetch the jars, or to dump segments with Kafka's own tool::

    python -m tools.kafka.kafka [FILE.log ...]
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
CACHE = HERE.parent.parent / ".cache" / "kafka"
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
JAVA_VERSION_MIN = 17
FETCH_ATTEMPTS = 3
START_ATTEMPTS = 3
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 60
POLL_S = 0.1

# No one JVM lives long here: start quickly and stay small.
JAVA_OPTIONS = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]


class KafkaUnavailableError(Exception):
    """Kafka could not be fetched or does not run on this machine."""


def version() -> str:
    """Kafka's version, as pom.xml names it."""
    found = re.search(r"<kafka\.version>(.*?)</kafka\.version>", POM.read_text())
    if found is None:
        raise KafkaUnavailableError(f"{POM} names no kafka.version")
    return found[1]


# -- jars and tools -------------------------------------------------------------------------------


def classpath() -> str:
    """Java's class path of Kafka, fetched first where it is not in the cache yet."""
    directory = CACHE / f"{version()}-{hashlib.sha256(POM.read_bytes()).hexdigest()[:12]}"
    if not directory.is_dir():
        _fetch(directory)
    return f"{directory}/*"


def _fetch(directory: Path) -> None:
    require_command("java", "default-jre-headless")
    require_command("mvn", "maven")
    CACHE.mkdir(parents=True, exist_ok=True)
    # aside and then renamed: what is in the cache is whole
    aside = Path(tempfile.mkdtemp(prefix="fetch-", dir=CACHE))
    command = ["mvn", "-B", "-q", "-f", str(POM), MAVEN_GOAL]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={aside}"]
    try:
        for _ in range(FETCH_ATTEMPTS):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
        else:
            raise KafkaUnavailableError(f"Maven could not fetch Kafka:\n{done.stdout}{done.stderr}")
        try:
            aside.rename(directory)
        except OSError:
            if not directory.is_dir():  # else another process was first: as good
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def require_command(command: str, package: str) -> None:
    """Have a command on the PATH, by apt-get if need be."""
    if shutil.which(command):
        return
    if not shutil.which("apt-get"):
        raise KafkaUnavailableError(f"{command} is not on the PATH; install it ({package})")
    sudo = [] if os.geteuid() == 0 else ["sudo", "-n"]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (
        ["update", "-q"],
        ["install", "-q", "-y", "--no-install-recommends", package],
    ):
        done = subprocess.run(
            [*sudo, "apt-get", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise KafkaUnavailableError(f"apt-get {' '.join(arguments)} failed:\n{done.stderr}")


def java_command(main: str, *arguments: str, heap_mb: int = 256) -> list[str]:
    """The command line that runs one of Kafka's main classes."""
    jars = classpath()
    require_command("java", "default-jre-headless")
    shown = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    number = re.search(r'version "(\d+)', shown.stderr)
    if number is None or int(number[1]) < JAVA_VERSION_MIN:
        raise KafkaUnavailableError(f"Kafka needs Java {JAVA_VERSION_MIN}; found:\n{shown.stderr}")
    return ["java", *JAVA_OPTIONS, f"-Xmx{heap_mb}m", "-cp", jars, main, *arguments]


# -- DumpLogSegments ------------------------------------------------------------------------------


@dataclass(frozen=True)
class DumpedBatch:
    """One batch line of DumpLogSegments: its fields by the names that the tool gives them."""

    fields: dict[str, str]

    @property
    def is_valid(self) -> bool:
        return self.fields["isvalid"] == "true"


@dataclass(frozen=True)
class DumpedRecord:
    """One record line. The tool shows header names but not their values."""

    offset: int
    timestamp_ms: int
    key_size: int
    value_size: int
    header_names: tuple[str, ...]
    key: str | None
    value: str | None


@dataclass
class DumpedFile:
    """What the tool said of one file; ``lines`` are those that are neither batch nor record."""

    batches: list[DumpedBatch] = field(default_factory=list)
    records: list[DumpedRecord] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass
class Dump:
    files: dict[Path, DumpedFile]
    problems: list[str]
    output: str


# The tool ends with 0 whatever it finds: what it says is what counts.
_PROBLEM = re.compile(
    r"isvalid: false|Mismatches in|timestamp mismatch|out of order timestamp|invalid bytes at the"
    r" end|not found in log|Indexed offset|Index timestamp|Index position|Exception|Error|corrupt",
    re.IGNORECASE,
)
_GAPS_IN = re.compile(r"Non-consecutive offsets in (.*)")
_GAP = re.compile(r" *(-?\d+) is followed by (-?\d+)")
_BATCH_FIELD = re.compile(r"(\w+): (\S+)")
_RECORD = re.compile(
    r"\| offset: (?P<offset>\d+) (?:CreateTime|LogAppendTime): (?P<timestamp>-?\d+)"
    r" keySize: (?P<key_size>-?\d+) valueSize: (?P<value_size>-?\d+) sequence: -?\d+"
    r" headerKeys: \[(?P<headers>.*?)\](?: key: (?P<key>.*?))?(?: payload: (?P<value>.*))?"
)


def dump_log_segments(files: Sequence[Path], *options: str) -> Dump:
    """Run DumpLogSegments over .log, .index and .timeindex files and read what it prints.

    ``options`` are the tool's own (``--print-data-log``, ``--index-sanity-check``, ...). Keys and
    values are shown as the tool shows them, so only printable ones without ``" payload: "`` in
    them can be compared. ``problems`` holds every line that tells of something wrong.
    """
    names = ",".join(str(path) for path in files)
    command = java_command("org.apache.kafka.tools.DumpLogSegments", "--files", names, *options)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    dump = Dump({}, [], done.stdout + done.stderr)
    if done.returncode:
        dump.problems.append(f"the tool ended with {done.returncode}")
    file = DumpedFile()
    for line in done.stdout.splitlines():
        if line.startswith("Dumping "):
            file = dump.files[Path(line.removeprefix("Dumping "))] = DumpedFile()
        elif line.startswith("baseOffset: "):
            file.batches.append(DumpedBatch(dict(_BATCH_FIELD.findall(line))))
            if not file.batches[-1].is_valid:
                dump.problems.append(line)
        elif found := _RECORD.fullmatch(line):
            file.records.append(
                DumpedRecord(
                    offset=int(found["offset"]),
                    timestamp_ms=int(found["timestamp"]),
                    key_size=int(found["key_size"]),
                    value_size=int(found["value_size"]),
                    header_names=tuple(found["headers"].split(",")) if found["headers"] else (),
                    key=found["key"],
                    value=found["value"],
                )
            )
        else:
            file.lines.append(line)
            if _PROBLEM.search(line):
                dump.problems.append(line)
    dump.problems += [line for line in done.stderr.splitlines() if _PROBLEM.search(line)]
    dump.problems += _gaps(done.stderr.splitlines())
    return dump


def _gaps(lines: list[str]) -> list[str]:
    """The gaps between offsets that the tool tells of, without those that are none: it counts from
    -1 in every file, so it misses something before each segment but the first."""
    path, gaps = Path(), []
    for line in lines:
        if found := _GAPS_IN.fullmatch(line):
            path = Path(found[1])
        elif (found := _GAP.fullmatch(line)) and found.groups() != ("-1", str(int(path.stem))):
            gaps.append(f"non-consecutive offsets in {path}: {line.strip()}")
    return gaps


# -- a broker -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A record to produce."""

    timestamp_ms: int
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()


@dataclass(frozen=True)
class Consumed(Row):
    """A record as Kafka's consumer sees it."""

    offset: int = -1


class Broker:
    """A single-node Kafka (broker and controller) on free loopback ports, in a directory of its own.

    A context manager: started and ready on entry, stopped (a clean shutdown) on exit; it may be
    entered again and finds its data as it was left. ``settings`` go into server.properties.
    """

    def __init__(self, directory: Path, **settings: str | int) -> None:
        self.directory = directory
        self.log_directory = directory / "data"
        self.bootstrap = ""
        self._settings = {name.replace("_", "."): value for name, value in settings.items()}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises :class:`KafkaUnavailableError` with the end of its output where it does not.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        for _ in range(START_ATTEMPTS):
            properties = self._configure()  # new ports each time: others may take them meanwhile
            if not (self.log_directory / "meta.properties").exists():
                self._format(properties)
            with self.output_path.open("ab") as output:
                self._process = subprocess.Popen(
                    java_command("kafka.Kafka", str(properties), heap_mb=512),
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            try:
                if self._wait_until_ready():
                    return
            except BaseException:  # an interrupt too must not leave a broker behind
                self.stop()
                raise
            self.stop()
        raise KafkaUnavailableError(f"the broker does not start:\n{self._output_end()}")

    def stop(self) -> None:
        """Ask it to shut down and wait; kill it if it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it at once, as a crash does (SIGKILL): no clean shutdown."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def output_path(self) -> Path:
        return self.directory / "broker.out"

    def partition_directory(self, topic: str, partition: int = 0) -> Path:
        return self.log_directory / f"{topic}-{partition}"

    def segments(self, topic: str, partition: int = 0) -> list[Path]:
        """The .log files of a partition, oldest first."""
        return sorted(self.partition_directory(topic, partition).glob("*.log"))

    def create_topic(self, name: str, partitions: int = 1, **config: str | int) -> None:
        """Create a topic; ``segment_bytes=1048576`` sets ``segment.bytes``, and so on."""
        settings = {key.replace("_", "."): str(value) for key, value in config.items()}
        topic = NewTopic(name, num_partitions=partitions, replication_factor=1, config=settings)
        admin = self._admin()  # held: the answer never comes once it is gone
        admin.create_topics([topic])[name].result(START_TIMEOUT_S)

    def producer(self, **settings: str | int) -> Producer:
        """A producer; ``compression_type="zstd"`` sets ``compression.type``, and so on.

        Its batches are cut where it is flushed (or full), not by time.
        """
        configuration = {"bootstrap.servers": self.bootstrap, "linger.ms": 10_000, "log_level": 0}
        configuration |= {name.replace("_", "."): value for name, value in settings.items()}
        return Producer(configuration)

    def produce(self, topic: str, batches: Iterable[Iterable[Row]], **settings: str | int) -> None:
        """Produce batches to partition 0, each flushed before the next; see :meth:`producer`."""
        producer = self.producer(**settings)
        for batch in batches:
            send(producer, topic, batch)

    def consume(self, topic: str, partition: int = 0) -> Iterator[Consumed]:
        """Every record of a partition from its beginning to its present end."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "judge",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_uncommitted",
            }
        )
        try:
            consumer.assign([TopicPartition(topic, partition, 0)])
            while True:
                message = consumer.poll(START_TIMEOUT_S)
                if message is None:
                    raise KafkaUnavailableError(f"nothing came from {topic}-{partition}")
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        return
                    raise KafkaException(error)
                offset = message.offset()
                if offset is None:
                    raise KafkaUnavailableError("a message came without an offset")
                yield Consumed(
                    offset=offset,
                    timestamp_ms=message.timestamp()[1],
                    key=message.key(),
                    value=message.value(),
                    headers=tuple(cast("list[tuple[str, bytes | None]]", message.headers() or [])),
                )
        finally:
            consumer.close()

    def _admin(self) -> AdminClient:
        # librdkafka's complaints about a broker that is not there yet are no news
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def _configure(self) -> Path:
        broker_port, controller_port = _free_ports(2)
        self.bootstrap = f"127.0.0.1:{broker_port}"
        settings: dict[str, str | int] = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "log.dirs": str(self.log_directory),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "group.initial.rebalance.delay.ms": 0,
            "log.retention.ms": -1,  # the records may be of any age
            "log.cleaner.dedupe.buffer.size": 2 * 1024 * 1024,
            **self._settings,
        }
        path = self.directory / "server.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        return path

    def _format(self, properties: Path) -> None:
        command = java_command("kafka.tools.StorageTool", "format")
        command += ["-t", "ZXZlbnRsb2ctanVkZ2UtMQ", "-c", str(properties)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise KafkaUnavailableError(f"storage format failed:\n{done.stdout}{done.stderr}")

    def _wait_until_ready(self) -> bool:
        """True once the broker answers; False when it ended or the time is up."""
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            # asked by a bare connection first: librdkafka backs off for long after a refusal
            host, port = self.bootstrap.split(":")
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                if self._admin().list_topics(timeout=5).brokers:
                    return True
            except (OSError, KafkaException):
                time.sleep(POLL_S)
        return False

    def _output_end(self) -> str:
        return "\n".join(self.output_path.read_text(errors="replace").splitlines()[-40:])


def send(producer: Producer, topic: str, rows: Iterable[Row]) -> None:
    """Produce rows to partition 0 and wait until the broker has them."""
    failures: list[str] = []

    def delivered(error: KafkaError | None, _message: object) -> None:
        if error is not None:
            failures.append(str(error))

    for row in rows:
        producer.produce(
            topic,
            value=row.value,
            key=row.key,
            headers=list(row.headers),
            timestamp=row.timestamp_ms,
            partition=0,
            on_delivery=delivered,
        )
    if left := producer.flush(START_TIMEOUT_S):
        failures.append(f"{left} records were not delivered in time")
    if failures:
        raise KafkaUnavailableError(f"{topic}: {failures[0]}")


def _free_ports(count: int) -> list[int]:
    """Loopback ports that nobody has at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def main(arguments: list[str]) -> int:
    print(f"Kafka {version()}: {classpath()}")
    if not arguments:
        return 0
    dump = dump_log_segments([Path(name) for name in arguments], "--print-data-log")
    print(dump.output)
    return 1 if dump.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
