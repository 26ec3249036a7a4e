"""Connect to Ray: an existing cluster by RAY_ADDRESS, or one started on this machine.

Tested in tests/cluster/test_together.py.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
from pydantic import Field

from cai_ray.config import EngineConfig, Throughput
from cai_ray.engines.address import START, check_address
from cai_ray.engines.execution import callbacks
from cai_ray.errors import ClusterAway, ConfigError, Stopped
from cai_ray.stopping import draining, rehear

logger = logging.getLogger(__name__)
MIN_LOCAL_CPUS = 8  # logical: with as few as two, a pipeline with an engine actor starves
# Ray's words for settings that no start makes right -> what to change.
UNSTARTABLE = {
    "AF_UNIX path length": "the folder for its own files is too deep, set RAY_TMPDIR to one like /tmp/r",
    "object store": "lower cluster.object_store_gib",
}
TOO_SLOW = "timed out during startup"  # Ray's words for its own processes, after 30 s
_kept: ExitStack | None = None  # what the end of `kept_connection` ends
_promised_gpus = 0  # that nodes have which are still to start


class ClusterConfig(Throughput):
    """Where the work runs."""

    address: str | None = Field(None, description="Ray address; null: RAY_ADDRESS, else a local Ray is started.")
    num_cpus: int | None = Field(None, ge=1, description="Logical CPUs of a local Ray; null: max(8, cores).")
    object_store_gib: float = Field(2.0, gt=0, description="Object store of a local Ray, GiB.")
    num_gpus: int | None = Field(
        None,
        ge=0,
        description="GPUs of a local Ray, or those that a cluster which starts nodes on demand can come to: they are "
        "waited for. Null: those that are there.",
    )


def refuse_unsafe_environment() -> None:
    """CVE-2026-41486: Parquet metadata must not be unpickled. Raises ConfigError when the user asked for it."""
    unsafe = [name for name in os.environ if name.startswith("RAY_DATA_AUTOLOAD_") and "PICKLE" in name]
    if unsafe:
        raise ConfigError(f"{unsafe[0]} is set: Ray would unpickle metadata of any Parquet file; unset it")


@contextmanager
def connected(config: ClusterConfig) -> Iterator[None]:
    """A connected Ray; one that was started here is stopped afterwards, one that was there stays.

    Inside `kept_connection` it stays until that one ends. Raises ClusterAway, ConfigError.
    """
    global _promised_gpus
    _promised_gpus = config.num_gpus or 0
    refuse_unsafe_environment()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        _set_up_ray_data()
        yield
        return
    with _starting():
        _start(config)
    _set_up_ray_data()
    with ExitStack() as own:
        (_kept or own).callback(ray.shutdown)
        yield


@contextmanager
def _starting() -> Iterator[None]:
    """A signal within ends what was started, and raises Stopped: not in the midst of Ray, which would swallow it."""
    import ray

    try:
        with draining(lambda: None):
            yield
            rehear()
    except (Stopped, SystemExit) as end:  # SystemExit: of the handler that Ray sets on its way
        ray.shutdown()
        raise end if isinstance(end, Stopped) else Stopped("SIGTERM") from end


def _start(config: ClusterConfig) -> None:
    """Join a cluster, or start a Ray on this machine. Raises ClusterAway, ConfigError."""
    address = address_of(config)
    if address:
        _join(address)
    else:
        # A local Ray turns token authentication on by itself and warns of it. Saying so by RAY_AUTH_MODE is
        # too late here: Ray read its environment when it was imported.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        num_cpus = config.num_cpus or max(MIN_LOCAL_CPUS, os.cpu_count() or 1)
        # Workers to start at once, by logical cores; by real ones Ray warns of too many.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(num_cpus))
        # Not one idle worker per logical CPU in advance: their start takes the cores from the first stage.
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        _start_here(
            address="local",
            num_cpus=num_cpus,
            num_gpus=config.num_gpus,
            object_store_memory=int(config.object_store_gib * 2**30),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )


def _start_here(**arguments: Any) -> None:
    """Twice where the first time is too slow for Ray, which waits 30 s. Raises ClusterAway, ConfigError."""
    import ray

    for attempt in (1, 2):
        try:
            ray.init(**arguments)
            return
        except (OSError, ValueError) as error:
            told = next((fix for words, fix in UNSTARTABLE.items() if words in str(error)), None)
            if told is None:
                raise
            raise ConfigError(f"Ray cannot start here: {error}; {told}") from error
        except Exception as error:  # Ray raises no narrower one
            if TOO_SLOW not in str(error):
                raise
            ray.shutdown()
            if attempt == 2:
                raise ClusterAway(
                    "Ray was not up on this machine after 30 s, twice: other work holds its cores, or its disk is "
                    "slow; run this again when it has time"
                ) from error


def address_of(config: ClusterConfig) -> str | None:
    """The cluster to join; None where a Ray is started on this machine."""
    return config.address or os.environ.get("RAY_ADDRESS") or None


def _join(address: str) -> None:
    """Raises ClusterAway, ConfigError."""
    import ray
    from ray.exceptions import AuthenticationError

    check_address(address)
    if address not in ("auto", "local") and not _is_node():
        raise ConfigError(
            f"this machine is not a node of the cluster at {address!r}: join it by `ray start --address {address}`, or "
            "run there by `cai-ray submit RECIPE --address http://HEAD:8265`"
        )
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except AuthenticationError as error:
        raise ConfigError(
            f"the cluster at {address!r} refuses this command's token: {error}; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) to the cluster's"
        ) from error
    except ConnectionError as error:
        raise ClusterAway(f"no Ray cluster at {address!r}: {error}; {START}") from error
    except RuntimeError as error:
        if "ersion" not in str(error):
            raise
        raise ConfigError(f"the cluster at {address!r} has other versions: {error}; install the same here") from error


def _is_node() -> bool:
    """Whether a node's process runs here; Ray looks for one for a minute."""
    return any(process.info["name"] == "raylet" for process in psutil.process_iter(["name"]))


