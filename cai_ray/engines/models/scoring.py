"""Score conversations with a sequence-classification model, as stock transformers would.

Right-padded batches, each conversation at its true last token (see `scored_tokens`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.engines.models.classifier import Fields
from cai_ray.engines.models.load_classifier import load_classifier
from cai_ray.engines.models.reading import context_length, read_config
from cai_ray.engines.models.scored_tokens import ScoredTokens
from cai_ray.errors import ConfigError
from cai_ray.progress.line import LiveLine


class Scorer:
    """A saved classifier with one output, on a GPU where there is one. What takes long shows its progress.

    Args:
        stage: who asks, as the line of progress calls it.

    Attributes:
        model: the transformers model, in eval mode.
        tokens: how it reads conversations.
        context: the most tokens it reads.

    Raises ConfigError when `folder` holds no such model.
    """

    def __init__(self, folder: Path | str, stage: str = "scoring") -> None:
        self._stage = stage
        config = ModelConfig(path=str(folder))
        num_labels = read_config(config, "classifier").num_labels
        if num_labels != 1:
            raise ConfigError(f"the model at {str(folder)!r} has {num_labels} outputs; a score is one")
        self._loaded = load_classifier(config, "chat")
        self.model: Any = self._loaded.model
        config = config.model_copy(update={"system_role": self._loaded.system_role})
        self.tokens = ScoredTokens(config, self._loaded.tokenizer)
        self.context = context_length(config)

    def score(self, conversations: Sequence[tuple[Sequence[Message], str]]) -> list[float | None]:
        """[num_conversations] scores of (messages, answer), in their order; None where one is over the context."""
        ids = [self.tokens.encode(messages, answer) for messages, answer in conversations]
        fits = [len(sequence) <= self.context for sequence in ids]
        scores = iter(self.scores([own for own, fit in zip(ids, fits, strict=True) if fit]).tolist())
        return [next(scores) if fit else None for fit in fits]

    def scores(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """[num_conversations] scores of conversations as token ids. Raises ValueError, see `states`."""
        found = np.zeros(len(ids))
        for chosen, texts in self._batches(ids):
            found[chosen] = [values[0] for values in self._loaded.outputs(texts)]
        return found

    def states(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """[num_conversations, hidden], what the score head sees of each. Raises ValueError for an id list that is
        empty or ends in the padding token."""
        found = np.zeros((len(ids), self.model.config.get_text_config().hidden_size))
        for chosen, texts in self._batches(ids):
            found[chosen] = self._loaded.states(texts)
        return found

    def _batches(self, ids: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], list[Fields]]]:
        """(positions, texts) of batches of like length."""
        pad_id = self.tokens.tokenizer.pad_token_id
        for position, sequence in enumerate(ids):
            if not len(sequence) or sequence[-1] == pad_id:
                raise ValueError(f"conversation {position} is empty or ends in padding: it has no token to score at")
        waiting = sorted(range(len(ids)), key=lambda k: -len(ids[k]))
        began = time.monotonic()
        with LiveLine(self._stage, "scoring", len(ids)) as line:
            while waiting:
                size = self._loaded.batch_size(len(ids[waiting[0]]))
                chosen, waiting = waiting[:size], waiting[size:]
                yield chosen, [{"input_ids": ids[k]} for k in chosen]
                num = len(ids) - len(waiting)
                speed = f"{num / max(1e-9, time.monotonic() - began):,.1f} conversations/s"
                line.show(num, len(ids), speed, f"{num} of {len(ids)} conversations scored, {speed}")


def replace_tensor(folder: Path, name: str, value: NDArray[np.floating]) -> None:
    """Give one tensor of a saved model (safetensors, one file or shards) other numbers; shape and type stay.

    Raises ConfigError when the model has no tensor of that name.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            held, metadata = set(file.keys()), file.metadata()
        if name in held:
            tensors = load_file(path)
            old = tensors[name]
            tensors[name] = torch.tensor(value, dtype=old.dtype).reshape(old.shape)
            save_file(tensors, path, metadata)
            return
    raise ConfigError(f"the model at {str(folder)!r} has no tensor {name!r}; it cannot be changed")
