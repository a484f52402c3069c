"""The density of a PyMC model as a C function, kept on disk.

``pm.sample`` compiles a model anew in every process and for every data set: nutpie's C functions
know the addresses of data, which numba does not keep, and PyTensor writes data into the code. Here
the data of a model (arrays and numbers in its graph) are inputs, which the C function reads from a
table of addresses. What is left is the structure: a second model of the same structure finds the
function made, in this process or on disk under PyTensor's key of the graph.

The graphs are the model's own: ``model.logp()`` with its gradient, and the variables kept of a
draw. Some interfaces used are private, so only versions they were checked with go this way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import carray, cfunc, int64, types

from bayeslmm.addresses import Table, pointer
from bayeslmm.bayes.compiled import CompiledDensity, supported
from bayeslmm.bayes.kernels.tables import DOUBLES, LOGP

if TYPE_CHECKING:
    import pymc as pm

__all__ = ["GraphDensity", "graph_density"]

#: Series whose interfaces were checked.
_SERIES = {"pymc": "6.4.", "pytensor": "3.3."}

_VARIABLES = types.int64(types.uint64, types.uint64, DOUBLES, DOUBLES, types.voidptr)

#: Shorter vectors of whole numbers say what is where; longer ones are data (levels of rows).
_LONG = 9

#: nutpie's codes: zero is fine, positive a divergence, negative the end.
_LOGP_CODE = """
def logp(n_dim, x, out, value, data):
    try:
        t = carray(data, ({entries},), int64)
        density, gradient = inner(*{arguments})
        at, into = carray(value, ()), carray(out, (n_dim,))
        at[()] = density
        into[...] = gradient
        return 0 if np.isfinite(at[()]) and np.all(np.isfinite(into)) else 3
    except Exception:
        return 1
"""
#: Arguments of a call that are written out.
_TOGETHER = 20
_VARIABLES_CODE = """
def variables(n_dim, n_out, x, out, data):
    try:
        t = carray(data, ({entries},), int64)
        carray(out, (n_out,))[...] = inner(*{arguments})[0]
        return 0
    except Exception:
        return -2
"""


@dataclass(frozen=True)
class GraphDensity(CompiledDensity):
    """A PyMC model as nutpie takes it: a draw is the variables wanted of it.

    Attributes
    ----------
    variables_of : numba.cfunc
        From a point to these variables, one after the other.
    shapes : dict of str to tuple
    """

    variables_of: Any
    shapes: dict[str, tuple[int, ...]]

    @property
    def stored(self) -> int:
        """Numbers kept of a draw."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def expansion(self) -> Any:
        """What nutpie makes of a draw."""
        return self.variables_of

    def split(self, kept: np.ndarray) -> dict[str, np.ndarray]:
        """Each variable's draws from all that was kept, shape (chains, draws, stored)."""
        found, start = {}, 0
        for name, shape in self.shapes.items():
            flat = kept[..., start : start + prod(shape)]
            found[name] = flat.reshape(*kept.shape[:2], *shape)
            start += prod(shape)
        return found


@dataclass(frozen=True)
class _Graph:
    """What a model computes, with its data apart.

    Attributes
    ----------
    data : list of variables
        Inputs in place of the data.
    values : list of variables
        The free variables on the real line.
    shapes : list of tuple
        Theirs.
    outputs : list of variables
        The log density, then what is kept of a draw.
    """

    data: list
    values: list
    shapes: list[tuple[int, ...]]
    outputs: list

    def equals(self, other: _Graph) -> bool:
        """Whether the two are one structure."""
        from pytensor.graph.basic import equal_computations

        mine, yours = [*self.data, *self.values], [*other.data, *other.values]
        types_agree = [v.type for v in mine] == [v.type for v in yours]
        same = types_agree and self.shapes == other.shapes
        if not same or len(self.outputs) != len(other.outputs):
            return False
        return equal_computations(self.outputs, other.outputs, mine, yours)


#: The latest structures of this process, with their C functions.
_KEPT = 16
_made: list[tuple[_Graph, tuple[Any, Any]]] = []
_making = Lock()


