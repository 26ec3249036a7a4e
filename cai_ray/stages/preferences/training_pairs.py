"""Training pairs on disk: written by the driver before training, read by every worker.

Tested in tests/stages/preferences/test_train_preference_model.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import partial

from cai_ray.artifacts.artifact import Artifact, OpenStage
from cai_ray.artifacts.derived import Outcome, batched, outcome, write_outcomes
from cai_ray.artifacts.ids import Ids
from cai_ray.artifacts.storage import Storage
from cai_ray.errors import ConfigError
from cai_ray.row_ids import text_key
from cai_ray.rows import TRAINING_PAIR
from cai_ray.stages.held_out import BARRED
from cai_ray.stages.pair_files import PairFiles, times_seen
from cai_ray.stages.preferences.comparisons import Encode, PairOptions, comparisons, training_pair

_LABEL_COLUMNS = ("pair_id", "prompt_id", "messages", "chosen", "rejected", "prob_chosen", "split")


@dataclass(frozen=True)
class WrittenPairs:
    """What `write_pairs` did.

    Attributes:
        input_ids: of every comparison that was read.
        num_train: training examples, each pair as often as it is seen.
        num_eval: pairs.
    """

    files: PairFiles
    input_ids: Ids
    num_train: int
    num_eval: int


def write_pairs(
    opened: OpenStage,
    options: PairOptions,
    labels: Artifact | None,
    encode: Encode,
    max_length: int,
    seed: int,
    held_out: Container[bytes] = frozenset(),
) -> WrittenPairs:
    """Write each comparison's end into the open stage, in place of what an earlier attempt wrote.

    `held_out`: the `text_key` of prompts that are for tests alone; pairs for training that ask one are left out.
    Raises ConfigError when no pair is left to train on.
    """
    num: Counter[str] = Counter()

    def ends() -> Iterator[Outcome]:
        rows = labels.rows(_LABEL_COLUMNS) if labels is not None else ()
        for found in comparisons(options, rows, seed):
            make = partial(training_pair, found, options, encode, max_length, seed)
            is_barred = not found.is_test and text_key(found.messages) in held_out
            made = Outcome(found.pair_id, BARRED) if is_barred else outcome(found.pair_id, make)
            if made.drop is None:
                is_train = made.row["split"] == "train"
                num[made.row["split"]] += times_seen(made.row_id, made.row["weight"], seed) if is_train else 1
            yield made

    written = write_outcomes(opened, batched(ends()), TRAINING_PAIR)
    if not num["train"]:
        raise ConfigError(
            f"{opened.plan.stage}: of {len(written.row_ids)} comparisons {num['eval']} are for evaluation and none is "
            f"left to train on; see {opened.folder.shown}/dropped, lower eval_fraction, or bring more pairs"
        )
    # Absolute: a worker's working directory is another one.
    folder = Storage(opened.folder.path()) if opened.folder.is_local else opened.folder
    names = tuple(sorted(part.rows.name for part in written.parts if part.rows))
    files = PairFiles(folder, names, seed, options.targets == "soft", options.eval_pairs)
    return WrittenPairs(files, written.row_ids, num["train"], num["eval"])
