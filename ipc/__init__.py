"""Bytes to frames and back.

Knows: frames, the codec, channels over a pair of pipes.
Does not know: actions, workers, retries, who is at the other end.
Invariants: any bytes give frames or a `FrameError`, nothing else; nothing here blocks on the
root's side; nothing is ever unpickled.
"""

from fsmv2.ipc.channel import Channel
from fsmv2.ipc.codec import decode, encode, to_builtins
from fsmv2.ipc.frames import FRAME_BYTES_MAX, PROTOCOL, FrameBuffer, FrameError, pack_frame

__all__ = [
    "FRAME_BYTES_MAX",
    "PROTOCOL",
    "Channel",
    "FrameBuffer",
    "FrameError",
    "decode",
    "encode",
    "pack_frame",
    "to_builtins",
]
