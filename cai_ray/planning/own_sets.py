"""Sets of pairs and examples from outside the run, for a plan: read where they are here, else made up.

Tested in tests/planning/test_own_sets.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

from cai_ray.artifacts.derived import Outcome
from cai_ray.chat import Message
from cai_ray.errors import ConfigError
from cai_ray.planning.stand_in_engine import Sample
from cai_ray.planning.world import World, stratified
from cai_ray.prompt_layouts.pairs import ParsedPair
from cai_ray.stages.preferences import load_pairs
from cai_ray.stages.preferences.comparisons import Comparison, PairOptions, comparisons
from cai_ray.stages.preferences.pair_sources import (
    HelpfulPairsConfig,
    PairSetConfig,
    PairSource,
    PreferenceSetConfig,
)
from cai_ray.stages.supervised.own_examples import ExampleSetConfig, own_examples

MADE_UP = 32  # rows of a set that is not here


def preference_set(source: HelpfulPairsConfig, world: World) -> Sample:
    """A set to learn from, each pair in `comparison`."""
    is_own = isinstance(source, PreferenceSetConfig)
    options = PairOptions(preferences=(source,)) if is_own else PairOptions(helpful_pairs=(source,))
    found = ({"comparison": one} for one in comparisons(options, [], world.recipe.seed))
    return _sample(source, found, lambda k: {"comparison": _comparison(source, world, k)}, world, num_answers=2)


def pairs_to_label(config: load_pairs.Config, world: World) -> Sample:
    """Rows of PAIR of every set."""
    samples = [_pairs(source, world) for source in config.sources]
    return Sample([row for one in samples for row in one.rows], [each for one in samples for each in one.weights])


def examples_of(source: ExampleSetConfig, eval_fraction: float, world: World) -> Sample:
    """A set of examples, each in `made`, an Outcome."""
    found = ({"made": one} for one in own_examples([source], eval_fraction, frozenset(), world.recipe.seed))

    def made_up(number: int) -> dict[str, Any]:
        asked, told = _texts(world, number, num_answers=1)
        messages = [*asked, {"role": "assistant", "content": told}]
        split = "train" if source.split == "train" else "eval"
        return {"made": Outcome(str(number), {"messages": messages, "weight": source.weight, "split": split})}

    return _sample(source, found, made_up, world, num_answers=1)


def _pairs(source: PairSetConfig, world: World) -> Sample:
    config = load_pairs.Config(sources=(source,))
    found = (one.row for one in load_pairs.outcomes(config, world.recipe.seed) if one.drop is None)

    def made_up(number: int) -> dict[str, Any]:
        messages, *answers = _texts(world, number, num_answers=2)
        return load_pairs.pair_row(source, f"{source.source}:{number}", ParsedPair(messages, *answers), 0)

    return _sample(source, found, made_up, world, num_answers=2)


def _comparison(source: HelpfulPairsConfig, world: World, number: int) -> Comparison:
    messages, chosen, rejected = _texts(world, number, num_answers=2)
    return Comparison(
        pair_id=f"{source.source}:{number}",
        prompt_id=str(number),
        messages=messages,
        chosen=chosen,
        rejected=rejected,
        prob_chosen=1.0,
        label_source="human",
        weight=source.weight,
        is_test=source.split == "test",
    )


def _texts(world: World, number: int, num_answers: int) -> tuple[list[Message], *tuple[Any, ...]]:
    """A prompt of one turn and so many answers, of the lengths that the plan assumes."""
    assumed, rng = world.hardware.assumptions, random.Random(number)
    lengths = (assumed.prompt_tokens, *[assumed.pair_answer_tokens] * num_answers)
    asked, *answers = (world.writer.counter.reply(rng, tokens)[0] for tokens in lengths)
    return ([{"role": "user", "content": asked}], *answers)


def _sample(
    source: PairSource | ExampleSetConfig,
    found: Iterable[dict[str, Any]],
    made_up: Callable[[int], dict[str, Any]],
    world: World,
    num_answers: int,
) -> Sample:
    """`found`, where it can be read here; else as many rows as `limit` says. Raises ConfigError without a limit."""
    try:
        if source.path.startswith("hf://"):
            raise ConfigError(f"{source.path} is not read for a plan; set its limit")
        return stratified(found, ())
    except ConfigError:
        if source.limit is None:
            raise
    assumed = world.hardware.assumptions
    world.notes.append(
        f"{source.source} was not read: {source.limit:,} {'pairs' if num_answers == 2 else 'examples'} (its limit) of "
        f"{assumed.prompt_tokens} + {'2 x ' * (num_answers == 2)}{assumed.pair_answer_tokens} tokens"
    )
    return Sample([made_up(k) for k in range(MADE_UP)], [source.limit / MADE_UP] * MADE_UP)
