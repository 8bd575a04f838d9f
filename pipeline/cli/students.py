"""`tkd students`."""

import dataclasses
import json

import click

HOP_SECONDS, WINDOW_SECONDS = 0.02, 0.04  # the caches' front end; its own module needs torchaudio, this command not


@click.command("students")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def students_command(as_json) -> None:
    """List the students: parameters for 12 classes, multiply-accumulates, how far they hear.

    MACs are those of a clip of one second, 49 frames of features; the receptive field is that of one student frame. A
    streamable student can follow the audio, so far behind. Parameters include BatchNorm's moving statistics.

    \b
    Example:
      tkd students
    """
    from students import STUDENTS, student_facts

    facts = [student_facts(name, HOP_SECONDS, WINDOW_SECONDS) for name in STUDENTS]
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(fact) for fact in facts], indent=2))
        return
    hears = {"past": "all before", "clip": "whole clip"}
    rows = [("student", "parameters", "M MACs/s", "frame", "receptive field", "streamable", "paper")]
    rows += [
        (
            fact.name,
            f"{fact.n_parameters:,}",
            f"{fact.macs_per_second / 1e6:.2f}",
            f"{1000 * fact.frame_seconds:.0f} ms",
            hears.get(fact.scope) or f"{fact.receptive_field_seconds:.2f} s",
            f"yes, {fact.look_ahead_seconds:.2f} s behind" if fact.streamable else "no",
            fact.paper,
        )
        for fact in facts
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if n in (1, 2, 3) else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
