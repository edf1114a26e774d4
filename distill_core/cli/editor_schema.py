"""The JSON schema of run files, with the options of every installed component, for completion in editors."""

from __future__ import annotations

from typing import Any

from distill_core.config import RunConfig
from distill_core.options import CheckerRef, ScheduleRef, SourceRef
from distill_core.registry import Registry

_KIND_OF_FIELD = {
    "teacher": "teacher",
    "teachers": "teacher",
    "source": "source",
    "filters": "filter",
    "transforms": "transform",
    "synthesize": "synthesizer",
    "selector": "selector",
    "objectives": "objective",
    "evaluators": "evaluator",
}
"""Fields of the run file that name components."""

_NESTED = {part.__name__: part.KIND for part in (ScheduleRef, CheckerRef, SourceRef)}
"""Components inside the options of others, by the name of their definition."""

_REFERENCES = {"#/$defs/ComponentRef", "#/$defs/ObjectiveRef"}


def run_file_schema(registry: Registry) -> dict[str, Any]:
    """JSON schema (draft 2020-12). A component whose options model cannot be imported admits any option."""
    schema = RunConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    definitions: dict[str, Any] = schema["$defs"]
    for owner in [schema, *list(definitions.values())]:
        for field, kind in _KIND_OF_FIELD.items():
            if field in owner.get("properties", {}):
                owner["properties"][field] = _pointing_to(owner["properties"][field], f"#/$defs/{kind}")
    for kind in dict.fromkeys((*_KIND_OF_FIELD.values(), *_NESTED.values())):
        definitions[kind] = _kind_schema(kind, registry, definitions)
    for name, kind in _NESTED.items():
        definitions[name] = {"$ref": f"#/$defs/{kind}"}
    return schema


def _pointing_to(value: Any, target: str) -> Any:
    """A copy whose references to a component point to those of one kind."""
    if isinstance(value, dict):
        if value.get("$ref") in _REFERENCES:
            return {**value, "$ref": target}
        return {key: _pointing_to(item, target) for key, item in value.items()}
    return [_pointing_to(item, target) for item in value] if isinstance(value, list) else value


def _kind_schema(kind: str, registry: Registry, definitions: dict[str, Any]) -> dict[str, Any]:
    """A component of a kind: `use` says which, and that decides the options."""
    names: dict[str, str] = {}
    choices = []
    entries = registry.components(kind)
    bare = [entry.component.name for entry in entries]
    for entry in entries:
        own = [entry.id] + ([entry.component.name] if bare.count(entry.component.name) == 1 else [])
        definition = f"{kind}:{entry.id}"
        definitions[definition] = _component_schema(kind, entry.id, registry, definitions)
        names.update(dict.fromkeys(own, entry.component.summary))
        then = {"$ref": f"#/$defs/{definition}"}
        choices.append({"if": {"properties": {"use": {"enum": own}}, "required": ["use"]}, "then": then})
    use: dict[str, Any] = {"description": "registered name", "type": "string"}
    if names:
        use["enum"] = sorted(names, key=lambda name: (":" in name, name))
    return {"type": "object", "required": ["use"], "properties": {"use": use}, "allOf": choices}


def _component_schema(kind: str, name: str, registry: Registry, definitions: dict[str, Any]) -> dict[str, Any]:
    try:
        model = registry.options_model(kind, name)
        options = model.model_json_schema(ref_template=f"#/$defs/{kind}:{name}:{{model}}")
    except Exception as error:
        return {"type": "object", "description": f"options unknown: {type(error).__name__}: {error}"}
    for inner, definition in options.pop("$defs", {}).items():
        definitions[f"{kind}:{name}:{inner}"] = definition
    own: dict[str, Any] = {"use": {"type": "string"}}
    if kind == "objective":
        own.update({key: definitions["ObjectiveRef"]["properties"][key] for key in ("name", "weight")})
    options["properties"] = {**own, **options.get("properties", {})}
    options["description"] = registry.find(kind, name).component.summary
    return dict(options)
