"""Judgements: each a pure function of the facts, and each in its own file.

Tested in tests/doctor/checks/test_judgements.py.
"""

from __future__ import annotations

from collections.abc import Callable

from cai_ray.doctor.checks import (
    clock,
    dashboard,
    disk,
    gpu_memory,
    hub,
    keys,
    object_store,
    open_files,
    shared_memory,
    storage,
    temp_path,
    token,
    versions,
)
from cai_ray.doctor.facts import Facts, Finding

CHECKS: tuple[Callable[[Facts], Finding], ...] = (
    versions.judge,
    token.judge,
    dashboard.judge,
    storage.judge,
    gpu_memory.judge,
    disk.judge,
    object_store.judge,
    shared_memory.judge,
    open_files.judge,
    clock.judge,
    temp_path.judge,
    hub.judge,
    keys.judge,
)
