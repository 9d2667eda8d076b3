"""Hooks of the documentation site: pages that are generated from other files, and formulas as MathML.

The API pages follow the folders of the package, so that moving a file needs no change here.
"""

from __future__ import annotations

import ast
import csv
import html
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Link, Navigation
from mkdocs.structure.pages import Page

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from tutorial_notebook import notebook

# These need no torch.
from ibrobust.reporting.html.report import write_report
from ibrobust.study.setting_words import usual_settings

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ibrobust"
# Markdown files of the repository's root that are pages as well, and their names on the site.
ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# The commands document themselves: ibrobust COMMAND --help.
WITHOUT_PAGE = {"cli"}
SEARCH_SCRIPT = "https://unpkg.com/iframe-worker/shim"
FORMULA = re.compile(r'<(span|div) class="arithmatex">\s*\\[(\[](.*?)\\[)\]]\s*</\1>', re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the API pages to the navigation."""
    assert config.nav is not None
    config.nav.append({"API": list(api_pages())})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are generated."""
    pages = {page: root_page(source) for source, page in ROOT_PAGES.items()} | api_pages()
    pages["tutorial.ipynb"] = notebook((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
    pages["records/index.md"] = records_page()
    pages["leaderboard.html"] = leaderboard_page()
    for page, content in pages.items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Link a page to what only the site has: a list of the records, the leaderboard, the tutorial as a notebook."""
    if page.file.src_uri == "tutorial.md":
        return markdown + "\n[Download this tutorial as a notebook](tutorial.ipynb)\n"
    if page.file.src_uri == "results.md":
        link = "# Results\n\nAll models to search and sort: the [leaderboard](leaderboard.html).\n"
        markdown = markdown.replace("# Results\n", link, 1)
    return markdown.replace("](records)", "](records/index.md)")


def on_nav(nav: Navigation, **_: Any) -> None:
    """Put the leaderboard, which is a whole page of its own, behind the results."""
    place = next(number for number, item in enumerate(nav.items) if item.title == "Results")
    nav.items.insert(place + 1, Link("Leaderboard", "leaderboard.html"))


def on_page_content(content: str, **_: Any) -> str:
    """Replace the formulas of a page by MathML, which browsers show without a script."""

    def mathml(formula: re.Match[str]) -> str:
        tag, latex = formula.groups()
        return convert(html.unescape(latex), display="block" if tag == "div" else "inline")

    return FORMULA.sub(mathml, content)


def on_post_build(config: MkDocsConfig) -> None:
    """Take the script that makes the search work without a server from the site, instead of from the network."""
    site = Path(config.site_dir)
    for file in site.rglob("*.html"):
        local = os.path.relpath(site / "javascripts" / "iframe-worker.js", file.parent)
        file.write_text(file.read_text(encoding="utf-8").replace(SEARCH_SCRIPT, local), encoding="utf-8")


def root_page(name: str) -> str:
    """Return a Markdown file of the repository's root, with its links as they are from the docs folder."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    for source, page in ROOT_PAGES.items():
        text = text.replace(f"]({source}", f"]({page}")
    return text


def records_page() -> str:
    """Return a list of the files with the numbers behind the results."""
    records = ROOT / "docs" / "records"
    files = (path for path in records.rglob("*") if path.suffix in (".csv", ".json"))
    names = sorted(path.relative_to(records).as_posix() for path in files)
    return "# Records\n\n" + "".join(f"- [{name}]({name})\n" for name in names)


def leaderboard_page() -> str:
    """Return the leaderboard of the shipped models, from the records behind the results and the models' cards."""
    records = ROOT / "docs" / "records" / "zoo.csv"
    with records.open(encoding="utf-8", newline="") as file:
        models = dict.fromkeys(line["model"] for line in csv.DictReader(file))
    cards = [yaml.safe_load((ROOT / "model_zoo" / f"{model}.yaml").read_text(encoding="utf-8")) for model in models]
    with TemporaryDirectory() as folder:
        page = write_report(
            title="Leaderboard of the shipped models",
            records=records,
            figures=(),
            cells=[card_facts(card) for card in cards],
            out=Path(folder) / "leaderboard.html",
            made="From docs/records/zoo.csv. On your own machine: ibrobust report",
            home="results.html",
            unit="model",
        )
        return page.read_text(encoding="utf-8")


def card_facts(card: dict[str, Any]) -> dict[str, Any]:
    """Return what the leaderboard shows of a model besides its numbers."""
    training = card["training"] or {}
    return {
        "name": card["name"],
        "status": "shipped",
        "dataset": card["dataset"]["name"],
        "recipe": card["recipe"],
        "usual": usual_settings(card["recipe"]["objective"]),
        **{key: training.get(key) for key in ("versions", "hardware")},
    }


def api_pages() -> dict[str, str]:
    """Return the API pages by path: the public names, the modules of the package itself, and one page per folder."""
    pages = {"api/index.md": public_names(), "api/ibrobust.md": folder_page(PACKAGE, PACKAGE.glob("*.py"))}
    for folder in sorted(path.parent for path in PACKAGE.glob("*/__init__.py")):
        if folder.name not in WITHOUT_PAGE:
            pages[f"api/{folder.name}.md"] = folder_page(folder, folder.rglob("*.py"))
    return pages


def public_names() -> str:
    """Return the page on the names that `import ibrobust` offers."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = sorted(ast.literal_eval(node.value), key=str.lower)
    return "# Public API\n\nThe names of `import ibrobust`.\n\n" + "\n".join(f"::: ibrobust.{name}\n" for name in names)


def folder_page(folder: Path, files: Iterable[Path]) -> str:
    """Return the page on the modules of a folder."""
    package = ".".join(folder.relative_to(ROOT).parts)
    intro = f"# {package}\n\n" + directive(package, members=False, show_root_heading=False)
    modules = []
    for file in sorted(files):
        parts = file.relative_to(ROOT).with_suffix("").parts
        if not parts[-1].startswith("_"):
            modules.append(directive(".".join(parts)))
    return "\n".join([intro, *modules])


def directive(name: str, **options: Any) -> str:
    """Return what mkdocstrings replaces by the documentation of a module."""
    lines = [f"        {key}: {str(value).lower()}\n" for key, value in options.items()]
    return f"::: {name}\n" + ("    options:\n" + "".join(lines) if lines else "")
