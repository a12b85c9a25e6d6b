"""A real Slurm on one machine, with all state in one folder and without systemd.

python slurm.py up FOLDER            start munge, slurmctld and two nodes
python slurm.py kill-node FOLDER N   kill -9 everything on node N, as a power cut would
python slurm.py revive-node FOLDER N start its daemon again
python slurm.py down FOLDER          end everything that runs here

It needs root, which `up` uses to install missing Debian packages, and no cgroups. `up` prints the
SLURM_CONF to export. Exit codes: 0 done, 1 failed (the reason is on standard error), 77 this
machine cannot run Slurm.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

UNAVAILABLE = 77
NODES = ("node1", "node2")
PROGRAMS = ["munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel"]
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])

# A node has one processor on any machine (config_overrides), and so one job. Nothing needs cgroups.
# A node that does not answer is down some 15 seconds later, and its jobs queue again. A job of
# `urgent` preempts one of `batch`, which has 20 seconds to end.
CONF = """\
ClusterName=harness
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
ReturnToService=2
JobRequeue=1
SlurmctldTimeout=10
SlurmdTimeout=5
InactiveLimit=0
KillWait=20
MinJobAge=300
MessageTimeout=5
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=65536 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=65536 State=UNKNOWN
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=20 State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=9 PreemptMode=OFF State=UP
"""


def require() -> None:
    """Check that the programs exist, and install them if that is allowed.

    Otherwise exit with UNAVAILABLE and one line.
    """
    missing = [name for name in PROGRAMS if not shutil.which(name, path=PATH)]
    if os.geteuid() != 0:
        give_up("no Slurm: its daemons need root here")
    if missing and not shutil.which("apt-get"):
        give_up(f"no Slurm: {', '.join(missing)} missing and no apt-get to install slurm-wlm and munge with")
    if missing:
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # packages start no services at this runlevel
        subprocess.run(["apt-get", "update", "-qq"], env=quiet, capture_output=True, check=False)
        command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", "slurm-wlm", "munge"]
        found = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
        if found.returncode:
            give_up(f"no Slurm: apt-get install slurm-wlm munge: {' '.join((found.stderr or found.stdout).split())[-200:]}")


def give_up(reason: str) -> None:
    """Print why this machine cannot run Slurm, and exit."""
    sys.stderr.write(f"{reason}\n")
    sys.exit(UNAVAILABLE)


def up(folder: Path) -> None:
    """Start munge, the controller and both nodes, and wait until the nodes are idle."""
    require()
    down(folder)
    for part in ["state", *NODES]:
        (folder / part).mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # munge rejects a folder that others may write
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    conf = CONF.format(folder=folder, host=socket.gethostname(), ports=free_ports(3))
    (folder / "slurm.conf").write_text(conf, encoding="utf-8")
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    start(folder, "munged", "--force", f"--socket={folder}/munge.socket", *files)
    start(folder, "slurmctld")
    for node in NODES:
        start(folder, "slurmd", "-N", node)
    wait_idle(folder, 60)


def free_ports(count: int) -> list[int]:
    """Return unused ports, so that two of these clusters can be up at once."""
    with contextlib.ExitStack() as open_until_all_are_known:
        sockets = [open_until_all_are_known.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def start(folder: Path, program: str, *arguments: str) -> None:
    """Start a daemon, which moves to the background by itself."""
    where = shutil.which(program, path=PATH) or program
    found = subprocess.run([where, *arguments], env=environment(folder), capture_output=True, text=True, check=False, timeout=60)
    if found.returncode:
        raise SystemExit(f"{program} did not start: {' '.join((found.stderr or found.stdout).split())}")


def environment(folder: Path) -> dict[str, str]:
    """Return the environment in which Slurm's programs find this cluster."""
    return {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}


def wait_idle(folder: Path, seconds: float) -> None:
    """Wait until both nodes answer; else raise SystemExit with the controller's answer."""
    said = ""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        command = ["sinfo", "--noheader", "--Node", "--partition=batch", "--format=%N %T"]
        said = subprocess.run(command, env=environment(folder), capture_output=True, text=True, check=False).stdout
        states = dict(line.split() for line in said.splitlines())
        if all(states.get(node) in {"idle", "mixed", "allocated"} for node in NODES):
            return
        time.sleep(0.5)
    raise SystemExit(f"the nodes are not ready after {seconds:.0f} s: {' '.join(said.split()) or 'the controller does not answer'}")


def processes(folder: Path, node: str = "") -> list[psutil.Process]:
    """Return the processes of this cluster, or of one node, in killing order.

    Daemons come first, then the steps of jobs, then the processes of jobs: a living step would
    report to the controller that its processes have ended.
    """
    found = [(rank, process) for process in psutil.process_iter() if (rank := rank_of(process, folder, node)) is not None]
    return [process for _, process in sorted(found, key=lambda pair: pair[0])]


def rank_of(process: psutil.Process, folder: Path, node: str) -> int | None:
    """Return 0 for a daemon, 1 for a step and 2 for a job's process.

    None for a process of another cluster or node. A step has overwritten its environment with its
    title, so it is identified by the log of its node, which it holds open.
    """
    try:
        name = process.name()
        if name == "slurmstepd":
            return 1 if any(log.path == str(folder / f"{of}.log") for log in process.open_files() for of in named(node)) else None
        variables = process.environ()
        if variables.get("SLURM_CONF") != str(folder / "slurm.conf"):
            return None
        if name in {"munged", "slurmctld", "slurmscriptd", "slurmd"}:
            return 0 if not node or process.cmdline()[-1:] == [node] else None
        return 2 if variables.get("SLURMD_NODENAME") in named(node) else None
    except psutil.Error:  # it has ended, or belongs to another user
        return None


def named(node: str) -> list[str]:
    """Return one node, or all nodes without a name."""
    return [node] if node else list(NODES)


def kill_node(folder: Path, node: str) -> None:
    """Kill every process of a node."""
    for _ in range(3):  # again, for processes that were starting meanwhile
        kill(processes(folder, node))
        time.sleep(0.2)


def kill(found: list[psutil.Process]) -> None:
    """Send SIGKILL to processes, some of which may have ended."""
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()


def down(folder: Path) -> None:
    """Kill every process of this cluster."""
    until = time.monotonic() + 20
    while (left := processes(folder)) and time.monotonic() < until:
        kill(left)
        psutil.wait_procs(left, timeout=1)


def main(command: str, place: str, *node: str) -> None:
    """Run one command."""
    folder = Path(place).resolve()
    if command == "up":
        up(folder)
        sys.stdout.write(f"{folder}/slurm.conf\n")
    elif command == "down":
        down(folder)
    elif command == "kill-node":
        kill_node(folder, *node)
    elif command == "revive-node":
        start(folder, "slurmd", "-N", *node)
        wait_idle(folder, 60)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
