"""Archives of ``torch.export`` (``.pt2``), inspected and copied before torch sees them.

torch reads pickles out of such an archive, evaluates the text of its guards and of its sizes, and calls
whatever below ``torch`` the nodes of its graph name. So torch is given a copy that has only what the model
needs: raw tensors, and a graph of operators on tensors. Notes of where a node came from, guards and example
inputs are left out; anything else that is not known is refused by name.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
MODEL, EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
_PLAIN = re.compile(
    r"data/(weights/weight|constants/tensor)_\d+|extra/rcnn\.json|archive_format|archive_version|byteorder"
    r"|(\.data/)?(version|serialization_id)|\.format_version|\.storage_alignment"
)
_TENSOR_FILE = re.compile(r"(weight|tensor)_\d+")
_NAME = re.compile(r"[\w.+-]*", re.ASCII)
_MESSAGE = re.compile(r"[ -~]{0,20000}")  # of an assertion; the equation of an einsum
_ATEN = re.compile(r"torch\.ops\.(aten|torchvision)\.(\w+)\.(\w+)", re.ASCII)
_TORCHVISION = ("nms", "roi_align", "roi_pool", "deform_conv2d")
_READS_FILES = ("from_file",)
_ARITHMETIC = re.compile(
    r"_operator\.(add|sub|mul|truediv|floordiv|mod|neg|pos|abs|ge|gt|le|lt|eq|ne|and_|or_|xor|not_|getitem)"
    r"|torch\.sym_(min|max|not|int|float|ite|sum)|math\.(ceil|floor|trunc)"
)
# Arguments that are more than data: graphs of control flow, operators, objects of C++ classes.
_CODE = ("as_graph", "as_operator", "as_custom_obj")
_TREES = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_LONGEST = 20_000  # characters of an expression
_WORDS = (
    "Add|Mul|Abs|Max|Min|Integer|Symbol|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan|Equality|Unequality"
    "|Eq|Ne|Ge|Gt|Le|Lt|And|Or|Not|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|ModularIndexing|Where|CeilToInt"
    "|FloorToInt|TruncToInt|ToFloat|IntTrueDiv|FloatTrueDiv|Identity|positive|negative|nonnegative|integer|real"
    "|True|False"
)
# A power has a small exponent and is of a symbol: sympy computes those of numbers when it reads them.
_EXPRESSION = re.compile(
    rf"(?:Pow\(Symbol\('[suz]\w*'[\w=, ]*\), Integer\([123]\)\)|\b[suz]f?\d+\*\*[123]\b(?!\*\*)"
    r"|Float\('[\d.e+-]{1,30}', precision=\d{1,3}\)|Rational\(-?\d{1,20}, \d{1,20}\)|\b\d{1,20}\.\d{1,20}\b"
    rf"|\b(?:{_WORDS}|[suz]f?\d+)\b|'[suz]f?\d+'"
    r"|(?<!\*)\*(?!\*)|[-+/(),=<> ]|\b\d{1,20}\b)+",
    re.ASCII,
)


class ArchiveError(ValueError):
    """An archive with more in it than tensors and a graph of operators on them."""


def safe_copy(content: bytes) -> io.BytesIO:
    """A copy of an archive with only what the model needs, each part of it inspected.

    Args:
        content: a zip archive that :func:`torch.export.save` wrote.

    Raises:
        ArchiveError: something in it could run code, or is not what ``rcnn export`` writes; it names what.
        ValueError: a part is no JSON.
        zipfile.BadZipFile: no zip archive.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(copy, "w") as safe:
        for info in _entries(archive):
            root, _, name = info.filename.partition("/")
            part = b"" if name == EXAMPLES else archive.read(info)
            if name == MODEL:
                part = json.dumps(_inspected_model(json.loads(part))).encode()
            elif name in (WEIGHTS, CONSTANTS):
                _inspect_tensors(json.loads(part), f"{root}/{name.rpartition('/')[0]}", archive)
            safe.writestr(f"{root}/{name}", part)
    copy.seek(0)
    return copy


