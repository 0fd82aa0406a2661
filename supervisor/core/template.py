"""Strict templates: the one file that knows jinja2.

Theory of operation. Templates are rendered in the root, where nothing may run away, and jinja's
sandbox stops escapes but not resource attacks (its maintainers say so: pallets/jinja#2149). So
the language is cut down until its cost is bounded by construction: output, ``if`` and ``for``
are the only statements (no ``set``, no macros: nothing can be doubled again and again); loops
share a budget of iterations; filters and methods are the listed ones, and those that could
multiply text are bounded; only text and numbers can be written out.

Knows: that language, how a config's strings are rendered, what output is refused.
Does not know: where variables come from.
Invariants: an undefined variable is an error, also inside a list; a template is compiled once
per text; output over `RENDERED_BYTES_MAX` and output that still has a marker are refused; a
value is rendered once, never twice; whatever is wrong is a `TemplateError`.
"""

from __future__ import annotations

import contextvars
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jinja2
import msgspec
from jinja2 import meta, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.filters import FILTERS
from jinja2.sandbox import ImmutableSandboxedEnvironment

from fsmv2.supervisor.core.errors import TemplateError
from fsmv2.supervisor.core.variables import VariableBundle

RENDERED_BYTES_MAX = 256 * 1024
TEMPLATE_BYTES_MAX = 64 * 1024
ITERATIONS_MAX = 100_000
RANGE_MAX = 10_000
VALUES_MAX = 10_000
DEPTH_MAX = 32
INTEGER_BITS_MAX = 256
DIGITS_MAX = 30
_MARKERS = ("{{", "{%", "{#")

_PLAIN_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items",
    "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse",
    "select", "selectattr", "sort", "title", "trim", "truncate", "unique", "upper",
)  # fmt: skip
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {"capitalize", "endswith", "lower", "lstrip", "removeprefix", "removesuffix", "rstrip",
         "split", "startswith", "strip", "title", "upper"}
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
}  # fmt: skip
_STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For)
_SCALARS = (str, int, float, bool, type(None))

_iterations_left: contextvars.ContextVar[list[int]] = contextvars.ContextVar("iterations_left")


