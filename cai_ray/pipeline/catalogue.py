"""The recipes and ablations that come along: a line on each, and a copy to edit."""

from __future__ import annotations

import re
from pathlib import Path

from cai_ray import shelf
from cai_ray.config import Config, ModelConfig
from cai_ray.errors import ConfigError
from cai_ray.pipeline.ablations import load_ablation
from cai_ray.pipeline.recipe import Recipe, written


class RecipeLine(Config):
    """One recipe, for a person who chooses."""

    name: str
    what: str  # the first sentence of its comment
    models: tuple[str, ...]  # hub ids, folders, or the names that servers know
    prompts: str  # how many, or "all" of its files; "-": it has none
    rounds: int  # of revision; 0: it revises nothing


class AblationLine(Config):
    """One ablation."""

    name: str
    question: str
    variants: tuple[str, ...]


def recipe_lines() -> list[RecipeLine]:
    """Every recipe that comes along, by name."""
    return [_recipe_line(name, file) for name, file in sorted(shelf.available("recipe").items())]


def ablation_lines() -> list[AblationLine]:
    """Every ablation that comes along, by name."""
    loaded = [load_ablation(file) for _, file in sorted(shelf.available("ablation").items())]
    return [AblationLine(name=one.name, question=one.question, variants=tuple(one.variants)) for one in loaded]


def copy(name: str, to: Path | None = None) -> Path:
    """Write a recipe or an ablation that comes along to a file (default <name>.yaml here), and say where.

    Raises ConfigError for a name that is none, and for a file that is there already or cannot be written.
    """
    kinds: tuple[shelf.Kind, ...] = ("recipe", "ablation", "study")
    found = next((there for kind in kinds if (there := shelf.available(kind).get(name))), None)
    if found is None:
        raise ConfigError(f"no recipe is called {name!r}; {shelf.advice('recipe', name)}")
    target = to or Path()
    target = target / found.name if target.is_dir() else target
    try:
        with target.open("xb") as file:
            file.write(found.read_bytes())
    except FileExistsError:
        raise ConfigError(f"{target} is there already; name another file: cai-ray recipes copy {name} FILE") from None
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    return target


def _recipe_line(name: str, file: Path) -> RecipeLine:
    recipe = written(file)
    models = tuple(dict.fromkeys(_name_of(model) for model in recipe.models.values()))
    return RecipeLine(
        name=name,
        what=_first_sentence(file),
        models=models,
        prompts=_prompts(recipe),
        rounds=recipe.revise.num_revisions if recipe.revise is not None else 0,
    )


def _name_of(model: ModelConfig) -> str:
    return model.path if model.endpoint is None else model.endpoint.model


def _first_sentence(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in lines[: _end_of_comment(lines)])
    return re.split(r"(?<=\.)\s", comment, maxsplit=1)[0]


def _end_of_comment(lines: list[str]) -> int:
    return next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))


def _prompts(recipe: Recipe) -> str:
    config = recipe.prompts or (recipe.ppo.prompts if recipe.ppo is not None else None)
    if config is None:
        return "-"
    counts = [source.num_prompts if source.path == "microworld" else source.limit for source in config.all_sources()]
    known = [count for count in counts if count is not None]
    return f"{sum(known):,}" if len(known) == len(counts) else "all"
