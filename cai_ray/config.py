"""Configs that several stages share. Frozen pydantic, unknown keys are errors, every field has a unit."""

from __future__ import annotations

import datetime
import re
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from cai_ray.lookup import InputFile, InputFolder

MICROWORLD = "microworld"  # in place of a path: prompts, pairs or the model of the micro world
# What becomes of a system message: kept, folded into the first user turn, or dropped; "auto": as the template can.
SystemRole = Literal["auto", "native", "fold", "drop"]

# What rendering hands to a chat template itself.
RENDERED_BY_US = frozenset(
    {
        "messages", "conversation", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message",
        "strftime_now", "return_tensors", "return_dict",
    }
)  # fmt: skip


_VALUE = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL = re.compile(rf"(?:[A-Za-z0-9][A-Za-z0-9.-]{{0,252}}/)?{_VALUE}")
_SELECTED = re.compile(rf"!?(?:{_VALUE}|in\({_VALUE}(?:, ?{_VALUE})*\))")


def is_micro_model(path: str) -> bool:
    """Whether a model's path stands for the micro model or a variant of it."""
    return path == MICROWORLD or path.startswith(f"{MICROWORLD}:")


class Config(BaseModel):
    """Base of every config: immutable, and an unknown key is an error, never silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Throughput(Config):
    """Base of configs that change speed and never results; they stay out of fingerprints (G4)."""


class SamplingConfig(Config):
    """How one request samples. Log-probabilities are nats.

    Where a recipe does not say it, all but `max_tokens` and `stop` come from the model's generation_config.json
    (pipeline/model_sampling.py); the defaults here are for models that have nothing to say.
    """

    temperature: float = Field(1.0, ge=0.0, le=5.0, description="0 is greedy. The paper samples at 1.")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Nucleus mass; below 1 costs 1.5-2.5x on CPU.")
    top_k: int = Field(0, ge=0, description="Keep the k most likely tokens; 0 keeps all.")
    min_p: float = Field(
        0.0, ge=0.0, le=1.0, description="Least probability, as a share of the likeliest token's; 0 keeps all."
    )
    repetition_penalty: float = Field(1.0, gt=0.0, description="Of tokens that were there before; 1 is none.")
    max_tokens: int = Field(256, ge=1, description="Most new tokens per answer.")
    stop: tuple[str, ...] = Field((), description="Strings that end an answer; not part of it.")


class ThinkingConfig(Config):
    """A reasoning model: its thinking is split off, has a budget of its own, is never scored or fed back."""

    open: str = Field("<think>", min_length=1)
    close: str = Field("</think>", min_length=1)
    max_tokens: int = Field(1024, ge=1, description="Most thinking tokens per answer; then it is closed for the model.")
    opened_by_template: bool = Field(
        False, description="The chat template's generation prompt already ends in `open` (R1-Distill does)."
    )


class Price(Throughput):
    """What a server asks, dollars per million tokens."""

    prompt: float = Field(0.0, ge=0)
    cached: float | None = Field(None, ge=0, description="Of prompt tokens from its cache; null: as any other.")
    output: float = Field(0.0, ge=0)

    def microdollars(self, num_prompt: int, num_cached: int, num_output: int) -> int:
        """What these tokens cost; `num_cached` of the prompt tokens came from the cache."""
        cached = self.prompt if self.cached is None else self.cached
        return round((num_prompt - num_cached) * self.prompt + num_cached * cached + num_output * self.output)


class Limits(Throughput):
    """What may be spent. Reached, a run ends with exit code 4 and keeps what is done; a resume with more goes on."""

    tokens: int | None = Field(None, ge=1, description="Prompt and answer tokens of all requests.")
    dollars: float | None = Field(None, gt=0, description="Of servers with a `price`.")
    hours: float | None = Field(None, gt=0, description="Of work, over all attempts.")


class BatchConfig(Throughput):
    """Requests by provider batch files, in OpenAI's form (/v1/files, /v1/batches)."""

    requests: int = Field(
        10_000, ge=1, le=50_000, description="Most in one batch; so many rows are open at once, and pass a limit."
    )
    gather_s: float = Field(5.0, gt=0, description="A batch goes when no further request has come for so long.")
    poll_s: float = Field(60.0, gt=0, description="Between two questions whether it is done.")
    window: str = Field("24h", min_length=1, description="The provider's completion window.")
    most_hours: float = Field(48.0, gt=0, description="Longer, and the run ends with exit code 75 and goes on later.")


