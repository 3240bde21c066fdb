"""A Docker engine, found or started, and one stack of docker-compose.yml on it."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest

PROJECT = Path(__file__).resolve().parents[2]
# an engine for machines that reach no registry
TOOL = PROJECT.parent / "shared" / "tools" / "local-docker"
TRAINER = Path(__file__).with_name("trainer.py")
IMAGE = "promptgps:test"


class Stack:
    """The services of docker-compose.yml under a project, a network and ports of their own."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.name = f"promptgps-{secrets.token_hex(4)}"
        self.key = ""
        self._folder = folder
        self._environment = environment | {
            "PROMPTGPS_IMAGE": IMAGE,
            "PROMPTGPS_NETWORK": self.name,
            "PROMPTGPS_PUBLISH": "127.0.0.1:",
            "PROMPTGPS_CPUS": "1",
        }
        plugin = (
            subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
        )
        self._compose = ["docker", "compose"] if plugin else ["docker-compose"]

    def docker(self, *arguments: str, **options: Any) -> str:
        """What `docker` prints; its failure is the test's."""
        return self._run(["docker", *arguments], **options)

    def compose(self, *arguments: str, **options: Any) -> str:
        """What Compose prints."""
        return self._run([*self._compose, "--project-name", self.name, *arguments], **options)

    def up(self) -> None:
        """Start what does not run yet."""
        self.compose("up", "-d")

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers that run."""
        labels = {"project": self.name, "service": service}
        filters = (
            f"--filter=label=com.docker.compose.{name}={value}" for name, value in labels.items()
        )
        return self.docker("ps", "--quiet", *filters).split()

    def state(self, container: str) -> Any:
        """`docker inspect`."""
        return json.loads(self.docker("inspect", container))[0]

    def wait_healthy(self, container: str, seconds: float = 120.0) -> None:
        """Wait until Docker calls a container healthy, that is, for /readyz of the API."""
        deadline = time.monotonic() + seconds
        while self.state(container)["State"].get("Health", {}).get("Status") != "healthy":
            if time.monotonic() > deadline:
                raise AssertionError(self.docker("logs", container, stderr=subprocess.STDOUT))
            time.sleep(0.5)

    def train(self, first: int, last: int) -> Iterator[Any]:
        """Lines of a trainer in a third container on the stack's network, as they come."""
        trainer = f"{self.name}-trainer"
        arguments = [
            "docker",
            "run",
            "--rm",
            "--interactive",
            "--name",
            trainer,
            "--network",
            self.name,
            "--env",
            "PROMPTGPS_URL=http://api:8000",
            "--env",
            "PROMPTGPS_API_KEY",
            "--entrypoint",
            "python",
            IMAGE,
            "-",
            str(first),
            str(last),
        ]
        environment = self._environment | {"PROMPTGPS_API_KEY": self.key}
        errors = self._folder / "trainer.log"
        with TRAINER.open() as script, errors.open("w") as log:
            process = subprocess.Popen(
                arguments,
                stdin=script,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        try:
            with process:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith("{"):  # others tell of retries
                        yield json.loads(line)
        finally:  # the container outlives the command where the test fails
            subprocess.run(
                ["docker", "rm", "--force", trainer], env=self._environment, capture_output=True
            )
        assert process.returncode == 0, errors.read_text()

    def _run(self, command: list[str], **options: Any) -> str:
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
        done = subprocess.run(command, env=self._environment, cwd=PROJECT, **options)
        assert done.returncode == 0, (
            f"{' '.join(command)}\n{done.stdout}\n{done.stderr}\n{self._last_words(command)}"
        )
        return str(done.stdout)

    def _last_words(self, command: list[str]) -> str:
        return self.compose("logs", "--tail", "50") if "up" in command else ""


@contextmanager
def running_engine() -> Iterator[dict[str, str]]:
    """Environment in which Docker finds an engine; one that was started here is stopped again.

    Where there is none, the test fails on CI and is skipped elsewhere.
    """
    environment = dict(os.environ)
    own = _exports_of_tool()
    if environment.get("DOCKER_HOST") != own.get("DOCKER_HOST", "") and _answers(environment):
        yield environment
    elif own:
        # no NAT; its base image has torch
        environment |= own | {"BUILD_NETWORK": "host", "TORCH_INDEX_URL": ""}
        found = _answers(environment)
        if (
            subprocess.run(
                [TOOL, "up"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            ).returncode
            != 0
        ):
            _give_up(f"{TOOL} up starts no Docker engine")
        try:
            yield environment
        finally:
            if not found:
                subprocess.run([TOOL, "down"], check=True)
    else:
        _give_up("there is no Docker engine here")


def _give_up(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _exports_of_tool() -> dict[str, str]:
    """What `local-docker env` exports; nothing where there is no such tool."""
    if not TOOL.exists():
        return {}
    exports = subprocess.run(
        [TOOL, "env"], check=True, capture_output=True, text=True
    ).stdout.split()[1:]
    return dict(export.split("=", 1) for export in exports)


@contextmanager
def built_stack(folder: Path) -> Iterator[Stack]:
    """A stack whose image is built and of which nothing runs yet; in the end nothing is left."""
    with running_engine() as environment:
        stack = Stack(environment, folder)
        stack.compose("build", "secrets")
        try:
            yield stack
        finally:
            stack.compose("down", "--volumes", "--timeout", "1")


def _answers(environment: dict[str, str]) -> bool:
    return shutil.which("docker") is not None and (
        subprocess.run(["docker", "info"], env=environment, capture_output=True).returncode == 0
    )
