"""`PROMPTGPS_LOG_FORMAT=json`: every line is an object, whoever wrote it and whenever."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.test_command_line import promptgps
from tests.server import environment, running

JSON = {"PROMPTGPS_LOG_FORMAT": "json"}
EVERYBODY = """
import asyncio, gc, logging, sys, threading, warnings
import structlog
from promptgps_service.logs import configure_logs

configure_logs("json", "info")
structlog.get_logger("ours").info("ours", n=1)
structlog.get_logger("ours").warning("several\\nlines")
logging.getLogger("uvicorn.error").warning("uvicorn's %s", "line")
logging.getLogger("alembic.runtime.migration").error("alembic's")
warnings.warn("a warning", stacklevel=1)
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("lib").exception("a library's")
    structlog.get_logger("ours").exception("ours failed")
threading.Thread(target=lambda: 1 / 0, name="worker").start()
class Late:
    def __del__(self):
        raise RuntimeError("too late")
Late()
class Unspeakable:
    def __repr__(self):
        raise RuntimeError("no words")
    __str__ = __repr__
logging.getLogger("lib").warning("%s", Unspeakable())
async def lost():
    raise RuntimeError("nobody waits for me")
async def lose():
    task = asyncio.create_task(lost())
    await asyncio.sleep(0)
    del task
    gc.collect()
asyncio.run(lose())
raise RuntimeError("the end")
"""


def objects(lines: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in lines.splitlines()]
    assert all(isinstance(one, dict) and one["event"] and one["level"] for one in found)
    return found


def test_every_kind_of_line_is_an_object(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERYBODY],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    found = objects(done.stderr)
    told = "\n".join(str(one) for one in found)
    for word in (
        "several",
        "uvicorn's line",
        "alembic's",
        "a warning",
        "a library's",
        "ours failed",
        "too late",
        "nobody waits",
        "the end",
        "worker",
        "could not be made",
    ):
        assert word in told, word
    assert sum("ZeroDivisionError" in str(one.get("exception")) for one in found) == 3


@pytest.mark.parametrize("name", ["full", "closed"])
def test_a_line_that_finds_no_room_costs_nobody_anything(tmp_path: Path, name: str) -> None:
    code = """
import logging, sys
from promptgps_service.logs import configure_logs
configure_logs("json", "info")
if sys.argv[1] == "closed":
    sys.stderr.close()
for number in range(1000):
    logging.getLogger("lib").warning("line %d %s", number, "x" * 1000)
print("done", flush=True)
import os
os._exit(0)
"""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, name],
            cwd=tmp_path,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=full,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stdout) == (0, "done\n")


def test_a_server_writes_nothing_else_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with running(url, tmp_path, PROMPTGPS_LOG_LEVEL="debug", **JSON) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as stranger:
            stranger.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            answer = stranger.recv(65_536)
        server.request("GET", "/pools", headers={"x-request-id": "mine-1"})
        server.stop()
        found = objects(server.log.read_text())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer
    assert {"uvicorn.error", "promptgps_service.api.edge"} <= {one.get("logger") for one in found}
    (asked,) = [one for one in found if one.get("request_id") == "mine-1"]
    assert (asked["method"], asked["route"], asked["status"]) == ("GET", "/pools", 200)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("migrate",), 0),
        (("train", "--all"), 0),
        (("serve", "--host", "0.0.0.0", "--port", "0"), 2),
        (("train", "nobody"), 2),
        (("serve", "--port", "0", "--device", "nonsense"), 2),
        (("migrate", "--revision", "nonsense"), 2),
        (("replay", "."), 2),
    ],
)
def test_commands_write_nothing_else(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    variables = JSON | {"PROMPTGPS_DATABASE_URL": f"sqlite:///{tmp_path}/a.db"}
    done = promptgps(tmp_path, *arguments, **variables)
    assert done.returncode == code, done.stderr
    objects(done.stderr)
    objects(done.stdout)
    assert code == 0 or len(done.stderr.splitlines()) == 1
