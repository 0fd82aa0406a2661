"""Templates, spec scenarios 41 to 48: what they give, what they may cost, what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsmv2.supervisor.core import template
from fsmv2.supervisor.core.configrender import render_config
from fsmv2.supervisor.core.errors import SpecError, TemplateError
from fsmv2.supervisor.core.spec import UserSpec
from fsmv2.supervisor.core.template import TOKENS_MAX, render_template, undeclared_variables
from fsmv2.supervisor.core.templatebudget import STEPS_MAX
from fsmv2.supervisor.core.variables import VariableBundle

PLC = VariableBundle(
    user={"IP": "192.168.1.100", "PORT": 502}, global_={"kafka_brokers": "localhost:9092"}
).with_internal({"id": "root/bridge", "location_path": "ACME.Factory-1.Line-A.Cell-5"})


class Device(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker might decode its config to."""

    host: str
    port: int
    topics: list[str] = []


# --- 41 to 46: what a template gives ---------------------------------------------------------


def test_address_and_topic_of_a_bridge_come_out_as_written() -> None:
    """Scenarios 41 and 43: all three namespaces and the location path in one text."""
    text = "{{ IP }}:{{ PORT }} {{ global.kafka_brokers }} {{ internal.id }} {{ location_path }}"
    assert render_template(text, PLC) == (
        "192.168.1.100:502 localhost:9092 root/bridge ACME.Factory-1.Line-A.Cell-5"
    )


@pytest.mark.parametrize("text", ["{{ IP }}{{ HOST }}", "{{ IP }}{{ global.host }}"])
def test_of_a_template_that_fails_nothing_is_used(text: str) -> None:
    """Scenario 42: an error, not the part before it."""
    with pytest.raises(TemplateError, match=r"(?i)host"):
        render_config({"a": "fine", "b": text}, PLC)


def test_parsing_and_rendering_fail_in_different_words() -> None:
    """Scenario 44: who wrote the template is to be told apart from who set the variables."""
    with pytest.raises(TemplateError, match=r"^cannot parse template, line 2"):
        render_template("a\n{{ IP", PLC)
    with pytest.raises(TemplateError, match=r"^cannot render template, line 2"):
        render_template("a\n{{ HOST }}", PLC)


def test_a_value_with_markers_injects_nothing_on_any_way() -> None:
    """Scenario 46: as text, as a single expression, inside a list, as a template text."""
    evil = VariableBundle(user={"V": "{{ internal.id }}", "L": ["{{ internal.id }}"]})
    for config in ({"a": "x{{ V }}"}, {"a": "{{ V }}"}, {"a": "{{ L }}"}, "a: '{{ V }}'"):
        with pytest.raises(TemplateError, match="is left in the output"):
            render_config(config, evil)


def test_a_rendered_config_is_decoded_to_the_workers_type_with_the_place_of_a_fault() -> None:
    """Path, what was got and what is wanted; a port stays a number."""
    config = {"host": "{{ IP }}", "port": "{{ PORT }}", "topics": ["{{ location_path }}", "b"]}
    device = UserSpec(config, PLC).decode(Device)
    assert device == Device("192.168.1.100", 502, ["ACME.Factory-1.Line-A.Cell-5", "b"])
    with pytest.raises(SpecError, match=r"config\.port: Expected `int`, got `str`"):
        UserSpec({**config, "port": "{{ PORT }}!"}, PLC).decode(Device)
    with pytest.raises(SpecError, match=r"config\.topics\[1\]: Expected `str`, got `int`"):
        UserSpec({**config, "topics": ["a", "{{ PORT }}"]}, PLC).decode(Device)
    with pytest.raises(TemplateError, match=r"config\.topics\[0\]: .*'HOST' is undefined"):
        UserSpec({**config, "topics": ["{{ HOST }}"]}, PLC).decode(Device)


# --- 47: what a template may cost ------------------------------------------------------------

HEAVY: dict[str, Any] = {
    "N": list(range(10_000)),
    "S": [f"item{n}" for n in range(10_000)],
    "D": {str(n): n for n in range(10_000)},
    "A": "a" * 200_000,
    "P": "a" * 98 + "b",
}


def _grown(name: str, levels: int, literal: str) -> str:
    """Loops that build a value which holds itself eight times per level."""
    parts = [
        f"{{% for {name}{k} in [{literal.format(*[f'{name}{k - 1}' if k > 1 else '0'] * 8)}] %}}"
        for k in range(1, levels + 1)
    ]
    return "".join(parts)


EIGHT_LIST = "[" + "{}," * 8 + "]"
EIGHT_TUPLE = "(" + "{}," * 8 + ")"


def _looped(body: str) -> str:
    return "{% for i in N %}{% if " + body + " %}{% endif %}{% endfor %}"


