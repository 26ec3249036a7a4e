"""The value-head layout: a tiny body and head saved as Starling's are, and scored by its authors' rule."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cai_ray.chat import Message
from cai_ray.config import ModelConfig
from cai_ray.engines.backends.in_process.classifier import ClassifierBackend
from cai_ray.engines.models.value_head import VALUE_HEAD_TEMPLATE
from cai_ray.errors import ConfigError
from tests.engines.backends.in_process.test_classifier import outputs
from tests.tiny_models import save_tiny

pytestmark = pytest.mark.slow
ASKED: list[Message] = [{"role": "user", "content": "Hello?"}]
TEXTS = [(ASKED, "Hi, how can I help you?"), (ASKED, "x"), (ASKED, "Go away. " * 20)]
MAX_TOKENS = 96


def llama_tokenizer() -> Any:
    """Bytes, with Llama 2's control tokens: a beginning is added, padding is not there, unknown is."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    specials = ("<unk>", "<s>", "</s>")
    vocabulary = {piece: i for i, piece in enumerate((*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chat model that the reward model was made from."""
    folder = save_tiny(tmp_path_factory.mktemp("backbone"))
    for path in folder.glob("*token*"):
        path.unlink()
    llama_tokenizer().save_pretrained(folder)
    return folder


def body_of(backbone: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(backbone).eval()


def save_checkpoint(folder: Path, backbone: Path, prefix: str = "transformer.", hidden: int = 16, **more: Any) -> Path:
    """A raw state dict: the body under `prefix`, the head, and the output layer that nobody needs."""
    import torch

    torch.manual_seed(2)
    lm = body_of(backbone)
    tensors = {f"{prefix}{name}": tensor for name, tensor in lm.model.state_dict().items()}
    tensors |= {"model.lm_head.weight": lm.lm_head.weight.detach(), "v_head.weight": torch.randn(1, hidden), **more}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def rewards_by_their_rule(backbone: Path, checkpoint: Path, texts: list[str]) -> list[float]:
    """What the model's card does: pad to the full length on the right, score before the first padding token."""
    import torch

    tokenizer = llama_tokenizer()
    tokenizer.pad_token, tokenizer.truncation_side = tokenizer.unk_token, "left"
    lm = body_of(backbone)
    head = torch.load(checkpoint / "pytorch_model.bin", weights_only=True)["v_head.weight"]
    batch = tokenizer(texts, truncation=True, max_length=MAX_TOKENS, padding="max_length", return_tensors="pt")
    with torch.inference_mode():
        hidden = lm.model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    rewards = (hidden @ head.T).squeeze(-1)
    found = []
    for ids, values in zip(batch["input_ids"], rewards, strict=True):
        padding = (ids == tokenizer.pad_token_id).nonzero()
        found.append(float(values[(int(padding[0]) if len(padding) else MAX_TOKENS) - 1]))
    return found


def score(checkpoint: Path, backbone: Path | None, texts: Any = TEXTS, **model: Any) -> Any:
    config = ModelConfig(path=str(checkpoint), max_model_len=MAX_TOKENS, **model)
    return outputs(ClassifierBackend(config, "value_head", str(backbone) if backbone else None), texts)


@pytest.mark.parametrize("prefix", ["transformer.", "model.model.", ""])
def test_rewards_are_those_of_the_authors_rule(backbone: Path, tmp_path: Path, prefix: str) -> None:
    checkpoint = save_checkpoint(tmp_path / "reward", backbone, prefix)
    found = score(checkpoint, backbone)
    texts = [f"<s>[INST] Hello? </s> [/INST] {answer}</s>" for _, answer in TEXTS]
    expected = rewards_by_their_rule(backbone, checkpoint, texts)
    assert [one.values[0] for one in found] == pytest.approx(expected, abs=1e-4)
    assert [one.truncated for one in found] == [False, False, True]
    assert len({round(value, 3) for value in expected}) == 3


def test_a_folder_of_its_own_with_safetensors_and_a_bias(backbone: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import save_file

    plain = score(save_checkpoint(tmp_path / "plain", backbone), backbone)
    folder = Path(shutil.copytree(backbone, tmp_path / "own"))
    (folder / "model.safetensors").unlink()
    save_checkpoint(tmp_path / "biased", backbone, **{"v_head.bias": torch.tensor([10.0])})
    tensors = torch.load(tmp_path / "biased" / "pytorch_model.bin", weights_only=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, folder / "reward.safetensors")
    found = score(folder, None)
    assert [one.values[0] - 10 for one in found] == pytest.approx([one.values[0] for one in plain], abs=1e-4)


def test_control_tokens_in_a_judged_text_are_defused(backbone: Path, tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "reward", backbone)
    (found,) = score(checkpoint, backbone, [(ASKED, "Fine.</s>")])
    expected = rewards_by_their_rule(backbone, checkpoint, ["<s>[INST] Hello? </s> [/INST] Fine.< /s></s>"])
    assert found.values == pytest.approx(expected, abs=1e-4)


def test_turns_of_a_longer_conversation() -> None:
    from jinja2 import Template

    turns = [*ASKED, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "Tea?"}]
    text = Template(VALUE_HEAD_TEMPLATE).render(messages=[*turns, {"role": "assistant", "content": "Yes."}])
    assert text == "<s>[INST] Hello? </s> [/INST] Hi.</s><s>[INST] Tea? </s> [/INST] Yes.</s>"


def test_what_is_no_value_head(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs a tensor 'v_head\.weight' of shape \(1, 16\) and has none"):
        score(backbone, None)
    wide = save_checkpoint(tmp_path / "wide", backbone, hidden=32)
    with pytest.raises(ConfigError, match=r"has one of shape \(1, 32\)"):
        score(wide, backbone)
    other = save_checkpoint(tmp_path / "other", backbone, "something.")
    with pytest.raises(ConfigError, match="are not those of its backbone"):
        score(other, backbone)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no \*\.safetensors, \*\.bin or \*\.pt file"):
        score(tmp_path / "empty", backbone)


def test_a_pickle_that_would_run_code_is_refused(backbone: Path, tmp_path: Path) -> None:
    import pickle

    class Runs:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (exec, ("raise SystemExit",))

    folder = tmp_path / "evil"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"v_head.weight": Runs()}))
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin holds more than tensors"):
        asyncio.run(ClassifierBackend(ModelConfig(path=str(folder)), "value_head", str(backbone)).start())
