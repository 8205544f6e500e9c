"""The command group: every command is there, imported only when used, and explains itself."""

import subprocess
import sys
from importlib import import_module

import click
import pytest
from click.testing import CliRunner

from balancer import __version__
from balancer.cli.main import _COMMANDS, LazyGroup, main


def test_help_lists_every_command_of_the_table() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.output.partition("Commands:")[2].splitlines() if line.strip()]
    assert [name for name in listed if name in _COMMANDS] == list(_COMMANDS)


def test_h_is_help() -> None:
    assert CliRunner().invoke(main, ["-h"]).output == CliRunner().invoke(main, ["--help"]).output


def test_version_is_the_packages() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert (result.exit_code, result.output.split()[-1]) == (0, __version__)


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_a_command_is_a_click_command_with_a_sentence_of_help(name: str) -> None:
    command = import_module(_COMMANDS[name]).command
    assert isinstance(command, click.Command)
    assert (command.help or "").strip().partition("\n")[0]


@pytest.mark.parametrize("name", sorted(_COMMANDS))
def test_every_command_answers_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage: ")


def test_an_unknown_command_is_named_and_exits_2() -> None:
    result = CliRunner().invoke(main, ["chekc"])
    assert result.exit_code == 2
    assert "chekc" in result.output


def test_an_unknown_command_is_none_to_click() -> None:
    assert isinstance(main, LazyGroup)
    assert main.get_command(click.Context(main), "nothing") is None


def test_importing_the_group_imports_neither_the_proxy_nor_the_validation() -> None:
    heavy = ("uvloop", "httptools", "pydantic", "yaml")
    code = f"import sys, balancer.cli.main; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert result.stdout.strip() == "[]"


def test_python_m_balancer_is_the_same_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "balancer", "--version"], capture_output=True, text=True, timeout=30, check=True
    )
    assert result.stdout.split()[-1] == __version__
