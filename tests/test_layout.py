"""Imports point down: reads those of every module and holds the layering."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "emorec"

# A module or package may import those of its own level and below. The longest prefix counts.
LEVELS = {
    "emorec.memory": 0,
    "emorec.ops": 0,
    "emorec.presets": 0,
    "emorec.processes": 0,
    "emorec.suggestions": 0,
    "emorec.texts": 0,
    "emorec.threads": 0,
    "emorec.evaluation.metrics": 0,
    "emorec.settings": 0,
    "emorec.storage": 1,
    "emorec.config": 2,
    "emorec.data": 2,
    "emorec.nn": 3,
    "emorec.run_folder": 3,
    "emorec.evaluation": 4,
    "emorec.baselines": 5,
    "emorec.reports": 5,
    "emorec.inference": 6,
    "emorec.building": 7,
    "emorec.training": 7,
    "emorec.fitted": 8,
    "emorec.recommender": 8,
    "emorec.comparison": 9,
    "emorec.experiment": 9,
    "emorec.testing": 9,
    "emorec.updating": 9,
    "emorec.service": 9,
    "emorec.exporting": 9,
    "emorec.study": 9,
    "emorec.run_report": 9,
    "emorec.cli": 10,
    "emorec.__main__": 11,
}
SELF_CONTAINED = (
    "emorec.ops",
    "emorec.training.averaging",
    "emorec.evaluation.metrics",
)
ONLY_IN = {
    "click": {"emorec.cli"},
    "dgl": {"emorec.nn.aggregate", "emorec.data.graph"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(source: str, name: str, is_package: bool = False) -> set[str]:
    """Full names of the modules that a module's source imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".") if is_package else name.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            # `from emorec.data import splits` imports a module, `... import Split` does not.
            found |= {
                full if (full := f"{origin}.{alias.name}") in MODULES else origin
                for alias in node.names
            }
    return found


def imports_of_module(name: str) -> set[str]:
    path = MODULES[name]
    return imports_of(path.read_text(), name, path.name == "__init__.py")


def belongs_to(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def level_of(name: str) -> int:
    if name == "emorec":  # the version, which anybody may ask for
        return 0
    known = [prefix for prefix in LEVELS if belongs_to(name, prefix)]
    assert known, f"{name} has no level yet: add it to LEVELS"
    return LEVELS[max(known, key=len)]


def test_reading_imports() -> None:
    source = """
import torch.nn as nn
from emorec.data import splits
from emorec.data.vocabulary import Vocabulary
from . import feedback
from ..evaluation.metrics import recall
def late():
    import click
"""
    assert imports_of(source, "emorec.data.somewhere") == {
        "torch.nn",
        "emorec.data.splits",
        "emorec.data.vocabulary",
        "emorec.data.feedback",
        "emorec.evaluation.metrics",
        "click",
    }
    assert imports_of("from .splits import Split", "emorec.data", is_package=True) == {
        "emorec.data.splits"
    }


@pytest.mark.parametrize("name", [name for name in MODULES if name != "emorec"])
def test_imports_point_down(name: str) -> None:
    own = level_of(name)
    higher = {
        other
        for other in imports_of_module(name)
        if belongs_to(other, "emorec") and level_of(other) > own
    }
    assert not higher, f"{name} imports {sorted(higher)}, which lie above it"


@pytest.mark.parametrize(
    "name",
    [name for name in MODULES if any(belongs_to(name, own) for own in SELF_CONTAINED)],
)
def test_self_contained_modules_import_nothing_of_the_package(name: str) -> None:
    own = next(own for own in SELF_CONTAINED if belongs_to(name, own))
    foreign = {
        other
        for other in imports_of_module(name)
        if belongs_to(other, "emorec") and not belongs_to(other, own)
    }
    assert not foreign, f"{name} imports {sorted(foreign)}"


@pytest.mark.parametrize("name", [name for name in MODULES if belongs_to(name, "emorec.nn")])
def test_nn_never_sees_the_configuration(name: str) -> None:
    assert not {"emorec.config", "emorec.settings"} & imports_of_module(name)


@pytest.mark.parametrize("library", list(ONLY_IN))
def test_libraries_with_a_home_are_imported_there_alone(library: str) -> None:
    strangers = {
        name
        for name in MODULES
        if any(belongs_to(other, library) for other in imports_of_module(name))
        and not any(belongs_to(name, home) for home in ONLY_IN[library])
    }
    assert not strangers, f"{library} is imported by {sorted(strangers)}"


def runs_data_as_code(source: str) -> list[str]:
    """Calls and imports by which data could become code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "compile", "__import__", "torch.load", "torch.jit.load"):
                found.append(called)
            if any(each.arg == "allow_pickle" for each in node.keywords):
                found.append("allow_pickle")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [each.name for each in node.names]
            module = getattr(node, "module", None)
            found += {"pickle", "marshal", "shelve", "dill", "joblib"} & {*names, module}
    return found


@pytest.mark.parametrize("name", MODULES)
def test_data_is_never_run(name: str) -> None:
    assert runs_data_as_code(MODULES[name].read_text()) == []


def test_what_would_run_data_is_found() -> None:
    assert runs_data_as_code("import pickle\nmodel.eval()\neval('1')") == ["pickle", "eval"]
