"""Which instance this is, as the relay has told at the last login.

Knows: the present UUID.
Does not know: logins; the pull leaves the UUID of its login beside the inbox, where the switchboard
looks for it (`spool.instance`).
Invariants: whoever reads sees one UUID that was set whole, in any thread; an empty one never
replaces another, because it means "unchanged".
"""

from __future__ import annotations


class Identity:
    """The instance's UUID; empty until it is known. The push puts the login's own in its place."""

    def __init__(self, instance_uuid: str = "") -> None:
        self._instance_uuid = instance_uuid

    def __repr__(self) -> str:
        return f"<Identity {self._instance_uuid or 'unknown'}>"

    def get_instance_uuid(self) -> str:
        """The UUID that was set last."""
        return self._instance_uuid  # one reference: it is the old text or the new one

    def set_instance_uuid(self, instance_uuid: str) -> None:
        """Use ``instance_uuid`` from the next message on."""
        if instance_uuid:
            self._instance_uuid = instance_uuid
