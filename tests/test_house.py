"""The rooms of the package: who may import whom, lazy imports and annotations included."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import bayeslmm

PACKAGE = Path(bayeslmm.__file__).parent

#: Lowest first. A module imports from its own room and from those above it in this list.
ROOMS = (
    "errors", "compiling", "background", "addresses", "progress", "records", "files", "archive",
    "hdf5", "datasets", "parts", "formula", "gaussian", "laplace", "priors", "protocols",
    "assembly", "relationship", "sources", "likelihood", "bayes", "results", "plots",
    "reanalysis", "report", "storage", "fits", "model", "loading", "top", "precompiling",
    "cli", "__main__",
)  # fmt: skip

#: Circles that are there; a circle may leave this list, none may join it or grow.
CIRCLES: tuple[frozenset[str], ...] = (
    frozenset({"gaussian.coordinates", "gaussian.crossproducts", "gaussian.orthogonal"}),
    frozenset(
        {
            "reanalysis.assurance",
            "reanalysis.figures",
            "reanalysis.reanalyze",
            "reanalysis.sensitivity",
        }
    ),
)

#: Imports that are for the type checker alone are looked at as well.
KINDS = ("module", "function", "annotation")


def modules() -> dict[str, Path]:
    """Every module by its name in the package; the package itself is ``top``."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        found[".".join(parts) or "top"] = path
    return found


def imported(name: str, path: Path, known: set[str]) -> Iterator[tuple[str, str]]:
    """(module, kind) of each import, wherever in the file it stands."""

    def resolve(node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = ["bayeslmm", *name.split(".")]
        keep = len(package) - node.level + (path.name == "__init__.py")
        return ".".join([*package[:keep], *([node.module] if node.module else [])])

    def visit(node: ast.AST, kind: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            kind = "function" if kind == "module" else kind
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            kind = "annotation"
        targets = []
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = resolve(node)
            targets = [f"{source}.{alias.name}" for alias in node.names]
        for target in targets:
            if target.split(".")[0] != "bayeslmm":
                continue
            inside = target.removeprefix("bayeslmm").removeprefix(".")
            while inside and inside not in known:
                inside = inside.rpartition(".")[0]
            if (inside or "top") != name:
                yield inside or "top", kind
        for child in ast.iter_child_nodes(node):
            yield from visit(child, kind)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), "module")


@cache
def graph() -> dict[str, dict[str, set[str]]]:
    """Module to imported module to the kinds of import."""
    found = modules()
    out: dict[str, dict[str, set[str]]] = {name: {} for name in found}
    for name, path in found.items():
        for target, kind in imported(name, path, set(found)):
            out[name].setdefault(target, set()).add(kind)
    return out


