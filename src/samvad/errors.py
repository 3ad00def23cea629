"""One tree of errors; each says what went wrong, which HTTP status it is, and whether trying again can help.

The docstring of a class is its default message, and `code` is what callers may switch on: both are
part of the public interface. `retryable` is true where the same call may succeed later unchanged.
"""

from __future__ import annotations

from typing import Any, ClassVar


class SamvadError(Exception):
    """Something went wrong in Samvad."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, **details: Any) -> None:
        super().__init__(message or (type(self).__doc__ or "").split("\n", 1)[0])
        self.details: dict[str, Any] = details

    @property
    def message(self) -> str:
        """What to tell the caller: one sentence that says what to do."""
        return str(self.args[0])


class InvalidRequest(SamvadError):
    """The request is not well formed."""

    code = "invalid_request"
    status = 400
    title = "Bad request"


class MissingFields(InvalidRequest):
    """Missing required fields."""

    code = "missing_fields"

    def __init__(self, *fields: str) -> None:
        super().__init__(f"Missing required fields: {', '.join(fields)}", fields=list(fields))


class InvalidId(InvalidRequest):
    """An id is 1 to 256 bytes of UTF-8 without control characters, '/' or white space at its ends."""

    code = "invalid_id"


class InvalidJson(InvalidRequest):
    """The body is not valid JSON."""

    code = "invalid_json"


class UnreadableDocument(InvalidRequest):
    """No text can be read from this document."""

    code = "unreadable_document"


class UrlRefused(InvalidRequest):
    """This address is not fetched: only public http and https addresses are."""

    code = "url_refused"


class UrlFailed(InvalidRequest):
    """The address did not give a document that can be read."""

    code = "url_failed"
    retryable = True


class Unauthenticated(SamvadError):
    """No valid credentials were given."""

    code = "unauthenticated"
    status = 401
    title = "Unauthenticated"


class Forbidden(SamvadError):
    """These credentials do not allow this."""

    code = "forbidden"
    status = 403
    title = "Forbidden"


class RoleForbidden(Forbidden):
    """A user's own token may not write messages of this role; have a program write them."""

    code = "role_forbidden"


class NotFound(SamvadError):
    """There is nothing of that name."""

    code = "not_found"
    status = 404
    title = "Not found"


class MethodNotAllowed(SamvadError):
    """This resource does not know that method."""

    code = "method_not_allowed"
    status = 405
    title = "Method not allowed"


class Conflict(SamvadError):
    """The request conflicts with what is there."""

    code = "conflict"
    status = 409
    title = "Conflict"


class SessionTaken(Conflict):
    """The session id belongs to another user; choose another id."""

    code = "session_taken"


class UserErased(Conflict):
    """The request with this key was carried out once, and the user's data has been erased since."""

    code = "user_erased"


class PreconditionFailed(SamvadError):
    """The state has changed since it was read; read it again and repeat the change."""

    code = "precondition_failed"
    status = 412
    title = "Precondition failed"


class TooLarge(SamvadError):
    """The request is larger than allowed."""

    code = "too_large"
    status = 413
    title = "Content too large"


class UnsupportedMediaType(SamvadError):
    """The body must be JSON: send it with 'Content-Type: application/json', and not compressed."""

    code = "unsupported_media_type"
    status = 415
    title = "Unsupported media type"


class IdempotencyKeyReused(SamvadError):
    """This Idempotency-Key was used for another request; make a new key for each request."""

    code = "idempotency_key_reused"
    status = 422
    title = "Unprocessable content"


class TooManyRequests(SamvadError):
    """Too many requests; wait before the next."""

    code = "too_many_requests"
    status = 429
    title = "Too many requests"
    retryable = True

    @property
    def retry_after_s(self) -> int:
        """Seconds to wait."""
        return int(self.details.get("retry_after_s", 1))


class Unavailable(SamvadError):
    """The service cannot answer now; try again soon."""

    code = "unavailable"
    status = 503
    title = "Service unavailable"
    retryable = True
    retry_after_s: ClassVar[int] = 1


class StoreUnavailable(Unavailable):
    """The store cannot be reached or cannot write; nothing was acknowledged, try again soon."""

    code = "store_unavailable"


class DatabaseReplaced(StoreUnavailable):
    """The database's files were changed beneath the server; nothing was acknowledged until it is restarted."""

    code = "database_replaced"


class KeyUnavailable(StoreUnavailable):
    """This process cannot open a key that others made; nothing was acknowledged, try again soon."""

    code = "key_unavailable"


class Overloaded(Unavailable):
    """More is waiting to be written than is allowed; nothing was acknowledged, try again soon."""

    code = "overloaded"


class ProviderUnavailable(Unavailable):
    """The live provider cannot be reached, or refuses this conversation; try again soon."""

    code = "provider_unavailable"


class ShuttingDown(Unavailable):
    """The service is stopping; nothing was acknowledged, try again on the next instance."""

    code = "shutting_down"


class Unreadable(SamvadError):
    """What is stored here was changed or moved by somebody else, or its key is another; it is not believed."""

    code = "unreadable"


class SetupError(SamvadError):
    """The service cannot start as configured.

    An operator's mistake: the command line prints the message in one line and exits with code 2.
    """

    code = "setup"


class StoreLocked(SetupError):
    """Another process is using this database."""

    code = "store_locked"


class StaleVersion(SamvadError):
    """Another writer committed for this user first.

    Never reaches a caller: the lane reloads the user's record and applies the operation again.
    """

    code = "stale_version"
    retryable = True


class MessageExists(SamvadError):
    """A message of this id is already in the user's history.

    Never reaches a caller: the same id again is the same message, and is answered as such.
    """

    code = "message_exists"

    def __init__(self, message_id: str, seq: int) -> None:
        super().__init__(None, message_id=message_id, seq=seq)
        self.message_id = message_id
        self.seq = seq
