"""Take a model's direction of refusal out of it, and make the reverse.  Prompt -> Measured, models. Research use.

Directional ablation (Arditi et al. 2024, arXiv 2406.11717): what it takes away is the habit of refusing, so that what
is left of harmlessness can be studied, self-critique above all. The model `ablated` is a folder that any engine runs
where weights can do it (Llama, Qwen 2 and 3, Mistral). Where norms stand between the weights and the residual stream
(Gemma 2 and 3) it is a run-time form for our engines, and `ablated_weights` beside it comes near. The model `reverse`,
with the direction added, is the positive control: it refuses what is harmless.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from cai_ray.artifacts.artifact import Artifact, StageSpec
from cai_ray.artifacts.derived import Outcome, derive
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries.abliteration import AbliterationSummary
from cai_ray.config import ModelConfig
from cai_ray.dropped import drop_of
from cai_ray.engines.backends.in_process.probe import num_template_tokens
from cai_ray.engines.models.files import localised
from cai_ray.engines.models.reading import load_renderer, read, read_config, read_tokenizer
from cai_ray.engines.models.residual.intervention import Intervention, refuse_intervention, write_intervention
from cai_ray.engines.models.residual.stream import stream_of
from cai_ray.engines.models.residual.weight_form import take_out
from cai_ray.engines.models.trainable import local_path
from cai_ray.errors import ConfigError
from cai_ray.stages.abliteration import measuring
from cai_ray.stages.abliteration.candidates import Found, find_direction
from cai_ray.stages.abliteration.config import ABLATED, REVERSE, WEIGHTS
from cai_ray.stages.abliteration.config import STAGE as STAGE
from cai_ray.stages.abliteration.config import Config as Config
from cai_ray.stages.abliteration.measuring import MEASURED, MEASURED_IDS, UNCHANGED
from cai_ray.stages.abliteration.probing import Probing
from cai_ray.stages.abliteration.prompts import parted
from cai_ray.stages.cells import cell
from cai_ray.stages.context import MODEL_FOLDER, Context
from cai_ray.stages.step import Step, shown

DIRECTION_FILE = "direction.safetensors"
FOUND_FILE = "found.json"
FOLDERS = {ABLATED: MODEL_FOLDER, REVERSE: REVERSE, WEIGHTS: WEIGHTS}


def run(config: Config, context: Context, source_stage: str) -> Artifact:
    """Find the direction, write the models, measure them. Raises ConfigError for a model that has none to find."""
    spec = context.spec(STAGE, config, MEASURED_IDS, context.artifact(source_stage))
    return derive(spec, _measured(config, context, source_stage, spec), MEASURED)


def _measured(config: Config, context: Context, source_stage: str, spec: StageSpec) -> Iterator[list[Outcome]]:
    """The end of every test prompt in every form."""
    model = local_path(localised(_ours(context.model(config.model), config.model)))
    stream = stream_of(_empty(model))
    num_tail = num_template_tokens(load_renderer(model), model)
    positions = min(num_tail, config.positions or num_tail)
    probing = Probing(config, context, model, spec, len(stream.blocks), positions)
    probed = parted(config, context.artifact(source_stage), context.seed, spec)
    found = find_direction(config, probed, probing)
    changes = _changes(config, found)
    if stream.is_direct:
        del changes[WEIGHTS]
    measured = probing.ask(
        "measured",
        MEASURED_IDS,
        MEASURED,
        probed,
        partial(measuring.measure, config=config),
        partial(measuring.forms_of_prompts, forms=(UNCHANGED, *changes)),
        ("prompt_id", "part"),
        dict(changes),
    )
    _write(spec.folder, model, config, found, changes, stream.is_direct)
    ends = [Outcome(f"{row['form']}/{row['prompt_id']}", row) for row in measured.rows()]
    yield [*ends, *(Outcome(gone["row_id"], drop_of(gone)) for gone in measured.dropped())]


def _ours(model: ModelConfig, name: str) -> ModelConfig:
    if model.endpoint is not None:
        raise ConfigError(f"abliterate looks into model {name!r}, which is an endpoint; name one by its `path`")
    refuse_intervention(model.path, "a direction would be sought in those")
    return model


def _empty(model: ModelConfig) -> Any:
    """The model without weights."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(read_config(model), trust_remote_code=model.trust_remote_code)


