"""What the documentation site has besides the files of docs/, and where their links lead; used by mkdocs.yml.

README.md, CHANGELOG.md and benchmarks/README.md are pages of the site. Links are written as they work in the
repository: those that lead to a page are changed to the site's address of it, those that lead to another file
of the repository become plain text. A link that leads to no file is an error, and so is a page that loads
anything from another site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
INCLUDED = {"index.md": "README.md", "changelog.md": "CHANGELOG.md", "benchmarks.md": "benchmarks/README.md"}
_PAGES = {source: page for page, source in INCLUDED.items()}
_FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!\w+:)([^)\s#]+)(#[^)\s]*)?\)")
_LOADED = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*(?:src|href)=["']?(?:\w+:)?//[^>]*>""")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose files are outside docs/."""
    for page, source in INCLUDED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Change the links of a page to those of the site; code blocks are left alone."""
    parts = _FENCE.split(markdown)
    parts[::2] = [site_links(part, page.file.src_uri) for part in parts[::2]]
    return "".join(parts)


def site_links(text: str, page: str) -> str:
    """Markdown with the links of a page as they are on the site.

    Args:
        text: without code blocks.
        page: its path below docs/.

    Raises:
        PluginError: a link that leads to no file of the repository.
    """
    source = INCLUDED.get(page, f"docs/{page}")

    def changed(link: re.Match[str]) -> str:
        mark, label, target, anchor = link[1], link[2], link[3], link[4] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if path not in _PAGES and not (ROOT / path).exists():
            raise PluginError(f"{source}: the link to {target} leads to no file")
        if path in _PAGES:
            path = f"docs/{_PAGES[path]}"
        elif not path.startswith("docs/"):
            return label
        address = posixpath.relpath(path, posixpath.dirname(f"docs/{page}"))
        return f"{mark}[{label}]({address}{anchor})"

    return _LINK.sub(changed, text)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse pages that load scripts, styles or pictures from another site.

    Raises:
        PluginError: there is one; it names the page and the element.
    """
    site = Path(config.site_dir)
    for page in sorted(site.rglob("*.html")):
        found = _LOADED.search(page.read_text(encoding="utf-8"))
        if found is not None:
            raise PluginError(f"{page.relative_to(site)} loads from another site: {found[0]}")