def _entries(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The entries, each of a known name and stored as it is."""
    entries, seen = archive.infolist(), set()
    roots = {info.filename.partition("/")[0] for info in entries}
    for info in entries:
        name = info.filename.partition("/")[2]
        if len(roots) != 1 or not (name in (WEIGHTS, CONSTANTS, MODEL, EXAMPLES) or _PLAIN.fullmatch(name)):
            raise ArchiveError(f"it has an entry {info.filename!r}, where tensors and one graph are expected")
        if name in seen or info.compress_type != zipfile.ZIP_STORED:
            raise ArchiveError(f"its entry {info.filename!r} is there twice, or compressed")
        seen.add(name)
    return entries


def _inspect_tensors(table: Any, folder: str, archive: zipfile.ZipFile) -> None:
    """Check a table of tensors: none is pickled, each has a file of its own kind with its numbers."""
    for name, entry in table["config"].items():
        file = entry["path_name"]
        if entry["use_pickle"] is not False:
            raise ArchiveError(f"its tensor {name!r} is a pickle, and reading one can run any code")
        if not _TENSOR_FILE.fullmatch(file):
            raise ArchiveError(f"its tensor {name!r} lies in {file!r}, expected a file of numbers")
        sizes = [size["as_int"] for size in entry["tensor_meta"]["sizes"]]
        if archive.getinfo(f"{folder}/{file}").file_size == 0 and 0 not in sizes:
            raise ArchiveError(f"its tensor {name!r} declares the size {sizes} and has no numbers")


def _inspected_model(model: Any) -> dict[str, Any]:
    """The graph without guards and notes, once nothing in it can be taken for code."""
    model["guards_code"] = []
    graph_module = model["graph_module"]
    graph_module["metadata"] = {}
    if graph_module.get("treespec_namedtuple_fields"):
        raise ArchiveError("it has arguments of a class of its own")
    for node in graph_module["graph"]["nodes"]:
        node["metadata"] = {}
    for key, text in _texts(model, ""):
        _INSPECTIONS.get(key, _inspect_name)(text)
    result: dict[str, Any] = model
    return result


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text in a JSON value, with the key that it stands under; keys are texts as well."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if name in _CODE:
                raise ArchiveError(f"its graph has an argument of the kind {name!r}")
            yield ("expr_str" if key == "range_constraints" else ""), name
            yield from _texts(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, str):
        yield key, value


def _inspect_name(text: str) -> None:
    if not _NAME.fullmatch(text):
        raise ArchiveError(f"its graph has {text[:80]!r}, where a name is expected")


def _inspect_message(text: str) -> None:
    if not _MESSAGE.fullmatch(text):
        raise ArchiveError(f"its graph has the text {text[:80]!r}")


def _inspect_expression(text: str) -> None:
    if len(text) > _LONGEST or not _EXPRESSION.fullmatch(text):
        raise ArchiveError(f"its graph has {text[:80]!r}, where a size is expected")


def _inspect_operator(text: str) -> None:
    """Refuse what is no operator on tensors or sizes; of torch's, those that read files."""
    import torch
    import torchvision  # noqa: F401 - its operators

    known = _ARITHMETIC.fullmatch(text) is not None
    if (named := _ATEN.fullmatch(text)) is not None:
        library, name, overload = named.groups()
        found = getattr(getattr(getattr(torch.ops, library), name, None), overload, None)
        allowed = name in _TORCHVISION if library == "torchvision" else name not in _READS_FILES
        known = allowed and isinstance(found, torch._ops.OpOverload)
    if not known:
        raise ArchiveError(f"its graph calls {text[:80]!r}, which is no operator that rcnn export writes")


def _inspect_tree(text: str) -> None:
    """Check the form of arguments or results: nested tuples, lists and dictionaries."""
    left = [json.loads(text)[1]]
    while left:
        node = left.pop()
        if node["type"] not in _TREES:
            raise ArchiveError(f"its arguments or results are of the type {node['type']!r}")
        left += node["children_spec"]


_INSPECTIONS: dict[str, Callable[[str], None]] = {
    "target": _inspect_operator,
    "expr_str": _inspect_expression,
    "as_string": _inspect_message,
    "as_strings": _inspect_message,
    "in_spec": _inspect_tree,
    "out_spec": _inspect_tree,
}
