"""Messages that say how to install something name extras that exist, in one form."""

import re
import tomllib

import pytest

from conftest import ROOT
from rcnn import extras
from rcnn.extras import install_command

SOURCES = sorted((ROOT / "src" / "rcnn").rglob("*.py"))


def test_the_command() -> None:
    assert install_command("export") == 'pip install ".[export]" in a checkout of rcnn'
    assert install_command("svm", "export").startswith('pip install ".[svm,export]"')
    assert install_command() == "pip install . in a checkout of rcnn"


def test_the_command_after_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "RELEASED", True)
    assert install_command("export") == 'pip install "rcnn[export]"'
    assert install_command() == "pip install rcnn"


def test_no_message_has_a_form_of_its_own() -> None:
    own = re.compile(r"""pip install (?:--upgrade )?(?:["']?rcnn\b|["']\.\[)""")
    found = [
        path for path in SOURCES if path.name != "extras.py" and own.search(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"use rcnn.extras.install_command in {found}"


def test_extras_named_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        extra
        for path in SOURCES
        for arguments in re.findall(r"install_command\(([^)]*)\)", path.read_text(encoding="utf-8"))
        for extra in re.findall(r"""["']([\w-]+)["']""", arguments)
    }
    assert (
        {"svm", "runtime", "supervision", "selective-search"}
        <= named
        <= set(project["optional-dependencies"])
    )
