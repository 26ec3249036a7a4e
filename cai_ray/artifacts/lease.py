"""The lease: one driver at a time works on a run.

A driver puts a claim of its own, `lease-<id>.json`, into the run's folder and only then looks for others: of two that
come at once the later sees the earlier, so that at most one stays. It writes its claim again every BEAT_S. Whoever
comes next judges a claim by whether it *changes* meanwhile, so no two clocks are ever compared. A claim that stands
still for DEAD_AFTER_S, or whose process is gone from this very machine, is dead: the newcomer names it in his own
claim (`after`) and deletes it. A driver that was only paused finds that out at its next beat and before it commits,
and ends with RunIsTaken.

This asks of storage that a list shows what was written before it (local disks, NFS, S3, GCS, Azure): neither a move nor
a conditional write. What stays possible: a commit that was checked, then stood still for DEAD_AFTER_S, then went on.
"""

from __future__ import annotations

import getpass
import logging
import os
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import ValidationError

from cai_ray.artifacts.storage import Storage
from cai_ray.config import Config
from cai_ray.errors import ConfigError, RunIsTaken
from cai_ray.lookup import without_keys
from cai_ray.stopping import stop_with

logger = logging.getLogger(__name__)
PREFIX, SUFFIX = "lease-", ".json"
BEAT_S = 5.0
DEAD_AFTER_S = 60.0  # a driver that swaps or starts an engine on all cores may be silent for some seconds
POLL_S = 0.5
READS = 4  # of a claim that is written over meanwhile
MOST_CLAIMS = 8  # before a newcomer gives way to others that come at the same time


class Claim(Config):
    """What a driver says of itself."""

    id: str
    host: str
    machine: str  # of the process ids: the kernel's boot and the PID namespace
    pid: int
    user: str
    since: str  # the host's clock, for people
    command: str
    after: tuple[str, ...] = ()  # the dead that it came after
    beat: int = 0

    @property
    def told(self) -> str:
        return f"{self.user} on {self.host}, pid {self.pid}, since {self.since}: {self.command}"


@dataclass(frozen=True)
class Lease:
    """A driver's hold on a run's folder; it travels to whoever commits for it."""

    run: Storage
    id: str

    def check(self) -> None:
        """Raises RunIsTaken when another driver has taken over."""
        claims = _claims(self.run)
        taker = next((claim for claim in claims if self.id in claim.after), None)
        if taker is None and any(claim.id == self.id for claim in claims):
            return
        who = f"by {taker.told}" if taker is not None else "by a driver that has ended since, or somebody deleted it"
        raise RunIsTaken(
            f"this driver was silent for too long, and its lease on {self.run.shown} was taken over {who}; it commits "
            "nothing more. Run the same command again once nobody works there"
        )


