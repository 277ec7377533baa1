"""What people see while they wait."""

from __future__ import annotations

import io

from dawnchorus.trainer.progress import Bar, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_stand_above_the_bar() -> None:
    stream = Terminal()
    progress = Progress(stream)
    with progress.hours(1.0, "preparing") as bar:
        bar.update(0.5, "shard 1/2")
        progress.say("[red]one.wav: left out")
    progress.say("done")
    text = stream.getvalue()
    line = next(line for line in text.split("\n") if "one.wav" in line)
    # Behind the code that erases the bar: nothing of the bar is left before it.
    assert line.split("\x1b[2K")[-1] == "[red]one.wav: left out"
    assert text.endswith("\x1b[?25hdone\n")


def test_in_a_log_file_they_are_plain() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    with progress.files(10, "fingerprints"):
        progress.say("one.wav: left out")
    assert stream.getvalue() == "one.wav: left out\n"


def test_a_bar_counts_on_from_what_was_done_before() -> None:
    stream = Terminal()
    with Bar(10, "run", "steps", stream=stream, done=3) as bar:
        bar.advance(2)
        bar.update(bar.done, "loss 0.5")
    assert "3/10 steps" in stream.getvalue() and "5/10 steps  loss 0.5" in stream.getvalue()
