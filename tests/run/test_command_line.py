"""The command line: what it lists, writes, prints and how it fails. Most run in this process."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distill_core.cli import application
from distill_core.cli.application import exit_code, no_space_left
from distill_core.cli.editor_schema import run_file_schema
from distill_core.registry import Registry, get_registry, reset_registry
from tests.run.conftest import Workshop, distill

COMMANDS = [
    "init",
    "validate",
    "schema",
    "plan",
    "run",
    "capture",
    "synthesize",
    "select",
    "train",
    "evaluate",
    "report",
    "compare",
    "doctor",
    "version",
    "plugins",
    "store",
]


@pytest.fixture(autouse=True)
def fresh_registry(monkeypatch: Any) -> Any:
    monkeypatch.setattr(application, "_plugin_commands", None)
    yield
    reset_registry()


def test_help_lists_every_command_fast_and_without_torch() -> None:
    started_s = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "distill_core.cli", "--help"], capture_output=True, text=True
    )
    assert result.returncode == 0 and time.monotonic() - started_s < 5
    listed = [line.split()[0] for line in result.stdout.partition("Commands:")[2].splitlines() if line.strip()]
    assert listed == COMMANDS
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in result.stderr.splitlines()}
    assert "distill_core" in imported and not imported & {"torch", "transformers", "numpy", "pyarrow"}


def test_init_writes_a_file_that_validates(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    assert exit_code(["init", "my run.yaml"]) == 0
    assert exit_code(["validate", "my run.yaml"]) == 0
    assert "is valid" in capsys.readouterr().out
    text = Path("my run.yaml").read_text(encoding="utf-8")
    assert text.count("#") > 15
    Path("my run.yaml").write_text("mine")
    assert exit_code(["init", "my run.yaml"]) == 2
    assert "--force" in capsys.readouterr().err and Path("my run.yaml").read_text() == "mine"
    assert exit_code(["init", "my run.yaml", "--force"]) == 0
    assert Path("my run.yaml").read_text(encoding="utf-8") == text


def test_init_takes_layers_that_a_local_teacher_has(tmp_path: Path, plain_teacher: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (plain_teacher / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 3}')
    assert exit_code(["init", "a.yaml", "--teacher", str(plain_teacher)]) == 0
    assert "layers: [0, 1, 2]" in Path("a.yaml").read_text()
    assert exit_code(["validate", "a.yaml"]) == 0


def test_init_refuses_directories_that_do_not_fit(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert exit_code(["init"]) == 2
    assert "train.jsonl" in capsys.readouterr().err
    assert exit_code(["init", "no/such/run.yaml", "--data", "d"]) == 2
    assert not (tmp_path / "d").exists() and not (tmp_path / "run.yaml").exists()


def test_problems_are_printed_without_traceback(workshop: Workshop, capsys: Any) -> None:
    def change(run: dict[str, Any]) -> None:
        run["capture"]["kk"] = 1
        run["nmae"] = "x"

    assert exit_code(["validate", str(workshop.write(change))]) == 2
    said = capsys.readouterr().err
    assert "2 problems" in said and "capture.kk (line" in said and "did you mean 'name'" in said
    assert "Traceback" not in said
    assert exit_code(["validate", "nowhere.yaml"]) == 2
    assert "distill init nowhere.yaml" in capsys.readouterr().err
    assert exit_code(["explode"]) == 2
    assert not workshop.output.exists()


def test_set_reaches_the_file(workshop: Workshop, capsys: Any) -> None:
    file = str(workshop.write())
    assert exit_code(["validate", file, "--set", "capture.k=0", "-s", "name=ok"]) == 2
    assert "capture.k (--set): should be greater than 0" in capsys.readouterr().err
    assert exit_code(["validate", file, "--set", "nonsense"]) == 2
    assert "PATH=VALUE" in capsys.readouterr().err


def test_stages_that_the_file_does_not_have(workshop: Workshop, capsys: Any) -> None:
    assert exit_code(["synthesize", str(workshop.write())]) == 2
    assert "no `synthesize:` section" in capsys.readouterr().err

    def without_capture(run: dict[str, Any]) -> None:
        del run["capture"]
        run["train"]["teacher"] = "live"

    assert exit_code(["capture", str(workshop.write(without_capture))]) == 2
    assert "no `capture:` section" in capsys.readouterr().err
    assert not workshop.output.exists()


def test_unexpected_errors_show_their_traceback(workshop: Workshop, tmp_path: Path) -> None:
    plugin = tmp_path / "buggy.py"
    plugin.write_text(
        "from distill_core.plugin import component, hookimpl\n"
        "@hookimpl\ndef distill_components():\n    return [component('source', 'buggy', 'buggy_target:Buggy')]\n"
    )
    (tmp_path / "buggy_target.py").write_text("def Buggy(options):\n    raise KeyError('a bug')\n")
    file = workshop.write(lambda run: run["data"]["train"].update(source={"use": "buggy"}))
    result = distill("-p", plugin, "run", file, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "KeyError: 'a bug'" in result.stderr


def test_one_file_plugin_serves_components_and_commands(workshop: Workshop, tmp_path: Path, capsys: Any) -> None:
    plugin = tmp_path / "extra.py"
    plugin.write_text(
        "import typer\nfrom distill_core.plugin import hookimpl, objective\n"
        "app = typer.Typer()\n"
        "@app.command()\ndef hello(name: str):\n    typer.echo(f'hello {name}')\n"
        "@hookimpl\ndef distill_commands():\n    return [('greet', app)]\n"
        "@hookimpl\ndef distill_components():\n    return [objective('mine', 'no_such_module:mine')]\n"
    )
    file = str(workshop.write(lambda run: run["train"].update(objectives=[{"use": "mine", "view": "head"}])))
    assert exit_code(["validate", file]) == 2
    assert "no plugin offers the objective 'mine'" in capsys.readouterr().err
    assert exit_code(["-p", str(plugin), "validate", file]) == 0
    assert exit_code(["-p", str(plugin), "greet", "you"]) == 0
    assert "hello you" in capsys.readouterr().out
    assert exit_code(["-p", str(tmp_path / "none.py"), "version"]) == 2


def test_broken_plugin_commands_are_left_out(tmp_path: Path, capsys: Any) -> None:
    for name, body in {"taken": "return [('run', __import__('typer').Typer())]", "raising": "1 / 0"}.items():
        plugin = tmp_path / f"{name}.py"
        plugin.write_text(f"from distill_core.plugin import hookimpl\n@hookimpl\ndef distill_commands():\n    {body}\n")
        get_registry().load_file(plugin)
    assert exit_code(["--help"]) == 0
    out, err = capsys.readouterr()
    assert "report" in out and "commands of the plugin" in err


def test_a_full_disk_is_the_users_to_mend(monkeypatch: Any, capsys: Any) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "x.bin")
    wrapped = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert no_space_left(full) and no_space_left(wrapped)
    assert not no_space_left(OSError(errno.EIO, "broken")) and not no_space_left(ValueError("x"))

    def raising(**_: Any) -> None:
        raise wrapped

    monkeypatch.setattr(application, "app", raising)
    assert exit_code(["version"]) == 2
    assert "no space left" in capsys.readouterr().err


def test_a_path_that_cannot_be_used_is_the_users_to_mend(workshop: Workshop, monkeypatch: Any, capsys: Any) -> None:
    (workshop.directory / "file").write_text("")
    below = workshop.directory / "file" / "below"
    assert exit_code(["run", str(workshop.write()), "--set", f"output_dir={below}"]) == 2
    said = capsys.readouterr().err
    assert f"output_dir: {below} cannot be made (Not a directory)" in said and "Traceback" not in said

    def raising(**_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/root-owned/x")

    monkeypatch.setattr(application, "app", raising)
    assert exit_code(["version"]) == 2
    assert "error: /root-owned/x: Permission denied: name another path" in capsys.readouterr().err


def test_schema_knows_components_and_their_options(tmp_path: Path, capsys: Any) -> None:
    schema = run_file_schema(get_registry())
    definitions = schema["$defs"]
    assert "forward-kl" in definitions["objective"]["properties"]["use"]["enum"]
    options = definitions["objective:objectives:forward-kl"]["properties"]
    assert {"use", "weight", "name", "temperature", "mode"} <= set(options)
    assert definitions["TrainConfig"]["properties"]["objectives"]["items"] == {"$ref": "#/$defs/objective"}
    references = set(_references(schema))
    assert references <= {f"#/$defs/{name}" for name in definitions}
    assert exit_code(["schema", "--output", str(tmp_path / "s.json")]) == 0
    assert json.loads((tmp_path / "s.json").read_text(encoding="utf-8")) == schema
    assert exit_code(["schema", "-o", str(tmp_path / "no" / "s.json")]) == 2
    assert run_file_schema(Registry())["$defs"]["objective"]["allOf"] == []


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [reference for item in value.values() for reference in _references(item)]
    return [reference for item in value for reference in _references(item)] if isinstance(value, list) else []


def test_doctor_and_version(capsys: Any) -> None:
    assert exit_code(["version"]) == 0
    assert capsys.readouterr().out.strip() == "0.1.0"
    assert exit_code(["doctor"]) == 0
    said = capsys.readouterr().out
    for word in ("python 3", "torch", "threads", "topk_logits", "synthesis 0.1.0 (ok)", "GiB free"):
        assert word in said, word
