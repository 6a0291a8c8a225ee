"""A real, isolated `flwr run` on Ray: own SuperLink, port, home and Ray session, and nothing left afterwards.

Left to itself, `flwr run` starts one SuperLink for the whole machine on fixed ports, later runs attach to whatever
listens there, and every run installs all dependencies anew. So the SuperLink is started here, in a neutral folder:
servers and clients then import from the shipped bundle.
"""

import collections
import contextlib
import http.client
import json
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.files import make_folder
from fl.isolation import Isolation, executables, isolated

STARTUP_SECONDS = 120.0
ANSWER_TRIALS = 3
ANSWER_INTERVAL = 2.0
SUPERLINK_LINES = 50
CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
Log = Callable[[str], None]


class LaunchError(RuntimeError):
    """The run did not complete, by Flower's own record; the message is one line."""


@dataclass(frozen=True)
class Resources:
    """Size of a simulated federation.

    Attributes:
        nodes: SuperNodes, each of which is one Ray worker.
        cpus: Cores of each; Flower takes whole ones only.
        gpus: Share of a GPU that each may use; 0 sets no limit.
    """

    nodes: int
    cpus: int
    gpus: float


@dataclass(frozen=True)
class Record:
    """What Flower has on record about a run."""

    status: str
    details: str = ""


def launch(
    root: Path,
    run_config: Mapping[str, str | int],
    resources: Resources,
    *,
    log: Log,
    workdir: Path | None = None,
    imports: Sequence[Path] = (),
) -> None:
    """Run the Flower app in `root` to its end.

    Args:
        root: Folder with the app's pyproject.toml.
        run_config: Values of keys that `[tool.flwr.app.config]` declares; paths must be absolute.
        resources: Size of the simulated federation.
        log: Takes each line that Flower prints; after a failure also the SuperLink's own.
        workdir: Working directory of every process. Ray's workers import from there first, so it should be empty; by
            default a new folder that goes with the launch, also when this process is killed.
        imports: Folders with modules beside those of the app.

    Raises:
        LaunchError: The app did not build or start, or the run did not complete.
    """
    with isolated(imports) as place:
        workdir = workdir or make_folder(place.home / "work")
        output = place.home / "superlink.txt"
        try:
            with _superlink(place, workdir, output) as superlink:
                reason = _run(root, run_config, resources, place, workdir, log)
                record = _final_record(superlink, place, workdir)
            if record.status != "finished:completed":
                raise LaunchError(f"Flower's record of the run is {record.status}: {record.details or reason}")
        except LaunchError:
            for line in plain(output.read_text(errors="replace").splitlines()[-SUPERLINK_LINES:]):
                log(f"SuperLink: {line}")
            raise


@contextlib.contextmanager
def _superlink(place: Isolation, workdir: Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a SuperLink for simulations and make it the one that flwr commands talk to."""
    port = free_port()
    options = ["--insecure", "--simulation", "--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(port)]
    home = Path(place.environment["FLWR_HOME"])
    home.mkdir()
    connection = f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "own"\n[superlink.own]\n{connection}', encoding="utf-8")
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [str(executables() / "flower-superlink"), *options],
            env=place.environment,
            cwd=workdir,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for_answer(process, port)
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_for_answer(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while not _answers(port):
        if process.poll() is not None:
            raise LaunchError(f"Flower's SuperLink ended at its start with exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise LaunchError(f"Flower's SuperLink did not answer within {STARTUP_SECONDS:.0f} seconds")
        time.sleep(0.1)


def _run(
    root: Path,
    run_config: Mapping[str, str | int],
    resources: Resources,
    place: Isolation,
    workdir: Path,
    log: Log,
) -> str:
    """Submit the run and stream its output until it ends; give the last error that `flwr run` printed."""
    config = place.home / "run.toml"
    config.write_text(toml(run_config), encoding="utf-8")
    command = [str(executables() / "flwr"), "run", str(root), "--stream"]
    command += ["--run-config", str(config), "--federation-config", federation_config(resources)]
    last: collections.deque[str] = collections.deque(maxlen=40)
    with subprocess.Popen(
        command,
        env=place.environment,
        cwd=workdir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            for line in plain(process.stdout or ()):
                last.append(line)
                log(line)
        except BaseException:
            process.kill()  # else leaving the context would wait for the end of the run
            raise
    return error_text(last) or f"flwr run ended with exit code {process.returncode}"


def _final_record(superlink: subprocess.Popen[bytes], place: Isolation, workdir: Path) -> Record:
    """Ask for the record until it is final; a stream can break off before its run."""
    command = [str(executables() / "flwr"), "list", "--format", "json"]
    unanswered = 0
    while True:
        answer = subprocess.run(
            command, env=place.environment, cwd=workdir, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        if superlink.poll() is not None:
            return Record("lost", f"the SuperLink ended during the run, with exit code {superlink.returncode}")
        record = read_record(answer.stdout.decode(errors="replace"))
        unanswered = unanswered + 1 if record.status == "unknown" else 0
        if record.status.startswith(("finished", "not started")) or unanswered == ANSWER_TRIALS:
            return record
        time.sleep(ANSWER_INTERVAL)


def read_record(listing: str) -> Record:
    """Read what `flwr list --format json` printed for a SuperLink that knows at most one run."""
    try:
        content = json.loads(listing)
        if "runs" not in content:
            return Record("unknown", _one_line(content["error-message"]))
        if not content["runs"]:
            return Record("not started")
        status, details = content["runs"][0]["status"], content["runs"][0]["status-details"]
        return Record(status, "" if details == "N/A" else _one_line(details))
    except (json.JSONDecodeError, KeyError, TypeError):
        return Record("unknown", "flwr list gave no answer")


def error_text(lines: Iterable[str]) -> str:
    """Give the message in the last box titled Error that a flwr command printed, as one line; empty without one."""
    text, inside = "", False
    for line in lines:
        if line.startswith("╭─ Error"):
            text, inside = "", True
        elif inside and line.startswith("│"):
            text = f"{text} {line.strip('│ ')}".strip()
        else:
            inside = False
    return text


def toml(values: Mapping[str, str | int]) -> str:
    """Write a flat TOML table; a JSON string in Unicode is a TOML string."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())


def federation_config(resources: Resources) -> str:
    """Describe a federation for `flwr run`, with a Ray node just large enough: Flower fills it with workers."""
    values: dict[str, int | float] = {
        "num-supernodes": resources.nodes,
        "client-resources-num-cpus": resources.cpus,
        "client-resources-num-gpus": float(resources.gpus),
        "init-args-num-cpus": resources.nodes * resources.cpus,
    }
    if not resources.gpus:
        values["init-args-num-gpus"] = 0
    return " ".join(f"{key}={value}" for key, value in values.items())


def free_port() -> int:
    """Find a loopback port that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def plain(lines: Iterable[str]) -> Iterator[str]:
    """Give lines without terminal control sequences and trailing blanks."""
    return (CONTROL_SEQUENCE.sub("", line).rstrip() for line in lines)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
