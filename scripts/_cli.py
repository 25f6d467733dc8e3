"""What all command lines share: presets, typed overrides with clear refusals, and the documented exit codes.

Import it first: it puts the checkout on the path, so that `mrcnn_jax` need not be installed, and sets the flags that
avoid the known faults of the installed jaxlib. A script is

    import _cli
    def main() -> None: arguments = _cli.parse(Arguments(...), "What it does.")
    if __name__ == "__main__": _cli.run(main)

Errors are one line on stderr; `--debug` (or MRCNN_JAX_DEBUG=1) adds the traceback.
"""

import contextlib
import difflib
import errno
import io
import itertools
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NoReturn, TypeVar, get_args, get_origin, overload

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from mrcnn_jax import known_faults  # noqa: E402

try:
    known_faults.set_flags()  # before anything imports JAX
    import tyro
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo
except ModuleNotFoundError as missing:
    install = f"{sys.executable} -m pip install -r {ROOT / 'requirements.txt'}"
    print(f"error: {missing.name} is not installed for this Python: {install}", file=sys.stderr)
    sys.exit(2)

from mrcnn_jax.config import Canvas, Config  # noqa: E402
from mrcnn_jax.errors import ConfigError, DeviceError, Preempted, StorageError, UserError  # noqa: E402

T = TypeVar("T")
Inline = Annotated[T, tyro.conf.arg(name="")]
"""Type of a field whose own fields are options without the field's name: `--train.seed`, not `--config.train.seed`."""
Required: Any = tyro.MISSING
"""Default of a field that the command line has to give."""

_STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG}


def note(message: str) -> None:
    """Says on stderr what is under way: stdout is for results."""
    print(message, file=sys.stderr, flush=True)


def run(main: Callable[[], int | None], leave: Callable[[int], NoReturn] = sys.exit) -> NoReturn:
    """Runs main() and ends the process, by `leave`, with one of the documented exit codes."""
    debug = "--debug" in sys.argv or os.environ.get("MRCNN_JAX_DEBUG", "") not in ("", "0")
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        code = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `| head`, has seen enough
        # Some interpreters flush again at their end, and would complain about the same pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (Exception, KeyboardInterrupt) as exception:
        error = as_user_error(exception)
        if error is None or debug:
            traceback.print_exc()
        if error is not None:
            print(f"error: {one_line(str(error))}", file=sys.stderr)
        code = 1 if error is None else error.exit_code
    leave(code)


def as_user_error(exception: BaseException) -> UserError | None:
    """The error that a user can act on behind an exception, or None where the exception is our bug."""
    text = str(exception)
    is_jax_error = type(exception).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    if isinstance(exception, UserError):
        return exception
    if isinstance(exception, KeyboardInterrupt):
        return Preempted("Interrupted. Run the same command again to go on.")
    if isinstance(exception, MemoryError) or (is_jax_error and "RESOURCE_EXHAUSTED" in text):
        reason = text.splitlines()[0] if text else "no memory left on the host"
        return DeviceError(f"Out of memory: {reason}. Lower the batch size, the canvases or the number of proposals.")
    if is_jax_error and re.search("gloo|nccl|coordination service|heartbeat", text, re.IGNORECASE):
        reason = text.splitlines()[0]
        return DeviceError(f"Another process was lost: {reason}. Start all again; a run continues where it was saved.")
    if isinstance(exception, RuntimeError) and "Unable to initialize backend" in text:
        return DeviceError(f"{text.splitlines()[0]}. Check JAX_PLATFORMS and the installed jax.")
    if isinstance(exception, OSError) and exception.errno in _STORAGE_ERRNOS:
        where = exception.filename or "a file"
        return StorageError(f"{exception.strerror}: {where}. Free some space or choose another folder.")
    return None


def one_line(text: str) -> str:
    """The text on one line, with control characters replaced, so that a file name cannot write to the terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def load_preset(path: str | Path) -> Config:
    """The `config` that a preset file such as configs/mask_rcnn_r50_fpn_1x.py defines. Raises ConfigError."""
    path = Path(path)
    if not path.is_file():
        presets = sorted((ROOT / "configs").glob("*.py"))
        close = difflib.get_close_matches(path.stem, [preset.stem for preset in presets], n=1, cutoff=0.6)
        hint = f"did you mean configs/{close[0]}.py? " if close else ""
        names = ", ".join(f"configs/{preset.name}" for preset in presets)
        raise ConfigError(f"No preset {path}: {hint}Presets are {names}.")
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as exception:  # whatever the file does wrong is the file's fault
        raise ConfigError(f"{path}: {type(exception).__name__}: {exception}") from exception
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: expected it to define `config = Config(...)`, got {type(config).__name__}.")
    return config


def split_preset(argv: Sequence[str] | None = None) -> tuple[Config, list[str]]:
    """The preset that the first argument names, and the arguments after it; the defaults for a bare --help."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and not arguments[0].startswith("-"):
        return load_preset(arguments[0]), arguments[1:]
    if "-h" in arguments or "--help" in arguments:
        return Config(), arguments
    raise ConfigError(f"Name a preset first: python scripts/{Path(sys.argv[0]).name} configs/NAME.py ...")


