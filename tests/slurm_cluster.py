"""A real Slurm on one host: a controller, two node daemons and their munge, in a folder of their own."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol", "squeue")
NODES = ("n1", "n2")
# Where daemons are; a PATH need not have it.
SBIN = "/usr/sbin:/sbin"

CONFIG = """\
ClusterName=toptune
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
JobRequeue=1
ReturnToService=2
SlurmdTimeout=4
MessageTimeout=5
KillWait=5
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory={memory}
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory={memory}
PartitionName=main Nodes=n1,n2 Default=YES LLN=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Say what this machine lacks for a Slurm of its own."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=f"{os.environ['PATH']}:{SBIN}") is None]
    if missing:
        return f"no Slurm here: {', '.join(missing)} not installed (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "Slurm's daemons need root here"


class Cluster:
    """A running Slurm.

    Attributes
    ----------
    environment : mapping
        For programs that talk to it.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as out:
            self.daemons[name] = subprocess.Popen(
                command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=self.environment
            )

    def run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=60)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def jobs(self) -> list[tuple[str, str, str]]:
        """Number, state and node of every job that has not ended."""
        lines = self.run("squeue", "-h", "-r", "-o", "%i|%T|%N").splitlines()
        return [(number, state, node) for number, state, node in (line.split("|") for line in lines)]

    def job(self, number: str) -> dict[str, str]:
        """What the controller knows of a job, also of one that has ended."""
        words = self.run("scontrol", "-o", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def kill_node(self, node: str) -> list[int]:
        """Kill a node's daemon and everything that it started, as a power cut does."""
        daemon = self.daemons.pop(f"slurmd-{node}")
        daemon.kill()
        daemon.wait()
        tasks = [pid for pid in self._processes() if f"SLURMD_NODENAME={node}" in _environment(pid)]
        steps = {parent for pid in tasks if _name(parent := _parent(pid)).startswith("slurmstepd")}
        for pid in (*steps, *tasks):
            _kill(pid)
        return [*steps, *tasks]

    def stop(self) -> None:
        for pid in self._processes():
            if _name(pid).startswith("slurmstepd") or any("SLURMD_NODENAME=" in x for x in _environment(pid)):
                _kill(pid)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def logs(self) -> str:
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        )

    def wait_for(self, what: str, is_there: Callable[[], object], seconds: float = 60) -> float:
        """Wait, and give the seconds that it took."""
        start = time.monotonic()
        while not is_there():
            assert time.monotonic() - start < seconds, f"no {what} after {seconds} s\n{self.logs()}"
            time.sleep(0.1)
        return time.monotonic() - start

    def _processes(self) -> Iterator[int]:
        """Every process that has this cluster's configuration in its environment, but for its daemons."""
        mine = f"SLURM_CONF={self.folder}/slurm.conf"
        own = {os.getpid(), *(daemon.pid for daemon in self.daemons.values())}
        for entry in Path("/proc").iterdir():
            if (
                entry.name.isdecimal()
                and int(entry.name) not in own
                and mine in _environment(int(entry.name))
            ):
                yield int(entry.name)


@contextmanager
def slurm_cluster() -> Iterator[Cluster]:
    """Start a controller and two nodes; stop them and remove their folder at the end."""
    with ExitStack() as stack:
        # Short: a socket's path has at most 107 characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tt-slurm-", dir="/tmp")))
        folder.chmod(0o755)
        for name in ("state", "spool-n1", "spool-n2"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o400)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // 2
        (folder / "slurm.conf").write_text(
            CONFIG.format(
                folder=folder, host=socket.gethostname().split(".")[0], ports=_free_ports(3), memory=memory
            )
        )
        environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:{SBIN}",
        }
        cluster = Cluster(folder, environment)
        stack.callback(cluster.stop)
        cluster.start(
            "munged", "munged", "--foreground", "--force", f"--key-file={folder}/munge.key",
            f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
            f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
        )  # fmt: skip
        cluster.wait_for("munge", (folder / "munge.socket").exists, 20)
        cluster.start("slurmctld", "slurmctld", "-D", "-f", f"{folder}/slurm.conf")
        for node in NODES:
            cluster.start(f"slurmd-{node}", "slurmd", "-D", "-N", node, "-f", f"{folder}/slurm.conf")
        cluster.wait_for("nodes", lambda: _idle_nodes(cluster) == len(NODES), 30)
        yield cluster


def _idle_nodes(cluster: Cluster) -> int:
    found = subprocess.run(
        ["sinfo", "-h", "-N", "-o", "%T"], capture_output=True, text=True, env=cluster.environment
    )
    return found.stdout.split().count("idle")


def _free_ports(n: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _environment(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it ended, or is not ours
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
