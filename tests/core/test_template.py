"""Templates: strict, sandboxed, bounded; each error names the variable and the place."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core.configrender import render_config
from fsmv2.supervisor.core.errors import TemplateError
from fsmv2.supervisor.core.template import (
    TEMPLATE_BYTES_MAX,
    render_template,
    undeclared_variables,
)
from fsmv2.supervisor.core.templatebudget import RANGE_MAX, RENDERED_BYTES_MAX
from fsmv2.supervisor.core.templatemarkers import has_template
from fsmv2.supervisor.core.variables import VariableBundle

PLC = VariableBundle(
    user={"IP": "192.168.1.100", "PORT": 502, "HOSTS": ["a", "b"], "ON": True},
    global_={"broker": "mqtt"},
).with_internal({"id": "root/a"})


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{{ IP }}:{{ PORT }}", "192.168.1.100:502"),
        ("{{ global.broker }}/{{ internal.id }}", "mqtt/root/a"),
        ("{% if ON %}on{% else %}off{% endif %}", "on"),
        ("{% for host in HOSTS %}{{ host }};{% endfor %}", "a;b;"),
        ("{{ HOSTS | join('-') | upper }}", "A-B"),
        ("{{ PORT + 1 }} {{ PORT * 2 }} {{ 2 ** 10 }} {{ PORT % 5 }}", "503 1004 1024 2"),
        ("{{ MISSING | default('none') }}", "none"),
        ("{% if MISSING is defined %}x{% endif %}", ""),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", "012"),
        ("{# a remark #}x", "x"),
        ("a: 1\n", "a: 1\n"),
    ],
)
def test_what_templates_do(text: str, rendered: str) -> None:
    """Variables, conditions, loops, filters, arithmetic."""
    assert render_template(text, PLC) == rendered


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{{ HOST }}", "line 1: 'HOST' is undefined"),
        ("a\nb\n  {{ HOST }}", "line 3: 'HOST' is undefined"),
        ("{{ global.port }}", "no attribute 'port'"),
        ("{{ internal.nope }}", "no attribute 'nope'"),
        ("{{ IP.nope }}", "no attribute 'nope'"),
        ("{% for x in HOST %}{% endfor %}", "'HOST' is undefined"),
        ("{% if HOST %}{% endif %}", "'HOST' is undefined"),
        ("{{ HOST ~ 'x' }}", "'HOST' is undefined"),
        ("{{ HOST == 1 }}", "'HOST' is undefined"),
        ("{{ HOSTS[5] }}", "list object has no element 5"),
    ],
)
def test_a_missing_variable_is_an_error_that_names_it(text: str, told: str) -> None:
    """Strict: no empty text in the place of a value, not even in a comparison."""
    with pytest.raises(TemplateError, match="cannot render template") as caught:
        render_template(text, PLC)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{{ IP", 1),
        ("\n{% if IP %}", 2),
        ("{{ IP | nosuchfilter }}", 1),
        ("a\n{{ 1 + }}", 2),
        ("{% nosuchtag %}", 1),
        ("{% endfor %}", 1),
    ],
)
def test_a_template_that_does_not_parse_is_told_apart_with_its_line(text: str, line: int) -> None:
    """ "cannot parse", not "cannot render"."""
    with pytest.raises(TemplateError, match=f"cannot parse template, line {line}:"):
        render_template(text, PLC)


@pytest.mark.parametrize("left", ["{{ IP }}", "{% if x %}", "{{", "a {{ b"])
def test_a_value_that_holds_a_template_is_refused(left: str) -> None:
    """Nothing is rendered twice, so a value cannot inject."""
    with pytest.raises(TemplateError, match="is left in the output"):
        render_template("x {{ V }}", {"V": left})
    with pytest.raises(TemplateError, match=r"config\.a.*left in the output"):
        render_config({"a": "{{ V }}"}, VariableBundle(user={"V": left}))


ESCAPES = [
    "{{ ''.__class__ }}",
    "{{ ''['__class__'] }}",
    "{{ ''|attr('__class__') }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ dict.mro() }}",
    "{{ dict.__base__ }}",
    "{{ range.__globals__ }}",
    "{{ (1).__class__.__bases__ }}",
    "{{ self.__init__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ HOSTS.append('c') }}",
    "{{ HOSTS.__init__.__globals__ }}",
    "{{ global.update({'x': 1}) }}",
    "{{ global.clear() }}",
    "{% set global.x = 1 %}",
    "{% include 'secrets' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends 'base' %}",
    "{{ open('/etc/passwd') }}",
    "{{ lipsum.__globals__ }}",
    "{{ cycler.__init__ }}",
    "{{ namespace }}",
    "{{ joiner() }}",
    "{{ [''] | map(attribute='__class__') | first }}",
    "{{ f.__code__ }}",
    "{{ f.__globals__ }}",
    "{{ g.gi_frame }}",
]


def function() -> None: ...


@pytest.mark.parametrize("text", ESCAPES)
def test_a_template_cannot_get_out_or_change_anything(text: str) -> None:
    """Attribute access, globals, other files, mutation: refused by the sandbox."""
    hosts, space = ["a"], {"k": 1}
    names = {"HOSTS": hosts, "global": space, "f": function, "g": (i for i in ())}
    with pytest.raises(TemplateError):
        render_template(text, names)
    assert (hosts, space) == (["a"], {"k": 1})


BOMBS = [
    "{{ 'x' * 1000000000 }}",
    "{{ 1000000000 * 'x' }}",
    "{{ HOSTS * 1000000000 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ 'x'.center(1000000000) }}",
    "{{ 'x'.ljust(1000000000) }}",
    "{{ 'x'.rjust(1000000000) }}",
    "{{ 'x'.zfill(1000000000) }}",
    "{{ '\t'.expandtabs(1000000000) }}",
    "{{ 'x' | center(1000000000) }}",
    "{{ 'x\nx' | indent(1000000000) }}",
    "{{ 10 ** 1000000000 }}",
    "{{ 10000000 ** 64 }}",
    "{{ (10 ** 64) ** 64 }}",
    "{{ 2 ** -1000000000 }}",
    "{{ range(1000000000) | list }}",
    "{{ range(0, -1000000000, -1) | length }}",
    ("{% for i in range(10000) %}{{ 'x' ~ HOSTS }}{% for j in range(10000) %}y{% endfor %}"
    "{% endfor %}"),
    "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
]  # fmt: skip


@pytest.mark.parametrize("text", BOMBS)
def test_a_bomb_is_defused(text: str) -> None:
    """Repetition, padding, formatting, powers, ranges, endless output and endless recursion."""
    with pytest.raises(TemplateError):
        render_template(text, PLC)


def test_the_output_is_capped() -> None:
    """At the cap it passes, one over it is refused and the limit is told."""
    fits = "x" * (RENDERED_BYTES_MAX // 4)
    assert len(render_template("{{ V }}" * 4, {"V": fits})) == RENDERED_BYTES_MAX
    with pytest.raises(TemplateError, match=f"output is over {RENDERED_BYTES_MAX}"):
        render_template("{{ V }}" * 4 + "x", {"V": fits})


def test_the_template_itself_is_capped() -> None:
    """Before it is compiled."""
    with pytest.raises(TemplateError, match=f"want at most {TEMPLATE_BYTES_MAX}"):
        render_template(" " * (TEMPLATE_BYTES_MAX + 1), {})


def test_a_range_is_capped() -> None:
    """With the limit in the error; the limit itself is allowed."""
    assert render_template("{{ range(10000) | length }}", {}) == str(RANGE_MAX)
    with pytest.raises(TemplateError, match="range of 10001, want at most 10000"):
        render_template("{{ range(10001) }}", {})


# --- whole configs --------------------------------------------------------------------------


@given(
    st.one_of(
        st.integers(),
        st.floats(allow_nan=False),
        st.booleans(),
        st.none(),
        st.text("ab: \n#", max_size=8),
        st.lists(st.integers(), max_size=3),
        st.dictionaries(st.text("ab", max_size=2), st.integers(), max_size=2),
    )
)
def test_a_single_expression_keeps_its_type(value: Any) -> None:
    """A port stays a number, a list a list; only its own place in the config changes."""
    bundle = VariableBundle(user={"V": value})
    config = {"a": "{{ V }}", "b": [" {{V}} ", {"c": ("{{ V }}", 1)}], "d": 5}
    expected = {"a": value, "b": [value, {"c": [value, 1]}], "d": 5}
    assert render_config(config, bundle) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{{ PORT }}", 502),
        ("{{ PORT }}/tcp", "502/tcp"),
        ("{{ IP }}{{ PORT }}", "192.168.1.100502"),
        ("{{ IP }}:{{ PORT }}", "192.168.1.100:502"),
        ("{{ PORT + 1 }}", 503),
        ("{{ {'a': PORT} }}", {"a": 502}),
        ("{{ HOSTS[0] }}", "a"),
        ("{{ not ON }}", False),
        ("{{ MISSING | default(7) }}", 7),
        ("no template", "no template"),
    ],
)
def test_what_becomes_of_a_string(text: str, value: Any) -> None:
    """One expression gives its value, anything else gives text."""
    got = render_config({"a": text}, PLC)["a"]
    assert got == value
    assert type(got) is type(value)


def test_the_config_given_is_not_changed() -> None:
    """Rendering gives a new one."""
    config = {"a": ["{{ IP }}"], "b": {"c": "{{ PORT }}"}}
    render_config(config, PLC)
    assert config == {"a": ["{{ IP }}"], "b": {"c": "{{ PORT }}"}}


def test_an_error_in_a_config_names_its_place() -> None:
    """Down to the index."""
    with pytest.raises(TemplateError, match=r"config\.hosts\[1\]\.ip: .*'HOST' is undefined"):
        render_config({"hosts": ["x", {"ip": "{{ HOST }}"}]}, PLC)
    with pytest.raises(TemplateError, match=r"config\.a: cannot parse template"):
        render_config({"a": "{{ 1 + }}"}, PLC)
    with pytest.raises(TemplateError, match=r"config\.a: .*'HOST' is undefined"):
        render_config({"a": "{{ HOST }} and more"}, PLC)


def test_a_text_becomes_yaml() -> None:
    """Conditions and loops may then decide which keys there are."""
    text = "host: {{ IP }}\nports:\n{% for h in HOSTS %}\n  {{ h }}: {{ PORT }}\n{% endfor %}\n"
    assert render_config(text, PLC) == {
        "host": "192.168.1.100",
        "ports": {"a": 502, "b": 502},
    }
    assert render_config("", PLC) == {}
    assert render_config("{% if not ON %}a: 1{% endif %}\n", PLC) == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- 1\n- 2", "got list, want a mapping"),
        ("5", "got int, want a mapping"),
        ("a: [1", "cannot parse rendered config as YAML"),
        ("a: {{ HOST }}", "'HOST' is undefined"),
        ("a: !!python/object/apply:os.getcwd []", "cannot parse rendered config as YAML"),
    ],
)
def test_a_text_that_is_no_mapping_is_refused(text: str, told: str) -> None:
    """Also what YAML could do besides being data."""
    with pytest.raises(TemplateError) as caught:
        render_config(text, PLC)
    assert told in str(caught.value)


@given(st.text("{}%#ab 1+'\"[]()|.\n_", max_size=40))
def test_any_text_renders_or_is_a_template_error(text: str) -> None:
    """Nothing else leaves the renderer, and what it lets out has no template in it."""
    with contextlib.suppress(TemplateError):
        rendered = render_template(text, {"a": 1, "b": "x"})
        assert "{{" not in rendered
        assert "{%" not in rendered


@given(st.text("ab {}%", max_size=20))
def test_a_text_without_markers_stays_as_it_is(text: str) -> None:
    """Braces alone are no template."""
    if not has_template(text):
        assert render_template(text, {}) == text
        assert render_config({"a": text}, VariableBundle())["a"] == text


def test_the_names_a_template_needs_are_known_before_it_is_rendered() -> None:
    """What is looped over inside it is not needed from outside."""
    text = "{{ IP }}{% for x in HOSTS %}{{ x }}{% endfor %}{{ range(2) }}"
    assert undeclared_variables(text) == {"IP", "HOSTS"}
    with pytest.raises(TemplateError, match="cannot parse"):
        undeclared_variables("{{ IP")
