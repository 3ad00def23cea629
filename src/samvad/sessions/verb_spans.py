"""A span for each verb of the service, once traces are on; until then the verbs are as they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from samvad import tracing
from samvad.sessions.acting import Acting
from samvad.sessions.service import SessionPersistenceService

_OF_A_USER: Final = (
    *("save_user_state", "replace_user_state", "get_user_state", "save_user_profile", "get_user_profile"),
    *("append_many", "import_messages", "page_stored", "clear_user_data"),
    *("get_user_active_sessions", "get_user_sessions"),
)
_OF_A_SESSION: Final = (
    *("save_session_fields", "get_session", "end_session", "clear_session", "session_owner"),
    *("recorded_interruptions", "record_interruption", "forget_interruptions"),
)
_OF_ALL: Final = ("count", "list_users")


def _user(service: Acting, user_id: Any = None, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
    return tracing.user_attributes(service.principal.tenant, user_id) if isinstance(user_id, str) else {}


def _session(service: Acting, session_id: Any = None, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
    if not isinstance(session_id, str):
        return {}
    return {"gen_ai.conversation.id": tracing.conversation_hash(service.principal.tenant, session_id)}


def _nobody(service: Acting, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
    return {}


def trace_verbs() -> None:
    """Have the verbs make spans."""
    tracing.wrap(SessionPersistenceService, _OF_A_USER, "session", _user)
    tracing.wrap(SessionPersistenceService, _OF_A_SESSION, "session", _session)
    tracing.wrap(SessionPersistenceService, _OF_ALL, "session", _nobody)
    tracing.wrap(Acting, ("read_user",), "session", _user)