COSTLY = {
    "a large body": "{% for i in N %}" + "{% if i == 1 %}{% endif %}" * 200 + "{% endfor %}",
    "a large body, inside": "{% for i in N %}{% for j in N[:2] %}"
    + "{% if i %}{% endif %}" * 200
    + "{% endfor %}{% endfor %}",
    "text filter": _looped("A | upper == 1"),
    "text method": _looped("A.upper() == 1"),
    "title": _looped("A | title == 1"),
    "slice of a text": _looped("A[1:]"),
    "slice of a list": _looped("N[1:]"),
    "sort": _looped("S | sort"),
    "unique characters": _looped("A | unique | list"),
    "max": _looped("N | max"),
    "dictsort": _looped("D | dictsort"),
    "items": _looped("D.items() | list"),
    "keys compared": _looped("D.keys() == D.keys()"),
    "search in a text": _looped("P in A"),
    "search in a list": _looped("'no' in S"),
    "search by a test": _looped("'no' is in S"),
    "replace": _looped("A | replace(P, '')"),
    "split": _looped("A.split(P)"),
    "join": _looped("S | join"),
    "tojson": _looped("N[:9000] | tojson"),
    "concatenation": _looped("A ~ 'x'"),
    "addition": _looped("A + 'x'"),
    "lazy maps": _looped("N | map('abs') | map('abs') | map('abs') | list"),
    "attribute of many parts": "{{ N | map(attribute='" + "a." * 20_000
    + "a', default={'b': 1}) | list }}",
    "characters of a text": "{% for a in A %}{% endfor %}",
    "loop.changed": _looped("loop.changed(N)"),
}  # fmt: skip
COSTLY |= {
    "a value equal to itself": _grown("a", 6, EIGHT_LIST)
    + _grown("b", 6, EIGHT_LIST)
    + "{% if a6 == b6 %}{% endif %}"
    + "{% endfor %}" * 12,
    "a hash without end": _grown("a", 9, EIGHT_TUPLE)
    + "{% if {a9: 1} %}{% endif %}"
    + "{% endfor %}" * 9,
}


@pytest.mark.parametrize("text", COSTLY.values(), ids=COSTLY)
def test_work_is_paid_for_and_ends_at_the_budget(text: str) -> None:
    """Steps, not seconds: the same on each machine. The hash took minutes, in C code, where no
    signal is heard; the root would have stood still."""
    with pytest.raises(TemplateError, match=f"over {STEPS_MAX} steps of work"):
        render_template(text, HEAVY)


def test_one_config_has_one_budget_however_many_texts_it_has() -> None:
    """Else a hundred strings would cost a hundred budgets."""
    half = "{% for i in N %}{{ '' }}{{ '' }}{{ '' }}{{ '' }}{% endfor %}"
    assert render_config({"a": half}, VariableBundle(user=HEAVY)) == {"a": ""}
    with pytest.raises(TemplateError, match=r"config\.b: .*steps of work"):
        render_config({"a": half, "b": half}, VariableBundle(user=HEAVY))


def test_ordinary_work_on_large_data_stays_within_the_budget() -> None:
    """A thousand lines with filters, a whole list joined."""
    text = "{% for s in S[:1000] %}{{ s | upper }}={{ loop.index }};{% endfor %}{{ N | join }}"
    assert render_template(text, HEAVY).startswith("ITEM0=1;ITEM1=2;")


COMPILED_LONG = {
    "outputs": "{{ a }}" * 4000,
    "a literal": "{{ [" + "1," * 15_000 + "] }}",
    "loops": "{% for i in a %}{% endfor %}" * 2000,
    "attributes": "{{ a" + ".b" * 30_000 + " }}",
    "filters": "{{ 'x'" + " | upper" * 7000 + " }}",
    "operators": "{{ 1" + " ~ 1" * 15_000 + " }}",
}


@pytest.mark.parametrize("text", COMPILED_LONG.values(), ids=COMPILED_LONG)
def test_a_template_that_would_compile_for_seconds_is_refused(text: str) -> None:
    """By its words and signs; plain text is not counted."""
    with pytest.raises(TemplateError, match=f"over {TOKENS_MAX} words and signs"):
        render_template(text, {"a": 1})
    assert render_template("word " * 12_000, {}).count("word") == 12_000


def test_nested_filters_compile_in_a_moment() -> None:
    """Folding of constants took cubic time on these."""
    text = "{{ x" + " | upper" * 80 + " }}"
    assert render_template(text, {"x": "a"}) == "A"


def test_a_rendered_yaml_that_would_be_read_for_seconds_is_refused() -> None:
    """One mapping merged 20,000 times took 18 s, a number in base 60 took 5."""
    wide = "a: &a {" + ",".join(f"k{n}: 1" for n in range(500)) + "}\n"
    with pytest.raises(TemplateError, match="an alias and a merge key"):
        render_config(wide + "b: {<<: [" + ",".join(["*a"] * 5000) + "]}", VariableBundle())
    with pytest.raises(TemplateError, match="a number in base 60"):
        render_config("a: 1" + ":1" * 30_000, VariableBundle())
    with pytest.raises(TemplateError, match="want at most 65536"):
        render_config("a: {{ A }}", VariableBundle(user=HEAVY))
    plain = "a: &a [1]\nb: *a\nt: 10:20:30\nmac: '00:11:22:33:44:55'"
    assert render_config(plain, VariableBundle())["b"] == [1]


