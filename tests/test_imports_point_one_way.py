"""Which folder of the package may import which, checked in the import statements."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ibrobust"
FOUNDATION = {
    "atomic",
    "collectives",
    "devices",
    "epsilon",
    "errors",
    "card_results",
    "faults",
    "full_precision",
    "function_names",
    "home",
    "lazy_names",
    "live_line",
    "locking",
    "mapping_files",
    "processes",
    "readable",
    "records",
    "seeds",
    "spread",
    "verdicts",
    "suggestions",
}
ALLOWED = {
    "data": set(),
    "models": set(),
    "estimators": {"models"},
    "objectives": {"estimators"},
    "evaluation": set(),
    "training": {"data", "models", "objectives"},
    "registry": {"data", "estimators", "models", "objectives", "training"},
    "reporting": {"evaluation"},
    "integrations": {"data", "models", "evaluation", "registry"},
    "study": {
        *("data", "estimators", "evaluation", "integrations", "models", "objectives"),
        *("registry", "reporting", "training"),
    },
    "cli": {"data", "estimators", "evaluation", "integrations", "models", "registry", "reporting", "study", "training"},
}


def imported_folders(file: Path) -> set[str]:
    """Return the parts of ibrobust that a file imports, wherever in the file it does."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            if node.module == "ibrobust":
                names |= {f"ibrobust.{alias.name}" for alias in node.names}
            elif node.module:
                names.add(node.module)
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("ibrobust.")}


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_a_folder_imports_only_what_it_may(folder):
    for file in sorted((PACKAGE / folder).rglob("*.py")):
        found = imported_folders(file) - FOUNDATION - {folder, "__version__"}
        assert found <= ALLOWED[folder], f"{file.relative_to(PACKAGE)} imports {sorted(found - ALLOWED[folder])}"


def test_every_folder_has_its_rule():
    folders = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()}
    assert folders == set(ALLOWED)


def test_the_model_zoo_holds_no_code():
    assert not list((PACKAGE.parent / "model_zoo").rglob("*.py"))
