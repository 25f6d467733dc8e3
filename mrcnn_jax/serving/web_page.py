"""The page as one HTML document without network resources, and the policy that lets a browser run nothing else."""

import base64
import hashlib
from importlib.resources import files
from typing import NamedTuple


class WebPage(NamedTuple):
    """A document and its Content-Security-Policy."""

    html: str
    policy: str


def assemble_page() -> WebPage:
    """Returns the page with its style sheet and script inside.

    The policy admits this script and style sheet by their hashes, images from memory, and requests to this server.
    """
    folder = files("mrcnn_jax.serving") / "page"
    names = ("index.html", "page.css", "drawing.js", "page.js")
    html, style, *scripts = ((folder / name).read_text(encoding="utf-8") for name in names)
    script = "\n".join(scripts)
    for mark in ("<style></style>", "<script></script>"):
        if html.count(mark) != 1:
            raise ValueError(f"Expected {mark} once in index.html.")
    html = html.replace("<style></style>", f"<style>{style}</style>")
    html = html.replace("<script></script>", f"<script>{script}</script>")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return WebPage(html, policy)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