@contextmanager
def held(run: Storage) -> Iterator[Lease]:
    """The lease on a run, kept alive by a thread, given back at the end. Raises RunIsTaken.

    Where it is lost within, the main thread gets RunIsTaken, from whatever it is at.
    """
    mine = _take(run)
    lease, ended = Lease(run, mine.id), threading.Event()
    keeper = threading.Thread(target=_keep, args=(lease, mine, ended), name="lease", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        ended.set()
        keeper.join(BEAT_S)
        with suppress(OSError):  # what is left behind is dead with this process
            run.delete(_name(mine.id))


def _take(run: Storage) -> Claim:
    for _ in range(MOST_CLAIMS):
        after = _dead(run, _claims(run))
        mine = _claim(after)
        _write(run, mine)
        others = [claim for claim in _claims(run) if claim.id not in (mine.id, *after)]
        if not others:
            _bury(run, mine)
            return mine
        run.delete(_name(mine.id))  # they may have seen this claim too; the one who comes back first has it
        time.sleep(random.uniform(0.1, 1.5))
    raise _taken(run, others[0])


def _dead(run: Storage, claims: list[Claim]) -> tuple[str, ...]:
    """The ids of these claims once all are known to be dead or given back. Raises RunIsTaken for one that lives."""
    machine = _machine()
    doubtful = {claim.id: claim for claim in claims if claim.machine != machine or not _is_gone(claim.pid)}
    dead = [claim.id for claim in claims if claim.id not in doubtful]
    began = time.monotonic()
    is_told = False
    while doubtful and time.monotonic() - began < DEAD_AFTER_S:
        time.sleep(POLL_S)
        standing = {claim.id: claim for claim in _claims(run)}
        doubtful = {key: claim for key, claim in doubtful.items() if key in standing}
        for key, claim in doubtful.items():
            if standing[key].beat != claim.beat:
                raise _taken(run, claim)
        if doubtful and not is_told and time.monotonic() - began > 2 * BEAT_S:
            told = "; ".join(claim.told for claim in doubtful.values())
            logger.info("waiting up to %.0f s for a sign of life of who worked on this run: %s", DEAD_AFTER_S, told)
            is_told = True
    return (*dead, *doubtful)


def _is_gone(pid: int) -> bool:
    """Whether a process of this machine has ended, whoever has still to hear of it."""
    if not psutil.pid_exists(pid):
        return True
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.Error:  # hidden from this user
        return False


def _taken(run: Storage, claim: Claim) -> RunIsTaken:
    return RunIsTaken(
        f"{run.shown}: somebody works there already: {claim.told}. Wait for the end of that, or stop it; then run "
        "the same command again"
    )


def _keep(lease: Lease, mine: Claim, ended: threading.Event) -> None:
    while not ended.wait(BEAT_S):
        mine = mine.model_copy(update={"beat": mine.beat + 1})
        try:
            began = time.monotonic()
            lease.check()
            _write(lease.run, mine)
            if time.monotonic() - began > DEAD_AFTER_S:  # it was perhaps deleted between the two
                raise RunIsTaken(f"this driver stood still for {DEAD_AFTER_S:.0f} s; run the same command again")
            _bury(lease.run, mine)
        except (OSError, ConfigError) as error:  # storage that is away: nobody can take over meanwhile
            logger.debug("the lease could not be renewed: %s", error)
        except RunIsTaken as taken:
            if not ended.is_set():
                stop_with(taken)
            return


def _claims(run: Storage) -> list[Claim]:
    names = [name for name in run.names(suffix=SUFFIX) if name.startswith(PREFIX)]
    found = []
    for name in names:
        with suppress(FileNotFoundError):  # given back since
            try:
                found.append(_read(run, name))
            except ValueError as error:
                raise ConfigError(
                    f"{run.shown}/{name} is not a lease of this version; delete it when nobody works on the run"
                ) from error
    return found


def _read(run: Storage, name: str) -> Claim:
    """A claim. On an object store a read asks for the size first: a beat between the two cuts it short, so again."""
    for _ in range(READS - 1):
        with suppress(ValidationError):
            return Claim.model_validate_json(run.read(name))
    return Claim.model_validate_json(run.read(name))


def _claim(after: tuple[str, ...]) -> Claim:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"user {os.getuid()}"
    return Claim(
        id=uuid.uuid4().hex[:12],
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        user=user,
        since=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        # No more of it: a key may stand in what follows.
        command=without_keys(" ".join([Path(sys.argv[0]).name, *sys.argv[1:3]])),
        after=after,
    )


def _machine() -> str:
    """Where a process id means the same process: one boot of one kernel, one PID namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:  # no Linux
        return socket.gethostname()


def _name(claim_id: str) -> str:
    return f"{PREFIX}{claim_id}{SUFFIX}"


def _write(run: Storage, claim: Claim) -> None:
    run.write(_name(claim.id), claim.model_dump_json().encode())


def _bury(run: Storage, mine: Claim) -> None:
    """Delete the claims of the dead, also one that a paused driver has just written again."""
    for claim_id in mine.after:
        run.delete(_name(claim_id))
