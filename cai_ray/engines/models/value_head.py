"""Reward models that are a causal model's body with a linear value head, saved as a raw state dict.

The layout of Starling-RM-7B-alpha: the body of Llama-2-7b-chat, `v_head = Linear(hidden, 1, bias=False)`, the score at
the token before the first padding token, padding = the unknown token, text as in VALUE_HEAD_TEMPLATE, cut on the left.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cai_ray.config import ModelConfig
from cai_ray.engines.models.classifier import LoadedClassifier
from cai_ray.engines.models.files import local_folder
from cai_ray.engines.models.reading import attention_of, dtype_of, max_tokens_of, read_config, read_tokenizer
from cai_ray.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

# One turn of each side is the layout its authors give; further turns and system messages are our reading of it.
VALUE_HEAD_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + '</s>' }}"
    "{% else %}{{ '<s>[INST] ' + message['content'] + ' </s> [/INST]' }}{% endif %}"
    "{% endfor %}"
)
_HEAD = ("v_head.weight", "v_head.summary.weight")
_BIAS = ("v_head.bias", "v_head.summary.bias")  # TRL's value heads have one
_PREFIXES = ("transformer.", "model.model.", "model.", "pretrained_model.model.", "")


def load_value_head(
    model: ModelConfig, backbone: str | None, device: str, template: str | None = None
) -> LoadedClassifier:
    """The checkpoint in `model.path` on the body whose config and tokenizer are in `backbone` (else in `model`'s own).

    `template`: a Jinja text in place of VALUE_HEAD_TEMPLATE. Raises ConfigError when there is no such checkpoint, it
    has no value head, or its body is another.
    """
    folder = _folder(model)
    body_model = model.model_copy(update={"path": local_folder(backbone or str(folder)), "revision": None})
    config = read_config(body_model, "classifier").get_text_config()
    tokenizer = read_tokenizer(body_model)
    pad_id = tokenizer.pad_token_id if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    if pad_id is None:
        raise ConfigError(f"value head {model.path!r}: its tokenizer has neither an unknown nor a padding token")
    scored = _assemble(config, _read(folder, model.path), pad_id, model)
    return LoadedClassifier(
        name=f"value head {model.path!r}",
        model=scored.to(device).eval(),
        tokenizer=tokenizer,
        max_tokens=max_tokens_of(model, config, tokenizer),
        pad_id=pad_id,
        system_role=model.system_role,
        chat_template=template or VALUE_HEAD_TEMPLATE,
        template_kwargs=model.chat_template_kwargs,
    )


def _folder(model: ModelConfig) -> Path:
    folder = Path(local_folder(model.path))
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.path, revision=model.revision))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ConfigError(f"no value head at {model.path!r}: {str(error).splitlines()[0]}") from error


def _read(folder: Path, name: str) -> dict[str, Tensor]:
    """All tensors of the folder's checkpoint. Pickles are read as tensors only, never run."""
    import torch
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    if not tensors:
        for path in sorted([*folder.glob("*.bin"), *folder.glob("*.pt")]):
            try:
                tensors |= torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                raise ConfigError(
                    f"value head {name!r}: {path.name} holds more than tensors, and reading it would run its code; "
                    "save the state dict alone"
                ) from error
    if not tensors:
        raise ConfigError(f"no value head at {name!r}: no *.safetensors, *.bin or *.pt file in {str(folder)!r}")
    return tensors


def _assemble(config: Any, tensors: Mapping[str, Tensor], pad_id: int, model: ModelConfig) -> Any:
    from transformers import AutoModel
    from transformers.initialization import no_init_weights

    head, bias = (next((tensors[n] for n in names if n in tensors), None) for names in (_HEAD, _BIAS))
    if head is None or tuple(head.shape) != (1, config.hidden_size):
        found = "none" if head is None else f"one of shape {tuple(head.shape)}"
        raise ConfigError(
            f"value head {model.path!r}: it needs a tensor {_HEAD[0]!r} of shape (1, {config.hidden_size}) and has "
            f"{found}; name the checkpoint of a value head, and its backbone"
        )
    with no_init_weights():
        body = AutoModel.from_config(config, attn_implementation=attention_of(config))
    body.load_state_dict(_body_of(tensors, set(body.state_dict()), model), strict=True)
    chosen = dtype_of(model)
    dtype = head.dtype if chosen == "auto" else chosen
    return _module()(body.to(dtype), head.to(dtype), None if bias is None else bias.to(dtype), pad_id)


def _body_of(tensors: Mapping[str, Tensor], wanted: set[str], model: ModelConfig) -> dict[str, Tensor]:
    """The body's tensors under the names the body has for them."""
    for prefix in _PREFIXES:
        if all(prefix + name in tensors for name in wanted):
            return {name: tensors[prefix + name] for name in wanted}
    have = sorted(name for name in tensors if name not in (*_HEAD, *_BIAS))[:3]
    raise ConfigError(
        f"value head {model.path!r}: its weights ({', '.join(have) or 'none'} ...) are not those of its backbone "
        f"({', '.join(sorted(wanted)[:3])} ...); set the judge's `backbone` to the model it was made from"
    )


def _module() -> Any:
    """The class, made on first use: torch is not imported before."""
    import torch
    from transformers.modeling_outputs import SequenceClassifierOutput

    class ValueHead(torch.nn.Module):
        """token ids -> [num_texts, 1] scores, as sequence classifiers return them."""

        def __init__(self, body: Any, weight: Tensor, bias: Tensor | None, pad_id: int) -> None:
            super().__init__()
            self.body, self.pad_id = body, pad_id
            self.v_head = torch.nn.Linear(weight.shape[1], 1, bias=bias is not None, dtype=weight.dtype)
            self.v_head.load_state_dict({"weight": weight, **({} if bias is None else {"bias": bias})})

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            is_pad = (input_ids == self.pad_id).int()
            first_pad = torch.where(is_pad.any(dim=1), is_pad.argmax(dim=1), input_ids.shape[1])
            last = (first_pad - 1).clamp(min=0)
            rewards = self.v_head(hidden)
            return SequenceClassifierOutput(logits=rewards[torch.arange(len(last), device=last.device), last])

    return ValueHead
