"""The report: the numbers of its files, sections of missing stages, hostile text, damage, the same bytes twice."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cai_ray.artifacts.artifact import find
from cai_ray.artifacts.storage import Storage
from cai_ray.artifacts.summaries.evaluation import EvaluationSummary
from cai_ray.artifacts.summaries.summary import summary_of
from cai_ray.cli import app
from cai_ray.config import ModelConfig
from cai_ray.engines.cluster import ClusterConfig
from cai_ray.errors import ConfigError
from cai_ray.pipeline import run as pipeline
from cai_ray.pipeline.recipe import Recipe
from cai_ray.pipeline.run import Outcome
from cai_ray.pipeline.steps import steps
from cai_ray.stages.context import Context
from cai_ray.stages.evaluation import evaluate
from cai_ray.stages.evaluation import summary as evaluate_summary
from cai_ray.stages.report import examples as report_examples
from cai_ray.stages.report import write_report as report
from tests.stages.report.real_text_runs import STAGES as REAL_STAGES
from tests.stages.report.real_text_runs import write_real_run
from tests.stages.report.report_runs import STAGES, write_run


class Parsed(HTMLParser):
    """Elements, attributes and script bodies, as a browser's parser sees them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.bodies: dict[str, str] = {}  # of style and of both scripts
        self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = f"{tag}#{dict(attrs).get('id', '')}" if tag in ("script", "style") else ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.bodies[self._inside] = self.bodies.get(self._inside, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    @property
    def examples(self) -> list[dict[str, Any]]:
        body = self.bodies["script#examples"]
        packed = ("script", {"type": "application/octet-stream", "id": "examples"}) in self.tags
        found: list[dict[str, Any]] = json.loads(gzip.decompress(base64.b64decode(body)) if packed else body)
        return found


@pytest.fixture(scope="module")
def made_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Storage]:
    """Made once; tests that change a run get a copy."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        return {
            "plain": write_run(folder / "plain", monkeypatch),
            "hostile": write_run(folder / "hostile", monkeypatch, hostile=True),
        }


@pytest.fixture
def run(made_runs: dict[str, Storage]) -> Storage:
    return made_runs["plain"]


@pytest.fixture
def hostile(made_runs: dict[str, Storage]) -> Storage:
    return made_runs["hostile"]


@pytest.fixture
def own_run(run: Storage, tmp_path: Path) -> Storage:
    """A run to spoil."""
    shutil.copytree(run.location, tmp_path / "run")
    return Storage(str(tmp_path / "run"))


def context(run: Storage) -> Context:
    return Context(run, 0, {"policy": ModelConfig()}, {}, None, ClusterConfig(), {report.STAGE: "fingerprint"})


def test_the_numbers_are_those_of_the_evaluation(run: Storage) -> None:
    summary = json.loads((run / "evaluate").read("summary.json"))
    found = json.loads(report.build(run, STAGES, report.Config()).json)
    assert list(found["policies"]) == ["base", "sl_cai", "rl_cai"]
    for metric in ("harmful", "helpful", "evasive"):
        assert found["policies"]["rl_cai"][metric] == summary["policies"]["rl_cai"][metric]
        assert set(found["policies"]["base"][metric]) == {"value", "low", "high", "n"}
    assert found["reference"] == "base"
    assert found["differences"]["rl_cai"]["harmful"]["value"] < -0.5
    assert found["stages"]["revise"]["rows_dropped"] == {"too_long": 1}
    assert found["training"]["train_ppo"]["num_steps"] == 40
    assert found["training"]["train_ppo"]["kl"] == pytest.approx(5.0)
    assert 0.5 < found["preference_model"]["ai"]["accuracy"]["value"] <= 1


def test_markdown_says_the_same(run: Storage) -> None:
    made = report.build(run, STAGES, report.Config())
    value = json.loads(made.json)["policies"]["rl_cai"]["harmful"]["value"]
    assert f"{100 * value:.1f}%" in made.markdown or f"{100 * value:.0f}%" in made.markdown
    assert "| metric | Base | SL-CAI | RL-CAI |" in made.markdown
    assert "too\\_long 1" in made.markdown


def test_the_same_run_makes_the_same_bytes(run: Storage) -> None:
    assert report.build(run, STAGES, report.Config()) == report.build(run, STAGES, report.Config())


def test_the_page_loads_nothing_and_allows_its_own_script_and_style_alone(run: Storage) -> None:
    page = Parsed(report.build(run, STAGES, report.Config()).html)
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv")]
    assert policy is not None and policy.startswith("default-src 'none';") and "unsafe" not in policy
    for name in ("style#", "script#"):
        digest = base64.b64encode(hashlib.sha256(page.bodies[name].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    for tag, attributes in page.tags:
        assert not {name for name in attributes if name.startswith("on") or name in ("style", "src")}, (tag, attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert {tag for tag, _ in page.tags}.isdisjoint({"img", "iframe", "link", "object", "embed", "base"})


def test_hostile_text_stays_text(hostile: Storage) -> None:
    made = report.build(hostile, STAGES, report.Config())
    page = Parsed(made.html)
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert {tag for tag, _ in page.tags}.isdisjoint({"img", "iframe", "link", "object", "embed", "base"})
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x07\x1b\ufeff\u2028]", made.html + made.markdown)
    assert "⟦U+202E⟧" in made.html
    texts = json.dumps(page.examples)
    assert "window.pwned" in texts and "{{ 7 * 7 }}" in texts  # shown, and nobody rendered it
    assert "<script" not in made.markdown


def test_long_texts_are_cut_and_the_cut_is_said(hostile: Storage) -> None:
    page = Parsed(report.build(hostile, STAGES, report.Config(max_text_chars=100)).html)
    turns = [turn["text"] for example in page.examples for turn in example["messages"]]
    assert max(map(len, turns)) < 100 * 9  # each unseen character is spelt out in nine
    assert any(text.endswith("… [4,900 more characters]") for text in turns)


def test_redacted_reports_hold_no_text_of_prompts_or_models(run: Storage) -> None:
    whole = Parsed(report.build(run, STAGES, report.Config()).html)
    redacted = report.build(run, STAGES, report.Config(redact=True))
    texts = {turn["text"] for example in whole.examples for turn in example["messages"]}
    texts |= {answer["text"] for example in whole.examples for answer in example["answers"]}
    texts |= {done[key] for example in whole.examples for done in example["rounds"] for key in ("critique",)}
    shown = json.dumps(Parsed(redacted.html).examples, ensure_ascii=False)
    everything = redacted.html + redacted.markdown + redacted.json + shown
    assert len(texts) > 50
    assert not [text for text in texts if len(text) > 12 and (text in everything or json.dumps(text)[1:-1] in shown)]
    assert len(Parsed(redacted.html).examples) == len(whole.examples)


def test_harmful_answers_are_folded_and_harmless_ones_are_not(run: Storage) -> None:
    answers = [
        answer
        for example in Parsed(report.build(run, STAGES, report.Config()).html).examples
        for answer in example["answers"]
    ]
    assert {answer["fold"] for answer in answers if answer["harmful"]} == {True}
    assert {answer["fold"] for answer in answers if answer["harmful"] is False} == {False}


def test_unjudged_answers_to_red_team_prompts_are_folded(hostile: Storage) -> None:
    examples = Parsed(report.build(hostile, STAGES, report.Config()).html).examples
    unjudged = [e for e in examples if e["initial"] and e["initial"]["harmful"] is None]
    assert unjudged and all(example["initial"]["fold"] for example in unjudged)


def test_examples_are_capped_and_dropped_rows_are_among_them(run: Storage) -> None:
    page = Parsed(report.build(run, STAGES, report.Config(max_examples=10)).html)
    assert len(page.examples) == 10
    (dropped,) = [e for e in page.examples if any(loss["stage"] == "revise" for loss in e["dropped"])] or [None]
    assert dropped is None or dropped["outcome"] == "dropped"
    assert any(example["dropped"] for example in page.examples)


def test_few_examples_can_be_read_in_the_file(run: Storage) -> None:
    page = Parsed(report.build(run, STAGES, report.Config()).html)
    said = [word for example in page.examples for word in example["messages"][-1]["text"].split() if word.isalnum()]
    assert [word for word in said if word.isascii() and word not in page.bodies["script#examples"]] == []
    assert len(said) > 60


def test_texts_are_cut_shorter_before_examples_are_left_out(run: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_examples, "PLAIN_BYTES", 0)
    whole = report.build(run, STAGES, report.Config())
    for least, num_examples in ((20, 60), (1_000, 30)):
        monkeypatch.setattr(report_examples, "LEAST_CHARS", least)
        monkeypatch.setattr(report_examples, "MOST_BYTES", len(whole.html) // 12)
        made = report.build(run, STAGES, report.Config())
        examples = Parsed(made.html).examples
        assert (len(examples) == 60) == (num_examples == 60)
        assert len(made.html) - len(whole.html) < 0


def test_without_a_judge_of_harm_the_headline_says_so(run: Storage, tmp_path: Path) -> None:
    made = report.build(write_real_run(tmp_path / "run"), REAL_STAGES, report.Config())
    assert "Harm was not measured." in made.html and "kind: guard" in made.html
    assert "No judge of harm ran" in made.markdown
    titles = re.findall(r'class="tile">\s*<h3>(.*?)</h3>', made.html)
    assert titles == ["Evasive", "Over-refusal", "Refusal"]
    judged = report.build(run, STAGES, report.Config())
    assert "Harm was not measured." not in judged.html and "No judge of harm" not in judged.markdown
    assert re.findall(r'class="tile">\s*<h3>(.*?)</h3>', judged.html) == ["Harmful", "Helpful", "Evasive"]


def test_judges_of_one_thing_are_compared(run: Storage, tmp_path: Path) -> None:
    copied = Storage(str(tmp_path / "run"))
    shutil.copytree(run.path(), copied.path())
    summary = json.loads(copied.read("evaluate/summary.json"))
    estimate = {"value": 0.75, "low": 0.5, "high": 0.9, "n": 40}
    two = {"first": "one <b>", "second": "other", "alpha": 0.625, "same": estimate, "difference": None}
    parted = {"policy": "policy", "prompt_id": "p", "sample_index": 0, "values": {"one <b>": 1, "other": 5}}
    found = {"metric": "harm_score", "num_answers": 40, "alpha": None, "parted": None, "pairwise": [two]}
    summary["judge_agreement"] = [found | {"parted_most": [parted]}]
    copied.write("evaluate/summary.json", json.dumps(summary).encode())
    made = report.build(copied, STAGES, report.Config())
    assert "| harm\\_score: one &lt;b&gt;, other | 0.62 | 75.0% [50.0%, 90.0%] | - | - |" in made.markdown
    assert "one &lt;b&gt;, other" in made.html and '<td class="number">0.62</td>' in made.html
    assert json.loads(made.json)["judge_agreement"][0]["parted_most"][0]["values"] == {"one <b>": 1, "other": 5}


def test_a_redacted_dialogue_that_was_changed_says_so(run: Storage) -> None:
    outcomes = [
        [example["outcome"] for example in Parsed(report.build(run, STAGES, report.Config(redact=r)).html).examples]
        for r in (False, True)
    ]
    assert outcomes[0] == outcomes[1]


def test_a_run_without_anything_says_so(tmp_path: Path) -> None:
    empty = Storage(str(tmp_path / "run"))
    empty.make()
    made = report.build(empty, STAGES, report.Config())
    for stage in ("evaluate", "revise", "label_comparisons", "train_ppo"):
        assert f"<code>{stage}</code> is not run yet" in made.html
    assert json.loads(made.json)["policies"] == {}
    without = report.build(empty, ("load_prompts", "revise"), report.Config())
    assert "This recipe has no section <code>ppo</code>" in without.html


@pytest.mark.parametrize("missing", STAGES)
def test_any_stage_may_be_missing(own_run: Storage, missing: str) -> None:
    own_run.delete_folder(missing)
    made = report.build(own_run, STAGES, report.Config())
    assert json.loads(made.json)["stages"][missing]["state"] == "not run"
    assert json.loads(made.json)["problems"] == []


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("evaluate/summary.json", b"{"),
        ("evaluate/manifest.json", b"{}"),
        ("revise/summary.json", b"[1]"),
        ("label_comparisons/summary.json", b'{"rows_out": 60}'),
        ("train_preference_model/summary.json", b""),
        ("recipe.json", b"\xff\xfe"),
        ("revise/manifest.json", b""),
    ],
)
def test_damaged_files_are_named_and_the_rest_is_shown(own_run: Storage, file: str, content: bytes) -> None:
    own_run.write(file, content)
    made = report.build(own_run, STAGES, report.Config())
    assert [problem for problem in json.loads(made.json)["problems"] if problem.startswith(file)]
    assert "Not everything could be read" in made.html


def test_damaged_rows_are_named_and_the_rest_is_shown(own_run: Storage) -> None:
    (name,) = (own_run / "revise").names(suffix=".parquet")
    (own_run / "revise").write(name, b"PAR1 nothing")
    assert "revise cannot be read" in json.loads(report.build(own_run, STAGES, report.Config()).json)["problems"][0]


def test_the_stage_is_done_once_and_again_when_what_it_shows_has_changed(own_run: Storage) -> None:
    first = report.run(report.Config(), context(own_run), STAGES)
    assert (own_run / report.STAGE).names(suffix=".json") == ["manifest.json", "plan.json", "report.json"]
    before = first.folder.read("manifest.json")
    assert report.run(report.Config(), context(own_run), STAGES).folder.read("manifest.json") == before
    own_run.delete_folder("train_ppo")
    changed = report.run(report.Config(), context(own_run), STAGES)
    assert "train_ppo" not in changed.manifest.inputs
    assert b"train_ppo</code> is not run yet" in changed.folder.read("report.html")


def test_one_file_by_its_suffix(run: Storage, tmp_path: Path) -> None:
    made = report.build(run, STAGES, report.Config())
    for suffix, text in (("html", made.html), ("md", made.markdown), ("json", made.json)):
        path = tmp_path / "out" / f"my.{suffix}"
        assert report.write(run, STAGES, report.Config(), str(path)) == [str(path)]
        assert path.read_text(encoding="utf-8") == text


def test_what_cannot_be_written_is_a_mistake_of_the_user(run: Storage, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.html, \.md or \.json"):
        report.write(run, STAGES, report.Config(), str(tmp_path / "report.pdf"))
    with pytest.raises(ConfigError, match="no run yet"):
        report.write(Storage(str(tmp_path / "nowhere")), STAGES, report.Config())
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        report.write(run, STAGES, report.Config(), str(tmp_path / "file" / "report.html"))


def test_the_command_reports_on_what_is_there(own_run: Storage, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: run\noutput: {tmp_path}\nsft: {{}}\nevaluate: {{}}\n")
    output = tmp_path / "shown.html"
    done = CliRunner().invoke(app, ["report", str(recipe), "--redact", "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert str(output) in done.output.replace("\n", "")
    assert "redacted: no prompt, no model text" in output.read_text(encoding="utf-8")
    done = CliRunner().invoke(app, ["report", str(recipe)])
    assert done.exit_code == 0, done.output
    assert {"report.html", "report.json", "report.md"} <= set((own_run / report.STAGE).names())
    done = CliRunner().invoke(app, ["report", str(recipe), "--set", "name=other"])
    assert done.exit_code == 2


def test_a_run_ends_with_the_policies_and_where_the_page_is(
    own_run: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated, made = find(own_run / evaluate.STAGE), report.run(report.Config(), context(own_run), STAGES)
    assert evaluated is not None
    table = evaluate_summary.table(summary_of(evaluated, EvaluationSummary, evaluate_summary.summarise))
    outcomes = [Outcome(evaluate.STAGE, evaluated, False, table), Outcome(report.STAGE, made, False, None)]
    monkeypatch.setattr(pipeline, "run", lambda *_: outcomes)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"name: run\noutput: {tmp_path}\nsft: {{}}\nevaluate: {{}}\nreport: {{}}\n")
    done = CliRunner().invoke(app, ["run", str(recipe)])
    assert done.exit_code == 0, done.output
    assert done.output.index("Stages") < done.output.index("95% intervals") < done.output.index("Report: ")
    page = next(line for line in done.output.splitlines() if line.startswith("Report: ")).removeprefix("Report: ")
    assert page == f"{tmp_path}/run/report/report.html" and Path(page).exists()


def test_a_recipe_with_the_section_ends_in_a_report() -> None:
    recipe = Recipe.model_validate({"name": "x", "evaluate": {"policies": ["policy"]}, "report": {"max_examples": 5}})
    last = steps(recipe)[-1]
    assert last.stage == report.STAGE
    assert last.reads == ("load_prompts", "revise", "evaluate")
