"""What every refused file has in common."""

import re
from pathlib import Path

import pytest

from mrcnn_jax.errors import DataError
from mrcnn_jax.weights.files import read_state_dict
from tests.weights.files.craft import Case


def assert_refused(case: Case, folder: Path) -> None:
    """The file is refused for its own reason, in one line that names it, and nothing is written."""
    path = folder / "file"
    path.write_bytes(case.content)
    with pytest.raises(DataError) as error:
        read_state_dict(path)
    message = str(error.value)
    assert message.startswith(str(path)) and message.isprintable() and len(message) < 1000
    assert re.search(case.reason, message), message
    path.unlink()  # some are large, and pytest would keep them
    assert list(folder.iterdir()) == []
