"""`o2o list`: what there is."""

import importlib.metadata

from o2o.core import plugins
from o2o.core.errors import UsageError
from o2o.core.plugins import not_found


def show(argv: list[str]) -> None:
    """Prints robots, datasets, models and presets, or the one kind that `argv` names."""
    kinds = [*plugins.KINDS, "presets"]
    if argv and argv[0] in ("-h", "--help"):
        print(f"usage: o2o list [{'|'.join(kinds)}]")
        return
    if argv and argv[0] not in kinds:
        raise UsageError(not_found("kind", argv[0], kinds))
    for kind in argv[:1] or kinds:
        print(f"{kind}:")
        for name, about in _abouts(kind).items():
            print(f"  {name:<16}{about}")


def _abouts(kind: str) -> dict[str, str]:
    if kind == "presets":
        from o2o.agent.presets import PRESETS  # brings torch, which the other kinds may do without

        return {name: preset.about for name, preset in PRESETS.items()}
    return {name: _about(kind, name, place) for name, place in plugins.names(kind).items()}


def _about(kind: str, name: str, place) -> str:
    """A recipe's own sentence, or the first line of the file's docstring; a broken file says so."""
    try:
        module = plugins.load(kind, name)
    except UsageError as error:
        return f"[does not load: {error}]"
    recipe = getattr(module, "RECIPE", None)
    about = recipe.about if recipe else (module.__doc__ or "").strip().split("\n")[0]
    outside = isinstance(place, importlib.metadata.EntryPoint)
    return f"{about} [{place.dist.name}]" if outside and place.dist else about
