"""The file: it loads as the suggested configuration, whatever is in the names of classes and files."""

from pathlib import Path

import pytest

from mrcnn_jax.categories import Category
from mrcnn_jax.presets import load_preset
from mrcnn_jax.recipe.preset_text import source_of, write_preset_text
from mrcnn_jax.recipe.suggest import suggest
from tests.recipe.hand_made import make_input

HOSTILE = 'a\nraise SystemExit("run")  """ \\ " \u2028 \x07 \x00 # b'


def test_the_file_equals_the_suggestion(tmp_path: Path) -> None:
    given = {"data.train": "data/mine:train", "train.decay_steps": (), "train.seed": 4}
    suggestion = suggest(make_input(given=given))
    file = tmp_path / "mine.py"
    file.write_text(write_preset_text(suggestion.choices, "Title.", ["One.", "Two."], "mrcnn train mine.py"))
    assert load_preset(file) == suggestion.config
    lines = file.read_text().splitlines()
    assert lines[:4] == ['"""Title.', "", "    mrcnn train mine.py", ""]
    assert max(map(len, lines)) <= 120
    values = [number for number, line in enumerate(lines) if line.startswith("        ") and line.endswith(",")]
    commented = [number for number in values if lines[number - 1].lstrip().startswith("#")]
    assert len(commented) == len(suggestion.choices.values), "each value has a comment above it"


def test_names_of_the_data_are_text_alone(tmp_path: Path) -> None:
    given = {"data.train": f"{HOSTILE}/data:train"}
    suggestion = suggest(
        make_input(categories=[Category(1, HOSTILE), Category(2, "\N{GREEK SMALL LETTER ALPHA}")], given=given)
    )
    file = tmp_path / "hostile.py"
    text = write_preset_text(suggestion.choices, HOSTILE, [HOSTILE], HOSTILE)
    file.write_text(text, encoding="utf-8")
    assert load_preset(file) == suggestion.config
    assert suggestion.config.data.train == f"{HOSTILE}/data:train"


@pytest.mark.parametrize("value", [1, 0.003, True, (), (1,), ((32, 64), (64, 32)), "text", HOSTILE, "it's", 1e-8])
def test_values_are_written_exactly(value: object) -> None:
    source = source_of(value)
    assert eval(source) == value and "\n" not in source