class EndpointConfig(Config):
    """An OpenAI-compatible server."""

    base_url: str = Field(description="For example http://127.0.0.1:8000/v1")
    model: str = Field(description="The model name the server knows.")
    price: Price | None = Field(
        None, exclude_if=lambda price: price is None, description="Counts what requests cost, for limits.dollars."
    )
    batch: BatchConfig | None = Field(
        None,
        exclude_if=lambda batch: batch is None,
        description="Ask by batch files, hours later and for less; {} with the defaults. null: request by request.",
    )
    api_key_env: str | None = Field(None, description="NAME of the environment variable that holds the key.")
    headers_env: dict[str, str] = Field(
        default_factory=dict,
        exclude_if=lambda headers: not headers,  # servers from before there were any are the same servers
        description="Header -> NAME of the environment variable that holds its value.",
    )
    extra_body: dict[str, Any] = Field(
        default_factory=dict,
        exclude_if=lambda body: not body,
        description="Goes into every request as it is, for what only this server knows: {reasoning_effort: low}.",
    )
    max_retries: int = Field(5, ge=0, le=20, description="Retries per request, with exponential back-off.")
    timeout_s: float = Field(120.0, gt=0)
    max_concurrency: int = Field(64, ge=1, description="Requests in flight per worker.")
    parameters: dict[str, str | None] = Field(
        default_factory=dict,
        description="The server's names of parameters: {max_tokens: max_completion_tokens}; null: left out.",
    )

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        if not re.match(r"https?://[^/\s]", url):
            raise ValueError(f"{url!r} does not begin with http:// or https:// and a host")
        return url


