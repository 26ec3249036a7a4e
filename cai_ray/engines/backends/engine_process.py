"""Where the process of a CPU engine's core comes from: a server that imports vLLM while the actor does.

By itself vLLM starts the core as a new Python once the actor has imported vLLM, and that one imports vLLM and torch
all over again: some eight seconds of a core, before the first engine and before every one that takes a dead one's
place. The server (multiprocessing's own "forkserver") is started first and has imported them when the actor has; cores
are forked from it at once. It starts no thread and computes nothing, so a fork of it is as good as a new process.

Not with a GPU: there the weights are what takes long, and nothing that a core inherits may have touched CUDA.

Tested in tests/engines/backends/test_vllm_backend.py.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from pathlib import Path

IMPORTED = ["vllm.v1.engine.core", "vllm.v1.worker.cpu_worker", "vllm.v1.executor.uniproc_executor"]
# On CPUs vLLM gives even a single worker a process of its own, because that is how it sets the worker's OpenMP
# variables; ours are set for the whole engine. By its class and not as "uni", which vLLM overrules. One process less to
# start, and on a shared core to wait for: up to a third off the start (measured 66 -> 44 s, 36 -> 34 s).
IN_ENGINE_CORE = "vllm.v1.executor.uniproc_executor.UniProcExecutor"


def start_server() -> None:
    """Start the server of this process; it goes on importing after the return.

    What vLLM reads of the environment when it is imported must be set by now.
    """
    if _has_gpu():
        return
    multiprocessing.set_forkserver_preload(IMPORTED)
    forkserver.ensure_running()


def use_server() -> None:
    """Have vLLM fork its cores from the server."""
    if _has_gpu():
        return
    import vllm.v1.engine.utils as starts_cores

    # vLLM itself only chooses between "fork" and "spawn", and within a Ray actor "spawn".
    starts_cores.get_mp_context = lambda: multiprocessing.get_context("forkserver")


def _has_gpu() -> bool:
    """Asked without torch, whose import is what the server is for."""
    return Path("/dev/nvidiactl").exists()
