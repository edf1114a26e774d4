"""The isolating loader: each defect is kept with its stage, and no plugin changes another's result."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distill_core.errors import AmbiguousComponent, PluginError, UnknownComponent
from distill_core.registry import Controls, PluginRecord, Registry

from .conftest import Plant, discover, entry_module, plant_distribution


def record_of(registry: Registry, distribution: str) -> PluginRecord:
    (record,) = [record for record in registry.records if record.distribution == distribution]
    return record


def planted(registry: Registry) -> list[PluginRecord]:
    """Records without those of the plugins installed here."""
    return [record for record in registry.records if record.status != "disabled"]


def names(registry: Registry) -> list[str]:
    return [entry.id for entry in registry.components()]


BAD_MODULES = {
    "import": ("import not_there", "ModuleNotFoundError"),
    "exit": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "syntax": ("def broken(:", "SyntaxError"),
}


@pytest.mark.parametrize("case", BAD_MODULES)
def test_failing_import_is_kept_and_others_load(plant: Plant, case: str) -> None:
    source, expected = BAD_MODULES[case]
    plant("acme-bad", "1.0", {"bad": "acme_bad"}, acme_bad=source)
    plant("acme-good", "1.0", {"good": "acme_good"}, acme_good=entry_module("steady"))
    registry = discover("acme-bad", "acme-good")
    bad = record_of(registry, "acme-bad")
    assert (bad.status, bad.stage) == ("failed", "import")
    assert expected in bad.error
    assert "Traceback (most recent call last)" in bad.traceback
    assert names(registry) == ["good:steady"]


def test_keyboard_interrupt_is_the_users(plant: Plant) -> None:
    plant("acme-bad", "1.0", {"bad": "acme_bad"}, acme_bad="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        discover("acme-bad")


HOOK_DEFECTS = {
    "signature": ("@hookimpl\ndef distill_run_started(nonexistent): ...", "hooks", "nonexistent"),
    "misspelt": ("@hookimpl\ndef distill_component(): return []", "hooks", "did you mean 'distill_components'?"),
    "unmarked": ("def distill_components(): return []", "hooks", "put @hookimpl"),
    "wrapper": ("@hookimpl(wrapper=True)\ndef distill_components(): yield", "hooks", "wrapper"),
    "nothing": ("", "hooks", "implements no hook"),
    "raising": ("@hookimpl\ndef distill_components(): raise RuntimeError('boom')", "components", "boom"),
    "exiting": ("@hookimpl\ndef distill_components(): raise SystemExit(4)", "components", "SystemExit: 4"),
    "no-list": ("@hookimpl\ndef distill_components(): return 3", "components", "expected a sequence of Component"),
    "strings": ("@hookimpl\ndef distill_components(): return ['tv']", "components", "expected a distill_core.plugin"),
}


@pytest.mark.parametrize("case", HOOK_DEFECTS)
def test_hook_defects(plant: Plant, case: str) -> None:
    body, stage, expected = HOOK_DEFECTS[case]
    plant("acme-bad", "1.0", {"bad": "acme_bad"}, acme_bad=f"from distill_core.plugin import hookimpl\n{body}\n")
    plant("acme-good", "1.0", {"good": "acme_good"}, acme_good=entry_module("steady"))
    registry = discover("acme-bad", "acme-good")
    bad = record_of(registry, "acme-bad")
    assert (bad.status, bad.stage) == ("failed", stage)
    assert expected in bad.error
    assert "Traceback" in bad.traceback
    assert names(registry) == ["good:steady"]
    assert registry.call_hook("distill_commands") == []


DECLARATIONS = {
    "newer": ('Component("schedule", "later", "m:A", api=PLUGIN_API + 1)', "plugin interface 2"),
    "case": ('Component("schedule", "Later", "m:A")', "kebab-case"),
    "kind": ('Component("objetive", "later", "m:A")', "did you mean 'objective'?"),
    "target": ('Component("schedule", "later", "m.A")', "target is 'm.A'"),
    "options": ('Component("schedule", "later", "m:A", options="")', "options is ''"),
    "twice": ('Component("schedule", "later", "m:A"), Component("schedule", "later", "m:B")', "declared twice"),
}


@pytest.mark.parametrize("case", DECLARATIONS)
def test_wrong_declarations_commit_nothing(plant: Plant, case: str) -> None:
    declared, expected = DECLARATIONS[case]
    source = f"""
    from distill_core.plugin import PLUGIN_API, Component, hookimpl
    seen = []
    @hookimpl
    def distill_components():
        return [Component("schedule", "fine", "m:A"), {declared}]
    @hookimpl
    def distill_commands():
        return [("never", None)]
    """
    plant("acme-bad", "1.0", {"bad": "acme_bad"}, acme_bad=source)
    registry = discover("acme-bad")
    bad = record_of(registry, "acme-bad")
    assert (bad.status, bad.stage) == ("failed", "components")
    assert expected in bad.error
    assert registry.components() == []  # not even the sound one
    assert registry.call_hook("distill_commands") == []


def test_an_unheard_of_kind_is_allowed(plant: Plant) -> None:
    plant("acme", "1.0", {"acme": "acme_entry"}, acme_entry=entry_module("steady", kind="tracker"))
    assert names(discover("acme")) == ["acme:steady"]


def test_what_a_plugin_prints_stays_off_stdout(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant("acme", "1.0", {"acme": "acme_entry"}, acme_entry="print('noise')\n" + entry_module("steady"))
    discover("acme")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "noise\n")


def test_first_copy_on_the_path_wins(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = tmp_path / "earlier"
    plant_distribution(site, "acme", "2.0", {"acme": "acme_entry"}, {"acme_entry": entry_module("late")})
    plant_distribution(earlier, "Acme", "1.0", {"acme": "acme_entry"}, {"acme_entry": entry_module("soon")})
    monkeypatch.syspath_prepend(str(earlier))
    registry = discover("acme")
    assert [(r.version, r.status) for r in planted(registry)] == [("1.0", "ok"), ("2.0", "duplicate")]
    assert names(registry) == ["acme:soon"]
    hidden = planted(registry)[1]
    assert hidden.stage == "discovery"
    assert str(earlier) in hidden.error
    assert "PluginError" in hidden.traceback


def test_stale_metadata_in_one_folder_loses_to_the_higher_version(plant: Plant) -> None:
    plant("acme", "1.10", {"acme": "acme_entry"}, acme_entry=entry_module("steady"))
    plant("acme", "1.9", {"acme": "gone"})
    registry = discover("acme")
    assert [(r.version, r.status) for r in planted(registry)] == [("1.10", "ok"), ("1.9", "duplicate")]
    assert names(registry) == ["acme:steady"]


def test_a_copy_without_plugins_earlier_on_the_path_hides_one_with(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_distribution(site, "acme", "2.0", {"acme": "acme_entry"}, {"acme_entry": entry_module("steady")})
    earlier = tmp_path / "earlier"
    info = earlier / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(earlier))
    registry = discover("acme")
    assert [(r.version, r.status) for r in planted(registry)] == [("2.0", "duplicate")]
    assert "offers no plugin" in planted(registry)[0].error


def test_the_same_folder_twice_on_the_path_is_no_duplicate(
    plant: Plant, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("acme", "1.0", {"acme": "acme_entry"}, acme_entry=entry_module("steady"))
    linked = tmp_path / "lib64"
    linked.symlink_to(site)
    monkeypatch.syspath_prepend(str(linked))
    assert [record.status for record in discover("acme").records if record.distribution == "acme"] == ["ok"]


def test_an_editable_installs_source_tree_is_no_duplicate(
    plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("acme", "1.0", {"acme": "acme_entry"}, acme_entry=entry_module("steady"))
    tree = tmp_path / "sources"
    info = tree / "acme.egg-info"
    info.mkdir(parents=True)
    info.joinpath("PKG-INFO").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    info.joinpath("entry_points.txt").write_text("[distill_core]\nacme = acme_entry\n")
    monkeypatch.syspath_prepend(str(tree))
    assert [record.status for record in discover("acme").records if record.distribution == "acme"] == ["ok"]


def test_clash_of_plugin_names_keeps_both_usable(plant: Plant) -> None:
    plant("acme-a", "1.0", {"acme": "acme_a"}, acme_a=entry_module("steady", "only-a"))
    plant("acme-b", "2.0", {"acme": "acme_b"}, acme_b=entry_module("steady"))
    registry = discover("acme-a", "acme-b")
    assert names(registry) == ["acme-a:only-a", "acme-a:steady", "acme-b:steady"]
    assert [record.status for record in planted(registry)] == ["clash", "clash"]
    assert "acme-b 2.0" in planted(registry)[0].error
    assert registry.find("schedule", "acme-b:steady").version == "2.0"
    assert registry.find("schedule", "acme:only-a").plugin == "acme-a"  # an older file that says acme:... still works
    with pytest.raises(AmbiguousComponent, match="acme-a:steady, acme-b:steady"):
        registry.find("schedule", "acme:steady")


def test_a_blocked_plugin_takes_no_part_in_a_clash(plant: Plant) -> None:
    plant("acme-a", "1.0", {"acme": "acme_a"}, acme_a=entry_module("steady"))
    plant("acme-b", "2.0", {"acme": "acme_b"}, acme_b=entry_module("steady"))
    registry = discover("acme-a")
    assert names(registry) == ["acme:steady"]
    assert record_of(registry, "acme-a").status == "ok"


def test_a_broken_plugin_takes_no_part_in_a_clash(plant: Plant) -> None:
    plant("acme-a", "1.0", {"acme": "acme_a"}, acme_a=entry_module("steady"))
    plant("acme-b", "2.0", {"acme": "acme_b"}, acme_b="import not_there")
    registry = discover("acme")
    assert names(registry) == ["acme:steady"]
    assert record_of(registry, "acme-a").status == "ok"
    assert record_of(registry, "acme-b").status == "failed"


def test_bare_name_offered_twice_has_no_winner(plant: Plant) -> None:
    plant("acme-a", "1.0", {"aa": "acme_a"}, acme_a=entry_module("steady"))
    plant("acme-b", "1.0", {"bb": "acme_b"}, acme_b=entry_module("steady"))
    registry = discover("aa", "bb")
    with pytest.raises(AmbiguousComponent, match="aa:steady, bb:steady"):
        registry.find("schedule", "steady")
    assert registry.find("schedule", "bb:steady").plugin == "bb"


def test_unknown_name_lists_near_misses_and_failed_plugins(plant: Plant) -> None:
    plant("acme-bad", "0.3", {"bad": "acme_bad"}, acme_bad="import not_there")
    plant("acme-good", "1.0", {"good": "acme_good"}, acme_good=entry_module("steady"))
    registry = discover("bad", "good")
    with pytest.raises(UnknownComponent) as caught:
        registry.find("schedule", "stady")
    message = str(caught.value)
    assert "Did you mean 'steady'?" in message
    assert "bad 0.3 (failed at import: ModuleNotFoundError" in message
    with pytest.raises(UnknownComponent, match="'good:steady'"):
        registry.find("schedule", "other:steady")
    with pytest.raises(UnknownComponent, match="of kind schedule"):
        registry.find("filter", "steady")
    with pytest.raises(UnknownComponent, match="never by an import path"):
        registry.find("schedule", "os.system")


def test_allow_list_disable_and_strict(plant: Plant) -> None:
    plant("acme-one", "1.0", {"one": "acme_one"}, acme_one=entry_module("first"))
    plant("acme-two", "1.0", {"two": "acme_two"}, acme_two="import not_there")
    controls = Controls.from_environment({"DISTILL_PLUGINS": "one, Acme_Two,typo", "DISTILL_DISABLE_PLUGINS": "two"})
    registry = Registry().discover(controls)
    by_name = {record.distribution: record for record in registry.records}
    assert by_name["acme-one"].status == "ok"
    assert by_name["acme-two"].status == "disabled"
    assert "acme_two" not in sys.modules
    assert by_name["typo"].status == "missing"
    with pytest.raises(PluginError, match="typo"):
        registry.require_sound()
    Registry().discover(Controls(allow=("one",))).require_sound()
    with pytest.raises(PluginError, match="ModuleNotFoundError"):
        discover("two").require_sound()


def test_controls_read_the_environment() -> None:
    assert Controls.from_environment({}) == Controls()
    assert Controls.from_environment({"DISTILL_PLUGINS": ""}).allow == ()
    assert Controls.from_environment({"DISTILL_DISABLE_PLUGINS": "*"}).refusal("anything") is not None
    assert Controls.from_environment({"DISTILL_PLUGINS_STRICT": "1"}).strict
    assert not Controls.from_environment({"DISTILL_PLUGINS_STRICT": "0"}).strict
    with pytest.raises(PluginError, match="DISTILL_PLUGINS_STRICT is 'maybe'"):
        Controls.from_environment({"DISTILL_PLUGINS_STRICT": "maybe"})
