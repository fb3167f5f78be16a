"""The package's extras, and the command that installs one."""

RELEASED = False
"""Whether the package is on PyPI; until then it is installed from a checkout."""


def install_command(*extras: str) -> str:
    """What a message tells the user to type to have these extras.

    Args:
        extras: their names in ``pyproject.toml``; none for the package alone.
    """
    target = "rcnn" if RELEASED else "."
    command = f'pip install "{target}[{",".join(extras)}]"' if extras else f"pip install {target}"
    return command if RELEASED else f"{command} in a checkout of rcnn"
