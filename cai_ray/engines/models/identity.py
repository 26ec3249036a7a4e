"""What a model *is*, beside its settings: the content of its folder, tokenizer and template, the hub's commit, and the
engine arguments that change what it answers (guarantee G4).
"""

from __future__ import annotations

import json
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.fs as pafs

from cai_ray.artifacts.identity import Input, contents, file_identity, hub_commit, named
from cai_ray.artifacts.storage import Storage, is_uri
from cai_ray.config import EngineConfig, ModelConfig
from cai_ray.engines.models.export import NOT_MODEL
from cai_ray.engines.models.setup.adapters import base_of, is_adapter
from cai_ray.lookup import location

# In a model's folder and none of its business: words for people, and states of the training that made it.
NOT_READ = (".*", "*.md", "LICENSE*", "NOTICE*", "*.lock", "events.out.tfevents.*", *NOT_MODEL)
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack")
# Folders in a model's folder that are read with it: of sentence encoders, and further chat templates.
PARTS = ("[0-9]_*", "additional_chat_templates")
# vLLM's arguments that change speed, memory or what is told, and no answer. What is not here counts as deciding.
SPEED_ONLY = frozenset(
    {
        *("aggregate_engine_logging", "async_scheduling", "block_size", "collect_detailed_traces"),
        *("compilation_config", "cpu_distributed_timeout_seconds", "cpu_offload_gb", "cpu_offload_params"),
        *("cudagraph_capture_sizes", "cudagraph_metrics", "device_ids", "disable_chunked_mm_input"),
        *("disable_custom_all_reduce", "disable_hybrid_kv_cache_manager", "disable_log_stats", "download_dir"),
        *("distributed_executor_backend", "distributed_timeout_seconds", "enable_chunked_prefill"),
        *("enable_expert_parallel", "enable_log_requests", "enable_logging_iteration_details"),
        *("enable_mfu_metrics", "enable_prefix_caching", "enforce_eager", "gpu_memory_utilization"),
        *("kv_cache_memory_bytes", "kv_cache_metrics", "kv_cache_metrics_sample", "kv_events_config"),
        *("kv_offloading_backend", "kv_offloading_size", "log_config_file", "log_level", "logging_config"),
        *("long_prefill_token_threshold", "master_addr", "master_port", "max_cudagraph_capture_size"),
        *("max_logprobs", "max_num_active_seqs", "max_num_batched_tokens", "max_num_queued_reqs"),
        *("max_num_queued_tokens", "max_num_scheduled_tokens", "max_num_seqs", "max_parallel_loading_workers"),
        *("nnodes", "node_rank", "num_gpu_blocks_override", "numa_bind", "numa_bind_cpus", "numa_bind_nodes"),
        *("offload_backend", "offload_group_size", "offload_num_in_group", "offload_params"),
        *("offload_prefetch_step", "otlp_traces_endpoint", "pipeline_parallel_size", "prefix_caching_hash_algo"),
        *("profiler_config", "ray_workers_use_nsight", "safetensors_load_strategy", "scheduler_reserve_full_isl"),
        *("safetensors_prefetch_block_size", "safetensors_prefetch_num_threads", "scheduling_policy"),
        *("served_model_name", "show_hidden_metrics_for_version", "shutdown_timeout", "stream_interval"),
        *("tensor_parallel_size", "use_tqdm_on_load", "weight_transfer_config"),
    }
)


def model_contents(name: str, model: ModelConfig) -> dict[str, str]:
    """Readable name -> identity of everything behind the recipe's model `name`; nothing of an endpoint.

    Raises ConfigError for a template or an adapter's base that is not there, OSError for a file that cannot be read.
    """
    if model.endpoint is not None:
        return {}
    found = _folder(model.path, model.revision, f"model {name}")
    base = _adapted(model.path)
    if base is not None:
        found |= _folder(base, None, f"base of the adapter {name}")
    if model.tokenizer is not None:
        found |= _folder(model.tokenizer, model.revision, f"tokenizer of {name}", WEIGHTS)
    if model.chat_template is not None:
        found |= contents(Input(model.chat_template, f"chat template of {name}"))
    return found


def reader_contents(path: str, purpose: str) -> dict[str, str]:
    """Of a model that lends its config and tokenizer, and not its weights."""
    return _folder(path, None, purpose, WEIGHTS)


def engine_contents(name: str, engine: EngineConfig) -> dict[str, str]:
    """The arguments in `engine.extra` that change answers, by name; their values as JSON."""
    return {
        named(f"engine.extra.{key}", f"model {name}"): json.dumps(value, sort_keys=True, default=str)
        for key, value in engine.extra.items()
        if key not in SPEED_ONLY
    }


def folder_files(path: str) -> tuple[Any, dict[str, str]]:
    """(filesystem, name -> path there) of the files that make the model in this folder or at this URI."""
    storage = Storage(path)
    places = [("", storage.path()), *((f"{part}/", storage.path(part)) for part in storage.folders() if _is_part(part))]
    found = {}
    for prefix, place in places:
        for info in storage.filesystem.get_file_info(pafs.FileSelector(place)):
            file = PurePosixPath(info.path).name
            if info.is_file and not _matches(file, NOT_READ):
                found[prefix + file] = info.path
    return storage.filesystem, dict(sorted(found.items()))


def _folder(path: str, revision: str | None, purpose: str, left_out: tuple[str, ...] = ()) -> dict[str, str]:
    path = location(path)
    if not _is_place(path):
        return {named(path, purpose): hub_commit(path, "model", revision)}
    filesystem, files = folder_files(path)
    return {
        named(file, purpose): file_identity(filesystem, place)
        for file, place in files.items()
        if not _matches(file, left_out)
    }


def _is_place(path: str) -> bool:
    """Whether this is a folder or a URI, and no hub id."""
    return is_uri(path) or Path(path).expanduser().is_dir()


def _adapted(path: str) -> str | None:
    """The model that the adapter in this local folder was trained on; None for a whole model. Raises ConfigError."""
    folder = Path(location(path)).expanduser()
    return base_of(folder) if is_adapter(folder) else None


def _is_part(folder: str) -> bool:
    return _matches(folder, PARTS)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
