"""Says how an extra of o2o is installed, from where o2o itself comes."""

from o2o.core.plugins import PACKAGE


def install_command(extra: str) -> str:
    """Returns the command that installs an extra: in a checkout its own folder, else the package."""
    checkout = PACKAGE.parent
    if (checkout / "pyproject.toml").is_file():
        return f'pip install "{checkout}[{extra}]"'
    return f'pip install "o2o[{extra}]"'
