"""A real Slurm of one node, on this machine, for as long as a test needs it."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "sinfo")
PARTITION = "cpu"
_SBIN = "/usr/sbin:/sbin"
_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4000
PartitionName={partition} Nodes=ALL Default=YES State=UP
"""


def missing() -> str | None:
    """What keeps Slurm from running here; None where it can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root"
    absent = [tool for tool in TOOLS if not shutil.which(tool, path=_path())]
    return f"needs {', '.join(absent)}" if absent else None


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """What its tools need in their environment. Raises RuntimeError if it does not start."""
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o700)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    controller, node = _free_ports(2)
    values = {
        "host": socket.gethostname().split(".")[0], "folder": folder, "controller": controller,
        "node": node, "cores": os.cpu_count(), "partition": PARTITION,
    }  # fmt: skip
    (folder / "slurm.conf").write_text(_CONFIG.format(**values))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
    munge = [
        f"--{name}={folder / 'munge' / name}"
        for name in ("socket", "pid-file", "log-file", "seed-file")
    ]
    daemons = [
        ["munged", "--force", "--foreground", f"--key-file={key}", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    ]
    running = []
    try:
        for daemon in daemons:
            running.append(
                subprocess.Popen(
                    daemon,
                    env=os.environ | environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            )
            time.sleep(1.0)
        _wait_for_node(os.environ | environment, folder)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(timeout=30)


def wait(environment: dict[str, str], seconds: float = 240) -> None:
    """Until no job is left. TimeoutError names those that are."""
    end = time.monotonic() + seconds
    while queue := _said(["squeue", "--noheader"], os.environ | environment):
        if time.monotonic() > end:
            raise TimeoutError(queue)
        time.sleep(0.5)


def wait_for_task(environment: dict[str, str], seconds: float = 60) -> None:
    """Until one is at work. TimeoutError where none begins."""
    end = time.monotonic() + seconds
    running = ["squeue", "--noheader", "--states=RUNNING"]
    while not _said(running, os.environ | environment):
        if time.monotonic() > end:
            raise TimeoutError("no task has begun")
        time.sleep(0.5)
    time.sleep(2.0)  # its Python starts


def _wait_for_node(environment: dict[str, str], folder: Path) -> None:
    end = time.monotonic() + 60
    while "idle" not in (state := _said(["sinfo", "--noheader", "--format=%T"], environment)):
        if time.monotonic() > end:
            logs = "\n".join(path.read_text()[-1500:] for path in folder.glob("*.log"))
            raise RuntimeError(f"Slurm's node is {state or 'not there'}\n{logs}")
        time.sleep(0.5)


def _said(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def _path() -> str:
    return f"{os.environ['PATH']}:{_SBIN}"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
