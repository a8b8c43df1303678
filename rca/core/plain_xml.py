"""XML from other tools, element by element: plain data, bounded in size and depth, and without entities of its own."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from rca.core.errors import UserError, quote
from rca.core.reading import check_file

# The largest file in bytes; the most levels, and the most elements below one child of the root.
MOST_XML = 1 << 30
MOST_LEVELS = 32
MOST_ELEMENTS = 1 << 18
_CHUNK = 1 << 20


class _Refused(Exception):
    """What a bound or the ban on entities refuses, in words."""


class _Reader:
    """Builds the children of the root as expat reads them, and forgets what was taken.

    Attributes:
        root: The name of the root; "" until it is read.
        children: The children that are complete.
    """

    def __init__(self) -> None:
        self.root = ""
        self.children: list[Element] = []
        self.depth = self.count = 0
        self.builder = TreeBuilder()
        self.parser = expat.ParserCreate()
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.add
        self.parser.EntityDeclHandler = self.refuse

    def start(self, name: str, attributes: dict[str, str]) -> None:
        """Begin an element."""
        self.depth += 1
        if self.depth == 1:
            self.root = name
            return
        if self.depth == 2:
            self.builder, self.count = TreeBuilder(), 0
        self.count += 1
        if self.depth > MOST_LEVELS:
            raise _Refused(f"it has more than {MOST_LEVELS} levels")
        if self.count > MOST_ELEMENTS:
            raise _Refused(f"one element has more than {MOST_ELEMENTS} below it")
        self.builder.start(name, attributes)

    def add(self, text: str) -> None:
        """Add text to the open element."""
        if self.depth > 1:
            self.builder.data(text)

    def end(self, name: str) -> None:
        """Complete an element."""
        self.depth -= 1
        if self.depth > 0:
            self.builder.end(name)
        if self.depth == 1:
            self.children.append(self.builder.close())

    def refuse(self, *_: object) -> None:
        """Refuse entities: a few lines of them stand for gigabytes, or for other files."""
        raise _Refused("it declares entities")


def read_xml(path: Path, root: str = "") -> Iterator[Element]:
    """The children of the root, each complete, in the order of the file.

    Args:
        path: The file.
        root: The name that the root must have; "" for any.

    Raises:
        UserError: it is no regular file, too large, not valid XML, too deep, or declares entities.
        OSError: there is nothing, or it cannot be read.
    """
    check_file(path, most=MOST_XML)
    reader = _Reader()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(_CHUNK):
                reader.parser.Parse(chunk, False)
                if root and reader.root not in ("", root):
                    raise _Refused(f"its root is {reader.root[:40]!r}, not {root!r}")
                yield from reader.children
                reader.children.clear()
        reader.parser.Parse(b"", True)
    except (expat.ExpatError, _Refused, LookupError, ValueError) as error:
        raise UserError(f"{quote(path)} is not valid XML ({error}): replace it.") from None
