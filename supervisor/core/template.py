"""Strict templates: the one file that knows jinja2.

Theory of operation. Templates are rendered in the root, where nothing may run away, and jinja's
sandbox stops escapes but not resource attacks (its maintainers say so: pallets/jinja#2149). So
the language is cut down until its cost is bounded by construction: output, ``if`` and ``for``
are the only statements (no ``set``, no macros: nothing can be doubled again and again); filters
and methods are the listed ones, those that could multiply text are bounded; whatever can take
long pays from a budget of steps (`templatebudget`); only text and numbers can be written out.

Knows: that language, how one text is rendered, what output is refused.
Does not know: where variables come from, what a config looks like.
Invariants: an undefined variable is an error, also inside a list; a template is compiled once
per text; output over `RENDERED_BYTES_MAX` and output that still has a marker are refused; a
value is rendered once, never twice; whatever is wrong is a `TemplateError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.filters import FILTERS
from jinja2.lexer import Token, TokenStream
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.visitor import NodeTransformer

from fsmv2.supervisor.core import templatebudget as budget
from fsmv2.supervisor.core.errors import TemplateError
from fsmv2.supervisor.core.templatebudget import RENDERED_BYTES_MAX, Forbidden
from fsmv2.supervisor.core.templatemarkers import MARKERS, refuse_marker
from fsmv2.supervisor.core.templatevalues import (
    Undefined,
    join,
    plain_value,
    refuse_undefined,
    to_json,
    to_text,
    writable,
)
from fsmv2.supervisor.core.variables import VariableBundle

TEMPLATE_BYTES_MAX = 64 * 1024
TOKENS_MAX = 8_000

_TEXT_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "float", "int", "length", "lower", "title",
    "trim", "truncate", "upper",
)  # fmt: skip
# These take a text as its characters.
_ITEM_FILTERS = (
    "dictsort", "first", "items", "last", "list", "map", "max", "min", "reject", "rejectattr",
    "reverse", "select", "selectattr", "sort", "unique",
)  # fmt: skip
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {"capitalize", "endswith", "lower", "lstrip", "removeprefix", "removesuffix", "rstrip",
         "split", "startswith", "strip", "title", "upper"}
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
}  # fmt: skip
_COUNTED, _WEIGHED = "fsmv2_counted", "fsmv2_weighed"
_STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For)


class _Missing(jinja2.StrictUndefined, Undefined):
    """An undefined variable."""

    __slots__ = ()


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
    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})
    intercepted_unops = frozenset({"+", "-"})

    def __init__(self) -> None:
        super().__init__(
            undefined=_Missing,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            finalize=writable,
            optimized=False,  # folding constants takes cubic time on nested filters
        )
        self.globals = {"range": budget.bounded_range}
        ours = {
            "replace": budget.replace, "round": budget.rounded, "string": to_text,
            "tojson": to_json,
        }  # fmt: skip
        plain: dict[str, Any] = {name: FILTERS[name] for name in _TEXT_FILTERS}
        by_item: dict[str, Any] = {name: FILTERS[name] for name in _ITEM_FILTERS} | {"join": join}
        self.filters = {
            name: budget.metered(function) for name, function in (plain | ours).items()
        } | {
            name: budget.metered(function, by_character=True) for name, function in by_item.items()
        }
        self.filters |= {_COUNTED: budget.counted, _WEIGHED: budget.weighed}
        tests: dict[str, Any] = TESTS
        self.tests = {name: budget.metered(function) for name, function in tests.items()}

    def _tokenize(self, source: str, name: str | None, *args: Any, **options: Any) -> TokenStream:
        return TokenStream(_limited(super()._tokenize(source, name, *args, **options)), name, None)

    def concatenate(self, parts: tuple[Any, ...]) -> str:
        """``a ~ b``."""
        text = budget.bounded("".join(str(writable(part)) for part in parts))
        budget.charge_for(text)
        return text

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return self.concatenate((left, right))
        for side in (left, right):
            refuse_undefined(side)
            budget.bounded_number(side, operator)
        if operator == "**" and (abs(right) > 64 or abs(left) > 1_000_000):
            raise Forbidden("'**' of large numbers")
        return super().call_binop(context, operator, left, right)

    def call_unop(self, context: Any, operator: str, arg: Any) -> Any:
        refuse_undefined(arg)
        budget.bounded_number(arg, operator)
        return super().call_unop(context, operator, arg)

    def call(self, context: Any, obj: Any, *args: Any, **options: Any) -> Any:
        for value in (getattr(obj, "__self__", None), *args, *options.values()):
            budget.charge_for(value)
        return super().call(context, obj, *args, **options)

    def getitem(self, obj: Any, argument: Any) -> Any:
        budget.charge_for(argument)  # it is hashed, and `map(attribute=…)` asks for each part
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Any:
        if super().wrap_str_format(value) is not None:
            raise Forbidden("'format' pads without bound, want '~' or a filter")
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
        return super()._generate(_Metering().visit(source), *args, **options)


def _limited(tokens: Iterable[Token]) -> Iterator[Token]:
    """A template takes time to compile by its tokens, not by its plain text."""
    for count, token in enumerate(tokens):
        if count >= TOKENS_MAX:
            raise TemplateError(
                f"cannot compile template, line {token.lineno}: got over {TOKENS_MAX} words and "
                "signs in expressions and statements, want at most that"
            )
        yield token


def _check_tree(tree: nodes.Template) -> None:
    """Refuse what is not in the language."""
    body = tree.body
    # What jinja's own compile_expression makes: result = <expression>.
    expression = len(body) == 1 and isinstance(body[0], nodes.Assign)
    for node in tree.find_all(nodes.Stmt):
        if expression and node is body[0]:
            continue
        if not isinstance(node, _STATEMENTS):
            name = type(node).__name__.lower().replace("assign", "set")
            raise TemplateError(
                f"cannot use template, line {node.lineno}: got a {name} statement, want only "
                "output, if and for"
            )
        if isinstance(node, nodes.For) and node.recursive:
            raise TemplateError(f"cannot use template, line {node.lineno}: got a recursive loop")


class _Metering(NodeTransformer):
    """Has loops, comparisons, literals and slices pay. By filters, because a variable may be
    called like a function but not like a filter."""

    def visit_For(self, loop: nodes.For) -> nodes.For:  # noqa: N802 - jinja's name
        steps = sum(_weight(part) for part in loop.iter_child_nodes(exclude=("iter",)))
        self.generic_visit(loop)
        items: Any = loop.iter
        loop.iter = _filtered(items, _COUNTED, steps)
        return loop

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filtered(node.expr, _WEIGHED)
        for operand in node.ops:
            operand.expr = _filtered(operand.expr, _WEIGHED)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered(node.node, _WEIGHED)
        return node

    def visit_List(self, node: nodes.Expr) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _filtered(node, _WEIGHED)

    visit_Dict = visit_List  # noqa: N815

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        return self.visit_List(node) if node.ctx == "load" else node


def _filtered(node: nodes.Expr, name: str, *args: int) -> nodes.Filter:
    values = [nodes.Const(arg, lineno=node.lineno) for arg in args]
    return nodes.Filter(node, name, values, [], None, None, lineno=node.lineno)


def _weight(node: nodes.Node) -> int:
    """How many parts run when ``node`` does; the turns of a loop inside it pay for themselves."""
    only = ("iter",) if isinstance(node, nodes.For) else None
    inside = node.iter_child_nodes(only=only)
    return 1 + sum(_weight(part) for part in inside)


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


def render_template(text: str, variables: VariableBundle | Mapping[str, Any]) -> str:
    """Return ``text`` rendered with ``variables``.

    Raises `TemplateError` for a syntax error, an undefined variable (named, with its line), a
    forbidden operation, output over 256 KiB, or a marker left in the output.
    """
    names = variables.flatten() if isinstance(variables, VariableBundle) else dict(variables)
    budget.new_budget()
    return _rendered(text, names)


def _rendered(text: str, names: Mapping[str, Any]) -> str:
    template = _compile(text)
    parts: list[str] = []
    size = 0
    try:
        # Piecewise, so that a huge output stops at the cap instead of in memory.
        for part in template.generate(dict(names)):
            size += len(part)
            if size > RENDERED_BYTES_MAX:
                raise Forbidden(f"output is over {RENDERED_BYTES_MAX} bytes")
            parts.append(part)
    except Exception as error:  # a template may raise whatever its expressions raise
        raise TemplateError(f"cannot render template{_line_of(error)}: {_told(error)}") from None
    rendered = "".join(parts)
    refuse_marker(rendered)
    return rendered


def undeclared_variables(text: str) -> set[str]:
    """The top-level names a template needs. Raises `TemplateError` for a syntax error."""
    _compile(text)
    return meta.find_undeclared_variables(_environment.parse(text)) - {"range"}


def render_value(text: str, names: Mapping[str, Any]) -> Any:
    """Return ``text`` rendered; one that is a single ``{{ expression }}`` keeps that one's type.
    It spends the budget of the rendering under way. Raises `TemplateError`."""
    stripped = text.strip()
    inner = stripped[2:-2]
    whole = stripped.startswith("{{") and stripped.endswith("}}")
    if not whole or any(marker in inner for marker in (*MARKERS, "}}", "%}", "#}")):
        return _rendered(text, names)
    inner = inner.removeprefix("-").removesuffix("-").strip()
    try:
        # The dict, not **names: a variable may be called "self".
        value = _compile_expression(inner)(dict(names))
        refuse_undefined(value)
        value = plain_value(value)
    except TemplateError:
        raise
    except Exception as error:
        raise TemplateError(f"cannot render template: {_told(error)}") from None
    return value


def _told(error: Exception) -> str:
    if isinstance(error, jinja2.TemplateError | TemplateError | Forbidden):
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
