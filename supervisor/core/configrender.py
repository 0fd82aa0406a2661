"""A config rendered: a template text, or a mapping whose strings may be templates.

Knows: how the two forms become plain data, and the place of each string in it.
Does not know: the template language, the worker's config type.
Invariants: the config given is not changed; one budget of steps for the whole of it; an error
names its place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from fsmv2.supervisor.core.errors import TemplateError
from fsmv2.supervisor.core.template import render_template, render_value
from fsmv2.supervisor.core.templatebudget import Forbidden, new_budget
from fsmv2.supervisor.core.templatemarkers import has_template
from fsmv2.supervisor.core.templatevalues import plain_value
from fsmv2.supervisor.core.variables import VariableBundle

YAML_BYTES_MAX = 64 * 1024
# What a YAML reader takes quadratic time for, or worse, however short the text is: the same
# mapping merged again and again, and numbers in base 60. Wider than need be, on purpose.
_MERGE = re.compile(r"<<|merge")
_ALIAS = re.compile(r"(?:^|[\s,:\[{?-])\*\w")
_BASE_60 = re.compile(r"(?::[0-9_]{1,2}){20}")


def render_config(config: Mapping[str, Any] | str, variables: VariableBundle) -> Any:
    """Render a config: a template text becomes YAML and is parsed; in a mapping each string is
    rendered in place. A string that is one ``{{ expression }}`` keeps the expression's type, so
    that ``port: "{{ PORT }}"`` gives a number. Raises `TemplateError` with the place."""
    if not isinstance(config, str):
        names = variables.flatten()
        new_budget()
        return {key: _render_value(value, names, f"config.{key}") for key, value in config.items()}
    rendered = render_template(config, variables)
    _check_yaml(rendered)
    try:
        parsed = msgspec.yaml.decode(rendered) if rendered.strip() else {}
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise TemplateError(f"cannot parse rendered config as YAML: {error}") from None
    if not isinstance(parsed, dict):
        raise TemplateError(
            f"cannot use rendered config: got {type(parsed).__name__}, want a mapping"
        )
    try:
        return plain_value(parsed)
    except Forbidden as error:
        raise TemplateError(f"cannot use rendered config: {error}") from None


def _check_yaml(text: str) -> None:
    if len(text) > YAML_BYTES_MAX:
        raise TemplateError(
            f"cannot parse rendered config as YAML: got {len(text)} characters, want at most "
            f"{YAML_BYTES_MAX}"
        )
    if _MERGE.search(text) and _ALIAS.search(text):
        raise TemplateError(
            "cannot parse rendered config as YAML: got an alias and a merge key (<<), want one "
            "of them at most"
        )
    if _BASE_60.search(text):
        raise TemplateError("cannot parse rendered config as YAML: got a number in base 60")


def _render_value(value: Any, names: Mapping[str, Any], place: str) -> Any:
    if isinstance(value, str) and has_template(value):
        try:
            return render_value(value, names)
        except TemplateError as error:
            raise TemplateError(f"{place}: {error}") from None
    if isinstance(value, dict):
        return {key: _render_value(item, names, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_render_value(item, names, f"{place}[{i}]") for i, item in enumerate(value)]
    return value
