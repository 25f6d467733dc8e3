"""Traced functions rewritten in operations that jax2onnx converts well and onnxruntime executes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import numpy as np

NESTED = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")
LARGE = 1024
"""Number of values from which a broadcast constant is computed and not stored."""


class Value(NamedTuple):
    """A value of a program, and whether it is the same for all inputs."""

    array: Any
    is_constant: bool


def rewrite_function(function: Callable[..., Any], inputs: Sequence[Any]) -> Callable[..., list[Any]]:
    """Returns the function for inputs of these shapes and dtypes; it returns the leaves of the results as a list.

    - A choice between forms for platforms becomes the default form, and nested functions become their operations.
    - Some operations are replaced because jax2onnx 0.17 writes for them what onnxruntime refuses: windows over four
      axes, the mean of integers for (x + 1) // 2, and shifts of signed integers.
    - Products of maps with matrices become products of two matrices, which are twice as fast as Einsum.
    - Constants that are broadcast get a term that depends on the input and is 0, because jax2onnx would store the
      result: a file of a large canvas would have gigabytes.

    The bodies of loops stay as they are.
    """
    program = jax.make_jaxpr(function)(*inputs)

    def rewritten(*arrays: Any) -> list[Any]:
        first = jax.lax.squeeze(jax.lax.slice_in_dim(jax.lax.reshape(arrays[0], (arrays[0].size,)), 0, 1), [0])
        evaluate = functools.partial(_evaluate, never=jax.lax.lt(first, first))
        outputs = evaluate(program.jaxpr, program.consts, [Value(array, False) for array in arrays])
        return [output.array for output in outputs]

    return rewritten


def _evaluate(program: Any, constants: Sequence[Any], inputs: Sequence[Value], never: Any) -> list[Value]:
    """Returns the outputs of a program; `never` is a False that depends on the input."""
    known = [Value(array, True) for array in constants]
    values = dict(zip((*program.constvars, *program.invars), (*known, *inputs), strict=True))

    def read(atom: Any) -> Value:
        return Value(atom.val, True) if isinstance(atom, jax.extend.core.Literal) else values[atom]

    for equation in program.eqns:
        outputs = _apply(equation, [read(atom) for atom in equation.invars], never)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in program.outvars]


def _apply(equation: Any, inputs: list[Value], never: Any) -> list[Value]:
    """Returns the outputs of an operation, or of the operations that replace it."""
    name, params = equation.primitive.name, equation.params
    if name == "platform_index":
        return [Value(None, True)]  # only the choice reads it, which follows
    if name == "cond" and params.get("branches_platforms"):
        default = params["branches"][params["branches_platforms"].index(None)]
        return _evaluate(default.jaxpr, default.consts, inputs[1:], never)
    if name in NESTED:
        nested = params.get("jaxpr") or params["call_jaxpr"]
        return _evaluate(nested.jaxpr, nested.consts, inputs, never)
    is_constant = all(value.is_constant for value in inputs)
    size = sum(atom.aval.size for atom in equation.invars)
    if name == "broadcast_in_dim" and is_constant and equation.outvars[0].aval.size > max(size, LARGE):
        inputs, is_constant = [Value(_depend(inputs[0].array, equation.invars[0].aval, never), False)], False
    outputs = _compute(equation, [value.array for value in inputs])
    return [Value(output, is_constant) for output in outputs]


def _depend(constant: Any, aval: Any, never: Any) -> Any:
    """Returns the constant with an operation that changes nothing and needs the input."""
    add = jax.lax.bitwise_or if aval.dtype == np.bool_ else jax.lax.add
    return add(constant, jax.lax.broadcast(jax.lax.convert_element_type(never, aval.dtype), aval.shape))


def _compute(equation: Any, inputs: list[Any]) -> list[Any]:
    """Returns the outputs of an operation. jax2onnx patches jax.numpy while it converts; jax.lax stays as it is."""
    primitive, params, aval = equation.primitive, equation.params, equation.outvars[0].aval
    if primitive.name == "reduce_window_max":
        return [_largest_in_windows(inputs[0], **params)]
    if primitive.name == "div" and np.issubdtype(aval.dtype, np.unsignedinteger):
        inputs = [jax.lax.max(inputs[0], np.zeros(aval.shape, aval.dtype)), inputs[1]]  # so that no sum is divided
    if primitive.name == "shift_right_logical":  # as in powers of integers
        shifted = primitive.bind(*(jax.lax.convert_element_type(value, np.uint32) for value in inputs))
        return [jax.lax.convert_element_type(shifted, aval.dtype)]
    if primitive.name == "dot_general" and _is_of_rows(equation):
        x, kernel = inputs
        as_rows = jax.lax.reshape(x, (x.size // kernel.shape[0], kernel.shape[0]))
        rows = primitive.bind(as_rows, kernel, **params | {"dimension_numbers": (((1,), (0,)), ((), ()))})
        return [jax.lax.reshape(rows, aval.shape)]
    outputs = primitive.bind(*inputs, **params)
    return list(outputs) if primitive.multiple_results else [outputs]


def _is_of_rows(equation: Any) -> bool:
    """Returns whether a product multiplies the last axis of a map by a matrix, as a 1x1 convolution does."""
    x, kernel = (atom.aval.ndim for atom in equation.invars)
    return x > 2 and kernel == 2 and equation.params["dimension_numbers"] == (((x - 1,), (0,)), ((), ()))


def _largest_in_windows(
    x: Any,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **dilations: Sequence[int],
) -> Any:
    """Returns the maximum of each window as the maximum of a strided slice for each place in the window."""
    if any(step != 1 for steps in dilations.values() for step in steps):
        raise NotImplementedError("Maxima of dilated windows are not rewritten.")
    padded = jax.lax.pad(x, np.array(-np.inf, x.dtype), [(low, high, 0) for low, high in padding])
    shape = [side - window + 1 for side, window in zip(padded.shape, window_dimensions, strict=True)]
    slices = [
        jax.lax.slice(padded, start, np.add(start, shape).tolist(), window_strides)
        for start in np.ndindex(*window_dimensions)
    ]
    return functools.reduce(jax.lax.max, slices)
