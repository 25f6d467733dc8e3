"""The harness of the command lines: overrides, refusals in one line with the nearest name, exit codes."""

import dataclasses
import errno
import importlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mrcnn_jax import errors
from mrcnn_jax.cli import command_line
from mrcnn_jax.config import Config
from mrcnn_jax.presets import load_preset
from tests.paths import ROOT

OPTIONS = [
    f"--{section.name}.{option.name.replace('_', '-')}"
    for section in dataclasses.fields(Config)
    for option in dataclasses.fields(getattr(Config(), section.name))
]


@dataclass(frozen=True)
class Arguments:
    workdir: Path
    """Folder."""
    config: command_line.Inline[Config] = field(default_factory=Config)


@dataclass(frozen=True)
class Coco:
    """A data set."""

    to: Path


@dataclass(frozen=True)
class Shapes:
    """Generated."""

    to: Path
    num_images: int = 4


def parse(*argv: str) -> Config:
    return command_line.parse(Arguments(Path("runs")), "Trains.", argv).config


def refusal(*argv: str) -> str:
    with pytest.raises(errors.ConfigError) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_overrides_are_typed_and_keep_the_other_defaults() -> None:
    config = parse("--train.batch-size", "8", "--model.dtype=bfloat16", "--data.train", "a b", "--train.momentum", "0")
    assert config.train.batch_size == 8 and config.model.dtype == "bfloat16" and config.data.train == "a b"
    assert isinstance(config.train.momentum, float)
    assert dataclasses.replace(config.train, batch_size=16, momentum=0.9) == Config().train
    assert parse("--model.no-roi-align-aligned").model.roi_align_aligned is False
    assert parse() == Config()


@pytest.mark.parametrize("form", [["640,672"], ["640", "672"], ["640,", "672"]])
def test_tuples_take_commas_and_spaces(form: list[str]) -> None:
    assert parse("--data.short-sides", *form).data.short_sides == (640, 672)
    test = parse("--test.augment-flip", "--test.augment-short-sides", *form).test
    assert test.augment_flip is True and test.augment_short_sides == (640, 672)


@pytest.mark.parametrize("form", [["0.05,0.1", "1"], ["0.05", ".1", "1e0"]])
def test_keypoint_settings_are_numbers_one_a_keypoint(form: list[str]) -> None:
    evaluate = importlib.import_module("mrcnn_jax.cli.evaluate_weights")
    argv = ["--weights", "w", "--data", "d", "--test.keypoint-sigmas", *form]
    arguments = command_line.parse(evaluate.Arguments(), "Scores.", argv)
    assert arguments.test.keypoint_sigmas == parse("--test.keypoint-sigmas", *form).test.keypoint_sigmas
    assert arguments.test.keypoint_sigmas == (0.05, 0.1, 1.0)
    assert all(type(sigma) is float for sigma in arguments.test.keypoint_sigmas)
    assert parse("--model.keypoint-flip", "0,2,1").model.keypoint_flip == (0, 2, 1)
    assert "swap keypoints in pairs" in refusal("--model.keypoint-flip", "1,2,0")
    assert "expected a positive value, got (0.1, 0.0)" in refusal("--test.keypoint-sigmas", "0.1,0")


def test_canvases_are_given_as_height_x_width() -> None:
    assert parse("--test.canvases", "480x800,800x480").test.canvases == ((480, 800), (800, 480))
    assert parse("--test.canvases", "480x800").test.canvases == ((480, 800),)
    assert "expected HEIGHTxWIDTH, got '480'" in refusal("--test.canvases", "480")
    assert "multiples of 32, got 480x801" in refusal("--test.canvases", "480x801")
    assert "at least one canvas" in refusal("--test.canvases", ",")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train.batch-size", "x"], "--train.batch-size: expected an integer, got 'x'"),
        (["--train.batch-size", "1.5"], "--train.batch-size: expected an integer, got '1.5'"),
        (["--train.batch-size", "0"], "train.batch_size: expected 1 or more, got 0"),
        (["--train.momentum", "nan"], "--train.momentum: expected a finite number, got 'nan'"),
        (["--train.learning-rate", "-1"], "expected a positive value, got -1"),
        (["--model.pixel-mean", "1,2"], "--model.pixel-mean: expected 3 values, got 2"),
        (["--model.norm", "batch"], "Expected one of ('frozen_bn', 'group_norm', 'sync_bn')"),
        (["--workdir"], "Missing value for argument '--workdir'"),
        (["surplus"], "surplus"),
    ],
)
def test_bad_values_are_refused_in_one_line(argv: list[str], message: str) -> None:
    assert message in refusal(*argv)


def test_missing_arguments_are_named() -> None:
    with pytest.raises(errors.ConfigError, match="--workdir PATH"):
        command_line.parse(Arguments(command_line.Required), "Trains.", [])


@pytest.mark.parametrize("option", OPTIONS[::6])
def test_misspelt_options_are_refused_with_the_nearest_name(option: str) -> None:
    swapped = option[:-2] + option[-1] + option[-2]
    misspelt = swapped if swapped != option else option + option[-1]
    assert f"did you mean {option}" in refusal(misspelt, "1")


def test_half_remembered_options_find_their_section() -> None:
    assert "did you mean --train.learning-rate?" in refusal("--lr", "1")
    assert "did you mean --test.batch-size or --train.batch-size?" in refusal("--batch_size=1")
    assert "--model.dtype" in refusal("--dtype", "float32")


def test_all_options_are_found_in_the_help() -> None:
    """The nearest name is looked for in what --help shows: nothing valid may be called unknown."""
    assert "Unknown option --trian.seed=1:" in refusal(*(f"{option}=1" for option in OPTIONS), "--trian.seed=1")


