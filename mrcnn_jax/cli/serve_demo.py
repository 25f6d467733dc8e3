"""Serves a web page and an HTTP interface for detection.

mrcnn demo --weights runs/NAME
"""

import importlib.util
import ipaddress
import signal
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import tyro

from mrcnn_jax.cli import command_line
from mrcnn_jax.cli.weights_option import default_test_config, note_source
from mrcnn_jax.config import TestConfig
from mrcnn_jax.errors import ConfigError, missing_extra
from mrcnn_jax.inference.image_proposals import ProposalFinder
from mrcnn_jax.inference.predictor import Predictor
from mrcnn_jax.mesh import make_mesh, replicated
from mrcnn_jax.weights.folder import load_weights

PACKAGES = ("starlette", "uvicorn", "python_multipart")
MAX_CONNECTIONS = 1000
STOP_SECONDS = 60
"""Time for pending requests after the first Ctrl-C."""


@dataclass(frozen=True)
class Arguments:
    weights: Path = command_line.Required
    """Weights folder, or the workdir of a run."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines use the server, without a password or encryption."""
    port: Annotated[int, tyro.conf.arg(metavar="PORT")] = 8000
    """Port to listen on; 0 chooses a free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Names by which browsers may call the server, besides localhost and IP addresses."""
    explain: bool = False
    """Add the RPN's proposals and the mask probabilities to the answers and the page. Computes the backbone twice."""
    max_requests: int = 32
    """Requests that are read, wait or are predicted at the same time; further ones get status 503."""
    max_megabytes: int = 20
    """Size of an uploaded file, in 10^6 bytes."""
    max_megapixels: int = 40
    """Size of an image, in 10^6 pixels."""
    test: TestConfig = field(default_factory=TestConfig)
    """Test settings; the defaults are those of the weights folder. Requests share batches of --test.batch-size."""


def main() -> None:
    arguments = command_line.parse(
        Arguments(test=default_test_config()),
        "Serves a web page and an HTTP interface for detection, until Ctrl-C.",
    )
    check_arguments(arguments)
    require_packages()
    weights = load_weights(arguments.weights)
    note_source(arguments.weights)
    listener = listen(arguments.host, arguments.port)
    mesh = make_mesh(jax.local_devices()[:1])
    variables = jax.device_put(weights.variables, replicated(mesh))  # once for both programs
    predictor = Predictor(variables, weights.model, arguments.test, weights.categories)
    finder = ProposalFinder(variables, weights.model, arguments.test) if arguments.explain else None
    serve(predictor, arguments, listener, finder)


def check_arguments(arguments: Arguments) -> None:
    """Raises ConfigError for a number out of range."""
    from mrcnn_jax.data.images import MAX_PIXELS

    bounds = {
        "port": (0, 65535),
        "max_requests": (1, MAX_CONNECTIONS),
        "max_megabytes": (1, 1000),
        "max_megapixels": (1, MAX_PIXELS // 10**6),
    }
    for name, (low, high) in bounds.items():
        value = getattr(arguments, name)
        if not low <= value <= high:
            raise ConfigError(f"--{name.replace('_', '-')}: expected {low} to {high}, got {value}.")


def require_packages() -> None:
    """Raises ConfigError with the installation command if a package of the extra is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise missing_extra(f"{', '.join(missing)} is not installed for this Python", "demo")


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket. Raises ConfigError if the address is wrong or taken."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"Cannot listen on {host}, port {port}: {error.strerror}. Choose another --host or --port."
        ) from None


def is_loopback(address: str) -> bool:
    """Returns whether only this machine reaches the IP address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def serve(
    predictor: Predictor, arguments: Arguments, listener: socket.socket, finder: ProposalFinder | None = None
) -> None:
    """Serves until SIGINT or SIGTERM, answers the pending requests and returns. Raises the error of the warm-up."""
    import uvicorn

    from mrcnn_jax.serving.app import DemoServer
    from mrcnn_jax.serving.uploads import MEGA, Limits

    address, port = listener.getsockname()[:2]
    url = f"http://{f'[{address}]' if ':' in address else address}:{port}/"
    if not is_loopback(address):
        command_line.note(f"Anyone who reaches {address} can use the server: there is no password or encryption.")
    limits = Limits(arguments.max_requests, arguments.max_megabytes * MEGA, arguments.max_megapixels * MEGA)

    def on_warm() -> None:
        if demo.batcher.failure is None:
            command_line.note(f"Ready: {url}")
        else:
            server.should_exit = True

    demo = DemoServer(predictor, limits, finder, allowed_hosts=arguments.allowed_hosts, on_warm=on_warm)
    config = uvicorn.Config(
        demo.app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # uvicorn, which handles both, raises them again when it has stopped
    command_line.note(f"Listening on {url} (Ctrl-C stops). Compiling for {len(predictor.test_config.canvases)} sizes.")
    with listener:
        server.run(sockets=[listener])
    if demo.batcher.failure is not None:
        raise demo.batcher.failure
    command_line.note("Stopped; all pending requests are answered.")