def graph_density(model: pm.Model, wanted: Sequence[str]) -> GraphDensity | None:
    """The model's log density and its variables as C functions.

    Parameters
    ----------
    model : pymc.Model
    wanted : list of str
        Variables kept of a draw.

    Returns
    -------
    GraphDensity or None
        None where versions of packages were not checked, or where a part of the model is not
        compiled.
    """
    if not (supported() and all(version(k).startswith(v) for k, v in _SERIES.items())):
        return None
    start = _start(model)
    found = {name: _shape(model, name) for name in wanted}
    kept = {name: shape for name, shape in found.items() if shape is not None}
    graph, data = _graph(model, wanted, [start(0)[rv.name].shape for rv in _values(model)])
    if len(kept) < len(found) or not all(map(_readable, data)):
        return None
    functions = _functions(model, graph)
    if functions is None:
        return None

    one = Lock()

    def initial_point(seed) -> np.ndarray:
        with one:  # chains ask from their own threads
            at = start(seed)
        return np.concatenate([np.ravel(at[v.name]) for v in _values(model)]).astype(float)

    size = sum(prod(shape) for shape in graph.shapes)
    return GraphDensity(size, initial_point, functions[0], Table(*data), functions[1], kept)


def _start(model: pm.Model) -> Callable:
    """Seed to the values a chain starts from, as ``pm.sample`` has them with nutpie."""
    from pymc.initial_point import make_initial_point_fn

    return make_initial_point_fn(
        model=model,
        jitter_rvs=set(model.free_RVs),
        default_strategy="support_point",
        return_transformed=True,
    )


def _values(model: pm.Model) -> list:
    return [model.rvs_to_values[rv] for rv in model.free_RVs]


def _shape(model: pm.Model, name: str) -> tuple[int, ...] | None:
    """A variable's shape, None where it is not known before it is computed."""
    dims = model.named_vars_to_dims.get(name)
    if dims is not None:
        return tuple(len(model.coords[dim]) for dim in dims)
    shape = model[name].type.shape
    return None if None in shape else shape


def _graph(
    model: pm.Model, wanted: Sequence[str], shapes: list[tuple[int, ...]]
) -> tuple[_Graph, list[np.ndarray]]:
    """What the model computes, and its data."""
    import pytensor.tensor as pt
    from pytensor.compile.sharedvalue import SharedVariable
    from pytensor.graph.basic import Constant
    from pytensor.graph.replace import clone_replace
    from pytensor.graph.traversal import graph_inputs

    kept = model.replace_rvs_by_values([model[name] for name in wanted])
    outputs = [model.logp(), *kept]
    variable: Any
    inputs: dict[Any, Any] = {}
    data: dict[Any, tuple[Any, np.ndarray]] = {}
    lengths = set(model.dim_lengths.values())
    for variable in graph_inputs(outputs):
        if variable in lengths:
            inputs[variable] = pt.constant(variable.get_value(), dtype=variable.dtype)
            continue
        if isinstance(variable, SharedVariable):
            value = np.array(variable.get_value(), order="C")
        elif isinstance(variable, Constant) and _is_data(variable.data):
            value = np.array(variable.data, order="C")
        else:
            continue
        key = (variable.type, value.tobytes())
        data.setdefault(key, (variable.type(), value))
        inputs[variable] = data[key][0]
    graph = _Graph(
        [variable for variable, _ in data.values()],
        _values(model),
        shapes,
        clone_replace(outputs, inputs),
    )
    return graph, [value for _, value in data.values()]


def _is_data(value: Any) -> bool:
    """Whether a constant is data; whatever is not belongs to the structure.

    Zeros, halves and small whole numbers are what formulas have, and PyTensor simplifies by them.
    """
    if not isinstance(value, np.ndarray) or not _readable(value):
        return False
    if value.dtype == np.int64:
        return value.size >= _LONG
    if value.size != 1:
        return value.size > 1
    return bool(np.isfinite(value).all() and (abs(value.item()) > 16 or value.item() % 0.5))


