"""The summary of revise, by hand on a few dialogues, and its table."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest

from cai_ray.artifacts.artifact import Artifact
from cai_ray.artifacts.counters import logprob_counters
from cai_ray.artifacts.summaries.revision import RevisionSummary, TextLogprobs
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.metrics.intervals import Estimate
from cai_ray.microworld.language import comply, refuse, sample_request
from cai_ray.row_ids import REVISION_IDS
from cai_ray.rows import REVISION
from cai_ray.stages.revision.summary import summarise, table
from tests.finished_stages import finished, spec_of
from tests.screen import check_fits, on_screen

REQUEST = sample_request(random.Random(1), harmful=True, multi_turn=False)
KIND = sample_request(random.Random(2), harmful=False, multi_turn=False)
HELP, REFUSAL = comply(random.Random(3), REQUEST.task), refuse(random.Random(4), REQUEST.task)


def revised(
    folder: Path,
    dialogues: Sequence[tuple[list[dict[str, str]], list[str]]],
    counters: Mapping[str, int] = MappingProxyType({"num_requests": 7}),
) -> Artifact:
    """Of (messages, the initial answer and each revision)."""
    rows = [
        {
            "prompt_id": f"p{k}",
            "sample_index": 0,
            "kind": "red_team",
            "source": "test",
            "category": None,
            "split": "train",
            "license": "",
            "messages": messages,
            "initial_response": answers[0],
            "initial_flags": [],
            "revisions": [
                {"principle_id": f"principle-{j}", "critique": None, "revision": text, "flags": []}
                for j, text in enumerate(answers[1:])
            ],
            "thinking": None,
            "finish_reasons": ["stop"],
            "num_neutralised": 0,
            "num_prompt_tokens": 1,
            "num_cached_tokens": 0,
            "num_output_tokens": 1,
        }
        for k, (messages, answers) in enumerate(dialogues)
    ]
    spec = spec_of(folder, "revise", REVISION_IDS, gates={})
    return finished(spec, REVISION, rows, counters=counters)


def values(found: tuple[Estimate, ...] | None) -> list[float]:
    assert found is not None
    return [one.value for one in found]


@pytest.mark.parametrize(("num_repeats", "warned"), [(2, True), (1, False)])
def test_a_model_that_goes_on_criticising_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, num_repeats: int, warned: bool
) -> None:
    dialogues = [(list(REQUEST.messages), [HELP, HELP, REFUSAL])]
    summarise(revised(tmp_path, dialogues, {"flag.repeats_critique": num_repeats}))
    assert ("2 of 2 revisions repeat their critique" in caplog.text) is warned


def test_numbers_by_hand(tmp_path: Path) -> None:
    harmful, harmless = list(REQUEST.messages), list(KIND.messages)
    kind = comply(random.Random(5), KIND.task)
    made = revised(tmp_path, [(harmful, [HELP, HELP, REFUSAL]), (harmful, [HELP, REFUSAL]), (harmless, [kind, kind])])
    summary = summary_of(made, RevisionSummary, summarise)
    assert (summary.rows_in, summary.rows_out, summary.rows_dropped) == (3, 3, {})
    assert summary.num_rounds == {"1": 2, "2": 1} and summary.principles == {"principle-0": 3, "principle-1": 1}
    assert summary.counters == {"num_requests": 7}
    assert values(summary.harmful_rate) == [1.0, 0.5, 0.0]
    assert values(summary.harmless_helpfulness) == [1.0, 1.0]
    assert len(values(summary.evasive_rate)) == 3 and values(summary.meta_rate) == [0.0, 0.0, 0.0]
    shown = table(summary)
    assert shown is not None and shown.row_count == 3
    assert "│ 1       │  50.0% [9.5, 90.5] │" in on_screen(shown) and "- │" in on_screen(shown).splitlines()[-2]


def test_elsewhere_nobody_can_tell_harm(tmp_path: Path) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    made = revised(tmp_path, [(question, ["Paris.", "It is Paris."])])
    summary = summary_of(made, RevisionSummary, summarise)
    assert summary.harmful_rate is None and table(summary) is None
    assert b"harmful_rate" not in made.folder.read("summary.json")


@pytest.mark.parametrize("share", [0.0, 0.9987, 1.0])
def test_the_table_fits_80_columns(share: float) -> None:
    rates = tuple(Estimate(value=share, low=share - 0.0012, high=share + 0.0001, n=99_999) for _ in range(12))
    shown = table(
        RevisionSummary(
            rows_in=1,
            rows_out=1,
            rows_dropped={},
            num_rounds={},
            principles={},
            counters={},
            duration_s=1.0,
            harmful_rate=rates,
            harmless_helpfulness=rates,
            evasive_rate=rates,
            meta_rate=rates,
        )
    )
    assert shown is not None
    check_fits(shown)


def test_how_likely_the_words_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counters: Counter[str] = Counter()
    for what, logprobs, is_low in (
        ("critique 1", [-0.5], False),
        ("revision 10", [-1.0, -1.0], False),
        ("revision 2", [-1.0], False),
        ("answer", [-4.0, -4.0], True),
        ("answer", [-2.0], False),
        ("answer", [-3.5] * 3, True),
    ):
        counters.update(logprob_counters(what, logprobs, is_low))
    question = [{"role": "user", "content": "What is the capital of France?"}]
    summary = summarise(revised(tmp_path, [(question, ["Paris.", "It is Paris."])], counters))
    assert summary.logprobs is not None
    assert list(summary.logprobs) == ["answer", "critique 1", "revision 2", "revision 10"]
    expected = TextLogprobs(num_texts=3, num_tokens=6, mean=-20.5 / 6, incoherent_share=2 / 3)
    assert summary.logprobs["answer"] == expected
    [line] = caplog.messages
    assert "most texts are below -2.5 nats per token" in line and "(means: answer -3.42)" in line
