"""Finds what is wrong with the templates of one worker's config.

Knows: where in a config templates stand, the variables they see.
Does not know: workers, files, the config's type.
Invariants: each template and each missing variable is told, with its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fsmv2.supervisor.config.configfault import at_key, hint
from fsmv2.supervisor.core.errors import TemplateError
from fsmv2.supervisor.core.template import (
    render_template,
    undeclared_variables,
)
from fsmv2.supervisor.core.templatemarkers import has_template
from fsmv2.supervisor.core.variables import VariableBundle


def template_faults(config: Any, bundle: VariableBundle, place: str) -> Iterator[tuple[str, str]]:
    """Templates that do not parse, and each variable that is missing."""
    if isinstance(config, dict):
        for key, item in config.items():
            yield from template_faults(item, bundle, at_key(place, str(key)))
    elif isinstance(config, list | tuple):
        for index, item in enumerate(config):
            yield from template_faults(item, bundle, f"{place}[{index}]")
    elif isinstance(config, str) and has_template(config):
        names = bundle.flatten()
        try:
            missing = undeclared_variables(config) - set(names)
        except (TemplateError, RecursionError) as error:
            yield place, str(error) or "cannot parse template: nested too deep"
            return
        if missing and not _renders(config, bundle):
            for name in sorted(missing):
                yield place, f"template needs {name!r}, which is no variable{hint(name, names)}"


def _renders(text: str, bundle: VariableBundle) -> bool:
    """True for a template that does without: ``{{ x | default(1) }}``, ``x is defined``."""
    try:
        render_template(text, bundle)
    except TemplateError:
        return False
    return True
