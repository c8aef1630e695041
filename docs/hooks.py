"""MkDocs hooks that generate parts of the site from the code.

`<!-- generated: NAME -->` in a page is replaced by the result of the function NAME in this module. The site also serves
`schema/provenance.schema.json`.
"""

import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lightning_dtool.cli import model
from lightning_dtool.record import json_schema

SCHEMA = "schema/provenance.schema.json"
FACTS = Path(__file__).with_name("facts.yml")
RESUME = Path(__file__).with_name("resume")
SECRETS = Path(__file__).with_name("secrets.json")
FAULTS = Path(__file__).with_name("faults.json")
FUZZ = Path(__file__).with_name("fuzz.json")
BENCHMARKS = Path(__file__).with_name("benchmarks")
_MARKER = re.compile(r"<!-- generated: (\w+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated files to the site."""
    files.append(File.generated(config, SCHEMA, content=json.dumps(json_schema(), indent=2) + "\n"))
    with open("CHANGELOG.md", encoding="utf-8") as changelog:
        files.append(File.generated(config, "changelog.md", content=changelog.read()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the markers in a page by generated text."""
    return _MARKER.sub(lambda found: GENERATED[found[1]](), markdown)


def record_fields() -> str:
    """Return a table of the fields of each part of the record, in the order of the record."""
    schema = json_schema()
    parts = {schema["title"]: schema, **_in_order(schema, schema["$defs"])}
    return "\n\n".join(f"### {name}\n\n{_table(part, parts)}" for name, part in parts.items())


def recorded_facts() -> str:
    """Return a table for each part of the record: where and when each fact is observed, and what is said otherwise."""
    known = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    return "\n\n".join(f"## {part}\n\n{_facts_table(facts)}" for part, facts in known.items())


def command_line() -> str:
    """Return the help of every command, as the command prints it."""
    return "\n\n".join(
        f"## `{path}`\n\n```text\n{context.get_help()}\n```"
        for path, context in _commands(model, "lightning-dtool", None)
    )


def resume_matrix() -> str:
    """Return tables that say for each configuration whether a resumed run equals an uninterrupted one."""
    stacks = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESUME.glob("*.json"), reverse=True)]
    titles = [f"Lightning {stack['versions']['lightning']}, torch {stack['versions']['torch']}" for stack in stacks]
    return "\n\n".join(
        [
            "## Counts\n\n" + _counts(titles, stacks),
            "## Trainings with state that Lightning does not save\n\n" + _kinds(titles[-1], stacks[-1]["kinds"]),
            "## Stops, data and settings\n\n" + _combinations(titles, [stack["rows"] for stack in stacks]),
        ]
    )


def _counts(titles: list[str], stacks: list[dict[str, Any]]) -> str:
    lines = ["| | Rows | Equal | Announced | Silent |", "|---|---|---|---|---|"]
    for title, stack in zip(titles, stacks, strict=True):
        verdicts = [row["verdict"] for row in [*stack["rows"], *stack.get("kinds", [])]]
        equal, announced = verdicts.count("equal"), verdicts.count("different, announced")
        silent = len(verdicts) - equal - announced
        lines.append(f"| {title} | {len(verdicts)} | {equal} | {announced} | {silent} |")
    return "\n".join(lines)


def _kinds(title: str, rows: list[dict[str, Any]]) -> str:
    """Return a table with a row for each training, and a column for each stop."""
    stops = list(dict.fromkeys(row["where"] for row in rows))
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row["model"], {})[row["where"]] = _resumed(row)
    lines = [f"With {title}:", "", "| Training | " + " | ".join(stops) + " |", "|" + "---|" * (len(stops) + 1)]
    lines += ["| " + " | ".join([name, *(cells[stop] for stop in stops)]) + " |" for name, cells in found.items()]
    return "\n".join(lines)


def _combinations(titles: list[str], stacks: list[list[dict[str, Any]]]) -> str:
    found: dict[tuple[Any, ...], list[dict[str, Any] | None]] = {}
    for index, rows in enumerate(stacks):
        for row in rows:
            key = tuple(row[name] for name in ("where", "data", "model", "workers", "processes"))
            found.setdefault(key, [None] * len(stacks))[index] = row
    columns = ["Saved", "Data", "Training", "Workers", "Processes", *titles]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for key, each in found.items():
        lines.append("| " + " | ".join([*map(str, key), *map(_resumed, each)]) + " |")
    return "\n".join(lines)


def _resumed(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not in this release"
    if row["verdict"] == "equal":
        return "equal, although announced as not exact: " + row["reasons"][0] if row["reasons"] else "**equal**"
    reasons = "; ".join(row["reasons"]).replace("|", "\\|")
    return f"{', '.join(row['differing'])} differ: {reasons}"


def faults() -> str:
    """Return a table that says what was found after each fault, and what killed trainings were doing."""
    content = json.loads(FAULTS.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    kinds = list(content["rows"][0]["found"])
    lines = ["| What happened | State | Datasets | Runs | " + " | ".join(map(str.capitalize, kinds)) + " |"]
    lines.append("|" + "---|" * (4 + len(kinds)))
    moments: Counter[str] = Counter()
    for row in content["rows"]:
        found = [str(row["found"][kind]) for kind in kinds]
        counts = found if row["runs"] else [row["skipped"], *[""] * (len(kinds) - 1)]
        lines.append("| " + " | ".join([row["fault"], row["state"], row["place"], str(row["runs"]), *counts]) + " |")
        moments.update(row["where"])
    where = [
        "| The training was | Runs |",
        "|---|---|",
        *(f"| {doing} | {runs} |" for doing, runs in moments.most_common()),
    ]
    total = sum(row["runs"] for row in content["rows"])
    return "\n\n".join(
        [
            f"## Findings\n\n{total} runs, with {versions} and seed {content['seed']}.",
            "\n".join(lines),
            "## Where the kills came\n\n" + "\n".join(where),
        ]
    )


def fuzz() -> str:
    """Return a table that says how operations on mutated datasets ended."""
    content = json.loads(FUZZ.read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    counted = ["datasets", "operations", "right", "typed"]
    kinds = list(content["rows"][0]["found"])
    columns = ["Dataset", "Changed", *(name.capitalize() for name in (*counted, *kinds))]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in content["rows"]:
        numbers = [*(row[name] for name in counted), *(row["found"][kind] for kind in kinds)]
        lines.append("| " + " | ".join([row["kind"], row["mutation"], *map(str, numbers)]) + " |")
    total, datasets = (sum(row[name] for row in content["rows"]) for name in ("operations", "datasets"))
    return (
        f"## Findings\n\n{total} operations on {datasets} datasets, with {versions} and seed {content['seed']}.\n\n"
        + ("\n".join(lines))
    )


def secrets() -> str:
    """Return tables of how many planted credentials were found again, and of those that were, with the reasons."""
    content = json.loads(SECRETS.read_text(encoding="utf-8"))
    kinds = ["| Kind of place | Planted | Found |", "|---|---|---|"]
    kinds += [f"| {row['kind']} | {row['planted']} | {row['found']} |" for row in content["kinds"]]
    places = ["| Place | Found in | Reason |", "|---|---|---|"]
    for row in content["found"]:
        files = "<br>".join(f"`{name}`" for name in row["files"])
        places.append(f"| `{row['place']}` | {files} | {row['reason'] or '**none**'} |")
    return "\n\n".join([f"{content['planted']} credentials were planted.", "\n".join(kinds), "\n".join(places)])


def benchmark_tables() -> str:
    """Return a table for each comparison that `python -m benchmarks --write docs/benchmarks` wrote."""
    parts = []
    for path in sorted(BENCHMARKS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"## {path.stem.capitalize()}\n\n{_machine(content['machine'])}")
        parts += map(_comparison, content["comparisons"])
    return "\n\n".join(parts)


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Measured on {machine['date']}: {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}; Python {machine['python']}, {versions}."
    )


def _comparison(comparison: dict[str, Any]) -> str:
    baseline, unit = comparison["baseline"], comparison["unit"]
    lines = [f"### {comparison['title']}", "", f"| | median ({unit}) | min | max | ratio |", "|---|---|---|---|---|"]
    for name, values in comparison["series"].items():
        median = statistics.median(values)
        ratio = median / statistics.median(comparison["series"][baseline])
        lines.append(f"| {name} | {median:.4g} | {min(values):.4g} | {max(values):.4g} | {ratio:.3g} |")
    lines.append("")
    for bar in comparison["bars"]:
        reached = bar["reached"]
        against = f" {unit}" if bar["absolute"] else f" of {bar['against'] or baseline}"
        met = "met" if reached <= bar["at_most"] else "**not met**"
        lines.append(
            f"- {bar['series']} ({bar['statistic']}): {reached:.3g}{against}, at most {bar['at_most']:g}: {met}"
        )
    return "\n".join([*lines, *(f"- {note}" for note in comparison["notes"])])


GENERATED: dict[str, Callable[[], str]] = {
    "record_fields": record_fields,
    "recorded_facts": recorded_facts,
    "command_line": command_line,
    "resume_matrix": resume_matrix,
    "faults": faults,
    "fuzz": fuzz,
    "secrets": secrets,
    "benchmark_tables": benchmark_tables,
}


def _facts_table(facts: dict[str, dict[str, Any]]) -> str:
    lines = ["| Fact | Where it comes from | When it is observed | If it is not known | Shown by |", "|" + "---|" * 5]
    for field, fact in facts.items():
        cells = (
            f"[`{field}`](record.md#fields)",
            fact["from"],
            ", ".join(fact["when"]),
            "<br>".join([fact["otherwise"], *(f"gap `{path}`" for path in fact.get("gaps", []))]),
            "<br>".join(f"`{test}`" for test in fact["tests"]),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_order(part: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the definitions that a part refers to, each followed by the definitions that it refers to."""
    found: dict[str, Any] = {}
    for name in re.findall(r'"#/\$defs/(\w+)"', json.dumps(part.get("properties", {}))):
        found |= {name: definitions[name]} | _in_order(definitions[name], definitions)
    return found


def _table(part: dict[str, Any], parts: dict[str, Any]) -> str:
    required = part.get("required", [])
    rows = []
    for field, content in part["properties"].items():
        # A field without a description of its own has that of the part that it refers to.
        meaning = content.get("description") or parts.get(_referred(content), {}).get("description", "")
        rows.append(f"| `{field}` | {_type(content)} | {'yes' if field in required else 'no'} | {meaning} |")
    return "\n".join([part["description"], "", "| Field | Type | Required | Meaning |", "|---|---|---|---|", *rows])


def _referred(content: dict[str, Any]) -> str:
    """Return the name of the part that a field refers to, directly or in a list, or an empty string."""
    inner = content.get("items", content)
    return str(inner.get("$ref", "")).rpartition("/")[2]


def _type(content: dict[str, Any]) -> str:
    """Return a JSON Schema type as text, with links to the parts of the record."""
    if "$ref" in content:
        return f"[{_referred(content)}](#{_referred(content).lower()})"
    if "anyOf" in content:
        return " or ".join(map(_type, content["anyOf"]))
    if "format" in content:
        return str(content["format"])
    if content.get("type") == "array":
        return f"list of {_type(content.get('items', {}))}"
    if content.get("type") == "object":
        values = content.get("additionalProperties")
        return f"object of {_type(values)}" if isinstance(values, dict) and values else "object"
    return str(content.get("type", "any JSON"))


def _commands(command: click.Command, path: str, parent: click.Context | None) -> Iterator[tuple[str, click.Context]]:
    name = path if parent is None else path.split()[-1]
    context = command.make_context(name, [], parent=parent, resilient_parsing=True, terminal_width=100)
    yield path, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield from _commands(found, f"{path} {name}", context)
