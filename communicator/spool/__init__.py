"""The two folders a communicator works between: messages on disk until somebody else has them.

Any process may write to the outbox (`post`, `append`, or `switchboard.outbound.Outbound` for many
messages); the push empties it (`outgoing`, `acknowledge`, `set_aside`). The pull writes to the
inbox (`place_for`, `unpack`); one consumer empties it (`inbox_files`, `read_messages`, `finish`).
"""

from fsmv2.communicator.spool.bounds import Bounds, Policy, SpoolFull, TooLarge, Usage
from fsmv2.communicator.spool.inbox import (
    Claimed,
    claim,
    finish,
    inbox_files,
    read_messages,
)
from fsmv2.communicator.spool.outbox import (
    Outgoing,
    acknowledge,
    append,
    check_forgettable,
    encode,
    outgoing,
    post,
    set_aside,
)
from fsmv2.communicator.spool.saving import NoRoom, Place, place_for
from fsmv2.communicator.spool.segments import AsideFull, check_room_aside, strangers, usage
from fsmv2.communicator.spool.turns import Taken, pulling, pushing
from fsmv2.communicator.spool.unpacking import saved_replies, unpack

__all__ = [
    "AsideFull",
    "Bounds",
    "Claimed",
    "NoRoom",
    "Outgoing",
    "Place",
    "Policy",
    "SpoolFull",
    "Taken",
    "TooLarge",
    "Usage",
    "acknowledge",
    "append",
    "check_forgettable",
    "check_room_aside",
    "claim",
    "encode",
    "finish",
    "inbox_files",
    "outgoing",
    "place_for",
    "post",
    "pulling",
    "pushing",
    "read_messages",
    "saved_replies",
    "set_aside",
    "strangers",
    "unpack",
    "usage",
]
