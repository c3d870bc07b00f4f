"""Serving an application over HTTP with waitress: one process, some threads, a clean end.

The socket is bound before anything else happens, so that a taken port is one line and not a traceback. Nothing is
printed here: ``on_ready`` is told the address.
"""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import NoReturn

from flask import Flask
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer, create_server
from waitress.task import ErrorTask

from data.errors import UsageError
from server.problems import MEDIA_TYPE, problem_text


def serve(
    app: Flask, host: str, port: int, *, threads: int = 8, on_ready: Callable[[str], object] = lambda url: None
) -> None:
    """Serve ``app`` until SIGTERM or SIGINT (Ctrl-C) and return; requests at work get five seconds to end.

    Args:
        app: the application.
        host: the address to listen at; ``0.0.0.0`` or ``::`` for all of this machine's.
        port: 0 for any free one.
        threads: how many requests are worked on at once.
        on_ready: called once, with the URL, when connections are accepted.

    Raises:
        UsageError: a port that is taken or not allowed, a host that is not here.
    """
    listener = listen(host, port)
    server = make_server(app, listener, threads=threads)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)
    try:
        on_ready(url_of(listener))
        server.run()
    finally:
        close(server)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at ``host:port``.

    Raises:
        UsageError: where that cannot be; one line that says which port and what to do.
    """
    if not 0 <= port <= 65535:  # getaddrinfo would take 99999 for 34463
        raise UsageError(f"{port} is no port: choose one from 0 to 65535 with --port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError, OverflowError):
        raise UsageError(f"{host}:{port} is no address to listen at: choose others with --host and --port") from None
    listener = socket.socket(family, kind, protocol)
    try:
        # Connections of a server that has just ended linger; without this its port would seem taken for a minute.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise UsageError(_refusal(error, host, port)) from None
    return listener


def _refusal(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is taken by another program: choose another one with --port"
    if error.errno == errno.EACCES:
        return f"port {port} needs more rights than this user has: choose one above 1023 with --port"
    return f"cannot listen at {host}:{port} ({error.strerror}): choose another address with --host or --port"


def url_of(listener: socket.socket) -> str:
    """Return the URL under which a browser on this machine reaches the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: Flask, listener: socket.socket, *, threads: int = 8) -> TcpWSGIServer:
    """Return a server at work on ``listener`` once its ``run()`` is called, in whatever thread."""
    # The application refuses too large a body with a problem that says so, once it is read. Here the connection breaks
    # instead, so this limit is wider: it is for bodies that nobody sends by mistake.
    most = 4 * int(app.config["MAX_CONTENT_LENGTH"])
    server = create_server(app, sockets=[listener], threads=threads, ident="polyseek", max_request_body_size=most)
    server.channel_class = _Channel
    return server


def close(server: TcpWSGIServer) -> None:
    """Let go of all connections and of the socket: in the thread of ``run()``, or after it has returned."""
    for channel in list(server.active_channels.values()):
        channel.close()
    server.close()


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


class _Problem(ErrorTask):  # type: ignore[misc]
    """What is no HTTP request never reaches the application; its caller gets a problem all the same."""

    def execute(self) -> None:
        error = self.request.error
        status = HTTPStatus(error.code)
        body = problem_text(status, f"{error.reason}: {error.body}".strip(), instance="/").encode()
        self.status = f"{status.value} {status.phrase}"
        self.response_headers.append(("Content-Type", MEDIA_TYPE))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    error_task_class = _Problem