def _readable(value: np.ndarray) -> bool:
    """Whether a table can hold it."""
    return value.dtype in (np.float64, np.int64) and value.ndim <= 2


def _functions(model: pm.Model, graph: _Graph) -> tuple[Any, Any] | None:
    """Log density and variables of a structure as C functions."""
    with _making:
        for known, functions in _made:
            if graph.equals(known):
                return functions
        made = _compiled(model, graph)
        if made is not None:
            _made[:] = [(graph, made), *_made[: _KEPT - 1]]
        return made


def _compiled(model: pm.Model, graph: _Graph) -> tuple[Any, Any] | None:
    import pytensor.tensor as pt
    from pytensor.graph.replace import clone_replace
    from pytensor.graph.rewriting.utils import rewrite_graph

    outputs: list[Any] = clone_replace(graph.outputs)  # rewriting is in place
    density, *kept = outputs
    log_density: Any = rewrite_graph(density, include=["canonicalize", "stabilize"])
    gradients: Any = pt.grad(log_density, graph.values)
    slopes: Any = pt.concatenate([part.ravel() for part in gradients])
    flat: Any = pt.concatenate([variable.ravel().astype("float64") for variable in kept])
    x = pt.vector("x", shape=(sum(prod(shape) for shape in graph.shapes),), dtype="float64")
    parts: dict[Any, Any] = {}
    start = 0
    for value, shape in zip(graph.values, graph.shapes, strict=True):
        part = x[start : start + prod(shape)].reshape(shape)
        parts[value] = part.astype(value.dtype)
        start += prod(shape)
    together: Any = [log_density, slopes, flat]
    log_density, slopes, flat = clone_replace(together, parts)
    logp = _c_function(model, [x, *graph.data], [log_density, slopes], LOGP, _LOGP_CODE)
    variables = _c_function(model, [x, *graph.data], [flat], _VARIABLES, _VARIABLES_CODE)
    return None if logp is None or variables is None else (logp, variables)


def _c_function(model: pm.Model, inputs: list, outputs: list, signature: Any, code: str) -> Any:
    """A C function that reads all inputs but the first from a table; None if it is not compiled."""
    from pymc.pytensorf import compile as compiled
    from pytensor.link.numba.cache import CACHED_SRC_FUNCTIONS, compile_numba_function_src

    with model:  # whose settings say what becomes of checks of parameters
        function = compiled(inputs, outputs, mode="NUMBA", on_unused_input="ignore")
    inner = function.vm.jit_fn
    key = CACHED_SRC_FUNCTIONS.get(inner.py_func)
    if key is None:
        return None
    read = [_reading(i, variable.type) for i, variable in enumerate(inputs[1:])]
    source = code.format(arguments=_tuple(["carray(x, (n_dim,))", *read]), entries=3 * len(read))
    names = {
        "__name__": __name__,
        "inner": inner,
        "carray": carray,
        "pointer": pointer,
        "int64": int64,
        "np": np,
    }
    made = compile_numba_function_src(
        source,
        source.split("(")[0].split()[-1],
        {"__name__": __name__, **names},
        cache_key=hashlib.sha256(f"{key}{source}{_versions()}".encode()).hexdigest(),
    )
    return cfunc(signature, cache=True)(made)


def _tuple(items: list[str]) -> str:
    """Code of a tuple: Python makes longer ones than these, and longer calls, of lists, which numba
    does not know.
    """
    parts = [items[i : i + _TOGETHER] for i in range(0, len(items), _TOGETHER)]
    return "(" + " + ".join(f"({', '.join(part)},)" for part in parts) + ")"


def _reading(i: int, kind: Any) -> str:
    """Code that reads entry i of a table."""
    shape = ("", f"t[{3 * i + 1}],", f"t[{3 * i + 1}], t[{3 * i + 2}]")[kind.ndim]
    return f"carray(pointer(t[{3 * i}]), ({shape}), np.{kind.dtype})"


@cache
def _versions() -> str:
    return " ".join(version(name) for name in ("bayeslmm", "pytensor", "pymc", "numba"))
