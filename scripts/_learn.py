"""Trains a preset and prints its scores as JSON: the last part of accelerator_report.py.

python scripts/_learn.py configs/shapes_tiny.py DATA WORKDIR [--train.num-steps N ...]

DATA is a folder with the splits train and val. If it does not exist, shapes are generated in it.
"""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent


def main() -> int:
    preset, data, workdir, *options = sys.argv[1:]
    train = [preset, "--workdir", workdir, "--data.train", f"{data}:train", "--data.val", f"{data}:val", *options]
    commands = [["train.py", *train]]
    if not Path(data).exists():
        commands.insert(0, ["prepare_data.py", "shapes", "--to", data])
    for script, *rest in commands:
        code = subprocess.run([sys.executable, str(SCRIPTS / script), *rest], stdout=sys.stderr).returncode
        if code:
            return code
    print((Path(workdir) / "evaluation.json").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
