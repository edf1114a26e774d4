"""What a run of a recipe came to: one JSON file per recipe, and the table of docs/recipes.md made from them.

    distill run recipes/NAME.yaml
    python recipes/summarise.py runs/NAME > recipes/results/NAME.json
    python recipes/summarise.py --table

``make recipes`` does so for every recipe, into ``runs/results``, in the order that ``--order`` prints.

A recipe states in a comment which students its own is compared with and by what, in this form:

    # Baseline: hard-labels; judged by cross_entropy.

Names stand under `compare`, several with commas between; the measure is a metric of `results.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).resolve().parent
RESULTS = RECIPES / "results"
STATED = re.compile(r"^# Baseline: (?P<baselines>[\w-]+(?:, [\w-]+)*); judged by (?P<metric>\w+)\.", re.MULTILINE)
KEPT = ("label", "unit", "higher_is_better", "primary", "value", "standard_error", "interval")
PAIRED = ("metric", "baseline", "difference", "standard_error", "interval", "p_adjusted", "relative", "verdict")


def recipe_digest(recipe: Path) -> str:
    """sha256 of what the recipe says, comments and layout aside."""
    content = json.dumps(yaml.safe_load(recipe.read_text(encoding="utf-8")), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def stated(recipe: Path) -> tuple[list[str], str]:
    """The baselines and the metric that the recipe's comment names."""
    found = STATED.search(recipe.read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit(f"{recipe.name} states no baseline: give it a comment `# Baseline: NAME; judged by METRIC.`")
    return found["baselines"].split(", "), found["metric"]


def needed(recipe: Path) -> list[str]:
    """Other recipes whose output this one reads, by name, in the order they have to run."""
    named = re.findall(r"\bruns/([\w-]+)/", recipe.read_text(encoding="utf-8"))
    others = [name for name in dict.fromkeys(named) if name != recipe.stem and (RECIPES / f"{name}.yaml").is_file()]
    return [*dict.fromkeys(inner for name in others for inner in [*needed(RECIPES / f"{name}.yaml"), name])]


def order(names: Iterable[str]) -> list[str]:
    """The named recipes (default: all), each after those whose output it reads."""
    known = sorted(recipe.stem for recipe in RECIPES.glob("*.yaml"))
    wanted = list(names) or known
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"there is no recipe {', '.join(unknown)}; there are {', '.join(known)}")
    return [*dict.fromkeys(one for name in wanted for one in [*needed(RECIPES / f"{name}.yaml"), name])]


def check_same_run(directory: Path, recipe: Path) -> None:
    """Refuse a run that was made with other values than the recipe has now."""
    from distill_core.engine.run_file.validate import load_run_file
    from distill_core.registry import get_registry

    config = load_run_file(recipe, registry=get_registry()).config
    now = json.loads(config.model_dump_json(exclude_none=True))
    ran = yaml.safe_load((directory / "run.yaml").read_text(encoding="utf-8"))
    differing = [key for key in now.keys() | ran.keys() if now.get(key) != ran.get(key) and key != "output_dir"]
    if differing:
        raise SystemExit(f"{directory} was not run with {recipe.name} as it is now: {', '.join(differing)} differ")


