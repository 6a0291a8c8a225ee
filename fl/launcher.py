"""A real, isolated `flwr run` on Ray: own SuperLink, ports, home and Ray session, and nothing left afterwards.

Left to itself, `flwr run` starts one SuperLink for the whole machine on fixed ports, later runs attach to whatever
listens there, and every run installs all dependencies anew. So the SuperLink is started here, as a child process in a
neutral folder: both sides then import from the shipped bundle.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from fl.processes import MARK, end_marked

STARTUP_SECONDS = 120.0
ANSI = re.compile(r"\x1b\[[0-9;]*m")
Log = Callable[[str], None]


class LaunchError(RuntimeError):
    """The run did not end well, by Flower's own record."""


@dataclass(frozen=True)
class Resources:
    """SuperNodes of a simulated federation, and what each ClientApp gets."""

    nodes: int
    cpus: int
    gpus: float


def launch(root: Path, run_config: Mapping[str, str | int], resources: Resources, *, log: Log, workdir: Path) -> None:
    """Run the Flower app in `root` to its end.

    Args:
        root: Folder with the app's pyproject.toml.
        run_config: Values of declared run-config keys.
        resources: Size of the simulated federation.
        log: Takes each line that Flower prints.
        workdir: An empty folder: home, working directory and temporary files. Its path should be short, since Ray
            puts sockets there.

    Raises:
        LaunchError: The app did not build or did not start, or the run did not finish.
    """
    mark = uuid.uuid4().hex
    http, control = free_ports(2)
    environment = launch_environment(workdir, mark, http, control)
    try:
        with _superlink(environment, workdir, http, control):
            run_id = _run(root, run_config, resources, environment, workdir, log)
            _check(run_id, environment, workdir)
    finally:
        end_marked(mark)


def launch_environment(workdir: Path, mark: str, http: int, control: int) -> dict[str, str]:
    """Give the environment of every process of a launch."""
    binaries = str(Path(sys.executable).parent)
    return {
        **os.environ,
        MARK: mark,
        "PATH": os.pathsep.join([binaries, os.environ.get("PATH", os.defpath)]),
        "FLWR_HOME": str(workdir / "flwr"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(http),
        "FLWR_LOCAL_CONTROL_API_PORT": str(control),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TMPDIR": str(workdir / "ray"),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "PYTHONUNBUFFERED": "1",
    }


def free_ports(count: int) -> list[int]:
    """Find free loopback ports, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def toml_pairs(values: Mapping[str, str | int | float]) -> str:
    """Write key=value pairs as `flwr run` reads them: TOML scalars on one line."""
    return " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())


@contextlib.contextmanager
def _superlink(environment: dict[str, str], workdir: Path, http: int, control: int) -> Iterator[None]:
    """Start a SuperLink for simulations and wait until it answers."""
    (workdir / "ray").mkdir(parents=True, exist_ok=True)
    options = ["--insecure", "--simulation", "--isolation", "subprocess", "--host", "127.0.0.1", "--port", str(http)]
    command = [_binary("flower-superlink"), *options, "--control-api-address", f"127.0.0.1:{control}"]
    with (workdir / "superlink.txt").open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=workdir, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    deadline = time.monotonic() + STARTUP_SECONDS
    while not _answers(http):
        if process.poll() is not None or time.monotonic() > deadline:
            last = (workdir / "superlink.txt").read_text(errors="replace").strip().splitlines()[-1:]
            raise LaunchError(f"the SuperLink did not start: {ANSI.sub('', ' '.join(last)) or 'no answer'}")
        time.sleep(0.1)
    yield


def _run(
    root: Path,
    run_config: Mapping[str, str | int],
    resources: Resources,
    environment: dict[str, str],
    workdir: Path,
    log: Log,
) -> str:
    """Submit the run, stream its output until it ends, and give its id."""
    federation = {
        "num-supernodes": resources.nodes,
        "client-resources-num-cpus": resources.cpus,
        "client-resources-num-gpus": resources.gpus,
    }
    command = [_binary("flwr"), "run", str(root), "--stream", "--run-config", toml_pairs(run_config)]
    command += ["--federation-config", toml_pairs(federation)]
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=workdir,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(ANSI.sub("", line).rstrip())
        log(lines[-1])
    process.wait()
    found = re.search(r"run (\d{5,})", "\n".join(lines))
    if not found:
        reasons = [text for line in lines if (text := line.strip("╭╮╰╯─│ ")) and text != "Error"]
        raise LaunchError(f"flwr run did not start: {' '.join(reasons[-2:]) or f'exit code {process.returncode}'}")
    return found.group(1)


def _check(run_id: str, environment: dict[str, str], workdir: Path) -> None:
    """Ask the SuperLink what became of the run; the exit code of `flwr run` does not tell."""
    command = [_binary("flwr"), "list", "--run-id", run_id, "--format", "json"]
    listed = subprocess.run(command, env=environment, cwd=workdir, capture_output=True, text=True, check=False)
    status = run_status(listed.stdout)
    if status != "finished:completed":
        raise LaunchError(f"Flower says the run is {status}")


def run_status(listing: str) -> str:
    """Read the status out of what `flwr list --format json` printed."""
    try:
        return str(json.loads(listing)["runs"][0]["status"])
    except (json.JSONDecodeError, KeyError, IndexError, TypeError):
        return "unknown (no answer from the SuperLink)"


def _binary(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=1.0).is_success
    except httpx.HTTPError:
        return False
