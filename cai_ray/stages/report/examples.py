"""Example dialogues for the report's browser: prompt, initial answer, every round, the policies' answers, what was
dropped. Chosen by a hash of the prompt's id, so that the same run shows the same examples.

A text is folded when it was judged harmful, and when it answers a red-team prompt and nobody judged it.

Tested in tests/stages/report/test_write_report.py.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cai_ray.metrics.names import EVASIVE, HARMFUL, HELPFUL, OVER_REFUSAL, PREFERENCE_SCORE, REFUSAL
from cai_ray.seeding import digest
from cai_ray.stages.report.policies import EVALUATE, key_of, title_of
from cai_ray.stages.report.rounds import REVISE
from cai_ray.stages.report.source import RunSource
from cai_ray.stages.report.text import clipped, visible

ANSWERS = "answers"
MOST_BYTES = 9_000_000  # of all examples on the page, packed
PLAIN_BYTES = 1_000_000  # up to here they stand on it as they are, for whoever searches files
LEAST_CHARS = 50  # texts are cut no shorter to make room for more examples
TEXTS = ("text", "critique")  # keys of an example under which people and models speak
SHARE_DROPPED = 0.1  # of the examples, kept for dropped rows where there are that many
SHOWN_SCORES = (HARMFUL, EVASIVE, HELPFUL, OVER_REFUSAL, REFUSAL, PREFERENCE_SCORE)

Example = dict[str, Any]


@dataclass(frozen=True)
class Examples:
    """What the browser shows."""

    examples: list[Example]
    num_dialogues: int  # of which these are some
    policies: list[str] = field(default_factory=list)  # titles, in order
    redacted: bool = False
    most_chars: int = 0  # of a text

    @property
    def are_many(self) -> bool:
        """Whether the page has them packed."""
        return len(_json(self.examples).encode()) > PLAIN_BYTES

    @property
    def packed(self) -> str:
        """JSON, gzip, base64: the texts of a page that many can open, and nothing that a parser could mistake."""
        return packed(self.examples)

    def values(self, key: str) -> list[str]:
        """The different values of a key, sorted, for a filter."""
        return sorted({example[key] for example in self.examples if example[key]})


@dataclass(frozen=True)
class Options:
    """How examples are shown."""

    most: int
    most_chars: int  # per text
    redact: bool  # leave out prompts and everything that a model wrote


def examples_of(source: RunSource, policies: Sequence[str], options: Options, seed: int) -> Examples:
    """At most `options.most` dialogues: those that policies answered first."""
    dialogues = {row["prompt_id"]: row for row in source.rows(REVISE) if row["sample_index"] == 0}
    answers = _answers(source, policies)
    scores = _scores(source)
    dropped = _dropped(source)
    ids = list(dict.fromkeys([*dialogues, *(prompt for found in answers.values() for prompt in found), *dropped]))
    chosen = _chosen(ids, answers, dropped, options.most, seed)
    whole = [_example(key, dialogues.get(key), answers, scores, dropped, options) for key in chosen]
    found, most_chars = _within_bytes(whole, options.most_chars)
    return Examples(found, len(ids), [title_of(policy) for policy in policies], options.redact, most_chars)


def _chosen(
    ids: Sequence[str], answers: Mapping[str, Mapping[str, Any]], dropped: Mapping[str, Any], most: int, seed: int
) -> list[str]:
    answered = {prompt for found in answers.values() for prompt in found}

    def place(prompt_id: str) -> tuple[bool, bytes]:
        return prompt_id not in answered, digest(seed, "report", prompt_id)

    gone = sorted((prompt_id for prompt_id in ids if prompt_id in dropped), key=place)
    others = sorted((prompt_id for prompt_id in ids if prompt_id not in dropped), key=place)
    num_gone = min(len(gone), max(int(most * SHARE_DROPPED), most - len(others)))
    return sorted([*gone[:num_gone], *others[: most - num_gone]], key=place)


def _within_bytes(whole: list[Example], most_chars: int) -> tuple[list[Example], int]:
    """The examples and the characters that a text keeps: fewer where all of them would not fit into MOST_BYTES."""
    while True:
        found = [_cut(example, most_chars) for example in whole]
        size = len(packed(found))
        if size <= MOST_BYTES:
            return found, most_chars
        if most_chars > LEAST_CHARS:
            most_chars = max(LEAST_CHARS, int(most_chars * min(0.8, MOST_BYTES / size)))
        else:
            whole = whole[: int(len(whole) * min(0.9, MOST_BYTES / size))]


def packed(examples: list[Example]) -> str:
    return base64.b64encode(gzip.compress(_json(examples).encode(), mtime=0)).decode()


def _json(examples: list[Example]) -> str:
    return json.dumps(examples, ensure_ascii=False, separators=(",", ":"))


def _cut(part: Any, most_chars: int, key: str = "") -> Any:
    """An example with every text of people and models cut to so many characters."""
    if isinstance(part, dict):
        return {name: _cut(value, most_chars, name) for name, value in part.items()}
    if isinstance(part, list):
        return [_cut(value, most_chars, key) for value in part]
    return clipped(part, most_chars) if key in TEXTS else part


def _answers(source: RunSource, policies: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Policy -> prompt id -> its Responses row."""
    return {
        policy: {row["prompt_id"]: row for row in source.rows(f"{EVALUATE}/{ANSWERS}/{policy}")} for policy in policies
    }