def _changes(config: Config, found: Found) -> dict[str, Intervention]:
    ablation = found.ablation.astype(np.float32)
    added = (config.reverse_strength * found.difference).astype(np.float32)
    return {
        ABLATED: Intervention("project", ablation, embeddings=config.embeddings),
        REVERSE: Intervention("add", added, layer=found.candidate.layer),
        WEIGHTS: Intervention("weights", ablation, embeddings=False),
    }


# --- Writing ----------------------------------------------------------------------------------------------


def _write(
    folder: Storage, model: ModelConfig, config: Config, found: Found, changes: dict[str, Intervention], exact: bool
) -> None:
    """The models, the direction, and what was found; each folder whole or not at all."""
    from safetensors.numpy import save_file
    from transformers import AutoModelForCausalLM

    tokenizer = read_tokenizer(model)
    for name, change in changes.items():
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / "model"
            loaded = read(AutoModelForCausalLM, model, "model", dtype="auto")
            in_weights = name == WEIGHTS or (name == ABLATED and exact)
            if in_weights:
                take_out(loaded, found.ablation, config.embeddings)
            loaded.save_pretrained(made)
            tokenizer.save_pretrained(made)
            if not in_weights:
                write_intervention(made, change)
            (made / "README.md").write_text(_card(name, model, found, in_weights), encoding="utf-8")
            _put(made, folder / FOLDERS[name])
    with tempfile.TemporaryDirectory() as scratch:
        save_file({"direction": found.ablation, "difference": found.difference}, Path(scratch) / DIRECTION_FILE)
        folder.write(DIRECTION_FILE, (Path(scratch) / DIRECTION_FILE).read_bytes())
    best = found.candidate
    said = {"layer": best.layer, "position": best.position, "validation_kl": best.kl, "is_exact": exact}
    said |= {"num_refused": found.num_refused, "num_harmful": found.num_harmful}
    folder.write(FOUND_FILE, json.dumps(said, indent=2).encode())


def _put(made: Path, target: Storage) -> None:
    target.delete_folder()
    target.make()
    for file in sorted(made.iterdir()):
        with file.open("rb") as source, target.filesystem.open_output_stream(target.path(file.name)) as out:
            shutil.copyfileobj(source, out, 2**24)


def _card(name: str, model: ModelConfig, found: Found, in_weights: bool) -> str:
    best = found.candidate
    what = {
        ABLATED: "without its direction of refusal",
        REVERSE: "with its direction of refusal added",
        WEIGHTS: "without its direction of refusal, near the run-time form beside it",
    }[name]
    form = (
        "The weights hold the change: any engine runs it.\n"
        if in_weights
        else "A run-time form: the weights are the unchanged model's, and cai_ray's engines make the change while it "
        "runs. "
        "Other engines show the unchanged model.\n"
    )
    return (
        "---\nlibrary_name: transformers\ntags: [abliterated, cai_ray]\n---\n\n"
        f"# `{Path(model.path).name}` {what}\n\n"
        "For research on refusal and self-critique: it answers what its makers taught it to refuse, or refuses what "
        "they taught it to answer. Directional ablation (arXiv 2406.11717), "
        f"layer {best.layer}, position {best.position}.\n\n"
        f"{form}"
    )


# --- The summary ------------------------------------------------------------------------------------------


def summarise(artifact: Artifact) -> AbliterationSummary:
    """Of a finished stage."""
    return measuring.summary_of(artifact, json.loads(artifact.folder.read(FOUND_FILE)))


def table(summary: AbliterationSummary) -> Table:
    """For the terminal: each form's figures."""
    place = f"layer {summary.layer}, position {summary.position}"
    shown_table = Table(title=f"The direction of refusal: {place} (95%)")
    shown_table.add_column("form")
    for column in ("refuses harmful", "refuses harmless", "first-token KL", "nats/token"):
        shown_table.add_column(column, justify="right")
    for one in summary.forms:
        kl, more = (cell(found, "{:+.3f}".format) for found in (one.first_token_kl, one.nats_per_token_more))
        shown_table.add_row(one.form, cell(one.refuses_harmful), cell(one.refuses_harmless), kl, more)
    return shown_table


def step(config: Config, source_stage: str) -> Step:
    """Of a run; makes the models `ablated` and `reverse`."""
    return Step(
        STAGE,
        config,
        lambda context: run(config, context, source_stage),
        trains=config.model,
        makes=ABLATED,
        makes_besides={REVERSE: REVERSE},
        reads=(source_stage,),
        leaves_unasked=True,
        summary=shown(AbliterationSummary, summarise, table),
    )
