"""What the tables of config keys say is allowed, in words."""

from __future__ import annotations

from msgspec import inspect


def allowed(kind: inspect.Type) -> str:
    """What a value of ``kind`` may be."""
    match kind:
        case inspect.IntType() | inspect.FloatType():
            low = f"over {figure(kind.gt)}" if kind.ge is None else figure(kind.ge)
            word = "" if isinstance(kind, inspect.FloatType) else ", whole"
            return f"{low} to {figure(kind.le)}{word}"
        case inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in kind.values)
        case inspect.UnionType():
            return " or ".join(allowed(each) for each in kind.types)
        case inspect.VarTupleType() | inspect.ListType():
            return "a list of texts"
        case inspect.StructType():
            return ", ".join(f"`{field.encode_name}`" for field in kind.fields)
        case inspect.StrType() if kind.max_length is not None:
            return f"a text of {figure(kind.min_length)} to {figure(kind.max_length)} characters"
    words = {
        inspect.BoolType: "`true`, `false`",
        inspect.DictType: "a mapping",
        inspect.NoneType: "`null`",
        inspect.StrType: "a text",
        inspect.CustomType: "a text",  # the one we have is Secret
    }
    return words[type(kind)]


def figure(number: float | None) -> str:
    """A limit for people; every number of the config has both limits."""
    assert number is not None
    return f"{number:,.0f}" if number == int(number) else f"{number:g}"
