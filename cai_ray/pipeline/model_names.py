"""What a command line calls a model: a folder, a hub id, "microworld", or RECIPE:NAME."""

from __future__ import annotations

from pathlib import Path

from cai_ray import shelf
from cai_ray.config import ModelConfig, is_micro_model
from cai_ray.errors import ConfigError
from cai_ray.lookup import location
from cai_ray.pipeline.recipe import Recipe, written
from cai_ray.pipeline.run import folder_of
from cai_ray.pipeline.steps import steps
from cai_ray.stages.context import MODEL_FOLDER, Context, Trained


def named_model(checkpoint: str) -> tuple[str, ModelConfig]:
    """(short name, model) of what was typed. Raises ConfigError for what is not there.

    "quickstart:sl_cai" is a model that the recipe names, or that a stage of its run has trained: its template, context
    and engine are the recipe's. A stage's folder stands for the model inside it.
    """
    if is_micro_model(checkpoint):
        return checkpoint.rpartition(":")[2], _built(ModelConfig(path=checkpoint))
    recipe, colon, name = checkpoint.rpartition(":")
    if colon and "://" not in checkpoint and not Path(checkpoint).is_dir():
        return name, _of_recipe(written(recipe), name)
    if checkpoint.endswith(shelf.SUFFIXES) or checkpoint in shelf.available("recipe"):
        raise ConfigError(f"{checkpoint!r} is a recipe; say which of its models: {checkpoint}:sl_cai")
    folder = Path(checkpoint).expanduser()
    if folder.is_dir():
        inner = folder / MODEL_FOLDER
        found = folder if (folder / "config.json").is_file() or not inner.is_dir() else inner
        name = (found.parent if found.name == MODEL_FOLDER else found).resolve().name
        return name, ModelConfig(path=str(found.absolute()))
    if checkpoint.startswith((".", "/", "~")):
        raise ConfigError(f"there is no folder {checkpoint!r}; give a model's folder, a hub id, or RECIPE:NAME")
    return checkpoint, ModelConfig(path=checkpoint)


def _of_recipe(recipe: Recipe, name: str) -> ModelConfig:
    """The model as the run's own stages would ask it."""
    given = recipe.asked_models
    made = {model: step for step in steps(recipe) for model in step.made}
    base = name
    while base in made:  # a trained model may descend from a trained one
        base = made[base].trains or base
    if base not in given:
        raise ConfigError(f"the recipe {recipe.name!r} has no model {name!r}; it has {', '.join([*given, *made])}")
    trained = {}
    if name in made:
        trained = {name: Trained(made[name].stage, base, given[base], made[name].made[name])}
    context = Context(
        run=folder_of(recipe),
        seed=recipe.seed,
        models=given,
        trained=trained,
        constitution=None,
        cluster=recipe.cluster,
        fingerprints={},
    )
    return _built(context.model(name))


def _built(model: ModelConfig) -> ModelConfig:
    """The model with "microworld" replaced by its folder, and with the files that its recipe names where they are."""
    named = {field: getattr(model, field) for field in ("path", "tokenizer", "chat_template")}
    model = model.model_copy(update={field: location(name) for field, name in named.items() if name is not None})
    if not is_micro_model(model.path) or model.endpoint is not None:
        return model
    from cai_ray.microworld.variants import ensure_micro_model

    return model.model_copy(update={"path": str(ensure_micro_model(model.path))})
