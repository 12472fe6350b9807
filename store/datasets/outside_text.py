"""One rule for text from outside: labels, ids, groups, class names, splits, column names, list entries.

Whatever the source is (folders, tables, archives, arrays, JSON, YAML, files of names), its values become text
here, so that one class is one class wherever it comes from.
"""

import codecs
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING

from toptune.errors import InputError
from toptune.store.files.reading import read_linked

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Name of the error handler that `escaped` registers: bytes that are no UTF-8 have this one form in every
# output, whether they are read from a file or reach Python as the lone surrogates of a file's name.
ESCAPES = "toptune-escapes"
_MARK = "\ufeff"
# Above this, neighboring whole numbers are the same float, and the digits of an int would be made up.
_EXACT_FLOATS = 2**53
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def outside_text(value: object, *, keeps_blanks: bool = False) -> str | None:
    """Return a value from outside as text, or None where it says that nothing is known.

    Text is composed (Unicode form NFC), without a byte order mark before it and without blanks around it.
    Numbers are written without ``.0``. None, NaN in every library's form and empty text are unknown; the
    words ``NA``, ``None`` and ``nan`` are text like any other.

    Parameters
    ----------
    value : object
        Text, bytes of UTF-8, a number, a truth value, a date, or None.
    keeps_blanks : bool
        Whether blanks around the text stay, as in ids and paths, where they tell two files apart.

    Raises
    ------
    InputError
        If the value is a list, a mapping or an array.

    Examples
    --------
    >>> [outside_text(value) for value in (" dog ", "cafe\u0301", 7.0, 2.5, float("nan"), "", "nan")]
    ['dog', 'café', '7', '2.5', None, None, 'nan']
    """
    text = value if isinstance(value, str) else _written(value)
    if text is None:
        return None
    # Nearly all text is plain, and a data set may have a hundred million rows.
    if not text.isascii():
        text = unicodedata.normalize("NFC", escaped(text)).lstrip(_MARK)
    return (text if keeps_blanks else text.strip().lstrip(_MARK).strip()) or None


def outside_column(values: Iterable[object], *, keeps_blanks: bool = False) -> list[str | None]:
    """Return the values of a column as text; see `outside_text`."""
    known: dict[str, str | None] = {}
    texts = []
    for value in values:
        # Equal texts of a column are one object afterwards. Numbers are not looked up, because 1 == True.
        if type(value) is not str:
            texts.append(outside_text(value, keeps_blanks=keeps_blanks))
        elif keeps_blanks:
            texts.append(value if value.isascii() and value else outside_text(value, keeps_blanks=True))
        else:
            if value not in known:
                known[value] = outside_text(value)
            texts.append(known[value])
    return texts


def array_values(values: "npt.NDArray[np.generic]", where: str) -> list[object]:
    """Return a numpy array of texts or numbers, (n,), as a list of Python's values.

    Raises
    ------
    InputError
        If a text has letters that Unicode does not have, as in a damaged file.
    """
    if values.dtype.kind == "U" and values.dtype.itemsize:
        # numpy takes any number for a letter, and Python fails at places that are hard to foresee.
        letters = values.astype(values.dtype.newbyteorder("=")).view("u4")
        if letters.size and letters.max() > sys.maxunicode:
            raise InputError(
                f"{where} holds letter {letters.max()}, and the last one of Unicode is {sys.maxunicode}; the "
                "file is damaged, write it again"
            )
    # As a Python float, 0.1 in float32 would be 0.10000000149011612.
    return list(values) if values.dtype.kind == "f" else list(values.tolist())


def column_names(names: Iterable[object], where: str) -> list[str | None]:
    """Return the names of columns as text, None for a column without a name.

    Raises
    ------
    InputError
        If two columns have one name.
    """
    found = outside_column(names)
    named = [name for name in found if name is not None]
    twice = [name for number, name in enumerate(named) if name in named[:number]]
    if twice:
        raise InputError(
            f"{where} has column {twice[0]!r} twice, and only one can be meant; rename or remove the other"
        )
    return found


