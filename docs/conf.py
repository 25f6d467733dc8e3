"""Settings of the documentation's site: python -m sphinx -W --keep-going -b html docs build/site.

The build runs the notebook walkthrough.nb.py; `-D nb_execution_mode=off` leaves that out.
"""

import os
import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[1])
sys.path.insert(0, ROOT)
os.environ["PYTHONPATH"] = ROOT  # of the notebook's process

project = "mrcnn_jax"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "mrcnn_jax"
myst_heading_anchors = 3
nb_custom_formats = {".nb.py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "force"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_execution_in_temp = True
default_role = "literal"  # single backticks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
