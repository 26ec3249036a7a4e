"""All stages of a recipe in order, before any is started; what is finished already is shown as it was measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cai_ray.artifacts.artifact import Artifact, Manifest, find
from cai_ray.artifacts.counters import CACHED_TOKENS, EPISODES, OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS
from cai_ray.artifacts.storage import Storage
from cai_ray.fingerprint import settings
from cai_ray.pipeline.recipe import Recipe
from cai_ray.pipeline.run import constitution_of
from cai_ray.pipeline.steps import steps
from cai_ray.planning.devices import Hardware
from cai_ray.planning.planners import PLANNERS
from cai_ray.planning.stand_in_engine import NO_USE, Usages
from cai_ray.planning.tokens import CHARACTERS_PER_TOKEN, mean_tokens
from cai_ray.planning.work import StagePlan
from cai_ray.planning.world import PlannedModel, World, of_artifact, world_of
from cai_ray.stages.revision import revise
from cai_ray.stages.step import Step

# What is counted, and never a fraction of.
COUNTS = frozenset(
    {"rows_in", "rows_out", "requests", "prompt_tokens", "cached_tokens", "output_tokens", "trained_tokens"}
)


@dataclass(frozen=True)
class Measured:
    """What a finished stage took."""

    rows_in: int
    rows_out: int
    used: Usages
    seconds: float


@dataclass(frozen=True)
class PlannedStage:
    """One line of the plan."""

    planned: StagePlan
    measured: Measured | None  # the stage is finished


@dataclass(frozen=True)
class RunPlan:
    """The whole run."""

    hardware: Hardware
    stages: tuple[PlannedStage, ...]
    assumptions: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Every stage that is left fits into the memory of the hardware, and finds as many devices as it wants."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        found = []
        for stage in self.stages:
            work, memory = stage.planned.work, stage.planned.work.memory
            if stage.measured is not None:
                continue
            if work.num_devices > self.hardware.num_devices and self.hardware.device.is_gpu:
                found.append(
                    f"{stage.planned.stage} wants {work.num_devices} GPUs, there are {self.hardware.num_devices}"
                )
            if memory is not None and not memory.fits:
                found.append(
                    f"{stage.planned.stage} needs {memory.needed_gib:,.0f} GiB on a device that has "
                    f"{memory.have_gib:,.0f} ({memory.what})"
                )
        return found


def plan(recipe: Recipe, hardware: Hardware, use_finished: bool = True) -> RunPlan:
    """Plan every stage. Launches nothing, downloads nothing, writes nothing. Raises ConfigError.

    `use_finished`: stages that the run has finished under these settings give their own rows and lengths to those
    after them; False plans as if nothing were there.
    """
    all_steps = steps(recipe)
    constitution = constitution_of(recipe) if any(step.needs_constitution for step in all_steps) else None
    world = world_of(recipe, hardware, constitution)
    run = Storage(recipe.output) / recipe.name
    stages = []
    for step in all_steps:
        planned = PLANNERS[step.stage](step, world)
        artifact = _finished(run, step) if use_finished else None
        if artifact is not None:
            _learn(artifact, step, world)
        stages.append(PlannedStage(planned, None if artifact is None else _measured(artifact)))
    return RunPlan(hardware, tuple(stages), tuple(_assumptions(world)))


def _finished(run: Storage, step: Step) -> Artifact | None:
    """The stage's output, when it is there and of these settings."""
    artifact = find(run / step.stage)
    return artifact if artifact is not None and artifact.manifest.config == settings(step.config) else None


def _measured(artifact: Artifact) -> Measured:
    manifest = artifact.manifest
    own = _used(manifest)
    used = own if own.requests else sum((_used(found.manifest) for found in _artifacts_in(artifact.folder)), NO_USE)
    return Measured(manifest.rows_in, manifest.rows_out, used, manifest.duration_s)


def _used(manifest: Manifest) -> Usages:
    counted = manifest.counters
    requests = counted.get(REQUESTS, counted.get(EPISODES, 0))
    tokens = (counted.get(kind, 0) for kind in (PROMPT_TOKENS, CACHED_TOKENS, OUTPUT_TOKENS))
    return Usages(float(requests), *map(float, tokens))


def _artifacts_in(folder: Storage) -> Iterator[Artifact]:
    """The artifacts within a stage's own: what it asked of each model."""
    for name in folder.folders():
        inner = find(folder / name)
        yield from [inner] if inner is not None else _artifacts_in(folder / name)


def _learn(artifact: Artifact, step: Step, world: World) -> None:
    """Later stages are planned from this stage's rows and the lengths of its replies."""
    if step.stage in world.written:
        world.written[step.stage] = of_artifact(artifact)
    if step.stage == revise.STAGE and isinstance(step.config, revise.Config):
        rows = world.written[step.stage].rows
        texts = {
            "answer": [row["initial_response"] for row in rows],
            "critique": [one["critique"] for row in rows for one in row["revisions"] if one["critique"]],
            "revision": [one["revision"] for row in rows for one in row["revisions"]],
        }
        renderer = world.model(step.config.model).counter.renderer
        known = {kind: mean_tokens(renderer, found) for kind, found in texts.items() if found}
        lengths = world.model(step.config.model).counter.lengths
        world.measured(step.config.model, {**lengths.known, **known})


