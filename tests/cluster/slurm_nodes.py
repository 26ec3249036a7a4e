"""Slurm on the hosts of tests/hosts.py: a controller on the first, a node on each."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hosts import Hosts, hosts
from tests.runs import wait_for

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
PACKAGES = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
MUNGE = Path("/run/munge")  # each host has a munged of its own, with the one key
SCRATCH = Path("/tmp/cai-slurm")  # each host's own disk
# Slurm 22.05 asks for the first version of cgroups, which `ip netns exec` hides.
CGROUPS = """
mountpoint -q /sys/fs/cgroup || mount -t tmpfs cgroup /sys/fs/cgroup
for kind in cpu cpuacct cpuset freezer memory devices; do
  mkdir -p /sys/fs/cgroup/$kind
  mountpoint -q /sys/fs/cgroup/$kind || mount -t cgroup -o $kind $kind /sys/fs/cgroup/$kind
done
mkdir -p /sys/fs/cgroup/systemd
mountpoint -q /sys/fs/cgroup/systemd || mount -t cgroup -o none,name=systemd systemd /sys/fs/cgroup/systemd
"""
CONFIG = """
ClusterName=test
SlurmctldHost={head}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=30
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A controller and its nodes, up."""

    up: Hosts
    config: Path

    def command(self, *command: str, cwd: Path | None = None, **variables: str) -> str:
        environment = {"SLURM_CONF": str(self.config), "TMPDIR": "/tmp", **variables}
        ended = self.up.run(self.up.names[0], *command, cwd=cwd, environment=environment)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def submit(self, script: Path, *arguments: str, cwd: Path, **variables: str) -> str:
        """The job's id."""
        said = self.command("sbatch", str(script), *arguments, cwd=cwd, **variables)
        return said.split()[-1]

    def job(self, number: str) -> dict[str, str]:
        """What Slurm says of a job: JobState, ExitCode ("75:0"), Restarts, ..."""
        return dict(re.findall(r"(\w+)=(\S*)", self.command("scontrol", "show", "job", number)))

    def wait(self, number: str, *states: str, limit_s: float = 300) -> dict[str, str]:
        """The job once it is in one of these states."""

        def there() -> dict[str, str] | None:
            said = self.job(number)
            return said if said["JobState"] in states else None

        found: dict[str, str] = wait_for(there, limit_s, f"job {number} {states}", 0.5)
        return found

    def start_now(self, number: str) -> None:
        """Slurm holds a requeued job for two minutes; this one it need not."""
        self.wait(number, "PENDING")
        self.command("scontrol", "update", f"JobId={number}", "StartTime=now")


@contextmanager
def slurm(folder: Path, *names: str) -> Iterator[Slurm]:
    """Slurm on hosts of these names. Skips the test where it cannot be."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"needs {', '.join(missing)}: {PACKAGES}")
    with hosts(folder, *names, private=[MUNGE, SCRATCH]) as up:
        nodes = "\n".join(f"NodeName={name} NodeAddr={up.address(name)} CPUs=2 State=UNKNOWN" for name in names)
        config = folder / "slurm.conf"
        config.write_text(CONFIG.format(head=names[0], address=up.address(names[0]), folder=folder, nodes=nodes))
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (folder / "state").mkdir()
        for name in names:
            munge = f"chown munge {MUNGE}; chmod 755 {MUNGE}; runuser -u munge -- munged"
            ready = up.run(name, "sh", "-ec", f"{CGROUPS}\n{munge}")
            assert ready.returncode == 0, ready.stdout + ready.stderr
        up.start(names[0], "slurmctld", "-D", "-f", str(config), log=folder / "slurmctld.out")
        for name in names:
            up.start(name, "slurmd", "-D", "-N", name, "-f", str(config), log=folder / f"slurmd-{name}.out")
        there = Slurm(up, config)

        def idle() -> bool:
            said = up.run(names[0], "sinfo", "-h", "-o", "%T %D", environment={"SLURM_CONF": str(config)})
            return said.stdout.split() == ["idle", str(len(names))]

        wait_for(idle, 120, f"idle nodes; see {folder}", 0.5)
        yield there
