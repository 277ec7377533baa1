"""A real SLURM of Debian's packages in a temporary folder: two nodes, fake GPUs, power failures.

Each node is a slurmd in process, host-name and mount name spaces of its own (optionally a network
of its own), so that nodes have names, private /dev/shm, and can lose their power at once.
Everything lies below one folder; only processes that were started here are ended.

By hand: `python tests/slurm/cluster.py /tmp/somewhere` starts one and prints what to export; Ctrl-C
ends it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

NEEDED = (
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "srun",
    "scontrol",
    "squeue",
    "scancel",
    "unshare",
)
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"

# The first process of a node: gives it its name and private places, then runs slurmd. It stays when
# slurmd dies, and everything ends when it is killed.
NODE = r"""
mount --make-rprivate /
hostname "$NODE"
mount --bind "$HERE/etc/hosts" /etc/hosts
mount -t tmpfs tmpfs /dev/shm
if [ -n "$ADDRESS" ]; then
  until ip link show eth0 > /dev/null 2>&1; do sleep 0.02; done
  ip link set lo up && ip addr add "$ADDRESS/24" dev eth0 && ip link set eth0 up
fi
slurmd -D -N "$NODE" &
while true; do wait; sleep 0.2; done
"""

SLURM_CONF = """\
ClusterName=throwaway
SlurmctldHost=localhost({head})
SlurmctldPort={ports[ctl]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# How long a job that was put back waits: two minutes if this were not said.
AuthInfo=socket={here}/run/munge,cred_expire=5
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool/%n
SlurmctldPidFile={here}/run/ctl.pid
SlurmdPidFile={here}/run/%n.pid
SlurmctldLogFile={here}/log/slurmctld.log
SlurmdLogFile={here}/log/slurmd.%n.log
PlugStackConfig={here}/etc/plugstack.conf
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
# Two clusters on one machine: equal numbers of jobs would mean equal ports.
FirstJobId={first_job}
ReturnToService=1
KillWait={kill_wait}
SlurmdTimeout=10
SlurmctldTimeout=30
InactiveLimit=0
MinJobAge=3600
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1,sched_min_interval=0
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 PriorityTier=10
PartitionName=low  Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=20 PreemptMode=OFF
"""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "DEADLINE", "BOOT_FAIL")


class NoSlurm(RuntimeError):
    """SLURM cannot run here; says why."""


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in NEEDED if shutil.which(name, path=PATH) is None]


class Cluster:
    """Nodes n1, n2 ...; use as a context manager.

    Args:
        here: a new folder; no name on its path may be closed to others (munge refuses that).
        nodes: how many.
        network: give each node a network of its own, so that its cable can be pulled (root only).
        kill_wait: seconds from SIGTERM to SIGKILL.
    """

    def __init__(
        self, here: Path, nodes: int = 2, *, network: bool = False, kill_wait: int = 20
    ) -> None:
        self.here = here.resolve()
        self.small, self._mounted = self.here / "small", False  # a disk of 40 MB
        self.names = [f"n{i + 1}" for i in range(nodes)]
        self.network, self.kill_wait = network, kill_wait
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        number = os.getpid() % 250
        self.bridge = f"chb{number}"
        base = f"10.214.{number}." if network else "127.0.0."
        self.addresses = {n: f"{base}{i + 1}" for i, n in enumerate(["head", *self.names])}

    # ------------------------------------------------------------------ life

    def __enter__(self) -> Cluster:
        lack = missing()
        if lack:
            raise NoSlurm(f"SLURM is not installed (missing: {', '.join(lack)})")
        probe = [*self._unshare(), "bash", "-c", "hostname n1 && mount -t tmpfs tmpfs /dev/shm"]
        if subprocess.run(probe, capture_output=True).returncode:
            raise NoSlurm("this kernel does not let us make name spaces")
        self._configure()
        # Before the nodes start: what is mounted later is not seen on them.
        self.small.mkdir()
        self._mounted = not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(self.small)],
            capture_output=True,
        ).returncode
        if self.network:
            self._ip("link", "add", self.bridge, "type", "bridge")
            self._ip("addr", "add", f"{self.addresses['head']}/24", "dev", self.bridge)
            self._ip("link", "set", self.bridge, "up")
        run = self.here / "run"
        self._start(
            "munged", "munged", "--foreground", f"--key-file={self.here}/etc/munge.key",
            f"--socket={run}/munge", f"--pid-file={run}/munged.pid", "--num-threads=2",
            f"--log-file={self.here}/log/munged.log", f"--seed-file={run}/munged.seed",
        )  # fmt: skip
        self._until("munged", lambda: (run / "munge").exists(), 120)
        self._start("slurmctld", "slurmctld", "-D")
        for name in self.names:
            self.start_node(name)
        self.wait_for_nodes()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            jobs = self.run("squeue", "--noheader", "--format=%A").split()
            if jobs:
                self.run("scancel", *jobs)
                self._until("the jobs to end", lambda: not self.run(
                    "squeue", "-h", "-t", "R,CG", "-o", "%A"), self.kill_wait + 10)  # fmt: skip
        for name in [*self.names, "slurmctld", "munged"]:
            process = self.processes.pop(name, None)
            if process is not None:
                # SIGKILL takes a node's whole name space along; the daemons may tidy up.
                (process.kill if name in self.names else process.terminate)()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()
                process.wait()
        if self.network:
            subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)
        if self._mounted:
            subprocess.run(["umount", "--lazy", str(self.small)], check=False)

    def _configure(self) -> None:
        here = self.here
        for folder in ("etc", "run", "state", "log", "dev", *(f"spool/{n}" for n in self.names)):
            (here / folder).mkdir(parents=True, exist_ok=True)
        key = here / "etc/munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        hosts = "".join(f"{address} {name}\n" for name, address in self.addresses.items())
        (here / "etc/hosts").write_text("127.0.0.1 localhost\n" + hosts)
        (here / "etc/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (here / "etc/plugstack.conf").write_text("")
        gpus = self._fake_gpus()
        gres = "".join(f"NodeName={n} Name=gpu File={gpus}[0-1]\n" for n in self.names)
        (here / "etc/gres.conf").write_text(gres)
        ports = self._ports()
        nodes = "\n".join(
            f"NodeName={n} NodeHostname={n} NodeAddr={self.addresses[n]} Port={ports[n]} CPUs=8 "
            "RealMemory=8000 Gres=gpu:2 State=UNKNOWN"
            for n in self.names
        )
        text = SLURM_CONF.format(
            here=here, head=self.addresses["head"], ports=ports, user=getpass.getuser(),
            kill_wait=self.kill_wait, nodes=nodes, first_job=1000 * (os.getpid() % 250) + 1,
        )  # fmt: skip
        (here / "etc/slurm.conf").write_text(text)

    def _fake_gpus(self) -> str:
        """slurmd wants character devices: the null device under another name, else terminals."""
        for i in range(2):
            try:
                os.mknod(self.here / f"dev/nvidia{i}", 0o020666, os.makedev(1, 3))
            except OSError:
                return "/dev/tty"
        return f"{self.here}/dev/nvidia"

    def _ports(self) -> dict[str, int]:
        """Free ports below the ephemeral range."""
        found: dict[str, int] = {}
        port = 26000 + os.getpid() * 13 % 2500
        for name in ("ctl", *self.names):
            while name not in found:
                port += 1
                with socket.socket() as probe, contextlib.suppress(OSError):
                    probe.bind(("0.0.0.0", port))
                    found[name] = port
        return found

    @staticmethod
    def _unshare(network: bool = False) -> list[str]:
        rootless = [] if os.geteuid() == 0 else ["--map-current-user", "--keep-caps"]
        spaces = ["--pid", "--mount-proc", "--uts", "--mount", *(["--net"] if network else [])]
        return ["unshare", *rootless, "--fork", "--kill-child", *spaces]

    @staticmethod
    def _ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def _start(self, name: str, *command: str, **environment: str) -> None:
        with (self.here / "log" / f"{name}.out").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                # No core files: a killed python would leave 300 MB in the job's folder.
                ["bash", "-c", 'ulimit -c 0; exec "$@"', "-", *command],
                env=self.env | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd=self.here,
            )  # fmt: skip

    @property
    def has_small_disk(self) -> bool:
        """Whether `small` is a disk of its own: mounting needs root."""
        return self._mounted

    # ------------------------------------------------------------------ what can go wrong

    def start_node(self, name: str) -> None:
        """Power on."""
        self._start(
            name, *self._unshare(self.network), "bash", "-c", NODE, NODE=name, HERE=str(self.here),
            ADDRESS=self.addresses[name] if self.network else "",
        )  # fmt: skip
        if self.network:
            unshare = self.processes[name].pid
            children = Path(f"/proc/{unshare}/task/{unshare}/children")
            self._until(f"{name}'s first process", lambda: children.read_text().strip() != "", 120)
            cable, inside = f"{self.bridge}{name}", children.read_text().split()[0]
            subprocess.run(["ip", "link", "del", cable], capture_output=True, check=False)
            self._ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", inside)
            self._ip("link", "set", cable, "master", self.bridge, "up")

    def kill_node(self, name: str) -> None:
        """Power failure: slurmd and all tasks of the node are gone at once."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def cut_network(self, name: str) -> None:
        """Pull the cable."""
        self._ip("link", "set", f"{self.bridge}{name}", "down")

    def heal_network(self, name: str) -> None:
        """Plug it in again."""
        self._ip("link", "set", f"{self.bridge}{name}", "up")

    # ------------------------------------------------------------------ use

    @property
    def env(self) -> dict[str, str]:
        """Environment for SLURM's commands."""
        clean = {
            k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SRUN"))
        }
        return clean | {"SLURM_CONF": f"{self.here}/etc/slurm.conf", "PATH": PATH}

    def run(self, *command: str, timeout_s: float = 240) -> str:
        """Run a command in the cluster's environment; returns its output."""
        done = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=timeout_s, check=False
        )
        if done.returncode:
            raise RuntimeError(
                f"{' '.join(command)}: {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done.stdout.strip()

    def job(self, job_id: str) -> dict[str, str]:
        """What `scontrol show job` says."""
        text = self.run("scontrol", "--oneliner", "show", "job", job_id).splitlines()[0]
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait_for_job(self, job_id: str, *states: str, timeout_s: float = 240) -> dict[str, str]:
        """Wait until the job is in one of the states; another final state is an error."""
        end = time.monotonic() + timeout_s
        while True:
            job = self.job(job_id)
            if job["JobState"] in states:
                return job
            late = time.monotonic() > end
            # A job that is put back stands as failed for a moment.
            if late or (job["JobState"] in ENDED and "NODE_FAIL" not in job["JobState"]
                        and not self._comes_back(job_id)):  # fmt: skip
                raise AssertionError(
                    f"job {job_id} is {job['JobState']} ({job.get('Reason')}, "
                    f"{job.get('ExitCode')}), wanted {states}{' in time' if late else ''}"
                )
            time.sleep(0.2)

    def _comes_back(self, job_id: str) -> bool:
        time.sleep(2)
        return self.job(job_id)["JobState"] not in ENDED

    def wait_for_nodes(self, timeout_s: float = 240) -> None:
        """Wait until all nodes are there."""
        good = {"idle", "mixed", "allocated", "completing"}

        def ready() -> bool:
            with contextlib.suppress(RuntimeError):
                lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T").splitlines()
                return [x.split()[1] in good for x in lines] == [True] * len(self.names)
            return False

        self._until("the nodes to answer", ready, timeout_s)

    def _until(self, what: str, ready: object, timeout_s: float) -> None:
        assert callable(ready)
        end = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > end:
                logs = "\n".join(
                    f"== {p.name}\n{p.read_text(errors='replace')[-1500:]}"
                    for p in sorted((self.here / "log").glob("*"))
                )
                raise NoSlurm(f"waited {timeout_s:.0f} s for {what}\n{logs}")
            time.sleep(0.05)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    with Cluster(folder) as cluster:
        print(f"export SLURM_CONF={cluster.env['SLURM_CONF']} PATH=$PATH:/usr/sbin")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(1)
