"""The sweeper that belongs to a service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from samvad.knowledge.opening import has_documents
from samvad.retention.documents import Documents
from samvad.retention.lease import lease_of
from samvad.retention.sweeper import Sweeper
from samvad.stores.base import engine_of

if TYPE_CHECKING:
    from samvad.knowledge.base import KnowledgeBase


def sweeper_of(samvad: Any) -> Sweeper:
    """The sweeper of a service (`samvad.runtime.Samvad`), by the rules of its options."""

    def base() -> KnowledgeBase | None:
        if samvad.knowledge_is_open or has_documents(samvad.store):
            found: KnowledgeBase = samvad.knowledge
            return found
        return None

    options = samvad.options
    return Sweeper(
        samvad.core,
        options.retention(),
        Documents(base),
        every_s=options.retain_every_s,
        lease=lease_of(engine_of(samvad.store), samvad.core.clock),
    )
