"""Imports point down only: the table of DESIGN.md, enforced."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "projects" / "SparseNet" / "sparsenet"
LEVELS = {
    "errors": 0, "files": 0, "ops": 0, "tiling": 0, "layers": 1, "config": 1,
    "modeling.backbone": 2, "modeling.head": 2, "modeling.neck": 2, "modeling.losses": 2,
    "modeling.meta_arch": 3, "modeling.checkpoint": 3,
    "modeling.trained_model": 3, "modeling.timm_models": 3, "modeling": 3,
    "gigapixel": 4, "evaluation": 4, "data": 4,
    "engine": 5, "analysis": 5, "embedding": 5, "export": 5,
}  # fmt: skip
# Imports between parts of one level, each with its reason in DESIGN.md.
SIBLINGS = {
    ("files", "errors"),
    ("tiling", "errors"),
    ("ops", "errors"),
    ("modeling", "modeling.meta_arch"),
    ("modeling.trained_model", "modeling"),
    ("modeling.trained_model", "modeling.checkpoint"),
    ("modeling.timm_models", "modeling.checkpoint"),
    ("evaluation", "data"),
    ("modeling.head", "modeling.losses"),
    ("modeling.backbone", "modeling.neck"),
    ("embedding", "analysis"),
}
FORBIDDEN = {"ops": ("detectron2",), "layers": ("detectron2",), "tiling": ("detectron2", "torch")}
MODULES = [p for p in sorted(PACKAGE.rglob("*.py")) if "lite" not in p.relative_to(PACKAGE).parts]


def part(module: str) -> str | None:
    """The row of LEVELS that a dotted name below ``sparsenet`` belongs to."""
    names = module.split(".")
    for length in (2, 1):
        if ".".join(names[:length]) in LEVELS:
            return ".".join(names[:length])
    return None


def imported(path: Path, allow_relative: bool = False) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert allow_relative or node.level == 0, f"{path}:{node.lineno}: use absolute imports"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own_name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    own = part(own_name)
    if own_name == "__init__":
        return
    assert own is not None, f"{own_name} has no level: add its package to the table in DESIGN.md"
    for name in imported(path):
        top = name.split(".")[0]
        assert top not in FORBIDDEN.get(own, ()), f"{own} must not import {top}"
        if top != "sparsenet":
            continue
        target = part(name.removeprefix("sparsenet."))
        if target is None or target == own or (own, target) in SIBLINGS:
            continue
        assert LEVELS[target] < LEVELS[own], f"{own_name} (level {LEVELS[own]}) imports {name}"


def test_lite_imports_nothing_of_the_package_but_ops() -> None:
    for path in sorted((PACKAGE / "lite").rglob("*.py")):
        for name in imported(path, allow_relative=True):
            assert not name.startswith("sparsenet.") or name.startswith("sparsenet.ops"), path


def test_no_module_is_a_grab_bag() -> None:
    banned = {"utils", "misc", "common", "helpers"}
    assert not [p for p in MODULES if banned & set(p.relative_to(PACKAGE).with_suffix("").parts)]
