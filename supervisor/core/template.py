"""Strict templates: the one file that knows jinja2.

Knows: the sandboxed environment, how a config's strings are rendered, what output is refused.
Does not know: where variables come from.
Invariants: an undefined variable is an error; a template is compiled once per text; output
longer than `RENDERED_BYTES_MAX` and output that still has a marker are refused; a value is
rendered once, never twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jinja2
import msgspec
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fsmv2.supervisor.core.errors import TemplateError
from fsmv2.supervisor.core.variables import VariableBundle

RENDERED_BYTES_MAX = 256 * 1024
TEMPLATE_BYTES_MAX = 64 * 1024
RANGE_MAX = 10_000
_MARKERS = ("{{", "}}", "{%", "%}", "{#", "#}")


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, with the known ways to burn time or memory taken out.

    The sandbox stops escapes, not resource attacks (pallets/jinja#2149, #161): string
    repetition, padding and number formatting are therefore bounded or dropped here.
    """

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            finalize=_refuse_undefined,
        )
        self.globals = {"range": _bounded_range, "dict": dict}
        for name in ("format", "center", "indent", "pprint", "wordwrap", "random", "xmlattr"):
            self.filters.pop(name, None)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "%" and not numbers:
            raise jinja2.exceptions.SecurityError("'%' formats text, want '~' or a filter")
        if operator == "*" and not numbers:
            raise jinja2.exceptions.SecurityError("'*' repeats a sequence, want numbers")
        if operator == "**" and (abs(left) > 1_000_000 or abs(right) > 64):
            raise jinja2.exceptions.SecurityError("'**' of large numbers")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in (
            "center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map",
            "replace", "join", "translate",
        ):  # fmt: skip
            return False
        return super().is_safe_attribute(obj, attr, value)


def _bounded_range(*args: int) -> range:
    span = range(*args)
    if len(span) > RANGE_MAX:
        raise jinja2.exceptions.SecurityError(f"range of {len(span)}, want at most {RANGE_MAX}")
    return span


def _refuse_undefined(value: Any) -> Any:
    return value


_environment = _Environment()


@lru_cache(maxsize=1024)
def _compile(text: str) -> jinja2.Template:
    if len(text) > TEMPLATE_BYTES_MAX:
        raise TemplateError(
            f"cannot compile template: got {len(text)} characters, want at most "
            f"{TEMPLATE_BYTES_MAX}"
        )
    try:
        return _environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"cannot parse template, line {error.lineno}: {error}") from None


@lru_cache(maxsize=1024)
def _compile_expression(text: str) -> Any:
    try:
        return _environment.compile_expression(text, undefined_to_none=False)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"cannot parse template {{{{{text}}}}}: {error}") from None


def has_template(text: str) -> bool:
    """True when ``text`` holds a marker and so must be rendered."""
    return "{{" in text or "{%" in text or "{#" in text


def render_template(text: str, variables: VariableBundle | Mapping[str, Any]) -> str:
    """Return ``text`` rendered with ``variables``.

    Raises `TemplateError` for a syntax error, an undefined variable (named, with its line), a
    forbidden operation, output over 256 KiB, or a marker left in the output.
    """
    names = variables.flatten() if isinstance(variables, VariableBundle) else dict(variables)
    template = _compile(text)
    parts: list[str] = []
    size = 0
    try:
        # Piecewise, so that an endless or huge output stops at the cap instead of in memory.
        for part in template.generate(names):
            size += len(part)
            if size > RENDERED_BYTES_MAX:
                raise TemplateError(
                    f"cannot render template: output is over {RENDERED_BYTES_MAX} bytes"
                )
            parts.append(part)
    except TemplateError:
        raise
    except Exception as error:  # a template may raise whatever its expressions raise
        raise TemplateError(f"cannot render template{_line_of(error)}: {_told(error)}") from None
    rendered = "".join(parts)
    left = next((marker for marker in _MARKERS[:4:2] if marker in rendered), None)
    if left is not None:
        raise TemplateError(
            f"cannot use rendered template: {left!r} is left in the output; a value that holds "
            "a template is not rendered again"
        )
    return rendered


def render_config(config: Mapping[str, Any] | str, variables: VariableBundle) -> Any:
    """Render a config: a template text becomes YAML and is parsed; in a mapping each string is
    rendered in place. A string that is one ``{{ expression }}`` keeps the expression's type, so
    that ``port: "{{ PORT }}"`` gives a number. Raises `TemplateError` with the place."""
    if isinstance(config, str):
        rendered = render_template(config, variables)
        try:
            parsed = msgspec.yaml.decode(rendered) if rendered.strip() else {}
        except msgspec.DecodeError as error:
            raise TemplateError(f"cannot parse rendered config as YAML: {error}") from None
        if not isinstance(parsed, dict):
            raise TemplateError(
                f"cannot use rendered config: got {type(parsed).__name__}, want a mapping"
            )
        return parsed
    names = variables.flatten()
    return {key: _render_value(value, names, f"config.{key}") for key, value in config.items()}


def undeclared_variables(text: str) -> set[str]:
    """The top-level names a template needs. Raises `TemplateError` for a syntax error."""
    _compile(text)
    return meta.find_undeclared_variables(_environment.parse(text)) - {"range", "dict"}


def _render_value(value: Any, names: Mapping[str, Any], place: str) -> Any:
    if isinstance(value, str) and has_template(value):
        try:
            return _render_text(value, names)
        except TemplateError as error:
            raise TemplateError(f"{place}: {error}") from None
    if isinstance(value, dict):
        return {key: _render_value(item, names, f"{place}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_render_value(item, names, f"{place}[{i}]") for i, item in enumerate(value)]
    return value


def _render_text(text: str, names: Mapping[str, Any]) -> Any:
    stripped = text.strip()
    inner = stripped[2:-2]
    whole = stripped.startswith("{{") and stripped.endswith("}}")
    if not whole or any(marker in inner for marker in _MARKERS):
        return render_template(text, names)
    try:
        value = _compile_expression(inner.strip())(**names)
    except TemplateError:
        raise
    except Exception as error:
        raise TemplateError(f"cannot render template: {_told(error)}") from None
    if isinstance(value, jinja2.Undefined):
        raise TemplateError(f"cannot render template: {inner.strip()!r} is undefined")
    if isinstance(value, str) and has_template(value):
        raise TemplateError(
            "cannot use rendered template: a marker is left in the output; a value that holds "
            "a template is not rendered again"
        )
    return value


def _told(error: Exception) -> str:
    kind = type(error).__name__
    return str(error) if isinstance(error, jinja2.TemplateError) else f"{kind}: {error}"


def _line_of(error: BaseException) -> str:
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""
