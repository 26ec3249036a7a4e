"""Pairs for people to judge, as annotation tools import them; what people said comes back as a set of preferences.

`label_studio`: `tasks.json` and `labeling_config.xml` (Label Studio's template of human preferences for RLHF).
`argilla`: a folder for `rg.Dataset.from_disk`, records in `records.json`. Neither shows what a model said of a pair: it
would sway the people. What the tools export afterwards is read by `prompt_layouts/annotated.py`, through
`preference_model.preferences` or `dpo.preferences`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.storage import Storage
from cai_ray.chat import messages_to_transcript
from cai_ray.errors import ConfigError
from cai_ray.prompt_layouts.annotated import PREFERENCE
from cai_ray.seeding import digest

Tool = Literal["label_studio", "argilla"]
Pair = Mapping[str, Any]  # a row of PAIR or PREFERENCE
QUESTION = "Which answer is better?"
LABELING_CONFIG = f"""<View>
  <Header value="{QUESTION} Skip the task where neither is."/>
  <Text name="prompt" value="$prompt"/>
  <Pairwise name="{PREFERENCE}" toName="answer1,answer2"/>
  <View style="display: flex; gap: 1em;">
    <View style="flex: 50%;"><Text name="answer1" value="$answer1"/></View>
    <View style="flex: 50%;"><Text name="answer2" value="$answer2"/></View>
  </View>
</View>
"""


def chosen_pairs(pairs: Artifact, limit: int | None, seed: int) -> list[Pair]:
    """At most `limit` pairs, drawn by seed and pair alone, in the order of their draw."""
    rows: list[Pair] = sorted(pairs.rows(), key=lambda row: digest("annotate", seed, row["pair_id"]))
    if not rows:
        raise ConfigError(f"{pairs.folder.shown} has no pair to judge")
    return rows[:limit]


def write(tool: Tool, pairs: Iterable[Pair], folder: Storage) -> list[str]:
    """Write the tool's files; their locations. Raises ConfigError where the folder is not empty."""
    if folder.names() or folder.folders():
        raise ConfigError(f"{folder.shown} is not empty, and what people do there must not be mixed; name a new folder")
    files = _FILES[tool](list(pairs))
    folder.make()
    for name, content in files.items():
        folder.write(name, content.encode())
    return [(folder / name).shown for name in files]


def _answers(pair: Pair) -> tuple[str, str]:
    """In the stored order, which was drawn, so that what a model chose is in neither place more often."""
    if "response_a" in pair:
        return pair["response_a"], pair["response_b"]
    first, second = pair["chosen"], pair["rejected"]
    return (first, second) if pair["chosen_is_a"] else (second, first)


def _label_studio(pairs: list[Pair]) -> dict[str, str]:
    tasks = []
    for pair in pairs:
        first, second = _answers(pair)
        about = {name: pair[name] for name in ("pair_id", "prompt_id", "category")}
        messages = pair["messages"]
        prompt = messages[0]["content"] if len(messages) == 1 else messages_to_transcript(messages).strip()
        tasks.append({"data": {"prompt": prompt, "answer1": first, "answer2": second, "messages": messages, **about}})
    return {"tasks.json": _json(tasks), "labeling_config.xml": LABELING_CONFIG}


def _argilla(pairs: list[Pair]) -> dict[str, str]:
    records = []
    for pair in pairs:
        first, second = _answers(pair)
        about = {name: pair[name] for name in ("pair_id", "prompt_id", "category") if pair[name] is not None}
        fields = {"prompt": pair["messages"], "response_a": first, "response_b": second}
        records.append({"id": pair["pair_id"], "fields": fields, "metadata": about, "suggestions": {}, "responses": {}})
    return {
        ".argilla/dataset.json": _json({"name": "pairs"}),
        ".argilla/settings.json": _json(_ARGILLA_SETTINGS),
        "records.json": _json(records),
    }


def _titled(name: str, title: str, kind: str) -> dict[str, Any]:
    return {"name": name, "title": title, "required": True, "settings": {"type": kind, "use_markdown": False}}


_ARGILLA_SETTINGS = {
    "guidelines": QUESTION,
    "fields": [
        _titled("prompt", "Conversation", "chat"),
        _titled("response_a", "Answer A", "text"),
        _titled("response_b", "Answer B", "text"),
    ],
    "questions": [
        {
            "name": PREFERENCE,
            "title": QUESTION,
            "required": True,
            "settings": {
                "type": "label_selection",
                "options": [
                    {"value": "a", "text": "A"},
                    {"value": "b", "text": "B"},
                    {"value": "tie", "text": "Neither"},
                ],
            },
        }
    ],
    "metadata": [
        {"name": name, "title": name, "visible_for_annotators": False, "settings": {"type": "terms"}}
        for name in ("pair_id", "prompt_id", "category")
    ],
    "vectors": [],
    "allow_extra_metadata": True,
    "distribution": {"strategy": "overlap", "min_submitted": 1},
}


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


_FILES: dict[Tool, Callable[[list[Pair]], dict[str, str]]] = {"label_studio": _label_studio, "argilla": _argilla}
