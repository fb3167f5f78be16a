"""Makes links of the roles in docstrings, such as ``:func:`rcnn.load```, for the site; used by mkdocs.yml."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`~?\.?([\w.]+)`")


class DocstringRoles(griffe.Extension):
    """Replaces each role by a link to what it names where the site documents that, and by code elsewhere."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(lambda role: _link(obj, role[1]), obj.docstring.value)


def _link(scope: griffe.Object, name: str) -> str:
    """A link that is only shown as one where its target is on the site."""
    try:
        identifier = scope.resolve(name)
    except griffe.NameResolutionError:
        identifier = name
    return f'<autoref optional identifier="{identifier}"><code>{name}</code></autoref>'
