"""`cai-ray constitution`: check, show, import."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from cai_ray.cli import app


def test_the_constitution_commands(tmp_path: Path) -> None:
    runner = CliRunner()
    for name in ("harmlessness", "microworld", "plain-librarian"):
        assert runner.invoke(app, ["constitution", "check", name]).exit_code == 0
    shown = runner.invoke(app, ["constitution", "show", "microworld", "--principle", "theft"])
    assert "steal" in shown.output
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: x\nversion: '1'\nprinciples:\n  - id: a\n    critique_reqest: b\n")
    result = runner.invoke(app, ["constitution", "check", str(broken)])
    assert result.exit_code == 2
    assert "line 5" in result.output
    fixture = Path(__file__).parents[1] / "constitution/paper_layout"
    imported = tmp_path / "paper.yaml"
    assert runner.invoke(app, ["constitution", "import", str(fixture), "-o", str(imported)]).exit_code == 0
    assert runner.invoke(app, ["constitution", "check", str(imported)]).exit_code == 0
