"""``castssl doctor``: what is installed, what is broken, and how to repair it."""

from __future__ import annotations

import argparse

from castssl.commands.arguments import Commands, subcommand

COLORS = {"ok": "green", "note": "yellow", "broken": "red"}


def add(commands: Commands) -> None:
    """Add it to the command line."""
    subcommand(commands, "doctor", "what is installed, what is broken, and how to repair it", _doctor)


def _doctor(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape

    from castssl.doctor import examine

    console = Console(soft_wrap=True)
    broken = 0
    for topic, state, text, remedy in examine():
        broken += state == "broken"
        console.print(f"[{COLORS[state]}]{state:<6}[/]  {topic:<20}  {escape(text)}", highlight=False)
        if remedy:
            console.print(f"{'':30}$ {escape(remedy)}", highlight=False)
    console.print(f"{broken} broken" if broken else "nothing that castssl needs is broken")
    return 1 if broken else 0