def stages(directory: Path) -> dict[str, dict[str, Any]]:
    """The manifests of a run's finished stages, by their directory; of active rounds, those of all rounds."""
    found = {}
    for path in sorted(directory.rglob("manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if "stage" in manifest and "stale" not in path.relative_to(directory).parts:
            if manifest["status"] != "finished":
                raise SystemExit(f"{directory}: stage {manifest['stage']} is {manifest['status']}, not finished")
            found[path.parent.relative_to(directory).as_posix()] = manifest
    return found


def judged_in(directory: Path) -> Path:
    """The directory of the run whose evaluation counts: the run's own, or that of the last of active rounds."""
    if not (directory / "active.json").is_file():
        return directory
    active = json.loads((directory / "active.json").read_text(encoding="utf-8"))
    if active["stopped"] is None:
        raise SystemExit(f"{directory}: its active rounds are not done; run the recipe again")
    return directory / "rounds" / f"{active['rounds'][-1]['round']:02d}"


def cost(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Seconds of all stages together, over all attempts."""
    return {
        "wall_seconds": round(sum(manifest["seconds"] for manifest in manifests.values()), 1),
        "cpu_seconds": round(sum(manifest["cpu_seconds"] for manifest in manifests.values()), 1),
    }


def summary(directory: Path) -> dict[str, Any]:
    """What stands in ``recipes/results/NAME.json``: nothing of it names a place on the machine it ran on."""
    name = yaml.safe_load((directory / "run.yaml").read_text(encoding="utf-8"))["name"]
    recipe = RECIPES / f"{name}.yaml"
    check_same_run(directory, recipe)
    final = judged_in(directory)
    results = json.loads((final / "evaluate" / "results.json").read_text(encoding="utf-8"))
    manifests, last = stages(directory), stages(final)
    environment = last["evaluate"]["environment"]
    others = needed(recipe)
    return {
        "schema": 1,
        "recipe": name,
        "recipe_sha256": recipe_digest(recipe),
        "commands": [f"distill run recipes/{one}.yaml" for one in [*others, name]],
        "cost": {one: cost(stages(directory.parent / one)) for one in others} | {name: cost(manifests)},
        "environment": {key: environment[key] for key in ("python", "threads", "versions")},
        "held_out": results["data"],
        "models": {
            model: {"role": one["role"], "parameters": one["parameters"], "layers": one["layers"]}
            | {"metrics": {key: {k: metric[k] for k in KEPT} for key, metric in one["metrics"].items()}}
            for model, one in results["models"].items()
        },
        "comparisons": [{key: one[key] for key in PAIRED} for one in results["comparisons"]],
        **rounds_of(directory),
        "updates": {
            manifest["stage"].partition(":")[2]: {
                k: v for k, v in manifest["notes"]["update"].items() if k != "seconds"
            }
            for manifest in last.values()
            if "update" in manifest["notes"]
        },
        "stated": [
            judged(results, baseline, metric) for baselines, metric in [stated(recipe)] for baseline in baselines
        ],
    }


def rounds_of(directory: Path) -> dict[str, Any]:
    """What each of active rounds brought; nothing for a run without them."""
    if not (directory / "active.json").is_file():
        return {}
    active = json.loads((directory / "active.json").read_text(encoding="utf-8"))
    rounds = [{key: value for key, value in one.items() if key != "directory"} for one in active["rounds"]]
    return {"active": {**active, "rounds": rounds}}


def judged(results: Mapping[str, Any], baseline: str, metric: str) -> dict[str, Any]:
    """The comparison that a recipe stands or falls by; ``improves``: by more than two standard errors."""
    for one in results["comparisons"]:
        if (one["baseline"], one["metric"]) == (baseline, metric):
            better = results["models"][one["model"]]["metrics"][metric]["higher_is_better"]
            gain, error = one["difference"] * (1 if better else -1), one["standard_error"]
            return {key: one[key] for key in PAIRED} | {"improves": error is not None and gain > 2 * error}
    known = sorted({(one["baseline"], one["metric"]) for one in results["comparisons"]})
    raise SystemExit(f"there is no comparison with {baseline!r} by {metric!r}; there are {known}")


def committed(directory: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """All results of a directory, by name of the recipe."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(directory.glob("*.json"))}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a line per recipe and baseline that it states."""
    head = "| recipe | against | by | student | baseline | difference | better by two standard errors | CPU time |"
    return "\n".join(
        [head, "|---|---|---|---|---|---|---|---|", *(line for one in found.values() for line in _lines(one))]
    )


def _lines(one: Mapping[str, Any]) -> Iterator[str]:
    student = next(name for name, model in one["models"].items() if model["role"] == "student")
    minutes = sum(spent["cpu_seconds"] for spent in one["cost"].values()) / 60
    for pair in one["stated"]:
        metric = one["models"][student]["metrics"][pair["metric"]]
        values = [one["models"][name]["metrics"][pair["metric"]]["value"] for name in (student, pair["baseline"])]
        unit = "" if metric["unit"] in ("", "fraction") else f" ({metric['unit']})"
        error = "" if pair["standard_error"] is None else f" ± {pair['standard_error']:.3f}"
        cells = [
            f"`{one['recipe']}`",
            f"`{pair['baseline']}`",
            f"{metric['label']}{unit}",
            *(f"{value:.3f}" for value in values),
            f"{pair['difference']:+.3f}{error}",
            "yes" if pair["improves"] else "no",
            f"{minutes:.1f} min",
        ]
        yield "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="directory of a finished run: prints its result as JSON")
    parser.add_argument(
        "--table",
        type=Path,
        nargs="?",
        const=RESULTS,
        metavar="DIRECTORY",
        help="print the table of all results in a directory; default: of the committed ones",
    )
    parser.add_argument(
        "--order", nargs="*", metavar="NAME", help="print these recipes, or all, in the order to run them"
    )
    arguments = parser.parse_args()
    if sum(value is not None for value in (arguments.run, arguments.table, arguments.order)) != 1:
        parser.error("give one of: the directory of a run, --table, --order")
    if arguments.table is not None:
        print(table(committed(arguments.table)))
    elif arguments.order is not None:
        print("\n".join(order(arguments.order)))
    else:
        json.dump(summary(arguments.run), sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
        print()


if __name__ == "__main__":
    main()
