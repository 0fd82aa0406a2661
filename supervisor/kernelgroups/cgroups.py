"""Kernel groups for procs: all that a proc started dies with one write.

Knows: cgroup v2 groups with ``cgroup.kill``, process limits of the pids controller, v1 or v2.
Does not know: procs, when anything is killed; where the machine has its groups.
Invariants: no call waits but `ProcGroups.close`, which is bounded; none raises for what the
machine lacks; nobody else's group is written to; after `close` no descriptor is left.
Source: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import contextlib
import os
import time

from fsmv2.supervisor.kernelgroups.cgroupplaces import Place, Places
from fsmv2.supervisor.kernelgroups.groupfolders import (
    Folders,
    RootFolder,
    make_root_folder,
    remove_leftovers,
    remove_tree,
)
from fsmv2.supervisor.kernelgroups.procgroup import ProcGroup, SharedGroups, read_in, write_in

__all__ = ["ProcGroup", "ProcGroups"]

CLOSE_S_MAX = 0.5
_AGAIN_S = 0.002
_DELEGATED = ("user.delegate", "trusted.delegate")


class ProcGroups:
    """This root's groups. `open` makes one; what `why_not` says is missing is then not done.

    ``available``: groups know their processes. ``can_kill``: they die with one write, too
    (cgroup v2, Linux 5.14). ``can_limit``: their processes can be limited in number. ``path``:
    this root's folder, ``limit_path``: that of its limits; empty without one. ``why_not``: what
    is missing and why; empty if nothing is.
    """

    def __init__(self, shared: SharedGroups, why_not: str) -> None:
        self._shared = shared
        self._serial = 0
        home = shared.kill_in or shared.limit_in
        self.why_not = why_not
        self.available = home is not None
        self.path = home.path if home else ""
        self.can_kill = shared.can_kill
        self.can_limit = shared.limit_in is not None
        self.limit_path = shared.limit_in.path if shared.limit_in else ""

    @classmethod
    def open(
        cls,
        name: str,
        *,
        proc: str = "/proc",
        folders: Folders | None = None,
        clears: bool = True,
    ) -> ProcGroups:
        """Find our place and make a folder there for this root, called after ``name``.

        Folders of dead roots found there are removed, what their actions have left running is
        killed; not with ``clears`` off, for one who only looks. Takes some ms; never raises.
        """
        folders = folders or Folders()
        places = Places(proc)
        reasons: list[str] = []
        kill_in = limit_in = None
        home = _home(places)
        if isinstance(home, str):
            reasons.append(f"no cgroup v2 group: {home}")
        else:
            if clears:
                remove_leftovers(home.folder, proc, folders)
            made = make_root_folder(home.folder, name, proc, folders)
            if isinstance(made, str):
                reasons.append(f"no cgroup v2 group: {made}")
            elif fault := _fault_of(made):
                _discard(made, folders)
                reasons.append(f"no cgroup v2 group: {fault}")
            else:
                kill_in = made
                if not os.path.exists(f"{made.path}/cgroup.kill"):
                    reasons.append("no cgroup.kill: it came with Linux 5.14")
        limit_in, why = _limits(places, kill_in, name, folders, clears)
        if limit_in is None:
            reasons.append(f"no process limit: {why}")
        return cls(SharedGroups(kill_in, limit_in, folders), "; ".join(reasons))

    def make(self, slot: str) -> ProcGroup:
        """A new, empty group for one proc; ``slot`` is the readable part of its name.

        Without `available`, or when the machine has no room, it is a group that can do nothing.
        Takes about 50 µs.
        """
        self.sweep(tries=2)
        self._serial += 1
        group = ProcGroup(self._shared, f"{slot}.{self._serial}")
        if group.is_made:
            self._shared.living.add(group)
        return group

    def sweep(self, tries: int = 16) -> int:
        """Try again to remove groups whose processes had not ended yet, at most ``tries`` of
        them; how many are left. `make` does a little of it. Who is still in one of them got
        away from its proc's kill, and is killed now."""
        leaving = self._shared.leaving
        for group in list(leaving)[:tries]:
            # To the end of the queue, or one that never empties would keep the others waiting.
            del leaving[group]
            if not group.remove():
                group.kill_or_signal()
        return len(leaving)

    def close(self, patience_s: float = CLOSE_S_MAX) -> bool:
        """Kill what is left in our groups and remove them, waiting at most ``patience_s``
        seconds for processes to end. False: something is left. Safe to call twice.

        In a process that was forked from the one that opened them, it only closes descriptors.
        """
        shared = self._shared
        is_ours = os.getpid() == shared.root_pid
        give_up = time.monotonic() + patience_s
        while is_ours:
            left = [each for each in (*shared.living, *shared.leaving) if not each.remove()]
            if not left:
                break
            # Before the clock is asked: who has no time left for waiting is to kill all the same.
            for group in left:
                group.kill_or_signal()
            if time.monotonic() > give_up:
                break
            time.sleep(_AGAIN_S)
        is_gone = not (shared.living or shared.leaving)
        for group in (*shared.living, *shared.leaving):
            group.forget()
        shared.living.clear()
        shared.leaving.clear()
        homes = {each.fd: each for each in (shared.kill_in, shared.limit_in) if each is not None}
        for home in homes.values():
            is_gone = _discard(home, shared.folders, remove=is_ours) and is_gone
        shared.kill_in = shared.limit_in = None
        shared.can_kill = self.available = self.can_kill = self.can_limit = False
        return is_gone

    def __repr__(self) -> str:
        shared = self._shared
        counts = f"living={len(shared.living)} leaving={len(shared.leaving)}"
        return f"<groups {self.path or 'none'} {counts}>"


