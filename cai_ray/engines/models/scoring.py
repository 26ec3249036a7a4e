"""Score conversations with a sequence-classification model, as stock transformers would.

Right-padded batches, each conversation at its true last token (see `scored_tokens`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.engines.models.scored_tokens import ScoredTokens
from cai_ray.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_KEY = "cai_ray"  # in config.json of score models we train: how they read conversations
BATCH_TOKENS = 16_384  # padded tokens per forward pass


class Scorer:
    """A saved classifier with one output, on a GPU where there is one.

    Attributes:
        model: the transformers model, in eval mode.
        tokens: how it reads conversations.

    Raises ConfigError when `folder` holds no such model.
    """

    def __init__(self, folder: Path | str, batch_tokens: int = BATCH_TOKENS) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModelForSequenceClassification.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise ConfigError(f"no classifier at {str(folder)!r}: {str(error).splitlines()[0]}") from error
        if model.config.num_labels != 1:
            raise ConfigError(f"the model at {str(folder)!r} has {model.config.num_labels} outputs; a score is one")
        self.model: Any = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        trained = getattr(model.config, CONFIG_KEY, {})
        self.tokens = ScoredTokens(
            ModelConfig(path=str(folder), system_role=trained.get("system_role", "auto")), tokenizer
        )
        self._pad_id: int = tokenizer.pad_token_id
        self._batch_tokens = batch_tokens

    def score(self, conversations: Sequence[tuple[Sequence[Message], str]]) -> NDArray[np.float64]:
        """[num_conversations] scores of (messages, answer), in their order."""
        return self.scores([self.tokens.encode(messages, answer) for messages, answer in conversations])

    def scores(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """[num_conversations] scores of conversations as token ids. Raises ValueError, see `states`."""
        found = np.zeros(len(ids))
        for chosen, batch, mask in self._batches(ids):
            found[chosen] = self.model(input_ids=batch, attention_mask=mask).logits[:, 0].double().cpu().numpy()
        return found

    def states(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """[num_conversations, hidden], what the score head sees of each. Raises ValueError for an id list that is
        empty or ends in the padding token."""
        import torch

        found = np.zeros((len(ids), self.model.config.get_text_config().hidden_size))
        body = getattr(self.model, self.model.base_model_prefix)
        for chosen, batch, mask in self._batches(ids):
            hidden = body(input_ids=batch, attention_mask=mask).last_hidden_state
            last = mask.sum(dim=1) - 1
            found[chosen] = hidden[torch.arange(len(last), device=last.device), last].double().cpu().numpy()
        return found

    def _batches(self, ids: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """(positions, token ids, attention mask) of batches of like length, at most `batch_tokens` with padding."""
        import torch

        for position, sequence in enumerate(ids):
            if not len(sequence) or sequence[-1] == self._pad_id:
                raise ValueError(f"conversation {position} is empty or ends in padding: it has no token to score at")
        waiting = sorted(range(len(ids)), key=lambda k: -len(ids[k]))
        with torch.inference_mode():
            while waiting:
                longest = len(ids[waiting[0]])
                size = max(1, self._batch_tokens // longest)
                chosen, waiting = waiting[:size], waiting[size:]
                batch = torch.full((len(chosen), longest), self._pad_id, dtype=torch.long)
                mask = torch.zeros_like(batch)
                for row, position in enumerate(chosen):
                    length = len(ids[position])
                    batch[row, :length] = torch.tensor(ids[position])
                    mask[row, :length] = 1
                yield chosen, batch.to(self.model.device), mask.to(self.model.device)


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
