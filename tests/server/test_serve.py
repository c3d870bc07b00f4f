import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from data.errors import UsageError
from server.serve import listen, serve, url_of

ROOT = Path(__file__).parents[2]
PROGRAM = """
from flask import Flask
from server.serve import serve
app = Flask("test")
app.config["MAX_CONTENT_LENGTH"] = 1024
app.add_url_rule("/", view_func=lambda: "hello")
serve(app, "127.0.0.1", 0, threads=2, on_ready=lambda url: print(url, flush=True))
print("ended", flush=True)
"""


def test_a_taken_port_is_one_line_with_a_way_out(app):
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"^port {port} .*taken.*--port$"):
            serve(app, "127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port"), [("no.such.host.invalid", 80), ("127.0.0.1", 99_999), ("192.0.2.1", 0), ("", -5)]
)
def test_an_impossible_address_is_a_usage_error(host, port):
    with pytest.raises(UsageError, match=r"--(host|port)") as raised:
        listen(host, port)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
def test_the_url_can_be_opened_here(host, shown):
    try:
        listener = listen(host, 0)
    except UsageError:
        pytest.skip("this machine has no IPv6")
    with listener:
        assert url_of(listener) == f"http://{shown}:{listener.getsockname()[1]}"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(number):
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(url, timeout=10) as response:
            assert response.read() == b"hello"
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "ended\n", "")


def test_it_speaks_http(app, served):
    with served(app) as url, urllib.request.urlopen(f"{url}/search?q=coral") as response:
        assert json.load(response)["hits"]
        assert response.headers["Server"] == "polyseek"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: ".ljust(2**18, b"a"), 431),
        (b"POST /documents HTTP/1.1\r\nTransfer-Encoding: wrong\r\n\r\n", 501),
        (b"POST /documents HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
    ],
)
def test_what_is_no_request_is_a_problem_too(app, served, request_bytes, status):
    with served(app) as url, socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10) as connection:
        connection.sendall(request_bytes)
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert f" {status} ".encode() in head.splitlines()[0]
    assert b"application/problem+json" in head
    assert json.loads(body)["status"] == status


def test_an_empty_path_segment_and_escapes_reach_the_document(app, served):
    with served(app) as url, urllib.request.urlopen(f"{url}/documents/a/b//c%20d%3F%23%25.txt") as response:
        assert json.load(response)["id"] == "a/b//c d?#%.txt"
