"""Requests as no client library sends them, byte by byte, to a real server."""

from __future__ import annotations

import socket

import pytest

from tests.server import Server

HOST = b"Host: localhost\r\n"
EVIL = b"Host: evil.example\r\n"
SECONDS = 60.0


def answer(server: Server, request: bytes) -> tuple[int, bytes, bytes]:
    """Status, head and body of the answer to some bytes, after which the connection is closed."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        connection.sendall(request)
        received = b""
        while part := connection.recv(65_536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.lower(), body


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        (b"GET /pools HTTP/1.1", HOST, 200),
        (b"GET /pools HTTP/1.1", EVIL, 421),
        (b"GET /pools HTTP/1.0", b"", 200),  # needs no host, and no browser speaks it
        (b"GET /pools HTTP/1.0", EVIL, 421),
        (b"GET /pools HTTP/1.1", b"", 400),
        (b"GET /pools HTTP/1.1", HOST + EVIL, 400),
        (b"GET /pools HTTP/1.1", b"Host: a b\r\n", 400),
        (b"GET http://localhost/pools HTTP/1.1", HOST, 200),
        (
            b"GET http://evil.example/pools HTTP/1.1",
            HOST,
            421,
        ),  # the target counts for more (RFC 9112, 3.2.2)
        (b"GET http://evil.example:80/pools HTTP/1.1", HOST, 421),
        (b"GET http://localhost/pools HTTP/1.1", EVIL, 200),
        (b"GET http://[::1]:8000/pools HTTP/1.1", EVIL, 200),
        (b"OPTIONS * HTTP/1.1", HOST, 404),
        (b"TRACE /pools HTTP/1.1", HOST, 405),
        (b"PROPFIND /pools HTTP/1.1", HOST, 405),
        (b"NONSENSE /pools HTTP/1.1", HOST, 400),
        (b"CONNECT localhost:443 HTTP/1.1", HOST, 400),
        (b"GET /p\xc3\xb6ols HTTP/1.1", HOST, 400),
        (b"PRI * HTTP/2.0", b"", 400),
        (b"GET /pools HTTP/1.1", HOST + b"Upgrade: h2c\r\nConnection: Upgrade\r\n", 200),
        (b"POST /pools HTTP/1.1", HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n", 400),
        (b"POST /pools HTTP/1.1", HOST + b"Content-Length: -1\r\n", 400),
        (b"POST /pools HTTP/1.1", HOST + b"Content-Type: a/b\r\nContent-Type: c/d\r\n", 400),
        (
            b"GET /pools HTTP/1.1",
            HOST + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
            400,
        ),
    ],
)
def test_each_is_answered_in_order(
    server: Server, request_line: bytes, headers: bytes, status: int
) -> None:
    found, head, body = answer(
        server, request_line + b"\r\n" + headers + b"Connection: close\r\n\r\n"
    )
    assert found == status, body
    assert b"application/problem+json" in head or status == 200


def test_a_head_says_what_the_get_would_and_sends_nothing(server: Server) -> None:
    end = HOST + b"Connection: close\r\n\r\n"
    found, head, body = answer(server, b"HEAD /pools HTTP/1.1\r\n" + end)
    length = len(answer(server, b"GET /pools HTTP/1.1\r\n" + end)[2])
    assert (found, body) == (200, b"")
    assert b"content-length: %d" % length in head