def circles(edges: dict[str, set[str]]) -> list[frozenset[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in edges[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                found.append(frozenset(stack[at:]))
            del stack[at:]

    for name in edges:
        if name not in index:
            visit(name)
    return found


def room(name: str) -> str:
    return name.split(".")[0]


def test_every_module_is_in_a_known_room():
    assert {room(name) for name in graph()} <= set(ROOMS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_room_imports_from_one_above_it(kind):
    rank = {name: i for i, name in enumerate(ROOMS)}
    upward = sorted(
        f"{name} -> {target}"
        for name, targets in graph().items()
        for target, kinds in targets.items()
        if kind in kinds and rank[room(name)] < rank[room(target)]
    )
    assert not upward, "\n".join(upward)


def test_circles_of_imports_only_shrink():
    edges = {name: set(targets) for name, targets in graph().items()}
    new = [c for c in circles(edges) if not any(c <= known for known in CIRCLES)]
    assert not new, "\n".join(", ".join(sorted(circle)) for circle in new)


def test_a_known_circle_that_is_gone_leaves_the_list():
    edges = {name: set(targets) for name, targets in graph().items()}
    assert set(CIRCLES) <= set(circles(edges))


def test_no_circle_has_more_than_four_modules_or_two_rooms():
    edges = {name: set(targets) for name, targets in graph().items()}
    for circle in circles(edges):
        assert len(circle) <= 4, sorted(circle)
        assert len({room(name) for name in circle}) == 1, sorted(circle)


def test_the_guard_sees_lazy_imports_and_annotations():
    """A circle through a function and an annotation is found in a made-up package."""
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    assert circles(edges) == [frozenset("abc")]
    kinds = {kind for targets in graph().values() for found in targets.values() for kind in found}
    assert kinds == set(KINDS)


#: Larger than the house allows; may only shrink, and leave.
LARGE_FILES: dict[str, int] = {}
LARGE_CLASSES: dict[str, int] = {}
MANY_PARAMETERS: dict[str, int] = {"reanalysis.assurance._Plan.of": 11}
#: Public doors, whose keywords are the user's.
DOORS = {
    "model.MixedModel.__init__", "cli.fitting.fit", "cli.fitting.report", "cli.saved.predict",
    "reanalysis.assurance.assurance",
    "reanalysis.published.reanalyze_estimate", "reanalysis.sensitivity.sensitivity",
    "report.write.write_report", "fits.effects.Effects.predictions",
    "fits.effects.Effects.comparisons", "fits.effects.Effects.slopes",
}  # fmt: skip


def definitions() -> Iterator[tuple[str, ast.AST]]:
    """Qualified name and node of every class and function."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, ast.AST]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{name}.{child.name}", child
                yield from visit(child, f"{name}.{child.name}")
            elif not isinstance(child, ast.expr):
                yield from visit(child, name)

    for name, path in modules().items():
        yield from visit(ast.parse(path.read_text(encoding="utf-8")), name)


def n_parameters(node: ast.FunctionDef) -> int:
    given = node.args
    names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([n for n in names if n not in ("self", "cls")])


def is_kernel(node: ast.FunctionDef) -> bool:
    words = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    return any(word in words for word in ("kernel", "njit", "cfunc", "_sums"))


def _only_shrinks(found: dict[str, int], known: dict[str, int]) -> None:
    assert found == known, "update the list if a number fell; otherwise split what grew"


def test_no_file_has_more_than_600_lines():
    lengths = {
        name: path.read_text(encoding="utf-8").count("\n") for name, path in modules().items()
    }
    _only_shrinks({name: n for name, n in lengths.items() if n > 600}, LARGE_FILES)


def test_no_class_has_more_than_400_lines():
    lengths = {
        name: node.end_lineno - node.lineno + 1
        for name, node in definitions()
        if isinstance(node, ast.ClassDef)
    }
    _only_shrinks({name: n for name, n in lengths.items() if n > 400}, LARGE_CLASSES)


def test_only_public_doors_and_kernels_have_more_than_ten_parameters():
    counts = {
        name: n_parameters(node)
        for name, node in definitions()
        if isinstance(node, ast.FunctionDef) and not is_kernel(node)
    }
    _only_shrinks(
        {name: n for name, n in counts.items() if n > 10 and name not in DOORS}, MANY_PARAMETERS
    )


#: How the names of variance components begin.
KEYS = ("sd(", "corr(", "nu(")
#: Modules that write such a name themselves; may only shrink. Simulated data are below the room
#: of parameters and name the truth as a fit does; ``cli.values`` has one in the text of an error.
NAMES_WRITTEN = {
    "parts.parameters", "datasets.simulation", "cli.values",
}  # fmt: skip


def names_in_code(tree: ast.AST) -> Iterator[str]:
    """Texts with the beginning of a component's name, docstrings and error texts left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = re.findall(r"\w*\(", node.value)
            yield from (node.value for word in words if word in KEYS)
        yield from names_in_code(node)


def test_only_parameters_write_their_names():
    """Keys come from ``parts.parameters``: nothing else writes one or takes one apart."""
    found = {
        name
        for name, path in modules().items()
        if any(names_in_code(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert found == NAMES_WRITTEN, "ask a Parameter, or update the list if a module left it"


def test_the_guard_sees_names_in_formatted_texts():
    made = ast.parse("def f(a):\n    'sd(x)'\n    return f'sd({a} | g)', a.startswith('corr(')")
    assert list(names_in_code(made)) == ["sd(", "corr("]