def test_no_variable_can_take_the_place_of_the_meter() -> None:
    """Whatever its name is."""
    names = {"range": 1, "fsmv2_counted": 1, "fsmv2_weighed": 1, "environment": 1, "N": [1, 2]}
    assert render_template("{% for i in N %}{{ i }}{% endfor %}", names) == "12"
    assert render_template("{{ 'y' if N == [1, 2] }}", names) == "y"


COMPARISONS: dict[str, Any] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
    "not in": lambda a, b: a not in b,
}


@given(
    st.lists(st.integers(-5, 5), max_size=6),
    st.sampled_from(list(COMPARISONS)),
    st.integers(-5, 5),
)
def test_paying_changes_no_comparison(items: list[int], operator: str, number: int) -> None:
    """Metered or not, an expression has the value Python gives it."""
    left = number if "in" in operator else len(items)
    right = items if "in" in operator else number
    expected = COMPARISONS[operator](left, right)
    bundle = VariableBundle({"L": left, "R": right})
    assert render_config({"v": f"{{{{ L {operator} R }}}}"}, bundle) == {"v": expected}


# --- 48: compiled once -----------------------------------------------------------------------


def test_a_thousand_renderings_parse_the_template_once() -> None:
    """Once per content; what is kept is bounded; forgotten, it is parsed again."""
    text = "{{ IP }} once only"
    template._compile.cache_clear()
    for port in range(1000):
        assert render_template(text, {"IP": port}) == f"{port} once only"
    assert template._compile.cache_info().misses == 1
    assert template._compile.cache_info().maxsize is not None
    template._compile.cache_clear()
    render_template(text, {"IP": 1})
    assert template._compile.cache_info().misses == 1


def test_values_of_one_rendering_are_not_in_the_next() -> None:
    """What is kept is the template, never what it was given."""
    assert render_template("{{ IP }}", {"IP": 1}) == "1"
    with pytest.raises(TemplateError, match="'IP' is undefined"):
        render_template("{{ IP }}", {})


def test_undeclared_names_are_found_without_rendering() -> None:
    """For `fsmv2 check`: also in a branch that is not taken."""
    assert undeclared_variables("{% if A %}{{ B | default(C) }}{% endif %}") == {"A", "B", "C"}


# --- arithmetic and texts that could grow ----------------------------------------------------

TOO_LARGE = {
    "a product": ("{{ H * H }}", "'*' of a number over 256 bits"),
    "a quotient": ("{{ H // 3 }}", "'//' of a number over 256 bits"),
    "a difference": ("{{ H - 1 }}", "'-' of a number over 256 bits"),
    "a negation": ("{{ -H }}", "'-' of a number over 256 bits"),
    "a hexadecimal": ("{{ ('f' ~ A[:2000]) | int(0, 16) }}", "a number over 256 bits"),
    "a text times a number": ("{{ 'x' * 9 }}", "wants numbers"),
    "a list and a list": ("{{ N + N }}", "wants numbers"),
    "a replaced number": ("{{ 5 | replace('5', '6') }}", "'replace' wants texts"),
    "a replaced letter": ("{{ A | replace('a', 'aaaaaaaa') }}", "a text of over"),
    "a joined list": ("{{ N[:3000] | join(A[:100]) }}", "a text of over"),
    "digits": ("{{ 1.5 | round(31) }}", "'round' to 31 digits, want at most 30"),
}


@pytest.mark.parametrize(("text", "told"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_what_could_grow_without_bound_is_refused_by_name(text: str, told: str) -> None:
    """Before it is computed; as text and as a value of its own."""
    names = HEAVY | {"H": 1 << 256}
    with pytest.raises(TemplateError) as caught:
        render_template(text + " ", names)
    assert told in str(caught.value)
    with pytest.raises(TemplateError) as caught:
        render_config({"a": text}, VariableBundle(user=names))
    assert told in str(caught.value)


def test_a_number_that_no_channel_carries_is_not_written_out() -> None:
    """Also when it only passes through."""
    for config in ({"a": "{{ H }}"}, {"a": "x{{ H }}"}, {"a": "{{ [H] }}"}):
        with pytest.raises(TemplateError, match="a number over 256 bits"):
            render_config(config, VariableBundle(user={"H": 1 << 256}))


def test_a_loop_that_calls_itself_is_refused_with_its_line() -> None:
    """Its turns could not be counted by where it stands."""
    text = "\n{% for x in N recursive %}{{ loop(N) }}{% endfor %}"
    with pytest.raises(TemplateError, match="line 2: got a recursive loop"):
        render_template(text, {"N": [1]})