NO_GROUPS = ProcGroups(SharedGroups(None, None, Folders()), "not opened yet")


def _home(places: Places) -> Place | str:
    """The cgroup v2 folder ours is made in: where we stand, or the group above if that was
    delegated to us (systemd's DelegateSubgroup=): it has no process of its own, so that it can
    hand out controllers (the no-internal-process rule)."""
    own = places.unified()
    if isinstance(own, str):
        return own
    above = os.path.dirname(own.folder)
    if own.folder != own.mount_point and _is_delegated(above):
        own = own._replace(folder=above)
    # Moving a process needs write access to the common ancestor's list, too.
    if not os.access(f"{own.folder}/cgroup.procs", os.W_OK):
        return f"{own.folder}/cgroup.procs is not writable"
    return own


def _is_delegated(folder: str) -> bool:
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1" and os.access(folder, os.W_OK):
                return True
    return False


def _fault_of(made: RootFolder) -> str:
    # "domain invalid" below a threaded group: it can hold no processes.
    kind = read_in(made, "cgroup.type", 64)
    if kind is not None and kind.strip() != b"domain":
        return f"{made.path} is of type {kind.decode('ascii', 'replace').strip()}, want domain"
    return ""


def _limits(
    places: Places, kill_in: RootFolder | None, name: str, folders: Folders, clears: bool
) -> tuple[RootFolder | None, str]:
    place = places.controller("pids")
    if isinstance(place, str):
        return None, place
    if place.version == 1:
        if clears:
            remove_leftovers(place.folder, places.proc, folders)
        made = make_root_folder(place.folder, name, places.proc, folders)
        return (None, made) if isinstance(made, str) else (made, "")
    if kill_in is None:
        return None, "no group to limit"
    if b"pids" not in (read_in(kill_in, "cgroup.controllers", 1024) or b"").split():
        return None, f"the group above {kill_in.path} does not hand out the pids controller"
    if not write_in(kill_in, "cgroup.subtree_control", b"+pids"):
        return None, f"cannot enable the pids controller in {kill_in.path}"
    return kill_in, ""


def _discard(home: RootFolder, folders: Folders, *, remove: bool = True) -> bool:
    is_gone = True
    if remove:
        with contextlib.suppress(OSError):
            above = os.open(os.path.dirname(home.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                is_gone = remove_tree(os.path.basename(home.path), above, folders)
            finally:
                os.close(above)
    os.close(home.fd)
    return is_gone
