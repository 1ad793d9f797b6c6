"""A local cloud without Tritons for the session, and Pulumi stacks of small programs on it."""

from collections.abc import Callable, Iterator

import pytest
from pulumi_stack import Stack

from localcloud.cloud import LocalCloud, Ports


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud of its own, beside the user's."""
    with LocalCloud(tmp_path_factory.mktemp("cloud"), Ports.free(), t4_nodes=6, triton=False) as local:
        yield local


@pytest.fixture(scope="module")
def new_stack(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Stack]]:
    """Make a stack of the program `programs/NAME`; what it holds is destroyed at the end of the module."""
    stacks: list[Stack] = []

    def make(program: str, **settings: object) -> Stack:
        stack = Stack.of_program(program, tmp_path_factory.mktemp(program), cloud.environment())
        stack.configure(**settings)
        stacks.append(stack)
        return stack

    yield make
    for stack in stacks:
        stack.destroy()
