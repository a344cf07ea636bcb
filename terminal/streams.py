"""Make the three standard streams safe: they may be closed, have an old encoding, or lose their reader."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from contextlib import suppress

READER_LEFT = 141
"""Exit code if the reader of the output has gone: 128 + SIGPIPE, as shells show it for other programs."""

# Replacements for signs of our messages that the stream's encoding does not contain; any other becomes "?".
_SUBSTITUTES = {
    "×": "x", "…": "...", "–": "-", "−": "-", "·": "*", "→": "->", "±": "+-", "≠": "!=", "≤": "<=", "≥": ">=",
    "‖": "||",
    "′": "'", "’": "'", "‘": "'", "“": '"', "”": '"', "½": "1/2", "²": "2", "³": "3", "∞": "inf", "█": "#",
}  # fmt: skip


def can_write(stream: object) -> bool:
    """Return whether a stream accepts text: Python sets streams that were closed at its start to None."""
    return callable(getattr(stream, "write", None))


def is_terminal(stream: object) -> bool:
    """Return whether a stream is a terminal; False if it cannot tell."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError, OSError):  # replaced by something else; closed
        return False


def settle() -> None:
    """Make stdin, stdout and stderr safe: never closed, and no error for characters they cannot encode.

    A closed descriptor is opened on the null device, so that none of our files gets its number.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with suppress(OSError):
                # This opens the lowest free number, which is `number`: all below are open by now.
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not can_write(stream):
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - to the end
        elif isinstance(stream, io.TextIOWrapper):
            # click takes the encoding "ascii" for a mistake and writes UTF-8, so use another name for it.
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(errors="faster.plain", encoding="faster_ascii" if is_ascii else None)


def reader_left() -> bool:
    """Return whether the reader of stdout or of stderr has gone."""
    for stream in (sys.stdout, sys.stderr):
        # The stream may be replaced by one without a descriptor, or closed.
        with suppress(OSError, ValueError, AttributeError):
            looking = select.poll()
            looking.register(stream.fileno(), 0)  # poll always reports errors
            if looking.poll(0):
                return True
    return False


def give_up() -> None:
    """Drop output that cannot be written any more, so that the interpreter does not try again at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            # Without a descriptor it is not one of the interpreter's own streams.
            with suppress(OSError, ValueError, AttributeError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replace each character that the encoding does not contain; error handler of the streams."""
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
