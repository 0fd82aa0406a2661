"""What a user may ask for in `communicator_spool.py`."""

from fsmv2.supervisor import Action, ActionContext


class Echo(Action, frozen=True):
    value: int = 0

    def execute(self, ctx: ActionContext) -> int:
        return self.value
