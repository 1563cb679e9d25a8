"""The text of one file to raw objects: multi-document YAML or JSON, made safe.

Called by files.py and by nobody else. Files come from people: size, depth and what aliases expand to
have limits, tags that make anything but plain data are refused, and timestamps stay text, as the API
server's own YAML reader has it. Never looks at what an object means.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import yaml

FILE_BYTES_MAX = 10 << 20
DOCUMENTS_MAX = 100_000  # three times what 10 MiB of the smallest real objects hold
DEPTH_MAX = 64  # a CRD's schema, the deepest thing in practice, stays under 40
NODES_MAX = 2_000_000  # after expanding aliases: ten times what 10 MB of real objects hold
TEXT_SHARE = 32  # bytes of text that count as one value more
_NOT_A_MARK = re.compile(rb"\n---[^ \t\r\n]")
INTERNED_MAX = 64  # characters
_SUSPICIOUS_PREFIX = 2 * DEPTH_MAX


class DocumentError(ValueError):
    """A file that cannot be read; its text is one sentence with the place."""


class _Loader(yaml.CSafeLoader):
    """Safe loader without YAML 1.1's timestamps and base-60 numbers."""


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    """Short texts stand in thousands of objects: kept once, they cost a third of the memory."""
    value = node.value
    return sys.intern(value) if len(value) <= INTERNED_MAX else value


def _resolvers() -> dict[str, list[tuple[str, Any]]]:
    plain = {"tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"}
    kept: dict[str, list[tuple[str, Any]]] = {}
    for first, pairs in yaml.CSafeLoader.yaml_implicit_resolvers.items():
        kept[first] = [(tag, pattern) for tag, pattern in pairs if tag not in plain]
    return kept


_Loader.add_constructor("tag:yaml.org,2002:str", _text)
_Loader.yaml_implicit_resolvers = _resolvers()
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0|0o?[0-7]+|0x[0-9a-fA-F]+|[1-9][0-9]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"([-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def read_documents(data: bytes, name: str) -> list[Any]:
    """Read every object of a file; a kind `List` (or `XList`) gives its items.

    Shape: raw objects in the file's order, empty documents left out.
    Errors: DocumentError.
    """
    pieces = split(data, name)
    return [document for index in range(len(pieces)) for document in read_piece(pieces, index, name)]


def split(data: bytes, name: str) -> list[bytes]:
    """Cut a file where its documents begin, so that each can be read, and kept, by itself.

    A line that begins with three dashes and white space begins a document wherever it stands, in quotes and
    block scalars too (YAML 1.2, c-forbidden). A file with directives or explicit ends is one piece.
    Errors: DocumentError for one that is too long.
    """
    if len(data) > FILE_BYTES_MAX:
        raise DocumentError(f"is longer than {FILE_BYTES_MAX >> 20} MiB")
    if name.endswith(".json") or data.startswith(b"%") or b"\n%" in data or b"\n..." in data:
        return [data]
    first, *others = data.split(b"\n---")
    if len(others) > DOCUMENTS_MAX:
        raise DocumentError(f"has more than {DOCUMENTS_MAX} documents")
    if _NOT_A_MARK.search(data):
        return [data]
    return [first, *others]


def read_piece(pieces: list[bytes], index: int, name: str) -> list[Any]:
    """Read the objects of one piece of a file.

    Errors: DocumentError, with the line in the file; nothing of the piece is used then.
    """
    data = pieces[index]
    if index:
        # The dashes that were cut off are put back: what follows them may not stand alone.
        data = b"---" + data

    def first_line() -> int:
        return 1 + sum(piece.count(b"\n") + 1 for piece in pieces[:index])

    documents = _json(data) if name.endswith(".json") else _yaml(data, first_line)
    for document in documents:
        _measure(document)
    return [entry for document in documents for entry in _unpack(document)]


def _json(data: bytes) -> list[Any]:
    if not data.strip():
        return []
    try:
        return [msgspec.json.decode(data)]
    except RecursionError as error:
        raise DocumentError(f"is nested deeper than {DEPTH_MAX}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DocumentError(f"is no JSON: {error}") from error


def _yaml(data: bytes, first_line: Callable[[], int]) -> list[Any]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"is no UTF-8 at byte {error.start}") from error
    try:
        if _may_be_deep(text):
            _check_depth(text)
        return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + first_line()}, column {mark.column + 1}" if mark is not None else ""
        raise DocumentError(f"is no YAML: {error.problem or error.context}{place}") from error
    except yaml.YAMLError as error:
        raise DocumentError(f"is no YAML: {' '.join(str(error).split())[:200]}") from error
    except (RecursionError, ValueError, TypeError, OverflowError) as error:
        raise DocumentError(f"is no YAML that we read: {str(error)[:200]}") from error


def _may_be_deep(text: str) -> bool:
    """Say whether the C loader, which recurses, needs the events counted first.

    A bound from above: every opening bracket (a closing one may stand in quotes and prove nothing), and
    block nesting on one line, which is indentation and indicators before the first word.
    """
    if text.count("[") + text.count("{") > DEPTH_MAX:
        return True
    return re.search(rf"^[ \t?:-]{{{_SUSPICIOUS_PREFIX}}}", text, re.MULTILINE) is not None


def _check_depth(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEPTH_MAX:
                raise DocumentError(f"is nested deeper than {DEPTH_MAX}")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _measure(document: Any) -> None:
    """Refuse what would cost more than its text says: aliases that multiply, nest or return to themselves.

    Walks every shared node once (aliases are shared, not copied), so it takes the text's size in time.
    """
    _walk(document, 1, {})


def _walk(node: Any, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Shape: values and levels below a node; in ``known`` (0, 0) while it is walked.

    No closure: one that calls itself is garbage that only the collector finds, with all that it knows.
    """
    if not isinstance(node, dict | list | set | tuple):
        return 1 + (len(node) // TEXT_SHARE if isinstance(node, str | bytes) else 0), 0
    values, levels = known.get(id(node), (-1, 0))
    if values == 0:
        raise DocumentError("has an alias that contains itself")
    if depth + levels > DEPTH_MAX:
        raise DocumentError(f"is nested deeper than {DEPTH_MAX}")
    if values > 0:
        return values, levels
    known[id(node)] = (0, 0)
    values, levels = 1, 1
    for child in node.values() if isinstance(node, dict) else node:
        more, below = _walk(child, depth + 1, known)
        values += more
        levels = max(levels, below + 1)
        if values > NODES_MAX:
            raise DocumentError(f"has aliases that expand to more than {NODES_MAX} values")
    known[id(node)] = (values, levels)
    return values, levels


def _unpack(document: Any) -> Iterator[Any]:
    """A List of kubectl, or of one kind (IngressList), becomes its items, which inherit the version."""
    if isinstance(document, Mapping):
        kind, items = document.get("kind"), document.get("items")
        if isinstance(kind, str) and kind.endswith("List") and isinstance(items, list):
            for item in items:
                if isinstance(item, Mapping) and kind != "List" and "kind" not in item:
                    yield {
                        "apiVersion": document.get("apiVersion"),
                        "kind": kind.removesuffix("List"),
                        **item,
                    }
                else:
                    yield item
            return
    yield document