@contextmanager
def kept_connection() -> Iterator[None]:
    """What `connected` starts within lasts until the end of this block: stages that follow each other share one Ray.

    A local Ray and its worker processes take some ten seconds of two cores to start.
    """
    global _kept
    if _kept is not None:
        yield
        return
    with ExitStack() as _kept:
        try:
            yield
        finally:
            _kept = None


def _set_up_ray_data() -> None:
    """One progress display and one error message, ours; Ray Data's own stay in its log file."""
    import ray

    context = ray.data.DataContext.get_current()
    context.custom_execution_callback_classes = callbacks()
    # One of Ray's looks for tasks that outgrow their reservation, which nothing here makes, and to know it has an
    # engine's placement group made a second time (groups.py).
    detectors = context.issue_detectors_config
    detectors.detectors = [one for one in detectors.detectors if one.__name__ != "HighMemoryIssueDetector"]
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Ray's own wrapper of a worker's error loses what it wraps on the way here, and with it the exit code.
    context.raise_original_map_exception = True
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
    # These two print an error that is raised anyway, with advice that would lose rows (max_errored_blocks).
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)
    logging.getLogger("ray.data._internal.execution.streaming_executor_state").setLevel(logging.CRITICAL)
    # Restart limits have no named parameter; Ray 2.60 warns of the keywords that do take them.
    warnings.filterwarnings("ignore", message="`ray_remote_args(_fn)?` is deprecated")


def num_gpus() -> float:
    """GPUs that the cluster has, or that `cluster.num_gpus` says it can come to: work for these waits for them."""
    import ray

    return max(float(ray.cluster_resources().get("GPU", 0)), float(_promised_gpus))


def gpus_per_engine(engine: EngineConfig) -> float:
    """GPUs that one engine takes where the cluster has GPUs, else none.

    Those of one node are one reservation; see groups.py for more. Raises ConfigError when the cluster cannot hold one.
    """
    total, wanted = num_gpus(), engine.num_gpus
    asked = f"tensor_parallel_size={engine.tensor_parallel_size}"
    if engine.pipeline_parallel_size > 1:
        asked += f" x pipeline_parallel_size={engine.pipeline_parallel_size}"
    if not total:
        if wanted > 1:
            raise ConfigError(
                f"{asked} needs GPUs and this cluster has none; set it to 1, or "
                "cluster.num_gpus to those that it can come to"
            )
        return 0.0
    if total < wanted:
        raise ConfigError(
            f"{asked}, but the cluster has {total:g} GPUs; lower it, add nodes, or "
            "set cluster.num_gpus to those that it can come to"
        )
    return float(wanted)
