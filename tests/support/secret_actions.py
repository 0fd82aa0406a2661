"""Actions and values that hold a secret, and code that quotes it where it should not."""

import dataclasses
import logging
from typing import Any, cast

import msgspec

from fsmv2.supervisor import Action, ActionContext, Secret

TEXT = "correct horse battery"


class Login(msgspec.Struct, frozen=True):
    user: str
    token: Secret


@dataclasses.dataclass
class Session:
    token: Secret


def shaped(shape: str, secret: Secret) -> Any:
    """A value in which ``secret`` is."""
    match shape:
        case "bare":
            return secret
        case "dict":
            return {"user": "joe", "deep": [{"token": secret}]}
        case "key":
            return {secret: 1}
        case "struct":
            return Login("joe", secret)
        case "dataclass":
            return [Session(secret)]
        case "tuple":
            return ("joe", (secret,))
    return {"token": secret, "large": "x" * (2 << 20)}  # over a frame: through a file


class ReturnAny(Action, frozen=True):
    shape: str
    text: str

    def execute(self, ctx: ActionContext) -> Any:
        return shaped(self.shape, Secret(self.text))


class ReturnDict(ReturnAny, frozen=True):
    def execute(self, ctx: ActionContext) -> dict:  # type: ignore[type-arg]
        return cast("dict[str, Any]", shaped("dict", Secret(self.text)))


class ReturnNothingSaid(ReturnAny, frozen=True):
    def execute(self, ctx):  # type: ignore[no-untyped-def]
        return shaped("dict", Secret(self.text))


class ReturnLogin(ReturnAny, frozen=True):
    def execute(self, ctx: ActionContext) -> Login:
        return Login("joe", Secret(self.text))


class ReturnAsText(ReturnAny, frozen=True):
    def execute(self, ctx: ActionContext) -> str:
        return Secret(self.text)  # type: ignore[return-value]


class Length(Action, frozen=True):
    """What was hidden in a value can go out again, where nothing or a Secret is declared."""

    token: Secret
    any_token: Any = None

    def execute(self, ctx: ActionContext) -> list[int]:
        return [len(self.token.reveal()), len(self.any_token.reveal())]


class RaiseAny(Action, frozen=True):
    """Its secret stands in a field that says nothing of it."""

    token: Any

    def execute(self, ctx: ActionContext) -> None:
        raise ValueError(f"bad token {self.token.reveal()}")


class Picky(Action, frozen=True):
    """Cannot be read: its own code refuses what it was given, and quotes it."""

    token: Secret
    refuses: bool = False

    def __post_init__(self) -> None:
        if self.refuses and isinstance(self.token, Secret):
            raise ValueError(f"cannot use {self.token.reveal()}")

    def execute(self, ctx: ActionContext) -> None: ...


class PickyValue(msgspec.Struct):
    token: Secret
    large: str = ""

    def __post_init__(self) -> None:
        raise ValueError(f"cannot use {self.token.reveal()}")


class ReturnPicky(Action, frozen=True):
    """Returns what its annotation's own code refuses in the root, quoting it."""

    text: str
    size: int = 0

    def execute(self, ctx: ActionContext) -> PickyValue:
        value = {"token": Secret(self.text), "large": "x" * self.size}
        return cast("PickyValue", value)


class Unsendable:
    """Its wire form raises, quoting what lies beside it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __wire_encode__(self) -> str:
        raise ValueError(f"cannot encode beside {self.text}")


class CarryUnsendable(Action, frozen=True):
    token: Secret
    load: Any

    def execute(self, ctx: ActionContext) -> None: ...


class ReturnUnsendable(Action, frozen=True):
    text: str

    def execute(self, ctx: ActionContext) -> Any:
        return [Secret(self.text), Unsendable(self.text)]


class Talk(Action, frozen=True):
    """Says its secret in each way there is."""

    token: Secret

    def execute(self, ctx: ActionContext) -> None:
        text = self.token.reveal()
        ctx.progress(f"logs in with {text}")
        ctx.log(
            f"event {text}", **{"field": f"is {text}", f"name {text}": 1, "deep": {"a": [text]}}
        )
        logging.getLogger(f"logger.{text}").warning("record %s", text)
        try:
            raise KeyError(text)
        except KeyError:
            logging.getLogger("logger").exception("record")
        print(f"printed {text}", flush=True)
