"""What other web sites can reach through a browser: nothing. The page loads nothing and runs only its own script."""

import base64
import hashlib
import re

import pytest
from starlette.testclient import TestClient

from mrcnn_jax.serving.app import DemoServer
from mrcnn_jax.serving.hosts import host_name
from mrcnn_jax.serving.uploads import Limits
from mrcnn_jax.serving.web_page import assemble_page
from tests.serving.stub import StubPredictor


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(DemoServer(StubPredictor(), Limits(), allowed_hosts=("demo.example:80",)).app)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8000", "localhost"),
        ("127.0.0.1:8000", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("[::1]", "::1"),
        ("", ""),
    ],
)
def test_host_names_are_read_without_port(header: str, name: str) -> None:
    assert host_name(header) == name


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "192.168.0.7:80", "Demo.Example:8000"])
def test_local_names_addresses_and_allowed_names_are_served(client: TestClient, host: str) -> None:
    assert client.get("/model", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "", "a:b:c"])
@pytest.mark.parametrize("path", ["/", "/model", "/healthz", "/metrics", "/nothing"])
def test_other_names_are_refused_so_that_dns_rebinding_reads_nothing(client: TestClient, host: str, path: str) -> None:
    response = client.get(path, headers={"Host": host})
    assert response.status_code == 421 and "--allowed-hosts" in response.json()["error"]


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({}, False),  # not a browser
        ({"Origin": "http://localhost:8000"}, False),
        ({"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}, False),
        ({"Origin": "https://demo.example", "Sec-Fetch-Site": "same-origin"}, False),  # behind a proxy
        ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, True),  # another server of this machine
        ({"Origin": "http://evil.example"}, True),
        ({"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "null"}, True),
    ],
)
def test_posts_of_other_sites_are_refused(client: TestClient, headers: dict[str, str], is_refused: bool) -> None:
    response = client.post("/predict", headers={"Host": "localhost:8000", **headers}, content=b"x")
    assert response.status_code == (403 if is_refused else 503), "503: this server was not started"


def test_every_answer_has_the_headers(client: TestClient) -> None:
    for host, path in (("localhost", "/"), ("localhost", "/nothing"), ("evil.example", "/")):
        headers = client.get(path, headers={"Host": host}).headers
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and headers["Cache-Control"] == "no-store"
        assert "access-control-allow-origin" not in headers


def test_the_policy_admits_the_script_and_style_sheet_of_the_page_and_nothing_else(client: TestClient) -> None:
    response = client.get("/", headers={"Host": "localhost"})
    policy = dict(part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'" and "unsafe" not in str(policy) and "http" not in str(policy)
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", response.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"


def test_the_page_names_no_other_site_and_inserts_no_markup() -> None:
    html = assemble_page().html
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"^\s*//.*$", "", html, flags=re.MULTILINE))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", html)
    assert not re.search(r"\son\w+=|style=|<script\s|<link[^>]*stylesheet", html)