@overload
def parse(spec: type[T], description: str, argv: Sequence[str] | None = None, *, usage: str = "") -> T: ...
@overload
def parse(
    spec: UnionType | type[Any], description: str, argv: Sequence[str] | None = None, *, usage: str = ""
) -> Any: ...
@overload
def parse(spec: T, description: str, argv: Sequence[str] | None = None, *, usage: str = "") -> T: ...
def parse(spec: Any, description: str, argv: Sequence[str] | None = None, *, usage: str = "") -> Any:
    """Command line to dataclass.

    Args:
        spec: a dataclass instance with the defaults, or a type; a union of dataclasses gives subcommands.
        description: what --help says first.
        argv: the arguments after the program's name; the process's own by default.
        usage: what the usage line shows behind the script's name, such as `configs/NAME.py`.

    Raises:
        ConfigError: unknown option (with the nearest name), ill-typed or missing value, value that a dataclass refuses.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def call(args: list[str]) -> Any:
        is_type = isinstance(spec, type | UnionType) or get_origin(spec) is not None
        return tyro.cli(
            spec if is_type else type(spec),
            default=tyro.MISSING if is_type else spec,
            prog=f"python scripts/{Path(sys.argv[0]).name} {usage}".strip(),
            description=f"{description}\n\n--debug shows the traceback of an error.",
            args=args,
            registry=_REGISTRY,
        )

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return call(arguments)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
    raise ConfigError(_explain(arguments, call))


def _printed(call: Callable[[list[str]], Any], arguments: list[str], columns: int) -> list[str]:
    """Lines that tyro prints before it exits, on a terminal of so many columns, without the sides of its boxes."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # tyro draws other boxes where this is not UTF-8
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(columns)
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), contextlib.suppress(SystemExit):
        call(arguments)
    os.environ.pop("COLUMNS")
    if before is not None:
        os.environ["COLUMNS"] = before
    printed.seek(0)
    return [line.strip("│ \n") for line in printed]


def _explain(arguments: list[str], call: Callable[[list[str]], Any]) -> str:
    """One line for what tyro refuses: the first unknown option with its nearest names, else tyro's own words."""
    first = arguments[:1] if arguments and not arguments[0].startswith("-") else []
    help_lines = _printed(call, [*first, "--help"], columns=80)  # a subcommand has its own help
    if any(line.startswith("╭─ subcommands") for line in help_lines):
        names = re.sub(r".*\{|\}.*", "", help_lines[0]).replace(",", ", ")
        return f"Expected one of {names}, got {first[0] if first else 'none of them'}. See --help."
    options = re.findall(r"(?<![\w-])--[\w.-]+", "\n".join(line for line in help_lines if line.startswith("-")))
    for argument in arguments:
        option = argument.partition("=")[0].replace("_", "-")
        if option.startswith("--") and option not in options:
            return f"Unknown option {argument}: did you mean {' or '.join(_nearest(option, options))}? See --help."
    # tyro draws a box: title, message, rule, hints.
    lines = [line for line in _printed(call, arguments, columns=10_000) if line and line[0] not in "╭╰"]
    message = " ".join(itertools.takewhile(lambda line: not line.startswith("──"), lines))
    message = re.sub(r"^Error parsing ([a-z_][\w.]*: )?", "", message)
    return f"{message.rstrip('.')}. See --help."


def _nearest(option: str, options: list[str]) -> list[str]:
    """Valid options that an unknown one may mean: same last word or its initials, else similar spelling."""
    leaf = _leaf(option)
    same = [o for o in options if leaf in (_leaf(o), "".join(word[0] for word in _leaf(o).split("-") if word))]
    return same[:3] or difflib.get_close_matches(option, options, n=1, cutoff=0.0)


def _leaf(option: str) -> str:
    return option.lstrip("-").rpartition(".")[2]


_REGISTRY = ConstructorRegistry()


def _number(kind: type, text: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"expected {'an integer' if kind is int else 'a number'}, got {text!r}") from None
    if not abs(value) < float("inf"):
        raise ValueError(f"expected a finite number, got {text!r}")
    return value


def _canvas(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"expected HEIGHTxWIDTH, got {text!r}")
    return int(match[1]), int(match[2])


def _items(texts: Sequence[str]) -> Iterator[str]:
    """Items given as `a,b c`: commas and spaces both separate."""
    return (item for text in texts for item in text.split(",") if item)


@_REGISTRY.primitive_rule
def _number_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """int and float, with refusals in words."""
    kind: Any = info.type
    if kind is not int and kind is not float:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda texts: _number(kind, texts[0]),
        is_instance=lambda value: isinstance(value, kind) or (kind is float and isinstance(value, int)),
        str_from_instance=lambda value: [str(value)],
    )


@_REGISTRY.primitive_rule
def _tuple_rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Tuples of numbers as `1,2,3` or `1 2 3`; tuples of canvases as `480x800,800x480`."""
    types = get_args(info.type)
    if info.type_origin is not tuple or not types:
        return None
    item, length = types[0], None if types[-1] is Ellipsis else len(types)
    if types == get_args(Canvas):
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="HxW",
            instance_from_str=lambda texts: _canvas(texts[0]),
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [f"{value[0]}x{value[1]}"],
        )
    if get_args(item) == get_args(Canvas):
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="HxW,HxW,...",
            instance_from_str=lambda texts: tuple(_canvas(text) for text in _items(texts)),
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: [",".join(f"{height}x{width}" for height, width in value)],
        )
    if item not in (int, float) or any(other not in (item, Ellipsis) for other in types):
        return None

    def from_str(texts: list[str]) -> tuple[Any, ...]:
        values = tuple(_number(item, text) for text in _items(texts))
        if length is not None and len(values) != length:
            raise ValueError(f"expected {length} values, got {len(values)}")
        return values

    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=",".join([item.__name__.upper()] * (length or 1)) + ("" if length else ",..."),
        instance_from_str=from_str,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(str(number) for number in value)],
    )
