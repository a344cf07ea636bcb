"""The three standard streams as a command finds them: closed, of an old encoding, or with a reader that goes away."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from contextlib import suppress

READER_LEFT = 141
"""Exit code where nobody reads the output any more: 128 + SIGPIPE, as a shell shows it for other programs."""

# What a sign of ours becomes where the stream's encoding lacks it; any other becomes "?".
_SUBSTITUTES = {
    "×": "x", "…": "...", "–": "-", "−": "-", "·": "*", "→": "->", "±": "+-", "≠": "!=", "≤": "<=", "≥": ">=", "‖": "||",
    "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "½": "1/2", "²": "2", "³": "3", "∞": "inf", "█": "#",
}  # fmt: skip


def can_write(stream: object) -> bool:
    """Whether a stream takes text: Python sets those to None that were closed at its start."""
    return callable(getattr(stream, "write", None))


def is_terminal(stream: object) -> bool:
    """Whether a stream is a terminal; one that cannot tell is none."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError, OSError):  # replaced by something else; closed
        return False


def settle() -> None:
    """Make stdin, stdout and stderr fit for a command: never closed, and never an error for a sign they lack.

    A descriptor that is closed is opened on the null device, so that no file of ours gets its number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                # The lowest free number is taken: this one, for those below are open by now.
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not can_write(stream):
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - to the end
        elif isinstance(stream, io.TextIOWrapper):
            # click takes a stream that says "ascii" for a mistake, and writes UTF-8 into it.
            plain = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(errors="faster.plain", encoding="faster_ascii" if plain else None)


def reader_left() -> bool:
    """Whether the reader of stdout or of stderr went away."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(
            OSError, ValueError, AttributeError
        ):  # replaced by something without a descriptor, or closed
            looking = select.poll()
            looking.register(stream.fileno(), 0)  # what went wrong is always told
            if looking.poll(0):
                return True
    return False


def give_up() -> None:
    """Drop what cannot be written any more, so that the interpreter does not try again at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            with suppress(
                OSError, ValueError, AttributeError
            ):  # no descriptor: not one of the interpreter's own
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Error handler of the streams: a substitute for each sign that the encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(map(_substitute, signs)), error.end


def _substitute(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return _SUBSTITUTES.get(sign, "?")


def _ascii(name: str) -> codecs.CodecInfo | None:
    if name != "faster_ascii":
        return None
    known = codecs.lookup("ascii")
    return codecs.CodecInfo(
        known.encode,
        known.decode,
        known.streamreader,
        known.streamwriter,
        known.incrementalencoder,
        known.incrementaldecoder,
        name=name,
    )


codecs.register(_ascii)
codecs.register_error("faster.plain", _plain)
