import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fl import launcher
from fl.isolation import executables, isolated
from fl.launcher import LaunchError, Record, Resources, launch
from fl.processes import MARK, end_marked, marked

ROOT = Path(__file__).parents[1]
PYPROJECT = """
[project]
name = "tiny"
version = "1.0.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "tests"
fab-include = ["fl/*.py"]
[tool.flwr.app.components]
serverapp = "fl.server_app:app"
clientapp = "fl.client_app:app"
[tool.flwr.app.config]
text = ""
then = "finish"
"""
SERVER = """
import os, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()


@app.main()
def main(grid, context):
    print("MARK", os.environ["TRIPTYCH_LAUNCH"], flush=True)
    print("HOME", os.environ["FLWR_HOME"], flush=True)
    print("TEXT", repr(context.run_config["text"]), flush=True)
    print("CODE", __file__, flush=True)
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.1)
    empty = RecordDict({"empty": ConfigRecord()})
    messages = [Message(content=empty, message_type="query.where", dst_node_id=node) for node in nodes]
    for reply in grid.send_and_receive(messages):
        print("CODE", reply.content["answer"]["code"], flush=True)
    if context.run_config["then"] == "raise":
        raise RuntimeError("on purpose\\nin two lines")
    while context.run_config["then"] == "wait":
        print("WAITING", flush=True)
        time.sleep(0.5)
"""
CLIENT = """
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query("where")
def where(message, context):
    return Message(content=RecordDict({"answer": ConfigRecord({"code": __file__})}), reply_to=message)
"""
RUN_UNTIL_ENDED = """
import sys
from pathlib import Path
from fl.launcher import Resources, launch
print("STARTED", flush=True)
launch(Path(sys.argv[1]), {"then": "wait"}, Resources(2, 1, 0.0), log=lambda line: print(line, flush=True),
       workdir=Path(sys.argv[2]))
"""
DIE_AT_WORK = """
import os, signal, subprocess
from fl.isolation import isolated
with isolated() as place:
    process = subprocess.Popen(["sleep", "600"], env=place.environment, start_new_session=True)
    print(process.pid, place.home, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    files = {"pyproject.toml": PYPROJECT, "fl/__init__.py": "", "fl/server_app.py": SERVER, "fl/client_app.py": CLIENT}
    for name, text in files.items():
        path = tmp_path / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "app"


def empty_folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def values(lines: list[str], word: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in lines if line.startswith(f"{word} ")]


def assert_nothing_left(lines: list[str]) -> None:
    """The server app's own output tells which processes, folder and port the launch had."""
    [mark], [home] = values(lines, "MARK"), values(lines, "HOME")
    assert marked(mark) == set()
    assert not Path(home).parent.exists()
    port = int(re.findall(r"127\.0\.0\.1:(\d+)", "\n".join(lines))[0])
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def has_ended(pid: int) -> bool:
    """Also true of a zombie, which an orphan remains where nothing reaps it."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (ProcessLookupError, FileNotFoundError):
        return True


def wait_until(condition) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.mark.slow
def test_two_launches_at_once_keep_apart_report_truly_and_leave_nothing(app: Path, tmp_path: Path) -> None:
    wishes = {"finish": """a = 'b' "c" \\d é""", "raise": "/data/x y=z"}
    lines: dict[str, list[str]] = {name: [] for name in wishes}

    def one(then: str) -> str:
        try:
            launch(
                app,
                {"then": then, "text": wishes[then]},
                Resources(nodes=2, cpus=1, gpus=0.0),
                log=lines[then].append,
                workdir=empty_folder(tmp_path, then),
            )
        except LaunchError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as pool:
        outcome = dict(zip(wishes, pool.map(one, wishes), strict=True))

    assert outcome["finish"] == ""
    assert "finished:failed" in outcome["raise"]
    assert "on purpose in two lines" in outcome["raise"]
    for then, text in wishes.items():
        assert values(lines[then], "TEXT") == [repr(text)]
        [home] = values(lines[then], "HOME")
        assert len(values(lines[then], "CODE")) == 3
        assert all(code.startswith(home) for code in values(lines[then], "CODE"))
        assert not any("\x1b" in line for line in lines[then])
        assert not any((tmp_path / then).iterdir())
        assert_nothing_left(lines[then])
    assert values(lines["finish"], "HOME") != values(lines["raise"], "HOME")
    assert any(line.startswith("SuperLink:") for line in lines["raise"])


@pytest.mark.slow
def test_ctrl_c_ends_everything_within_seconds(app: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_UNTIL_ENDED, app, empty_folder(tmp_path, "neutral")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    lines = []
    interrupted = 0.0
    assert process.stdout
    for line in process.stdout:
        lines.append(line.rstrip())
        if lines[-1] == "WAITING" and not interrupted:
            [mark] = values(lines, "MARK")
            assert len(marked(mark)) > 5
            process.send_signal(signal.SIGINT)
            interrupted = time.monotonic()
    process.wait()
    assert time.monotonic() - interrupted < 10
    assert process.returncode == -signal.SIGINT
    assert_nothing_left(lines)


@pytest.mark.slow
def test_an_app_that_does_not_build_is_one_line(app: Path, tmp_path: Path) -> None:
    (app / "pyproject.toml").write_text(PYPROJECT.replace("fl/*.py", "absent/*.py"))
    with pytest.raises(LaunchError, match=r"not started: Pattern in \"fab-include\" .*absent") as caught:
        launch(app, {}, Resources(2, 1, 0.0), log=lambda line: None, workdir=empty_folder(tmp_path, "neutral"))
    assert "\n" not in str(caught.value)


def test_a_killed_launcher_leaves_no_process_and_no_folder() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    died = subprocess.run([sys.executable, "-c", DIE_AT_WORK], env=environment, stdout=subprocess.PIPE, text=True)
    pid, home = died.stdout.split()
    assert died.returncode == -signal.SIGKILL
    assert wait_until(lambda: not Path(home).exists())
    assert has_ended(int(pid))


def test_processes_end_even_if_they_lost_the_mark_or_ignore_being_asked() -> None:
    mark = "mark-of-a-test"
    script = "trap '' TERM; env -i sleep 600 & echo $!; while :; do sleep 0.1; done"
    process = subprocess.Popen(["bash", "-c", script], env={**os.environ, MARK: mark}, stdout=subprocess.PIPE)
    assert process.stdout
    unmarked = int(process.stdout.readline())
    assert wait_until(lambda: {process.pid, unmarked} <= marked(mark))
    reaper = threading.Thread(target=process.wait)
    reaper.start()
    assert end_marked(mark) == set()
    reaper.join()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    assert wait_until(lambda: has_ended(unmarked))


def test_environment_is_cut_off_from_other_flowers_and_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_DATABASE", "elsewhere")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("no_proxy", "intranet")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["mine", ""]))
    monkeypatch.setenv("MINE", "kept")
    with isolated([Path("own")]) as place:
        inside = place.environment
        assert place.home.is_dir()
    assert not place.home.exists()
    assert not {"FLWR_DATABASE", "RAY_ADDRESS"} & set(inside)
    assert inside["PATH"].split(os.pathsep)[0] == str(executables())
    assert inside["no_proxy"] == inside["NO_PROXY"] == "intranet,127.0.0.1,localhost"
    assert inside["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert inside["FLWR_TELEMETRY_ENABLED"] == inside["RAY_USAGE_STATS_ENABLED"] == "0"
    assert Path(inside["FLWR_HOME"]).parent == Path(inside["RAY_TMPDIR"]) == place.home
    assert inside["PYTHONPATH"] == os.pathsep.join(str(Path.cwd() / name) for name in ("mine", "own"))
    assert inside["MINE"] == "kept"


def test_home_is_short_enough_for_rays_sockets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / ("x" * 80)))
    with isolated() as place:
        assert len(str(place.home)) <= 35


def test_sigterm_arrives_as_keyboard_interrupt_and_the_former_handler_returns() -> None:
    def own(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        with pytest.raises(KeyboardInterrupt), isolated():
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_run_config_survives_toml() -> None:
    config = {"data": "/a b/c=d", "overrides": """x='1' y="2" \\n\\\\ \t\n é 🌱""", "run": "", "nodes": 3}
    assert tomllib.loads(launcher.toml(config)) == config


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (
            Resources(nodes=3, cpus=2, gpus=0.0),
            "num-supernodes=3 client-resources-num-cpus=2 client-resources-num-gpus=0.0 init-args-num-cpus=6 "
            "init-args-num-gpus=0",
        ),
        (
            Resources(nodes=4, cpus=1, gpus=0.25),
            "num-supernodes=4 client-resources-num-cpus=1 client-resources-num-gpus=0.25 init-args-num-cpus=4",
        ),
    ],
)
def test_ray_gets_as_many_cores_as_the_nodes_need(resources: Resources, expected: str) -> None:
    assert launcher.federation_config(resources) == expected


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ('{"runs": [{"status": "finished:completed", "status-details": "N/A"}]}', Record("finished:completed")),
        ('{"runs": [{"status": "finished:failed", "status-details": "a\\nb"}]}', Record("finished:failed", "a b")),
        ('{"success": true, "runs": []}', Record("not started")),
        ('{"success": false, "error-message": "no\\nroute"}', Record("unknown", "no route")),
        ("Traceback", Record("unknown", "flwr list gave no answer")),
    ],
)
def test_status_is_read_from_flowers_record(listing: str, expected: Record) -> None:
    assert launcher.read_record(listing) == expected


def test_last_error_box_becomes_one_line() -> None:
    lines = [
        "╭─ Error ──╮",
        "│ old      │",
        "╰──────────╯",
        "more",
        "╭─ Error ──╮",
        "│ a b      │",
        "│ c        │",
        "╰─╯",
        "end",
    ]
    assert launcher.error_text(lines) == "a b c"
    assert launcher.error_text(["no box"]) == ""


def test_lines_lose_colours_and_trailing_blanks() -> None:
    assert list(launcher.plain(["\x1b[92mINFO \x1b[0m:  x \n", "\x1b[2K\x1b[1;31mred\n"])) == ["INFO :  x", "red"]


def test_free_ports_can_be_bound() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", launcher.free_port()))