class _Generator(CodeGenerator):
    """Compiles ``~`` to a bounded concatenation."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - jinja's name
        self.write("environment.concatenate((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            finalize=_writable,
        )
        self.globals = {"range": _bounded_range, "fsmv2_counted": _counted}
        self.filters = {name: FILTERS[name] for name in _PLAIN_FILTERS}
        self.filters |= {
            "join": _join, "replace": _replace, "round": _round, "string": _string,
            "tojson": _to_json,
        }  # fmt: skip

    def concatenate(self, parts: tuple[Any, ...]) -> str:
        """``a ~ b``."""
        return _bounded("".join(str(_writable(part)) for part in parts))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return _bounded(left + right)
        for side in (left, right):
            if isinstance(side, jinja2.Undefined):
                str(side)  # raises, naming it
            if not isinstance(side, int | float):
                raise SecurityError(f"{operator!r} wants numbers (and '+' two texts)")
            if isinstance(side, int) and side.bit_length() > INTEGER_BITS_MAX:
                raise SecurityError(f"{operator!r} of a number over {INTEGER_BITS_MAX} bits")
        if operator == "**" and (abs(right) > 64 or abs(left) > 1_000_000):
            raise SecurityError("'**' of large numbers")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        if super().wrap_str_format(value) is not None:
            raise SecurityError("'format' pads without bound, want '~' or a filter")
        return None

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, names in _METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        if isinstance(obj, bytes | int | float | list | tuple | range):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> Any:
        _check_tree(source)
        return super()._generate(source, *args, **options)


def _check_tree(tree: nodes.Template) -> None:
    """Refuse what is not in the language; have loops count their turns."""
    body = tree.body
    # What jinja's own compile_expression makes: result = <expression>.
    expression = len(body) == 1 and isinstance(body[0], nodes.Assign)
    for node in tree.find_all(nodes.Stmt):
        if not isinstance(node, _STATEMENTS) and not (expression and node is body[0]):
            name = type(node).__name__.lower().replace("assign", "set")
            raise TemplateError(
                f"cannot use template, line {node.lineno}: got a {name} statement, want only "
                "output, if and for"
            )
    for loop in tree.find_all(nodes.For):
        if loop.recursive:
            raise TemplateError(f"cannot use template, line {loop.lineno}: got a recursive loop")
        count = nodes.Name("fsmv2_counted", "load", lineno=loop.lineno)
        loop.iter = nodes.Call(count, [loop.iter], [], None, None, lineno=loop.lineno)


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    left = _iterations_left.get()
    for item in items:
        left[0] -= 1
        if left[0] < 0:
            raise SecurityError(f"over {ITERATIONS_MAX} turns in loops")
        yield item


def _bounded_range(*args: int) -> range:
    span = range(*args)
    if len(span) > RANGE_MAX:
        raise SecurityError(f"range of {len(span)}, want at most {RANGE_MAX}")
    return span


def _bounded(text: str) -> str:
    if len(text) > RENDERED_BYTES_MAX:
        raise SecurityError(f"a text of over {RENDERED_BYTES_MAX} characters")
    return text


def _writable(value: Any) -> Any:
    """What may be written out: text and numbers. A list would have to be walked to be written,
    and may hold itself many times over."""
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises, naming it
    if isinstance(value, int) and value.bit_length() > INTEGER_BITS_MAX:
        raise SecurityError(f"a number over {INTEGER_BITS_MAX} bits")
    if not isinstance(value, _SCALARS):
        if isinstance(value, list | tuple | dict):
            _plain_value(value)  # an undefined variable inside is the better message
        raise SecurityError(
            f"cannot write out a {type(value).__name__}: want text or a number; for a list use "
            "'| join' or '| tojson'"
        )
    return value


def _join(items: Iterable[Any], separator: str = "") -> str:
    size = 0
    parts: list[str] = []
    for item in items:
        parts.append(str(_writable(item)))
        size += len(parts[-1]) + len(separator)
        if size > RENDERED_BYTES_MAX:
            raise SecurityError(f"a text of over {RENDERED_BYTES_MAX} characters")
    return separator.join(parts)


def _replace(text: str, old: str, new: str) -> str:
    if not all(isinstance(part, str) for part in (text, old, new)):
        raise SecurityError("'replace' wants texts")
    if len(text) + text.count(old) * len(new) > RENDERED_BYTES_MAX:
        raise SecurityError(f"a text of over {RENDERED_BYTES_MAX} characters")
    return text.replace(old, new)


def _round(value: Any, precision: int = 0) -> float:
    if abs(precision) > DIGITS_MAX:
        raise SecurityError(f"'round' to {precision} digits, want at most {DIGITS_MAX}")
    return round(float(value), precision)


def _string(value: Any) -> str:
    return str(_writable(value))


def _to_json(value: Any) -> str:
    return _bounded(json.dumps(_plain_value(value)))


_environment = _Environment()


@lru_cache(maxsize=1024)
def _compile(text: str) -> jinja2.Template:
    template: jinja2.Template = _compiling(text, _environment.from_string)
    return template


@lru_cache(maxsize=1024)
def _compile_expression(text: str) -> Any:
    return _compiling(
        text, lambda source: _environment.compile_expression(source, undefined_to_none=False)
    )


def _compiling(text: str, compile_text: Any) -> Any:
    if len(text) > TEMPLATE_BYTES_MAX:
        raise TemplateError(
            f"cannot compile template: got {len(text)} characters, want at most "
            f"{TEMPLATE_BYTES_MAX}"
        )
    try:
        return compile_text(text)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(f"cannot parse template, line {error.lineno}: {error}") from None
    except jinja2.TemplateError as error:
        raise TemplateError(f"cannot parse template: {error}") from None
    except (RecursionError, SyntaxError, MemoryError) as error:
        raise TemplateError(
            f"cannot compile template: nested too deep ({type(error).__name__})"
        ) from None


def has_template(text: str) -> bool:
    """True when ``text`` holds a marker and so must be rendered."""
    return any(marker in text for marker in _MARKERS)


def render_template(text: str, variables: VariableBundle | Mapping[str, Any]) -> str:
    """Return ``text`` rendered with ``variables``.

    Raises `TemplateError` for a syntax error, an undefined variable (named, with its line), a
    forbidden operation, output over 256 KiB, or a marker left in the output.
    """
    names = variables.flatten() if isinstance(variables, VariableBundle) else dict(variables)
    template = _compile(text)
    parts: list[str] = []
    size = 0
    _iterations_left.set([ITERATIONS_MAX])
    try:
        # Piecewise, so that a huge output stops at the cap instead of in memory.
        for part in template.generate(names):
            size += len(part)
            if size > RENDERED_BYTES_MAX:
                raise SecurityError(f"output is over {RENDERED_BYTES_MAX} bytes")
            parts.append(part)
    except Exception as error:  # a template may raise whatever its expressions raise
        raise TemplateError(f"cannot render template{_line_of(error)}: {_told(error)}") from None
    rendered = "".join(parts)
    _refuse_marker(rendered)
    return rendered


def render_config(config: Mapping[str, Any] | str, variables: VariableBundle) -> Any:
    """Render a config: a template text becomes YAML and is parsed; in a mapping each string is
    rendered in place. A string that is one ``{{ expression }}`` keeps the expression's type, so
    that ``port: "{{ PORT }}"`` gives a number. Raises `TemplateError` with the place."""
    if not isinstance(config, str):
        names = variables.flatten()
        return {key: _render_value(value, names, f"config.{key}") for key, value in config.items()}
    rendered = render_template(config, variables)
    try:
        parsed = msgspec.yaml.decode(rendered) if rendered.strip() else {}
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise TemplateError(f"cannot parse rendered config as YAML: {error}") from None
    if not isinstance(parsed, dict):
        raise TemplateError(
            f"cannot use rendered config: got {type(parsed).__name__}, want a mapping"
        )
    try:
        return _plain_value(parsed)
    except SecurityError as error:
        raise TemplateError(f"cannot use rendered config: {error}") from None


def undeclared_variables(text: str) -> set[str]:
    """The top-level names a template needs. Raises `TemplateError` for a syntax error."""
    _compile(text)
    return meta.find_undeclared_variables(_environment.parse(text)) - {"range"}


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
    if not whole or any(marker in inner for marker in (*_MARKERS, "}}", "%}", "#}")):
        return render_template(text, names)
    _iterations_left.set([ITERATIONS_MAX])
    inner = inner.removeprefix("-").removesuffix("-").strip()
    try:
        # The dict, not **names: a variable may be called "self".
        value = _compile_expression(inner)(dict(names))
        if isinstance(value, jinja2.Undefined):
            str(value)  # raises, naming it
        value = _plain_value(value)
    except TemplateError:
        raise
    except Exception as error:
        raise TemplateError(f"cannot render template: {_told(error)}") from None
    return value


def _plain_value(value: Any) -> Any:
    """``value`` with lists for every sequence and iterator, checked: a bounded number of values,
    none undefined, none that holds a template of its own or itself."""
    return _plain(value, [VALUES_MAX], 0)


def _plain(value: Any, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth > DEPTH_MAX:
        raise SecurityError(f"over {VALUES_MAX} values, or nested deeper than {DEPTH_MAX}")
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises, naming it
    if isinstance(value, str):
        _bounded(value)
        _refuse_marker(value)
        return value
    if isinstance(value, Mapping):
        return {
            _plain(key, left, depth + 1): _plain(item, left, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | range | set | frozenset | Iterator):
        return [_plain(item, left, depth + 1) for item in value]
    if isinstance(value, int) and value.bit_length() > INTEGER_BITS_MAX:
        raise SecurityError(f"a number over {INTEGER_BITS_MAX} bits")
    return value


def _refuse_marker(text: str) -> None:
    left = next((marker for marker in _MARKERS if marker in text), None)
    if left is not None:
        raise TemplateError(
            f"cannot use rendered template: {left!r} is left in the output; a value that holds "
            "a template is not rendered again"
        )


def _told(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateError | TemplateError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _line_of(error: BaseException) -> str:
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""
