"""``castssl doctor``: what is installed, what is broken, and how to repair it."""

from __future__ import annotations

import argparse


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add it to the command line."""
    command = commands.add_parser("doctor", help="what is installed, what is broken, and how to repair it")
    command.set_defaults(run=_doctor)


def _doctor(given: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape

    from castssl.doctor import examine

    console = Console(soft_wrap=True)
    colors = {"ok": "green", "note": "yellow", "broken": "red"}
    broken = 0
    for topic, state, text, remedy in examine():
        broken += state == "broken"
        console.print(f"[{colors[state]}]{state:<6}[/]  {topic:<20}  {escape(text)}", highlight=False)
        if remedy:
            console.print(f"{'':30}$ {escape(remedy)}", highlight=False)
    console.print(f"{broken} broken" if broken else "nothing that castssl needs is broken")
    return 1 if broken else 0
