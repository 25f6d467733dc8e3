"""README and docs: every link leads somewhere, every command exists and has the options that are shown."""

import functools
import json
import re
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from mrcnn_jax import command_names, main
from mrcnn_jax.data.shapes import shapes_source
from mrcnn_jax.presets import preset_names
from tests.paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = {command.script: name for name, command in command_names.COMMANDS.items()}
TAKE_A_PRESET = ("train", "tpu-compile", "gpu-compile", "benchmark-data", "benchmark-restart")
TAKE_A_KIND = ("prepare", "benchmark")


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: Path) -> list[str]:
    """Targets of the links and images of a page that lie in the project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    return [target for target in targets if not re.match(r"\w+:", target)]


def commands(page: Path) -> list[list[str]]:
    """The command lines of a page's indented blocks, without their comments, as words."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    lines = re.findall(r"^    (?:\w+=\S+ )*((?:taskset -c \d+ )?(?:mrcnn |python scripts/).+)$", text, re.MULTILINE)
    return [shlex.split(re.sub(r"^taskset -c \d+ ", "", line), comments=True) for line in lines]


@functools.cache
def options(*words: str) -> frozenset[str]:
    """The options that `mrcnn WORDS --help` lists."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setattr(sys, "argv", ["mrcnn", *words, "--help"])
        patch.setenv("COLUMNS", "300")
        printed = []
        patch.setattr(sys.stdout, "write", printed.append)
        main.main()
    assert caught.value.code == 0
    return frozenset(re.findall(r"--[a-z][\w.-]*", "".join(printed)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_options_that_are_shown(page: Path) -> None:
    for words in commands(page):
        if words[0] == "mrcnn":
            name, rest = words[1], words[2:]
        elif (script := Path(words[1]).name) in SCRIPTS:
            name, rest = SCRIPTS[script], words[2:]
        else:
            assert (ROOT / words[1]).exists(), words
            continue
        assert name in command_names.COMMANDS, words
        first = rest[:1] if name in TAKE_A_PRESET + TAKE_A_KIND and rest[0][0] != "-" else []
        if name in TAKE_A_PRESET and first not in ([], ["PRESET"]):
            assert Path(first[0]).stem in {*preset_names(), "NAME", "mine"}, words
        shown = {word.partition("=")[0] for word in rest if word.startswith("--")}
        known = options(name, *(first if name in TAKE_A_KIND else preset_names()[:1] * (name in TAKE_A_PRESET)))
        assert shown <= known | {"--help", "--debug"}, (words, shown - known)


def test_scores_in_the_readme_are_those_of_the_presets() -> None:
    rows = re.findall(
        r"^\| .*\| .* \| \d+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", (ROOT / "README.md").read_text(), re.M
    )
    assert len(rows) >= 4
    presets = [" ".join(path.read_text().split('"""')[1].split()) for path in (ROOT / "configs").glob("*.py")]
    for box, mask, mask_50 in rows:
        scores = f"box AP {box}, mask AP {mask} and mask AP50 {mask_50}"
        assert any(scores in text for text in presets), scores


@pytest.mark.slow
def test_the_python_of_the_readme_trains_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A minute: `pytest -m slow tests/test_docs.py`. As it stands there, but with a preset of two steps."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    source = shapes_source(4, seed=0, stream=0)
    rows: dict[str, list] = {"images": [], "annotations": []}
    for image in map(source.load, range(4)):
        (tmp_path / "images" / image.file_name).write_bytes(image.data)
        height, width = image.image_hw
        row = {"id": image.image_id, "file_name": image.file_name, "height": height, "width": width}
        rows["images"].append(row)
        rows["annotations"] += [{**annotation, "image_id": image.image_id} for annotation in image.annotations]
    categories = [{"id": category.id, "name": category.name} for category in source.categories]
    (tmp_path / "annotations.json").write_text(json.dumps({**rows, "categories": categories}))
    (tmp_path / "tiny.py").write_text(
        "from dataclasses import replace\nfrom mrcnn_jax import load_preset\n"
        "config = load_preset('overfit_tiny')\n"
        "model = replace(config.model, num_classes=0, backbone_width=8, fpn_channels=16)\n"
        "train = replace(config.train, num_steps=2, warmup_steps=0, batch_size=8)\n"
        "config = replace(config, model=model, train=train)\n"
    )
    (block,) = re.findall(
        r"^    import dataclasses\n(?:(?:    .*)?\n)+", (ROOT / "README.md").read_text(), re.MULTILINE
    )
    assert block.count("mrcnn_jax.") == 5
    exec(textwrap.dedent(block).replace("nuclei_r18_fpn", "tiny.py"), {})
    assert "Average Precision" in capsys.readouterr().out and (tmp_path / "runs/mine/weights").is_dir()


def test_pages_are_read_as_they_are_written() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 30 and sum(len(links(page)) for page in PAGES) > 30
    assert {"--weights", "--test.short-side"} <= options("predict") and "--images" in options("prepare", "coco")
    assert "exit-codes" in anchors(ROOT / "docs" / "errors.md")