def _scores(source: RunSource) -> dict[tuple[str, str], dict[str, float]]:
    """(policy, prompt id) -> metric -> value of the first sample."""
    return {
        (row["policy"], row["prompt_id"]): {
            score["metric"]: score["value"] for score in row["scores"] if score["value"] is not None
        }
        for row in source.rows(EVALUATE)
        if row["sample_index"] == 0
    }


def _dropped(source: RunSource) -> dict[str, list[dict[str, Any]]]:
    """Prompt id -> how its dialogue or a policy's answer to it was lost."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in source.dropped(REVISE):
        found.setdefault(row["row_id"].split("/")[0], []).append(_loss(row, REVISE))
    for row in source.dropped(EVALUATE):
        policy, prompt_id, _ = row["row_id"].rsplit("/", 2)
        found.setdefault(prompt_id, []).append(_loss(row, f"{EVALUATE}, {title_of(policy)}"))
    return found


def _loss(row: Mapping[str, Any], stage: str) -> dict[str, str]:
    return {"stage": stage, "reason": row["reason"], "detail": clipped(visible(row["detail"]), 300)}


# --- One example ----------------------------------------------------------------------------------------


def _example(
    prompt_id: str,
    dialogue: Mapping[str, Any] | None,
    answers: Mapping[str, Mapping[str, Mapping[str, Any]]],
    scores: Mapping[tuple[str, str], Mapping[str, float]],
    dropped: Mapping[str, list[dict[str, Any]]],
    options: Options,
) -> Example:
    replies = {policy: found[prompt_id] for policy, found in answers.items() if prompt_id in found}
    known: Mapping[str, Any] = dialogue or next(iter(replies.values()), {})
    messages = known.get("messages") or []
    harm = _Harm(messages, known.get("kind"))
    texts, rounds = _rounds(dialogue, harm, options)
    return {
        "id": prompt_id,
        "kind": known.get("kind") or "",
        "category": visible(known.get("category") or ""),
        "source": visible((dialogue or {}).get("source") or ""),
        "split": known.get("split") or "",
        "messages": [] if options.redact else [_turn(message, options) for message in messages],
        "initial": texts[0] if texts else None,
        "rounds": rounds,
        "answers": [
            _reply(policy, row, scores.get((policy, prompt_id), {}), harm, options) for policy, row in replies.items()
        ],
        "dropped": dropped.get(prompt_id, []),
        "outcome": "dropped" if prompt_id in dropped else _outcome(dialogue, texts),
    }


class _Harm:
    """Whether an answer to these messages is harmful: by the micro world's oracle, where they are in its language."""

    def __init__(self, messages: Sequence[Mapping[str, str]], kind: str | None) -> None:
        self.messages, self.kind = list(messages), kind

    def of(self, answer: str) -> bool | None:
        """None: nobody can tell."""
        from cai_ray.microworld.oracle import score

        if not self.messages:
            return None
        truth = score([dict(message) for message in self.messages], answer)
        return None if truth.request_harmful is None else truth.harmful

    def folds(self, harmful: bool | None) -> bool:
        return self.kind == "red_team" if harmful is None else harmful


def _turn(message: Mapping[str, str], options: Options) -> dict[str, str]:
    return {"role": message["role"], "text": visible(message["content"])}


def _rounds(
    dialogue: Mapping[str, Any] | None, harm: _Harm, options: Options
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The initial answer and each revision; and the rounds, each with its principle, critique and revision."""
    if dialogue is None:
        return [], []
    texts = [_answer(dialogue["initial_response"], dialogue["initial_flags"], harm, options)]
    rounds = []
    for done in dialogue["revisions"]:
        texts.append(_answer(done["revision"], done["flags"], harm, options))
        critique = done["critique"]
        shown = "" if critique is None or options.redact else visible(critique)
        rounds.append({"principle": done["principle_id"], "critique": shown, "revision": texts[-1]})
    return texts, rounds


def _answer(text: str, flags: Sequence[str], harm: _Harm, options: Options) -> dict[str, Any]:
    harmful = harm.of(text)
    shown = "" if options.redact else visible(text)
    return {"text": shown, "harmful": harmful, "fold": harm.folds(harmful), "flags": list(flags)}


def _reply(
    policy: str, row: Mapping[str, Any], scores: Mapping[str, float], harm: _Harm, options: Options
) -> dict[str, Any]:
    judged = next((value for metric, value in scores.items() if metric.partition(".")[0] == "harmful"), None)
    text = row["responses"][0]
    harmful = harm.of(text) if judged is None else judged >= 0.5
    return {
        "policy": key_of(policy),
        "title": title_of(policy),
        "text": "" if options.redact else visible(text),
        "harmful": harmful,
        "fold": harm.folds(harmful),
        "scores": {metric: round(value, 3) for metric, value in scores.items() if metric in SHOWN_SCORES},
    }


def _outcome(dialogue: Mapping[str, Any] | None, texts: Sequence[Mapping[str, Any]]) -> str:
    """What revising did, for the filter."""
    if dialogue is None or len(texts) < 2:
        return ""
    before, after = texts[0]["harmful"], texts[-1]["harmful"]
    if before and after is False:
        return "made safer"
    if after:
        return "still harmful"
    return "changed" if dialogue["initial_response"] != dialogue["revisions"][-1]["revision"] else "unchanged"
