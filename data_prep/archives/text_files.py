"""Text files from other machines: their encodings and line ends are converted to one form.

The readers of tables expect UTF-8 with LF. UTF-16 (Excel's "Unicode text"), Windows-1252 and line
ends of CR alone (old Mac programs) are converted while reading; no file is read whole.
"""

from __future__ import annotations

import codecs
import io
from dataclasses import dataclass
from typing import BinaryIO, cast

from dawnchorus.data_prep.audio.pointers import pointer_in
from dawnchorus.data_prep.errors import PrepError

_CHUNK = 1 << 20
_BOMS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_KINDS = {
    b"PK\x03\x04": "a zip file or an Excel workbook (.xlsx)",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls)",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database",
}


@dataclass(frozen=True, slots=True)
class TextForm:
    """How a text file is written. `note` tells a person which guess was made."""

    encoding: str = "utf-8"
    mac_lines: bool = False
    note: str = ""


def text_form(stream: BinaryIO, name: str, *, encoding: str = "", guess: bool = False) -> TextForm:
    """Return how the text of a stream (at its start) is written; the stream is read to its end.

    Args:
        stream: bytes of the file.
        name: what messages call it.
        encoding: the encoding as the user states it; where empty, it is found by the file's marks.
        guess: take text without a mark that is no UTF-8 for Windows-1252. Otherwise it counts as
        UTF-8, and the reader reports the rows that are not.

    Raises:
        PrepError: the file is not text (a workbook, a Git LFS pointer), or there is no such
        encoding.
    """
    start = stream.read(_CHUNK)
    _refuse_other_kinds(start, name)
    if encoding:
        try:
            found = codecs.lookup(encoding).name
        except LookupError as err:
            raise PrepError(
                f"{encoding!r} is no encoding; examples: utf-8, utf-16, cp1252, cp1250, mac-roman."
            ) from err
    else:
        found = _marked(start)
    seen = _Lines()
    if found:
        return TextForm(found, seen.mac_lines(stream, start, found))
    mac_lines = seen.mac_lines(stream, start, "latin-1")
    if not guess or seen.utf8 or not seen.other:
        return TextForm("utf-8", mac_lines)
    try:
        shown = seen.other.decode("cp1252").strip()[:60]
    except UnicodeDecodeError:
        return TextForm("utf-8", mac_lines)
    note = f"{name} is not UTF-8; read as Windows-1252 (as in {shown!r}); --encoding NAME says else"
    return TextForm("cp1252", mac_lines, note)


def _refuse_other_kinds(start: bytes, name: str) -> None:
    if pointer := pointer_in(start):
        raise PrepError(f"{name} is {pointer}.")
    for mark, kind in _KINDS.items():
        if start.startswith(mark):
            raise PrepError(f"{name} is {kind}, no text. Save the table as CSV (UTF-8).")


def _marked(start: bytes) -> str:
    """Return the encoding that the first bytes show, or ''."""
    for mark, encoding in _BOMS:
        if start.startswith(mark):
            return encoding
    head = start[:400]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if odd > 0.4 * len(head[1::2]) and even == 0:
        return "utf-16-le"
    if even > 0.4 * len(head[::2]) and odd == 0:
        return "utf-16-be"
    return ""


class _Lines:
    """What the bytes of a file's lines show about their encoding."""

    def __init__(self) -> None:
        self.utf8 = False
        """Some line has letters beyond ASCII that are valid UTF-8."""
        self.other = b""
        """The first line that is no UTF-8."""

    def mac_lines(self, stream: BinaryIO, start: bytes, encoding: str) -> bool:
        """Return whether lines end with CR alone: there is no LF at all. Reads to the end."""
        decoder = codecs.getincrementaldecoder(encoding)("replace")
        lf = cr = False
        rest = b""
        chunk = start
        while chunk:
            text = decoder.decode(chunk)
            lf, cr = lf or "\n" in text, cr or "\r" in text
            if encoding == "latin-1" and not self.other:
                lines = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
                rest = lines.pop()[-_CHUNK:]
                self._look(lines)
            chunk = stream.read(_CHUNK)
        if encoding == "latin-1":
            self._look([rest])
        return cr and not lf

    def _look(self, lines: list[bytes]) -> None:
        for line in lines:
            if not line.isascii():
                try:
                    line.decode()
                    self.utf8 = True
                except UnicodeDecodeError:
                    self.other = self.other or line


def as_utf8(stream: BinaryIO, name: str, form: TextForm) -> BinaryIO:
    """Return the stream as UTF-8 with LF; the same stream where it has this form already.

    Reading raises PrepError where UTF-16 breaks off. What is not valid in another encoding stays
    invalid, for the reader of rows to find.
    """
    if form.encoding == "utf-8" and not form.mac_lines:
        return stream
    return cast(BinaryIO, io.BufferedReader(_Recoded(stream, name, form), _CHUNK))


class _Recoded(io.RawIOBase):
    """The bytes of a stream in UTF-8."""

    def __init__(self, stream: BinaryIO, name: str, form: TextForm) -> None:
        self.stream, self.name, self.form = stream, name, form
        wide = form.encoding.startswith(("utf-16", "utf-32"))
        self.decoder = codecs.getincrementaldecoder(form.encoding)(
            "strict" if wide else "surrogateescape"
        )
        self.read_bytes, self.waiting = 0, b""

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: object) -> int:
        """Fill the buffer; 0 at the end."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        while not self.waiting:
            chunk = self.stream.read(_CHUNK)
            try:
                text = self.decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as err:
                raise PrepError(
                    f"The text is not {self.form.encoding} after byte {self.read_bytes:,}: "
                    f"{err.reason}. Is {self.name} cut off? Save it again, as UTF-8."
                ) from err
            self.read_bytes += len(chunk)
            if self.form.mac_lines:
                text = text.replace("\r", "\n")
            self.waiting = text.encode("utf-8", "surrogateescape")
            if not chunk and not self.waiting:
                return 0
        size = min(len(view), len(self.waiting))
        view[:size] = self.waiting[:size]
        self.waiting = self.waiting[size:]
        return size
