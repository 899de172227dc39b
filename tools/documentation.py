"""What MkDocs calls to build the site: navigation, generated pages, and a look for foreign hosts.

The reference of the command line comes from its own help, the walk-throughs of additions from the
patches that ``tests/test_additions.py`` applies, the reference of Python from docstrings: none of
them is a file that could go stale. Pages below ``docs/`` find their place by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SECTIONS = {
    "Results": ("results.md", "benchmarks.md", "paper.md", "parity.md", "peers.md"),
    "Project": (
        "architecture.md",
        "reliability.md",
        "layouts.md",
        "renamed.md",
        "licences.md",
        "project/changes.md",
        "project/contributing.md",
        "project/security.md",
    ),
}
"""Pages that are no topic; any other page at the top of ``docs/`` is one."""
CONCEPTS = ("why-stable", "why-interpolate", "superb", "exact", "report", "trust")
"""In the order in which they are read; further ones follow."""
COPIED = {"changes": "CHANGELOG.md", "contributing": "CONTRIBUTING.md", "security": "SECURITY.md"}
REFERENCE = ("reference/commands.md", "reference/python.md")
ADDITIONS = {
    "label-task": (
        "A task: one label an utterance",
        "A line in `TASKS`. The label is a column of the corpus; head, loss, metric, tables and "
        "reports follow. Without even that line, the column is a task as `--tasks label:language`.",
    ),
    "task-with-metric": (
        "A task with a metric of its own",
        "One file that puts together labels, model, scorer and needs, its import and its entry in "
        "`TASKS`. The `Measure` says how it is computed, its unit, decimals and direction; nothing "
        "else names it.",
    ),
    "hf-family": (
        "An encoder family of transformers",
        "One file that says all that is known of the family, and a line in the table of families. "
        "Lengths, timing, front end and modes stand there.",
    ),
    "other-family": (
        "An encoder with a class of its own",
        "The same two places. The class is yours; the contract (lengths, hidden states) is "
        "checked.",
    ),
    "merge-method": (
        "A merge method",
        "One frozen dataclass with its equation and paper, and a line in `METHODS`. Its fields are "
        "its options: command line, recipes, files and help read them from there.",
    ),
    "corpus": (
        "A corpus",
        "One file with a `CARD` and a `scan` that reads label files into drafts, and a line in "
        "`ARCHIVES`. Audio is inspected, splits checked and manifests written for it.",
    ),
}
"""Title and first words of each walk-through, by patch."""


def command_page() -> str:
    """Return the reference of the command line, made from its own help."""
    import typer

    from speechft import cli

    group: Any = typer.main.get_command(cli.app)
    parts = ["# Commands", "", "Made from `speechft VERB --help`."]
    for name, verb in group.commands.items():
        with verb.make_context(name, [], resilient_parsing=True) as context:
            parts += ["", f"## {name}", "", *_help_lines(verb.help or "")]
            parts += ["", "| | | default |", "|---|---|---|"]
            parts += [_row(parameter, context) for parameter in verb.params if not parameter.hidden]
    return "\n".join(parts) + "\n"


def _help_lines(text: str) -> Iterator[str]:
    for line in text.strip().splitlines():
        example = line.strip().removeprefix("Example: ")
        yield f"```\n{example}\n```" if example != line.strip() else line.strip()


def _row(parameter: Any, context: Any) -> str:
    names = parameter.name.upper() if parameter.param_type_name == "argument" else None
    options = ", ".join(f"`{option}`" for option in parameter.opts)
    shown = f"`{parameter.metavar or names}`" if names else options
    default = parameter.get_default(context)
    plain = default is None or default is False or callable(default) or default in ((), [], "")
    told = "" if plain else f"`{default}`"
    told = "required" if parameter.required else told
    words = (getattr(parameter, "help", None) or "").replace("|", "\\|")
    return f"| {shown} | {words} | {told} |"


def python_page() -> str:
    """Return the page that mkdocstrings fills from the docstrings of all public names."""
    import speechft

    places = [home if ":" in home else f"{home}:{name}" for name, home in speechft._HOMES.items()]
    full = [*(place.replace(":", ".") for place in places), "speechft.encoders.base.Encoder"]
    words = "# Python\n\nMade from docstrings. `import speechft` brings these names.\n"
    return words + "".join(f"\n::: {name}\n" for name in full)


def addition_page(name: str) -> str:
    """Return the walk-through of one addition: the files of its patch, one after the other."""
    title, words = ADDITIONS[name]
    patch = (ROOT / "tests" / "additions" / f"{name}.patch").read_text()
    parts = [f"# {title}", "", words]
    for piece in re.split(r"^(?=diff --git )", patch, flags=re.M):
        if not piece.strip():
            continue
        file = re.findall(r"^\+\+\+ b/(.*)$", piece, re.M)[0]
        hunks = piece[piece.index("@@ ") :]
        new = "new file mode" in piece
        parts += ["", f"## {'A new file' if new else 'A line in'} `{file}`", ""]
        if new:
            lines = [line[1:] for line in hunks.splitlines()[1:] if line.startswith("+")]
            parts += ["```python", *lines, "```"]
        else:
            parts += ["```diff", hunks.rstrip(), "```"]
    held = (
        f"`tests/test_additions.py` applies `tests/additions/{name}.patch` to a copy and uses it."
    )
    parts += ["", held]
    return "\n".join(parts) + "\n"


def copied_page(name: str) -> str:
    """Return a page of the repository's root, with its links below ``docs/`` made to fit."""
    text = (ROOT / COPIED[name]).read_text()
    return re.sub(r"\]\(docs/", "](../", text)


