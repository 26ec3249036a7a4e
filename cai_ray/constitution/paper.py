"""The constitution of the paper's authors, read from the JSON files they published, unmodified.

Layout of https://github.com/anthropics/ConstitutionalHarmlessnessPaper, folder `prompts` (Bai et al. 2022):

- CritiqueRevisionInstructions.json   {id: {"prompt": ["\\n\\nCritiqueRequest: ...\\n\\nCritique:"],
                                            "edit_request": "\\n\\nRevisionRequest: ...\\n\\nRevision:"}}
- CritiqueRevisionFewShotPrompts.json  [transcript]: turns labelled as above, one critique and revision each
- RLMadisonInstructions.json           ["\\n<question> Options:"]
- RLMadisonFewShotPrompts.json         [{"prompt": transcript, "corrects": [answer], "incorrects": [answer]}]
- RLMadisonPrecogFewShotPrompts.json   [{"prompt": a comparison with its chain of thought; "{}" is the question}]

The critique instructions and the comparison questions are two separate lists of 16, not pairs. So they become
principles of two kinds: those that serve revision, and those that serve comparison.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cai_ray.constitution.principles import (
    Constitution,
    ConstitutionError,
    FewShotComparison,
    FewShotRevision,
    Mistake,
    Principle,
)

Built = TypeVar("Built", Principle, FewShotRevision, FewShotComparison)

INSTRUCTIONS = "CritiqueRevisionInstructions.json"
FEW_SHOT = "CritiqueRevisionFewShotPrompts.json"
COMPARISON_INSTRUCTIONS = "RLMadisonInstructions.json"
COMPARISON_FEW_SHOT = "RLMadisonFewShotPrompts.json"
COT_FEW_SHOT = "RLMadisonPrecogFewShotPrompts.json"

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant|CritiqueRequest|Critique|RevisionRequest|Revision):")
_COT_TURN = re.compile(r"(?:^|\n\n)(H|A):")
_COT = re.compile(
    r"\s*Human: Consider the following conversation[^\n]*:\n\n(?P<conversation>.*?)\n\n\{\}"
    r"\s*\(A\) \[\[\[(?P<a>.*?)\]\]\]\s*\(B\) \[\[\[(?P<b>.*?)\]\]\]"
    r"\s*Assistant: Let's think step by step:(?P<reasoning>.*?)\n\nHuman:\s*So the answer is: \((?P<answer>[AB])\)\s*",
    re.DOTALL,
)


def import_paper(folder: str | Path, name: str = "paper", version: str = "2022-12") -> Constitution:
    """The constitution in `folder`. The instructions are needed; each of the other four files is read when there.

    Raises ConstitutionError naming the file, the entry and what was expected of it.
    """
    files = Path(folder)
    principles = list(_principles(files / INSTRUCTIONS))
    if (questions := files / COMPARISON_INSTRUCTIONS).exists():
        principles += _comparison_principles(questions)
    few_shot = [_few_shot(entry, at) for at, entry in _entries(files / FEW_SHOT, optional=True)]
    answered = _entries(files / COMPARISON_FEW_SHOT, optional=True)
    plain = [_comparison(entry, at, i) for i, (at, entry) in enumerate(answered)]
    cot = [_cot_comparison(entry, at) for at, entry in _entries(files / COT_FEW_SHOT, optional=True)]
    try:
        return Constitution(
            name=name,
            version=version,
            description="Imported from the JSON files published with Bai et al. 2022 (arXiv 2212.08073).",
            principles=tuple(principles),
            few_shot=tuple(few_shot),
            few_shot_comparisons=(*plain, *cot),
        )
    except ValidationError as err:
        raise _unexpected(str(files), "principles", "", err.errors()[0]["msg"]) from err


def _unexpected(file: str, where: str, value: Any, rule: str) -> ConstitutionError:
    short = repr(value)[:60] if value != "" else ""
    return ConstitutionError(file, [Mistake(None, where, short, rule, "use the file as it was published")])


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise _unexpected(str(file), "", "", "there is no such file") from err
    except UnicodeDecodeError as err:
        raise _unexpected(str(file), f"byte {err.start}", "", "the file must be UTF-8") from err
    except json.JSONDecodeError as err:
        raise _unexpected(str(file), f"line {err.lineno}", "", f"the file must be JSON ({err.msg})") from err


def _entries(file: Path, optional: bool = False) -> Iterable[tuple[tuple[Path, str], Any]]:
    """The entries of a JSON list, each with its place for error messages."""
    if optional and not file.exists():
        return
    data = _read(file)
    if not isinstance(data, list):
        raise _unexpected(str(file), "", data, "must be a JSON list")
    for i, entry in enumerate(data):
        yield (file, f"[{i}]"), entry


def _principles(file: Path) -> Iterable[Principle]:
    data = _read(file)
    if not isinstance(data, dict) or not data:
        raise _unexpected(str(file), "", data, "must be a JSON object with at least one entry")
    for key, entry in data.items():
        match entry:
            case {"prompt": [*prompts], "edit_request": str(edit)} if prompts:
                pass
            case _:
                raise _unexpected(str(file), key, entry, 'must have "prompt" (a list of texts) and "edit_request"')
        for i, prompt in enumerate(prompts):
            yield _build(
                Principle,
                (file, key),
                id=_kebab(key) + (f"-{i}" if len(prompts) > 1 else ""),
                critique_request=_between(prompt, "CritiqueRequest:", "Critique:", (file, key)),
                revision_request=_between(edit, "RevisionRequest:", "Revision:", (file, key)),
            )


def _comparison_principles(file: Path) -> Iterable[Principle]:
    for i, (at, entry) in enumerate(_entries(file)):
        yield _build(Principle, at, id=f"comparison{i}", comparison_question=_between(entry, "", "Options:", at))


def _few_shot(entry: Any, at: tuple[Path, str]) -> FewShotRevision:
    turns = _turns(entry, _TURN, at)
    if turns and turns[-1] == ("Human", ""):
        turns.pop()  # the files end each example with the label of the next one
    labels = [label for label, _ in turns]
    tail = ["Assistant", "CritiqueRequest", "Critique", "RevisionRequest", "Revision"]
    if labels[-5:] != tail or set(labels[:-5]) - {"Human", "Assistant"}:
        raise _unexpected(str(at[0]), at[1], labels, f"must be a conversation, then {', '.join(tail)}")
    response, critique_request, critique, revision_request, revision = (text for _, text in turns[-5:])
    return _build(
        FewShotRevision,
        at,
        messages=_messages(turns[:-5]),
        response=response,
        critique_request=critique_request,
        critique=critique,
        revision_request=revision_request,
        revision=revision,
    )


def _comparison(entry: Any, at: tuple[Path, str], index: int) -> FewShotComparison:
    match entry:
        case {"prompt": str(prompt), "corrects": [str(correct), *_], "incorrects": [str(incorrect), *_]}:
            pass
        case _:
            raise _unexpected(str(at[0]), at[1], entry, 'must have "prompt", "corrects" and "incorrects"')
    turns = _turns(prompt, _TURN, at)
    if turns and turns[-1] == ("Assistant", ""):
        turns.pop()
    answer = "AB"[index % 2]  # alternating, so that the examples teach no position
    a, b = (correct, incorrect) if answer == "A" else (incorrect, correct)
    return _build(FewShotComparison, at, messages=_messages(turns), response_a=a, response_b=b, answer=answer)


def _cot_comparison(entry: Any, at: tuple[Path, str]) -> FewShotComparison:
    text = entry.get("prompt") if isinstance(entry, dict) else entry
    match = _COT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise _unexpected(str(at[0]), at[1], entry, "must be a comparison with its reasoning and its answer")
    turns = _turns(match["conversation"], _COT_TURN, at)
    return _build(
        FewShotComparison,
        at,
        messages=_messages(turns),
        response_a=match["a"],
        response_b=match["b"],
        answer=match["answer"],
        reasoning=match["reasoning"],
    )


def _turns(text: Any, label: re.Pattern[str], at: tuple[Path, str]) -> list[tuple[str, str]]:
    """(label, text) of each turn of a transcript."""
    if not isinstance(text, str) or label.match(text) is None:
        raise _unexpected(str(at[0]), at[1], text, "must be a transcript that starts with a turn's label")
    parts = label.split(text)[1:]
    return [(name, content.strip()) for name, content in zip(parts[::2], parts[1::2], strict=True)]


def _messages(turns: list[tuple[str, str]]) -> tuple[dict[str, str], ...]:
    return tuple({"role": "user" if label in ("Human", "H") else "assistant", "content": text} for label, text in turns)


def _between(text: Any, opening: str, closing: str, at: tuple[Path, str]) -> str:
    stripped = text.strip() if isinstance(text, str) else ""
    if not (stripped.startswith(opening) and stripped.endswith(closing)):
        raise _unexpected(str(at[0]), at[1], text, f"must be a text between {opening!r} and {closing!r}")
    return stripped.removeprefix(opening).removesuffix(closing).strip()


def _kebab(key: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")


def _build(kind: type[Built], at: tuple[Path, str], **fields: Any) -> Built:
    try:
        return kind(**fields)
    except ValidationError as err:
        first = err.errors()[0]
        where = at[1] + "".join(f".{part}" for part in first["loc"])
        raise _unexpected(str(at[0]), where, first["input"], first["msg"]) from err
