"""Shared parts of all command lines: typed options with clear error messages, and the documented exit codes.

A command is a module with a `main()`, which reads its options with

    arguments = command_line.parse(Arguments(...), "What it does.")

and is listed in `mrcnn_jax.command_names`. Errors are printed as one line on stderr; `--debug` (or MRCNN_JAX_DEBUG=1)
adds the traceback.
"""

import contextlib
import difflib
import errno
import io
import itertools
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from types import UnionType
from typing import Annotated, Any, NoReturn, TypeVar, get_origin, overload

import tyro

from mrcnn_jax import command_names
from mrcnn_jax.cli.option_types import REGISTRY
from mrcnn_jax.config import Config
from mrcnn_jax.errors import ConfigError, DeviceError, Preempted, StorageError, UserError
from mrcnn_jax.presets import load_preset

T = TypeVar("T")
Inline = Annotated[T, tyro.conf.arg(name="")]
"""Type of a field whose subfields are options without its name: `--train.seed`, not `--config.train.seed`."""
Required: Any = tyro.MISSING
"""Default of a field that has to be given on the command line."""

_STORAGE_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG}


def note(message: str) -> None:
    """Prints progress on stderr, since stdout is for results."""
    print(message, file=sys.stderr, flush=True)


def run(main: Callable[[], int | None], leave: Callable[[int], NoReturn] = sys.exit) -> NoReturn:
    """Runs main() and ends the process through `leave` with one of the documented exit codes."""
    debug = "--debug" in sys.argv or os.environ.get("MRCNN_JAX_DEBUG", "") not in ("", "0")
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        code = main() or 0
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `| head`, has ended
        # Some interpreters flush again at exit and would report the same error.
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
    """Returns the error behind an exception that a user can correct, or None if the exception is a bug."""
    text = str(exception)
    is_jax_error = type(exception).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    if isinstance(exception, UserError):
        return exception
    if isinstance(exception, KeyboardInterrupt):
        return Preempted("Interrupted before it was finished. Run the same command again.")
    if isinstance(exception, MemoryError) or (is_jax_error and "RESOURCE_EXHAUSTED" in text):
        reason = text.splitlines()[0] if text else "no memory left on the host"
        return DeviceError(f"Out of memory: {reason}. Lower the batch size, the canvases or the number of proposals.")
    if is_jax_error and re.search("gloo|nccl|coordination service|heartbeat", text, re.IGNORECASE):
        reason = text.splitlines()[0]
        return DeviceError(
            f"Another process was lost: {reason}. Start all processes again to continue from the newest checkpoint."
        )
    if isinstance(exception, RuntimeError) and "Unable to initialize backend" in text:
        return DeviceError(f"{text.splitlines()[0]}. Check JAX_PLATFORMS and the installed jax.")
    if isinstance(exception, OSError) and exception.errno in _STORAGE_ERRNOS:
        where = exception.filename or "a file"
        return StorageError(f"{exception.strerror}: {where}. Free some space or choose another folder.")
    return None


def one_line(text: str) -> str:
    """Returns the text on one line, with control characters replaced so that file names cannot control a terminal."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def split_preset(argv: Sequence[str] | None = None) -> tuple[Config, list[str]]:
    """Returns the preset that the first argument names, and the other arguments; the defaults for a bare --help."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and not arguments[0].startswith("-"):
        return load_preset(arguments[0]), arguments[1:]
    if "-h" in arguments or "--help" in arguments:
        return Config(), arguments
    raise ConfigError(f"Name a preset first: {command_names.current()} {command_names.PRESET} ...")


@overload
def parse(spec: type[T], description: str, argv: Sequence[str] | None = None, *, usage: str = "") -> T: ...
@overload
def parse(
    spec: UnionType | type[Any], description: str, argv: Sequence[str] | None = None, *, usage: str = ""
) -> Any: ...
@overload
def parse(spec: T, description: str, argv: Sequence[str] | None = None, *, usage: str = "") -> T: ...
def parse(spec: Any, description: str, argv: Sequence[str] | None = None, *, usage: str = "") -> Any:
    """Parses a command line into a dataclass.

    Args:
        spec: a dataclass instance with the defaults, or a type; a union of dataclasses defines subcommands.
        description: text at the top of --help.
        argv: the arguments after the program's name; the process's own by default.
        usage: text after the command's name in the usage line, such as `PRESET`.

    Raises:
        ConfigError: an option is unknown (the nearest is suggested), or a value is missing, ill-typed or out of range.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)

    def call(args: list[str]) -> Any:
        is_type = isinstance(spec, type | UnionType) or get_origin(spec) is not None
        return tyro.cli(
            spec if is_type else type(spec),
            default=tyro.MISSING if is_type else spec,
            prog=f"{command_names.current()} {usage}".strip(),
            description=f"{command_names.as_typed(description)}\n\n--debug shows the traceback of an error.",
            args=args,
            registry=REGISTRY,
        )

    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return call(arguments)
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
    raise ConfigError(_explain(arguments, call))


def _printed(call: Callable[[list[str]], Any], arguments: list[str], columns: int) -> list[str]:
    """Returns the lines that tyro prints before it exits on a terminal of this width, without sides of boxes."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")  # tyro draws other boxes if this is not UTF-8
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
    """Returns one line for arguments that tyro rejects: the first unknown option with similar ones, or tyro's error."""
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
    # tyro draws a box with a title, the message, a rule and hints.
    lines = [line for line in _printed(call, arguments, columns=10_000) if line and line[0] not in "╭╰"]
    message = " ".join(itertools.takewhile(lambda line: not line.startswith("──"), lines))
    message = re.sub(r"^Error parsing ([a-z_][\w.]*: )?", "", message)
    return f"{message.rstrip('.')}. See --help."


def _nearest(option: str, options: list[str]) -> list[str]:
    """Returns options that an unknown one may mean: with the same last part or its initials, else spelt similarly."""
    leaf = _leaf(option)
    same = [o for o in options if leaf in (_leaf(o), "".join(word[0] for word in _leaf(o).split("-") if word))]
    return same[:3] or difflib.get_close_matches(option, options, n=1, cutoff=0.0)


def _leaf(option: str) -> str:
    return option.lstrip("-").rpartition(".")[2]