def generated() -> dict[str, str]:
    """Return the generated pages by place."""
    pages = {REFERENCE[0]: command_page(), REFERENCE[1]: python_page()}
    pages |= {f"extend/{name}.md": addition_page(name) for name in ADDITIONS}
    pages |= {f"project/{name}.md": copied_page(name) for name in COPIED}
    return pages


def navigation(docs: Path = ROOT / "docs") -> list[dict[str, Any]]:
    """Return the navigation: every page of ``docs/`` has a place."""
    named = {page for pages in SECTIONS.values() for page in pages}
    topics = [p.name for p in sorted(docs.glob("*.md")) if p.name not in {"index.md", *named}]
    guides = sorted(docs.glob("guides/*.md"), key=lambda p: int(p.name.partition("-")[0]))
    concepts = sorted(docs.glob("concepts/*.md"), key=lambda p: (_place(p.stem), p.stem))
    return [
        {"Five minutes": "index.md"},
        {"Guides": [f"guides/{path.name}" for path in guides]},
        {"Concepts": [f"concepts/{path.name}" for path in concepts]},
        {"Topics": topics},
        {"Extend": [f"extend/{name}.md" for name in ADDITIONS]},
        {"Reference": list(REFERENCE)},
        *({name: list(pages)} for name, pages in SECTIONS.items()),
    ]


def _place(concept: str) -> int:
    return CONCEPTS.index(concept) if concept in CONCEPTS else len(CONCEPTS)


class _Requests(HTMLParser):
    """Collects what a browser fetches by itself to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take what is fetched: sources, and links that are no addresses of the page itself."""
        told = {name: value or "" for name, value in attrs}
        fetched = [told.get("src", "")]
        if tag == "link" and told.get("rel") not in ("canonical", "next", "prev", "author"):
            fetched.append(told.get("href", ""))
        self.found += [place for place in fetched if re.match(r"(https?:)?//", place)]


def foreign(page: str) -> list[str]:
    """Return what a page of HTML asks of other hosts; links to follow are no such thing."""
    reader = _Requests()
    reader.feed(page)
    return reader.found


def on_config(config: Any) -> Any:
    """Give MkDocs the navigation."""
    config["nav"] = navigation()
    return config


def on_files(files: Any, config: Any) -> Any:
    """Give MkDocs the generated pages."""
    from mkdocs.structure.files import File

    for place, text in generated().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_post_build(config: Mapping[str, Any]) -> None:
    """Refuse a site that is not all here."""
    from mkdocs.exceptions import PluginError

    for path in sorted(Path(config["site_dir"]).rglob("*.html")):
        if found := foreign(path.read_text()):
            raise PluginError(f"{path.name} asks another host: {found[0]}")