def escaped(text: str) -> str:
    r"""Return text in which what cannot be encoded is written as backslash escapes: ``\xff``."""
    return text if text.isascii() else text.encode("utf-8", ESCAPES).decode("utf-8")


def text_encoding(path: Path) -> str:
    """Return the encoding that the first bytes of a file tell: UTF-8, UTF-16 or UTF-32."""
    with path.open("rb") as file:
        head = file.read(4)
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")


def read_outside_text(path: Path, what: str, *, max_bytes: int | None = None) -> str:
    """Read a file of text, without its byte order mark.

    Parameters
    ----------
    path : path
        The file.
    what : str
        What the file is, for messages.
    max_bytes : int, optional
        Size above which the file is refused before it is read.

    Raises
    ------
    InputError
        If the file cannot be read, is too large, or is neither UTF-8 nor marked as UTF-16 or UTF-32.
    """
    try:
        text = read_linked(path, max_bytes=max_bytes).decode(text_encoding(path))
    except UnicodeError as error:
        raise InputError(f"{what} {path} {not_unicode(error)}") from error
    except FileNotFoundError as error:
        raise InputError(f"{what} {path} cannot be read: there is no such file; check the path") from error
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def not_unicode(error: UnicodeError) -> str:
    """Say that a file is not UTF-8, and what to do."""
    where = ""
    if isinstance(error, UnicodeDecodeError):
        where = f" (byte 0x{error.object[error.start]:02x} at place {error.start})"
    return f"is not text in UTF-8{where}; save it as UTF-8, which spreadsheets call 'CSV UTF-8'"


def read_lines(path: Path, what: str) -> dict[int, str]:
    """Read a file of one name a line, by the numbers of the lines; a line of blanks names nothing.

    Raises
    ------
    InputError
        If the file cannot be read as text.
    """
    # `splitlines` would also cut at letters that a file's name may hold.
    lines = outside_column(read_outside_text(path, what).split("\n"), keeps_blanks=True)
    return {number: line for number, line in enumerate(lines, 1) if line is not None and line.strip()}


def sole_ids(ids: Sequence[str | None], given: Sequence[object]) -> None:
    """Refuse ids that are given in several Unicode forms or encodings and are one as text.

    Raises
    ------
    InputError
        Naming the first of them.
    """
    first: dict[str | None, object] = {}
    for name, raw in zip(ids, given, strict=True):
        if name in first and first[name] != raw:
            raise InputError(
                f"the ids {first[name]!a} and {raw!a} are both {name!r} once their Unicode form is "
                "unified; rename one of them"
            )
        first[name] = raw


def _written(value: object) -> str | None:
    """Write a value that is no text."""
    if value is None:
        return None
    if type(value) is int:
        return str(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", ESCAPES)
    if hasattr(value, "__len__") or isinstance(value, set):
        raise InputError(f"{value!r:.60} is a {type(value).__name__}; one text or number is needed")
    try:
        # NaN of floats, NaT of dates and times.
        is_known = bool(value == value)
    except TypeError:
        is_known = False  # NA of pandas does not even know whether it equals itself.
    if not is_known:
        return None
    if isinstance(value, Real | Decimal) and not isinstance(value, bool):
        number = float(value)
        return str(int(number)) if abs(number) < _EXACT_FLOATS and number == int(number) else str(value)
    return str(value)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if isinstance(error, UnicodeDecodeError):
        return "".join(f"\\x{byte:02x}" for byte in error.object[error.start : error.end]), error.end
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escaped_letter, error.object[error.start : error.end])), error.end


def _escaped_letter(letter: str) -> str:
    # Python reads a byte that is no UTF-8 in a file's name as one of these letters.
    if "\udc80" <= letter <= "\udcff":
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(ESCAPES, _escape)