def test_subcommands() -> None:
    assert command_line.parse(Coco | Shapes, "Prepares.", ["shapes", "--to", "a"]) == Shapes(Path("a"))
    for argv, message in [
        ([], "Expected one of coco, shapes, got none of them"),
        (["shape", "--to", "a"], "Expected one of coco, shapes, got shape"),
        (["shapes", "--to", "a", "--num-image", "1"], "did you mean --num-images?"),
        (["coco"], "--to PATH"),
    ]:
        with pytest.raises(errors.ConfigError, match=message.replace("?", r"\?")):
            command_line.parse(Coco | Shapes, "Prepares.", argv)


def test_help_exits_with_0_and_shows_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.parse(Arguments(Path("runs")), "Trains the model.", ["--help"], usage="configs/NAME.py")
    printed = capsys.readouterr().out
    assert caught.value.code == 0
    assert "Trains the model." in printed and "configs/NAME.py" in printed
    assert "--test.canvases HxW,HxW,..." in printed and "800x1344,1344x800" in printed


@pytest.mark.parametrize("preset", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_presets_load_and_show_their_own_defaults(preset: Path) -> None:
    config, rest = command_line.split_preset([str(preset), "--train.seed", "3"])
    assert isinstance(config, Config) and rest == ["--train.seed", "3"]
    assert command_line.parse(config, "Trains.", rest) == dataclasses.replace(
        config, train=dataclasses.replace(config.train, seed=3)
    )


def test_the_papers_preset() -> None:
    config = load_preset(ROOT / "configs" / "mask_rcnn_r50_fpn_paper.py")
    train, targets, test = config.train, config.targets, config.test
    assert (train.num_steps, train.decay_steps, train.batch_size) == (160_000, (120_000,), 16)
    assert (train.learning_rate, train.momentum, train.weight_decay) == (0.02, 0.9, 1e-4)
    assert (targets.roi_samples, targets.num_foreground_rois) == (512, 128)
    assert (test.post_nms_top_n, test.max_detections) == (1000, 100)
    assert len(config.model.anchor_sizes) * len(config.model.anchor_ratios) == 15


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("config = 3", "expected a file that defines `config = Config"),
        ("", "expected a file that defines `config = Config"),
        ("config = (", "SyntaxError"),
        (
            "from mrcnn_jax.config import *\nconfig = Config(train=TrainConfig(batch_size=0))",
            "train.batch_size: expected 1 or more",
        ),
        ("from mrcnn_jax.config import *\nconfig = Config(trian=1)", "unexpected keyword argument 'trian'"),
    ],
)
def test_bad_presets_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "preset.py"
    path.write_text(content)
    with pytest.raises(errors.ConfigError, match=message) as caught:
        load_preset(path)
    assert str(path) in str(caught.value)


def test_a_missing_preset_names_those_that_exist() -> None:
    with pytest.raises(errors.ConfigError, match=r"did you mean shapes_tiny\?.*, nuclei_r18_fpn, "):
        load_preset("configs/shape_tiny.py")
    with pytest.raises(errors.ConfigError, match="Name a preset first"):
        command_line.split_preset([])
    assert command_line.split_preset(["--help"]) == (Config(), ["--help"])


class JaxRuntimeError(RuntimeError):
    """Of the name that JAX's own has."""


@pytest.mark.parametrize(
    ("exception", "code"),
    [
        (errors.ConfigError("x"), 2),
        (errors.DataError("x"), 3),
        (errors.NumericalError("x"), 4),
        (errors.StorageError("x"), 5),
        (OSError(errno.ENOSPC, "No space left on device", "file"), 5),
        (errors.DeviceError("x"), 6),
        (MemoryError(), 6),
        (JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nmore"), 6),
        (RuntimeError("Unable to initialize backend 'cuda': no device"), 6),
        (errors.Preempted("x"), 75),
        (KeyboardInterrupt(), 75),
    ],
)
def test_exit_codes(exception: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(exception)) == code
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: ") and printed.err.count("\n") == 1


@pytest.mark.parametrize("exception", [ValueError("x"), OSError(errno.ENOENT, "x"), JaxRuntimeError("INTERNAL")])
def test_our_own_bugs_show_a_traceback(exception: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raising(exception)) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_adds_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--debug", "configs/x.py"])

    def main() -> None:
        assert sys.argv == ["train.py", "configs/x.py"]
        raise errors.ConfigError("x")

    assert run(main) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("MRCNN_JAX_DEBUG", "1")
    assert run(main) == 2
    assert "Traceback" in capsys.readouterr().err


def test_messages_cannot_write_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    run(raising(errors.DataError("file \x1b[31mred\nsecond line")))
    assert capsys.readouterr().err == "error: file ?[31mred second line\n"


def test_results_become_exit_codes() -> None:
    assert run(lambda: None) == 0
    assert run(lambda: 3) == 3


@pytest.mark.parametrize("num_lines", [1, 100_000], ids=["fails at the flush", "fails while printing"])
def test_a_closed_pipe_ends_the_program_quietly(num_lines: int) -> None:
    main = f"lambda: [sys.stdin.read(), *map(print, range({num_lines}))] and None"
    code = f"import sys\nfrom mrcnn_jax.cli import command_line\ncommand_line.run({main})"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdout.close()
        process.stdin.close()  # starts the printing
        assert process.stderr.read() == b""
        assert process.wait() == 0


def run(main: Callable[[], int | None]) -> int:
    with pytest.raises(SystemExit) as caught:
        command_line.run(main)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def raising(exception: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise exception

    return main
