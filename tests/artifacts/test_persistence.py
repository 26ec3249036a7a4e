"""A store that fails in passing is asked again, one that refuses is not; one that stays away ends with 75."""

from __future__ import annotations

import pytest

from cai_ray.artifacts import persistence
from cai_ray.artifacts.persistence import persistently
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError, StorageAway
from cai_ray.exits import EXIT_RETRYABLE, exit_code
from tests import stores

SLOW_DOWN = "When reading: AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate."


class Store:
    """Fails with `error` so many times, then answers."""

    def __init__(self, num_failures: int, error: OSError) -> None:
        self.num_failures, self.error, self.num_calls = num_failures, error, 0

    def __call__(self) -> str:
        self.num_calls += 1
        if self.num_calls <= self.num_failures:
            raise self.error
        return "there"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(persistence, "PAUSES_S", (0.001,) * len(persistence.PAUSES_S))
    monkeypatch.setattr(persistence, "_away", set())


def test_the_pauses_are_shorter_than_a_lease_is_silent_and_a_minute_in_all() -> None:
    assert max(persistence.PAUSES_S) < 10


def test_what_passes_is_waited_for() -> None:
    store = Store(len(persistence.PAUSES_S), OSError(SLOW_DOWN))
    assert persistently(store, "s3://bucket/runs") == "there"


def test_what_stays_away_is_one_error_to_repeat() -> None:
    store = Store(1000, OSError(SLOW_DOWN))
    with pytest.raises(StorageAway, match=r"s3://bucket/runs has not answered for a minute: .*SLOW_DOWN") as away:
        persistently(store, "s3://bucket/runs")
    assert exit_code(away.value) == EXIT_RETRYABLE and store.num_calls == 1 + len(persistence.PAUSES_S)


def test_what_another_process_has_given_up_is_not_waited_for() -> None:
    persistence.presume_away("s3://away/runs/one")
    store = Store(1000, OSError(SLOW_DOWN))
    with pytest.raises(StorageAway):
        persistently(store, "s3://away/runs/other")
    assert store.num_calls == 1


def test_once_given_up_it_is_asked_once_until_it_answers() -> None:
    store = Store(0, OSError(SLOW_DOWN))
    for _ in range(3):
        store.num_failures = store.num_calls + 1000
        with pytest.raises(StorageAway):
            persistently(store, "s3://away/runs")
    assert store.num_calls == 3 + len(persistence.PAUSES_S)
    store.num_failures = 0
    assert persistently(store, "s3://away/runs/other") == "there"
    store.num_failures = store.num_calls + 2
    assert persistently(store, "s3://away/runs") == "there"


@pytest.mark.parametrize(
    "error", [FileNotFoundError("no"), PermissionError("no"), OSError("AWS Error ACCESS_DENIED"), StorageAway("away")]
)
def test_what_is_final_is_said_at_once(error: OSError) -> None:
    store = Store(1000, error)
    with pytest.raises(type(error)):
        persistently(store, "s3://bucket/runs")
    assert store.num_calls == 1


@pytest.mark.parametrize("words", ["500 Internal Error", "permission_denied"])
def test_no_signature_of_a_url_is_told(words: str) -> None:
    store = Store(1000, OSError(f"Failed: https://account.example/bucket?se=2046&sig=hush%3D {words}"))
    with pytest.raises(OSError, match=words) as failed:
        persistently(store, "abfs://account/bucket")
    assert "hush" not in str(failed.value)
    assert failed.value.__context__ is None or failed.value.__suppress_context__


def test_a_small_file_is_one_put_and_nothing_is_moved() -> None:
    with stores.s3() as store:
        run = Storage(store.uri) / "run"
        run.make()
        store.calls.clear()
        run.write("records/a.json", b"x" * 1000)
        assert store.calls["PUT"] == 1 and not [call for call in store.calls if "multipart" in call or "POST" in call]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.4])
def test_files_come_and_go_on_s3_that_fails_some_of_its_calls(share: float) -> None:
    with stores.s3() as store:
        store.share = share
        run = Storage(store.uri) / "run"
        run.make()
        names = [f"records/{k}.json" for k in range(30)]
        for name in names:
            run.write(name, name.encode())
        assert run.names("records") == sorted(names)
        assert [run.read(name) for name in names] == [name.encode() for name in names]
        for name in names[::2]:
            run.delete(name)
        assert run.names("records") == sorted(names[1::2]) and store.num_failed > 0
        run.delete_folder("records")
        assert not run.exists("records")


def test_s3_that_refuses_is_a_wrong_setting_and_one_that_is_away_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with stores.s3() as store:
        with pytest.raises(ConfigError, match="cannot be written"):
            Storage(store.uri.replace("bucket", "no-such-bucket")).make()
        store.is_away = True
        with pytest.raises(StorageAway):
            Storage(store.uri).make()
