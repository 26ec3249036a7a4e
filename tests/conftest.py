"""Fixtures that several folders of tests share: the micro model and one local Ray."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)  # a first example may import for seconds
settings.load_profile("any machine")
ROOT = Path(__file__).parents[1]
# `tests.faults` and `tests.runs` must be importable here, in Ray's workers, in the engine's own processes and in the
# commands that tests start: all of these inherit PYTHONPATH.
sys.path.insert(0, str(ROOT))
# As `engine_environment` sets it; a test file may import vLLM before any engine is made here.
os.environ.setdefault("VLLM_MAX_STOP_STRINGS", "32")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session")
def micro_model() -> Path:
    """The folder of the micro model of seed 0, which comes along."""
    from cai_ray.microworld.pretrain import ensure_model

    return ensure_model()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for every test that does not take Ray itself down; `connected` uses it where it finds it."""
    from cai_ray.engines.cluster import ClusterConfig, connected

    with connected(ClusterConfig(object_store_gib=0.5)):
        yield