def _assumptions(world: World) -> list[str]:
    """What the numbers rest on, in the order a reader needs it."""
    hardware, assumed = world.hardware, world.hardware.assumptions
    device = hardware.device
    lines = []
    if device.is_gpu:
        lines.append(
            f"{device.name}: {device.memory_gib:g} GiB, {device.bf16_tflops:g} TFLOP/s bf16, "
            f"{device.bandwidth_tb_s:g} TB/s, ${device.dollars_per_hour:g}/h (--price); all "
            f"{hardware.num_devices} are paid for while a stage runs"
        )
        lines.append(
            f"vLLM writes {assumed.anchor_output_tokens_per_s:,.0f} tokens/s with 8B parameters on one H100, scaled by "
            f"parameters and bandwidth; prompts are read at {assumed.prefill_mfu:.0%} of peak FLOPs; "
            f"{assumed.engine_start_s:g} s to start engines"
        )
    else:
        lines.append(
            f"a CPU engine writes at most {assumed.cpu_output_tokens_per_s:,.0f} tokens/s (micro model, two cores), "
            f"{device.bf16_tflops * 1000:g} GFLOP/s in all; {assumed.cpu_start_s:g} s to start an engine or training"
        )
    lines.append(
        f"training: 6 FLOPs per parameter and token (adapters 4, checkpointed activations 2 more) at "
        f"{assumed.train_mfu:.0%} of peak; 16 bytes of states per parameter, sharded as zero_stage says"
    )
    said: dict[str, list[str]] = {}
    for name in [name for name in world.models if name in world.used]:
        model = world.models[name]
        said.setdefault(_about(model), []).append(name)
    lines += [f"{', '.join(names)}: {about}" for about, names in said.items()]
    return [*lines, "no row is dropped for what it says; the prefix cache never runs full", *world.notes]


def _about(model: PlannedModel) -> str:
    lengths = model.counter.lengths
    tokens = "its own tokenizer" if model.counter.is_exact else f"{CHARACTERS_PER_TOKEN} characters a token"
    known = [f"{kind} {value:.0f}" for kind, value in lengths.known.items()]
    shares = [
        f"{kind} {share:.0%}"
        for kind, share in lengths.shares.items()
        if kind not in lengths.known and (kind != "thinking" or model.config.thinking is not None)
    ]
    replies = [
        *([f"{', '.join(known)} tokens ({lengths.source})"] if known else []),
        *([f"{', '.join(shares)} of max_tokens"] if shares and "answer" not in lengths.known else []),
    ]
    where = f"{model.shape.params / 1e9:,.3g}B" if model.config.endpoint is None else "asked at its endpoint, free here"
    return f"{where}, {tokens}; replies: {'; '.join(replies)}"


# --- Showing ---------------------------------------------------------------------------------------------


def as_json(made: RunPlan) -> dict[str, Any]:
    """For programs."""
    return {
        "hardware": made.hardware.label,
        "fits": made.fits,
        "problems": made.problems,
        "stages": [_whole(asdict(stage)) for stage in made.stages],
        "assumptions": list(made.assumptions),
    }


def _whole(value: Any) -> Any:
    """Rows, requests and tokens as whole numbers: a sample stands for shares of them."""
    if isinstance(value, dict):
        return {key: round(part) if key in COUNTS else _whole(part) for key, part in value.items()}
    return value


def show(made: RunPlan, console: Console) -> None:
    """Rows and tokens, time and cost, what does not fit, and the assumptions; 80 columns wide."""
    console.print(_table_of_tokens(made))
    console.print(_table_of_work(made))
    for problem in made.problems:
        console.print(f"does not fit: {problem}", style="bold red", soft_wrap=True, markup=False)
    console.print("Assumptions:")
    for line in made.assumptions:
        console.print(f"  - {line}", highlight=False, markup=False, soft_wrap=True)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    return table


def _table_of_tokens(made: RunPlan) -> Table:
    names = ("in", "out", "asks", "prompt", "cached", "output", "trained")
    table = _table(f"Rows and tokens, plan on {made.hardware.label}", "stage", *names)
    for stage in made.stages:
        planned, measured = stage.planned, stage.measured
        used = measured.used if measured else planned.used
        rows = (measured.rows_in, measured.rows_out) if measured else (planned.rows_in, planned.rows_out)
        counts = (used.requests, used.prompt_tokens, used.cached_tokens, used.output_tokens, planned.trained_tokens)
        table.add_row(planned.stage, *(f"{round(n):,}" for n in rows), *(_short(n) for n in counts))
    return table


def _table_of_work(made: RunPlan) -> Table:
    hardware, on_gpus = made.hardware, made.hardware.device.is_gpu
    more = ("GPUs", "GPU-h", "cost", "fullest GPU") if on_gpus else ()
    table = _table("Time and cost" if on_gpus else "Time", "stage", "time", *more)
    for stage in made.stages:
        work = stage.planned.work
        if stage.measured is not None:
            table.add_row(stage.planned.stage, f"done in {_time(stage.measured.seconds)}")
            continue
        cells = [stage.planned.stage, _time(work.seconds)]
        if on_gpus:
            memory = "" if work.memory is None else f"{work.memory.needed_gib:,.0f} of {work.memory.have_gib:,.0f} GiB"
            cells += [str(work.num_devices), *_price(work.seconds, hardware), memory]
        table.add_row(*cells)
    left = sum(stage.planned.work.seconds for stage in made.stages if stage.measured is None)
    table.add_section()
    table.add_row("to do", _time(left), *(("", *_price(left, hardware), "") if on_gpus else ()), style="bold")
    return table


def _short(number: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}" if number else ""


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _price(seconds: float, hardware: Hardware) -> tuple[str, str]:
    """GPU-hours and dollars of the whole cluster for so long."""
    hours = seconds / 3600 * hardware.num_devices
    return f"{hours:,.1f}", f"${hours * hardware.device.dollars_per_hour:,.0f}"
