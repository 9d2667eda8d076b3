"""Which folder of the package may import which, checked in the import statements."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ibrobust"
ENTRANCES = {"__init__", "__main__"}
FOUNDATION = {file.stem for file in PACKAGE.glob("*.py")} - ENTRANCES
ALLOWED = {
    "data": set(),
    "models": set(),
    "estimators": {"models"},
    "objectives": {"estimators"},
    "evaluation": set(),
    "training": {"data", "models", "objectives"},
    "registry": {"data", "models", "objectives", "training"},
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


def folders_of(file: Path) -> set[str]:
    return imported_folders(file) - FOUNDATION - {"__version__"}


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_a_folder_imports_what_it_may_and_no_more(folder):
    found = set()
    for file in sorted((PACKAGE / folder).rglob("*.py")):
        imported = folders_of(file) - {folder}
        assert imported <= ALLOWED[folder], f"{file.relative_to(PACKAGE)} imports {sorted(imported - ALLOWED[folder])}"
        found |= imported
    assert found == ALLOWED[folder]  # what is not needed may not be allowed


@pytest.mark.parametrize("name", sorted(FOUNDATION))
def test_the_packages_own_files_import_no_folder(name):
    assert not folders_of(PACKAGE / f"{name}.py")


def test_every_folder_has_its_rule():
    folders = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").is_file()}
    assert folders == set(ALLOWED)


def test_the_model_zoo_holds_no_code():
    assert not list((PACKAGE.parent / "model_zoo").rglob("*.py"))
