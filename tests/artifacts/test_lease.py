"""One driver at a time works on a run: claims that live, that died, that come at once, that were only paused."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cai_ray.artifacts import lease
from cai_ray.artifacts.lease import Claim, Lease, held
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError, RunIsTaken
from cai_ray.stopping import hearing
from tests.object_store import object_store

BEAT_S, DEAD_AFTER_S = 0.1, 1.5
ELSEWHERE = Claim(
    id="other",
    host="elsewhere",
    machine="another",
    pid=1,
    user="ada",
    since="2026-11-27 06:00:00 UTC",
    command="cai-ray run my.yaml",
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", BEAT_S)
    monkeypatch.setattr(lease, "DEAD_AFTER_S", DEAD_AFTER_S)
    monkeypatch.setattr(lease, "POLL_S", 0.05)


def claims(run: Storage) -> list[str]:
    return [name for name in run.names() if name.startswith(lease.PREFIX)]


def write(run: Storage, claim: Claim) -> None:
    run.write(f"lease-{claim.id}.json", claim.model_dump_json().encode())


def beating(run: Storage, claim: Claim) -> Callable[[], None]:
    """Another driver, alive; what ends it."""
    ended = threading.Event()

    def beat() -> None:
        number = 0
        while not ended.wait(BEAT_S):
            number += 1
            write(run, claim.model_copy(update={"beat": number}))

    write(run, claim)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()

    def end() -> None:
        ended.set()
        thread.join()

    return end


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_it_is_given_back_at_every_end(error: type[BaseException] | None, tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    with pytest.raises(error or AssertionError), held(run) as mine:
        mine.check()
        time.sleep(3 * BEAT_S)
        assert len(claims(run)) == 1
        raise error or AssertionError
    assert not claims(run)


def test_a_live_driver_is_named_and_left_alone(tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    end = beating(run, ELSEWHERE)
    began = time.monotonic()
    with pytest.raises(RunIsTaken, match="ada on elsewhere, pid 1, since 2026-11-27 06:00:00 UTC: cai-ray run"):
        held(run).__enter__()
    assert time.monotonic() - began < DEAD_AFTER_S
    end()
    assert claims(run) == ["lease-other.json"]


def test_clocks_are_not_compared(tmp_path: Path) -> None:
    """A live driver of next year and a dead one of last year are told apart by what changes."""
    run = Storage(str(tmp_path))
    end = beating(run, ELSEWHERE.model_copy(update={"since": "2027-11-27 06:00:00 UTC"}))
    os.utime(tmp_path / "lease-other.json", (0, 0))
    with pytest.raises(RunIsTaken):
        held(run).__enter__()
    end()


def test_a_driver_that_stands_still_is_taken_over(tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    write(run, ELSEWHERE)
    began = time.monotonic()
    with held(run):
        assert time.monotonic() - began >= DEAD_AFTER_S
        assert "lease-other.json" not in claims(run)
        with pytest.raises(RunIsTaken, match="was taken over by"):
            Lease(run, "other").check()
        write(run, ELSEWHERE)  # it was paused between its look and its write
        with pytest.raises(RunIsTaken, match="was taken over by"):
            Lease(run, "other").check()
        time.sleep(4 * BEAT_S)
        assert "lease-other.json" not in claims(run)
    with pytest.raises(RunIsTaken, match="has ended since"):
        Lease(run, "other").check()


def test_a_killed_driver_that_nobody_has_waited_for_is_dead_too(tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    write(run, ELSEWHERE.model_copy(update={"machine": lease._machine(), "pid": process.pid}))
    process.kill()
    time.sleep(0.2)
    began = time.monotonic()
    with held(run):
        assert time.monotonic() - began < DEAD_AFTER_S / 2
    process.wait()


@pytest.mark.parametrize("is_here", [True, False])
def test_a_process_that_is_gone_from_this_machine_is_dead_at_once(is_here: bool, tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    machine = lease._machine() if is_here else "another"
    write(run, ELSEWHERE.model_copy(update={"machine": machine, "pid": dead_pid()}))
    began = time.monotonic()
    with held(run):
        assert (time.monotonic() - began < DEAD_AFTER_S / 2) == is_here


def test_of_many_that_come_at_once_one_works_at_a_time(tmp_path: Path) -> None:
    run, lock, at_work, most, refused = Storage(str(tmp_path)), threading.Lock(), [0], [0], [0]

    def drive() -> None:
        try:
            with held(run):
                with lock:
                    at_work[0] += 1
                    most[0] = max(most[0], at_work[0])
                time.sleep(0.5)
                with lock:
                    at_work[0] -= 1
        except RunIsTaken:
            with lock:
                refused[0] += 1

    drivers = [threading.Thread(target=drive) for _ in range(6)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join()
    assert most[0] == 1 and refused[0] < 6
    assert not claims(run)


def test_a_lost_lease_stops_the_driver(tmp_path: Path) -> None:
    run = Storage(str(tmp_path))
    with pytest.raises(RunIsTaken, match="was taken over by ada on elsewhere"), hearing(), held(run) as mine:
        write(run, ELSEWHERE.model_copy(update={"after": (mine.id,)}))
        time.sleep(10)
        raise AssertionError("not stopped")
    assert claims(run) == ["lease-other.json"]


def test_a_lease_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "lease-x.json").write_text('{"id": "x"}')
    with pytest.raises(ConfigError, match=r"lease-x.json is not a lease of this version; delete it"):
        held(Storage(str(tmp_path))).__enter__()


def test_storage_that_is_away_for_a_while_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, write_now, failed = Storage(str(tmp_path)), lease._write, [0]

    def write_or_not(run: Storage, claim: Claim) -> None:
        if 1 <= claim.beat <= 4:
            failed[0] += 1
            raise OSError("503 Slow Down")
        write_now(run, claim)

    monkeypatch.setattr(lease, "_write", write_or_not)
    with hearing(), held(run) as mine:
        time.sleep(8 * BEAT_S)
        mine.check()
    assert failed[0] == 4


def test_an_object_store_holds_it_as_well(tmp_path: Path) -> None:
    with object_store(tmp_path) as uris:
        run = Storage(uris.format("run"))
        write(run, ELSEWHERE)
        with held(run) as mine:
            mine.check()
            assert len(claims(run)) == 1
            with pytest.raises(RunIsTaken, match="somebody works there already"):
                held(run).__enter__()
        assert not claims(run)


def test_a_claim_that_is_written_over_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Storage(str(tmp_path))
    with held(run) as mine:
        whole, cut = Storage.read, iter([1, 1])

        def read(storage: Storage, name: str) -> bytes:
            """An object store's, twice between two beats: as long as the claim was before."""
            return whole(storage, name)[: -next(cut, 0) or None]

        monkeypatch.setattr(Storage, "read", read)
        mine.check()
