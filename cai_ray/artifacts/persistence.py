"""Calls to an object store, made again with growing pauses until it answers: stores slow down and fail in passing.

pyarrow tries three times within a second or so. With two calls in five failing that is not enough for one in five
files; the pauses here let a store be away for a minute. Every call that is made again is one that may be: a read, a
listing, a deletion, a whole file under its own name.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from cai_ray.errors import StorageAway

logger = logging.getLogger(__name__)
T = TypeVar("T")
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0, *(8.0,) * 8)
# What an answer says that will be the same the next time; pyarrow tells most of it in words alone.
FINAL = (
    "access_denied", "access denied", "no_such_bucket", "bucket does not exist", "invalid_access_key_id",
    "not found", "signature_does_not_match", "authenticationfailed", "permission_denied", "resolve host",
    "invalid_argument",
)  # fmt: skip
_QUERY = re.compile(r"(\w+://[^\s?]+)\?\S*")


# Stores that this process has given up on: what still wants them while it ends must not wait a minute each time.
_away: set[str] = set()


def presume_away(where: str) -> None:
    """Another process has given up on this store: here, too, calls to it are made once until one goes well."""
    _away.add(_store_of(where))


def _store_of(where: str) -> str:
    return "/".join(where.split("/")[:3])


def persistently(call: Callable[[], T], where: str) -> T:
    """What `call` returns. Raises StorageAway, naming `where`, when it has failed for a minute.

    From then on each call to that store is made once, until one goes well.
    """
    store = _store_of(where)
    for pause_s in (*(() if store in _away else PAUSES_S), None):
        try:
            result = call()
            _away.discard(store)
            return result
        except OSError as error:
            told = _QUERY.sub(r"\1", str(error))  # a signature may stand in it
            if not _may_pass(error):
                raise error if told == str(error) else type(error)(error.errno, told) from None
        if pause_s is not None:
            logger.debug("%s: again in %g s: %s", where, pause_s, told)
            time.sleep(pause_s * random.uniform(0.5, 1.0))
    _away.add(store)
    raise StorageAway(
        f"the storage of {where} has not answered for a minute: {told}; what is committed there stays, and the same "
        "command goes on from it"
    )


def _may_pass(error: OSError) -> bool:
    """Whether the same call may go well a little later."""
    if isinstance(error, StorageAway | FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError):
        return False
    said = str(error).lower()
    return not any(words in said for words in FINAL)
