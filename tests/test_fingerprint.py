"""The formula of fingerprints: what of a config decides, and what local files are to it."""

from __future__ import annotations

from pathlib import Path

from cai_ray.config import EngineConfig, ModelConfig
from cai_ray.fingerprint import fingerprint, local_files, model_settings, names_and_sizes, settings
from cai_ray.stages.inputs.load_prompts import input_identity
from cai_ray.stages.prompt_sources import Config


def test_the_formula_stays_because_runs_on_disk_were_made_with_it() -> None:
    assert fingerprint("revise", 0, {"config": {"a": 1}, "identity": {}}) == "3adc0857ef5260e140a9dff6a046995c"


def test_speed_and_tolerance_do_not_decide() -> None:
    assert "max_dropped_fraction" not in settings(Config())
    assert "engine" not in settings(ModelConfig(engine=EngineConfig(max_num_seqs=3)))


def test_a_new_key_in_a_uri_is_no_other_input() -> None:
    first, second = (settings(Config(path=f"s3://id:{key}@b/a.jsonl?secret_key={key}")) for key in ("k1", "k2"))
    assert first == second and first["path"] == "s3://b/a.jsonl?secret_key=..."


def test_a_local_model_is_its_folders_name_and_the_names_and_sizes_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    told = model_settings(ModelConfig(path=str(tmp_path / "m")))
    assert (told["path"], told["files"]) == ("m", {"config.json": 2})
    assert "files" not in model_settings(ModelConfig(path="org/name"))


def test_files_below_a_folder_are_known_and_no_globs_or_uris(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.jsonl").write_text("12")
    (tmp_path / "a.jsonl").write_text("1")
    assert [file.name for file in local_files(str(tmp_path))] == ["a.jsonl", "b.jsonl"]
    assert names_and_sizes(str(tmp_path)) == [["a.jsonl", 1], ["b.jsonl", 2]]
    assert local_files(f"{tmp_path}/*.jsonl") == local_files((tmp_path / "a.jsonl").as_uri()) == []


def test_prompt_files_are_known_by_their_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("one")
    [[known]] = input_identity(Config(path=str(path))).values()
    assert known == {"name": "a.jsonl", "size": 3, "ends": known["ends"]}
    path.write_text("two")
    assert input_identity(Config(path=str(path)))["a"] != [known]
