"""The secrets that a node's worker knows from its config and variables: no text of its own that
is shown may quote one.

Knows: where a secret may stand: in the decoded config, in the spec's, in the variables.
Does not know: which text is shown where.
Invariants: nothing worker code raises while it is asked goes further than here; the search of a
config that has no secret costs a decision nothing.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from fsmv2.ipc.redact import may_hide, redact, secrets_in
from fsmv2.supervisor.config.configfault import secret_texts
from fsmv2.supervisor.core.spec import DesiredState, UserSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from fsmv2.supervisor.tree.node import Node

# What a type may hide is a question of its fields; of a dict, of what is in it.
_may_hide = lru_cache(maxsize=1024)(may_hide)


def hider(desired: DesiredState) -> Callable[[str], str] | None:
    """What takes the secrets of a desired state's config out of a text; None: it has none."""
    kind: Any = type(desired.config)
    try:
        if not _may_hide(kind):
            return None
        secrets = secrets_in(desired.config)
    except BaseException:  # a config's own code; what it does not tell, nobody can quote
        return None
    return partial(redact, secrets=secrets) if secrets else None


def all_secrets(node: Node) -> tuple[str, ...]:
    """Every secret that an error of the node's worker may quote. Asked after a fault only: the
    desired state may be of an earlier spec, or missing, so the config is decoded once more."""
    bundle = node.variables
    config: Any = node.spec.user_spec.config
    desired = node.desired
    found = [
        *_found(lambda: secrets_in([config, bundle.user, bundle.global_])),
        *_found(lambda: secret_texts([config, bundle.user, bundle.global_])),
        *_found(lambda: secrets_in(UserSpec(config, bundle).decode(node.worker.config_type))),
    ]
    if desired is not None:
        found += _found(lambda: secrets_in(desired.config))
    return tuple(dict.fromkeys(found))


def _found(search: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    try:
        return search()
    except BaseException:  # worker code may raise anything at all
        return ()