class EngineConfig(Throughput):
    """One inference engine. Changes speed and memory, not results."""

    max_num_seqs: int = Field(256, ge=1, description="Sequences that decode together.")
    max_num_batched_tokens: int = Field(8192, ge=64, description="Tokens per engine step.")
    block_size: int = Field(32, ge=1, description="KV-cache block, tokens; small blocks cache more of a prefix.")
    kv_cache_gib: float = Field(1.0, gt=0, description="KV cache on CPU, GiB per engine.")
    cpu_threads: int | None = Field(
        None, ge=1, description="Threads of a CPU engine; null: one for weights under 256 MB, else every core."
    )
    num_kv_blocks: int | None = Field(
        None, ge=1, description="Fix the KV cache to this many blocks (tests, benchmarks)."
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1.0, description="Share of GPU memory for weights and KV cache."
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs of one node that share each layer.")
    pipeline_parallel_size: int = Field(
        1,
        ge=1,
        description="Parts of the layers, each on as many GPUs, over nodes; not for PPO or `serve`.",
    )
    prefix_caching: bool = True
    enforce_eager: bool | None = Field(None, description="Skip graph capture; null: yes on CPU, no on GPU.")
    rows_in_flight: int | None = Field(
        None, ge=1, description="Conversations open per engine; null: min(1.1 x max_num_seqs, what the KV cache holds)."
    )
    row_time_limit_s: float = Field(1800.0, gt=0, description="One conversation's time, engine restarts not counted.")
    stall_limit_s: float = Field(600.0, gt=0, description="No request finished for so long: the engine hangs.")
    start_limit_s: float = Field(1200.0, gt=0, description="An engine must be up by then.")
    max_restarts: int = Field(16, ge=0, description="Engine restarts per actor before the stage gives up.")
    export_metrics: bool = Field(False, description="vLLM's own metrics on Ray's metrics ports, as `ray_vllm_...`.")
    extra: dict[str, Any] = Field(default_factory=dict, description="Further vLLM engine arguments, by vLLM's names.")

    @property
    def num_gpus(self) -> int:
        """Of one engine, where there are any."""
        return self.tensor_parallel_size * self.pipeline_parallel_size


class Placement(Throughput):
    """On which nodes something runs, by their labels (`ray start --labels market=spot`)."""

    labels: dict[str, str] = Field(
        default_factory=dict,
        description='Only on nodes with these labels: {market: spot, gpu: "in(A100,H100)", zone: "!eu"}; {}: on all.',
    )
    fallback: tuple[dict[str, str], ...] = Field(
        (), description="Where no node has `labels`: the first of these that some node has; [{market: on-demand}, {}]."
    )

    @field_validator("labels", "fallback")
    @classmethod
    def _are_selectors(cls, given: Any) -> Any:
        for selector in [given] if isinstance(given, dict) else given:
            for label, value in selector.items():
                if not _LABEL.fullmatch(label) or not _SELECTED.fullmatch(value):
                    raise ValueError(
                        f"{label}: {value!r} selects no label; write a value, !value, in(one,other) or !in(one,other) "
                        "of letters, digits, dots, dashes and underscores, at most 63"
                    )
        return given

    @model_validator(mode="after")
    def _has_a_first_choice(self) -> Self:
        if self.fallback and not self.labels:
            raise ValueError("fallback is given without labels, which come first; move its first entry there")
        return self


class ScalingConfig(Placement):
    """How a stage spreads over the cluster. Changes speed, not results."""

    min_engines: int = Field(1, ge=1)
    max_engines: int = Field(1, ge=1, description="Ray Data grows the pool up to here while work waits.")
    cpus_per_engine: float = Field(1.0, ge=0, description="Logical CPUs reserved per engine.")
    rows_per_task: int = Field(32, ge=1, description="Rows handed to an engine at a time.")
    rows_per_part: int = Field(
        256, ge=1, description="Rows per committed file: what a crash can cost at most, per part."
    )
    max_actor_restarts: int = Field(4, ge=0, description="Restarts of a lost engine actor (node loss).")

    @model_validator(mode="after")
    def _ordered(self) -> ScalingConfig:
        if self.max_engines < self.min_engines:
            raise ValueError(f"max_engines={self.max_engines} is below min_engines={self.min_engines}; raise it")
        return self


class ModelConfig(Config):
    """A model to ask: weights for vLLM, or an endpoint."""

    path: InputFolder = Field(MICROWORLD, description='Local folder, hub id, "microworld", "microworld:refusing".')
    revision: str | None = Field(None, description="Hub revision.")
    tokenizer: InputFolder | None = Field(None, description="Folder or hub id, when it is not the model's own.")
    chat_template: InputFile | None = Field(None, description="A Jinja file, in place of the tokenizer's template.")
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Variables of the chat template, for example {enable_thinking: false}."
    )
    template_date: datetime.date | None = Field(
        None, description="Today, for a chat template that shows a date; null: the day that the run was begun."
    )
    format: Literal["chat", "transcript"] = Field(
        "chat", description='"transcript": base-model prompting, "Human: ... Assistant:".'
    )
    system_role: SystemRole = Field(
        "auto", description='"fold": into the first user turn; "auto": fold when the template has no system role.'
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = Field(None, ge=16, description="Context, tokens; null: the model's own.")
    trust_remote_code: bool = False
    thinking: ThinkingConfig | None = None
    endpoint: EndpointConfig | None = Field(None, description="Ask this server; `path` is then not loaded.")
    engine: EngineConfig = EngineConfig()

    @field_validator("chat_template_kwargs")
    @classmethod
    def _are_free(cls, given: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(given.keys() & RENDERED_BY_US):
            raise ValueError(
                f"chat_template_kwargs names {', '.join(taken)}, which rendering sets itself; leave it out "
                "(a template of your own: chat_template; a date: template_date)"
            )
        return given


class OptimConfig(Config):
    """How weights are updated. A step is one optimiser update over `batch_size` examples, however they are spread."""

    learning_rate: float = Field(1e-5, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="After the warm-up.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up from zero.")
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this L2 norm.")
    batch_size: int = Field(32, ge=1, description="Examples (or pairs) per step, over all workers.")
    epochs: float = Field(1.0, gt=0, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Stop after so many steps, whatever `epochs` says.")


class LoraConfig(Config):
    """Low-rank adapters in place of full fine-tuning; merged into the weights when the model is saved."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0, description="The adapters' output is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = Field((), description="Names of linear layers; empty: all of them.")


class WorkersConfig(Placement):
    """How training spreads over the cluster. Changes speed and memory, not results."""

    num_workers: int = Field(1, ge=1, description="Ray Train workers; one GPU each where there are GPUs.")
    cpus_per_worker: float = Field(1.0, gt=0, description="Logical CPUs reserved per worker.")
    threads: int | None = Field(None, ge=1, description="Torch threads of a CPU worker; null: cores / num_workers.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Examples per pass and worker; null: at most 16, on CPUs 1 if weights have >= 256 MiB."
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(2, description="What DeepSpeed shards: +optimiser, +gradients, +weights.")
    offload_optimizer: bool = Field(False, description="Optimiser states in CPU memory (ZeRO 1-3).")
    offload_weights: bool = Field(False, description="Weights in CPU memory (ZeRO 3).")
    gradient_checkpointing: bool = False
    max_failures: int = Field(2, ge=0, description="Lost workers or nodes before the stage gives up.")
    steps_per_checkpoint: int = Field(50, ge=1)
    keep_checkpoints: int = Field(2, ge=2, description="Older ones are deleted; two, so that one may be damaged.")
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="Metrics go to metrics.jsonl always, and here too; samples of PPO and the report as well."
    )


class ProofConfig(Throughput):
    """Before and while a model is trained, it is compared with the engine that samples from it. Changes no results.

    `proof: off` in a recipe is `sequences: 0`.
    """

    sequences: int = Field(4, ge=0, description="Answers compared; 0: none, and a learner that errs goes unseen.")
    tolerance: float | None = Field(
        None,
        gt=0,
        description="Nats per token, on average, and after a weight sync of the worst; null: 0.001 in float32, in "
        "half precision 0.1, and 0.5 of the worst.",
    )

    @model_validator(mode="before")
    @classmethod
    def _switch(cls, given: Any) -> Any:
        """YAML reads `off` as false."""
        return {"sequences": 0} if given is False or given == "off" else given


class StageConfig(Config):
    """Base of every stage's section in a recipe."""

    limits: Limits | None = Field(
        None, exclude_if=lambda limits: limits is None, description="Of this stage, besides those of the run."
    )

    max_dropped_fraction: float = Field(
        0.2, ge=0.0, le=1.0, description="More dropped rows than this share of the input: exit code 3."
    )
