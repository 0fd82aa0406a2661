"""What a user may ask for in `communicator_spool.py` and `communicator_orders.py`."""

import time

from fsmv2.supervisor import Action, ActionContext


class Echo(Action, frozen=True):
    value: int = 0

    def execute(self, ctx: ActionContext) -> int:
        return self.value


class WhatTime(Action, frozen=True):
    def execute(self, ctx: ActionContext) -> float:
        return time.time()
