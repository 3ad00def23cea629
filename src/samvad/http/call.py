"""One request and its answer, as handlers see them."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import msgspec

from samvad import limits
from samvad.errors import InvalidJson, InvalidRequest, TooLarge, UnsupportedMediaType
from samvad.http import browsers
from samvad.records import UserKey
from samvad.sessions.acting import may_keep
from samvad.sessions.fingerprints import with_key
from samvad.sessions.operations import ReceiptKey
from samvad.sessions.service import SessionPersistenceService
from samvad.sessions.validation import check_id
from samvad.types import Cleared

if TYPE_CHECKING:
    from samvad.archive.making import UserArchive
    from samvad.auth.authenticator import Authenticator, Identity
    from samvad.auth.erasure_receipts import ErasureSigner
    from samvad.interruptions.manager import InterruptionContextManager
    from samvad.knowledge.base import KnowledgeBase
    from samvad.runtime import Samvad
    from samvad.sessions.cost import CostMeter
    from samvad.sessions.feed import Feed

_T = TypeVar("_T")
_json = msgspec.json.Decoder()
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_HASHED_AT_ONCE_BYTES_MAX = 1024 * 1024
encode = msgspec.json.encode

JSON = b"application/json"
WHOLE_ANSWER = "samvad.response"  # the extension of ASGI in `whole_answers`
Headers = list[tuple[bytes, bytes]]


class Disconnected(Exception):
    """The client went away before its request was complete; there is nobody to answer."""


class Reply(NamedTuple):
    """An answer: status, body, media type and further headers; `security` are those that hold browsers back."""

    body: bytes
    status: int = 200
    media_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    security: browsers.Headers = browsers.DATA

    def described(self) -> browsers.Headers:
        """The headers that describe the body, where there is one."""
        if self.status in (204, 304):
            return ()
        return (b"content-type", self.media_type), (b"content-length", str(len(self.body)).encode())


class Call:
    """One request. `params` are the path's parameters in order; `service` acts for who is asking, and for nobody else.

    A handler gets at data through `service` and `knowledge` only, which both ask for whom.
    """

    __slots__ = (
        "_body",
        "_hash",
        "_receive",
        "_samvad",
        "auth",
        "identity",
        "params",
        "path",
        "scope",
        "service",
        "users",
    )

    def __init__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        path: bytes,
        params: list[str],
        samvad: Samvad,
        identity: Identity,
        auth: Authenticator,
    ) -> None:
        self.scope = scope
        self.path = path
        self.params = params
        self._samvad = samvad
        self.identity = identity
        self.auth = auth
        self.service: SessionPersistenceService = samvad.acting_as(identity.principal)
        self._receive = receive
        self._body: bytes | bytearray | None = None
        self._hash: bytes | None = None
        self.users: set[str] = set()  # whose data it writes, for the audit log

    @property
    def tenant(self) -> str:
        """The tenant of who is asking."""
        return self.identity.principal.tenant

    @property
    def knowledge(self) -> KnowledgeBase:
        """The knowledge base, for who is asking."""
        return self._samvad.knowledge.acting_as(self.identity.principal)

    @property
    def interruptions(self) -> InterruptionContextManager:
        """The interruptions in memory; whose session it is, the service is asked first. Say `tenant`."""
        return self._samvad.interruptions

    @property
    def records_interruptions(self) -> bool:
        """Whether interruptions are kept in the store as well."""
        return self._samvad.options.record_interruptions

    @property
    def feed(self) -> Feed:
        """The logs of users, as they grow; whose it is, the service is asked first. Say the tenant."""
        return self._samvad.feed

    def erasure_signer(self) -> ErasureSigner:
        """Who signs receipts of erasings, its key at hand. SetupError where that key cannot be read."""
        signer = self._signer()
        _ = signer.public_key
        return signer

    def _signer(self) -> ErasureSigner:
        from samvad.auth.erasure_receipts import ErasureSigner

        samvad = self._samvad
        if samvad.erasure_signer is None:  # no place to keep a key: one for as long as the process lives
            samvad.erasure_signer = ErasureSigner(None)
        return samvad.erasure_signer

    def erasure_receipt(self, user: UserKey, cleared: Cleared) -> dict[str, Any]:
        """The signed receipt of an erasing."""
        from samvad.auth.erasure_receipts import places_of
        from samvad.knowledge.opening import has_documents

        samvad = self._samvad
        places = places_of(
            samvad.store, has_documents=samvad.knowledge_is_open or has_documents(samvad.store)
        )
        at_ms = cleared.at_ms or samvad.core.clock.now_ms()  # asked again, it is about the erasing of then
        return self.erasure_signer().sign(user, cleared, places, at_ms)

    def archive(self, user: UserKey) -> UserArchive:
        """The archive of a user; whether who is asking may have it, the service is asked first."""
        from samvad.archive.making import UserArchive

        return UserArchive(self._samvad, user, signer=self._signer())

    @property
    def cost(self) -> CostMeter:
        """What the store bills."""
        return self._samvad.cost

    def header(self, name: bytes) -> str | None:
        """A request header by its lower-case name; values of a repeated one are joined with commas."""
        values = [value for key, value in self.scope["headers"] if key == name]
        if not values:
            return None
        return b",".join(values).decode("latin-1")

    def query(self, *known: str) -> dict[str, str]:
        """The query's parameters; InvalidRequest if one is not known or stands there twice."""
        raw: bytes = self.scope.get("query_string", b"")
        if not raw:
            return {}
        try:
            pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=32)
        except ValueError:
            raise InvalidRequest("The query of the URL is not well formed.") from None
        found: dict[str, str] = {}
        for name, value in pairs:
            if name not in known:
                raise InvalidRequest(
                    f"Unknown query parameter {name!r}; there are: {', '.join(known) or 'none'}."
                )
            if name in found:
                raise InvalidRequest(f"The query parameter {name!r} is given twice.")
            found[name] = value
        return found

    def query_int(self, found: dict[str, str], name: str, low: int, high: int) -> int | None:
        """A whole number among the query's parameters, within its bounds."""
        value = found.get(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdigit() and len(value) < 20 and low <= int(value) <= high):
            raise InvalidRequest(f"{name} must be a whole number from {low} to {high}.")
        return int(value)

    async def body(self, bytes_max: int = limits.BODY_BYTES_MAX) -> bytes | bytearray:
        """The whole body; TooLarge past the bound."""
        if self._body is not None:
            return self._body
        message = await self._receive()
        body: bytes | bytearray = message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise Disconnected
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        if message.get("more_body"):
            # A large body grows in place: joining its pieces in the end would hold up everybody else.
            large = bytearray(body) if bytes_max > limits.BODY_BYTES_MAX else None
            chunks, size = [body], len(body)
            while message.get("more_body"):
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > bytes_max:
                    raise _too_large(bytes_max)
                if large is None:
                    chunks.append(chunk)
                else:
                    large += chunk
            body = b"".join(chunks) if large is None else large
        self._body = body
        return body

    def length(self, bytes_max: int = limits.BODY_BYTES_MAX) -> int:
        """How long the body is, as far as its head tells (`bytes_max` if it does not); what it is not is refused."""
        length = bytes_max
        for name, value in self.scope["headers"]:
            if name == b"content-type":
                if value != JSON:
                    _check_media_type(value)
            elif name == b"content-encoding" or (name == b"transfer-encoding" and value != b"chunked"):
                _check_coding(value)
            elif name == b"content-length":
                if len(value) > 6:
                    if not value.isdigit():
                        raise InvalidRequest("Content-Length must be a whole number of bytes.")
                    if len(value) > 15 or int(value) > bytes_max:
                        raise _too_large(bytes_max)
                    length = int(value)
                elif value.isdigit():
                    length = int(value)
        return length

    async def object(self, bytes_max: int = limits.SMALL_BODY_BYTES_MAX) -> dict[str, Any]:
        """The body as a JSON object."""
        self.length(bytes_max)
        body = await self.body(bytes_max)
        if len(body) > limits.SMALL_BODY_BYTES_MAX:
            _check_parts(body)
        value = _value(body, _json)
        if not isinstance(value, dict):
            raise InvalidRequest("The body must be a JSON object.")
        return value

    async def members(self, bytes_max: int, *names: str) -> dict[str, msgspec.Raw]:
        """These members of the body, a JSON object, left encoded: of a large one, no second copy is made."""
        self.length(bytes_max)
        body = await self.body(bytes_max)
        found = _value(body, _only(names))
        values = [(name, getattr(found, name)) for name in names]
        return {name: value for name, value in values if memoryview(value).nbytes}

    async def once(
        self,
        user_id: Any,
        answer_type: type[_T],
        act: Callable[[ReceiptKey | None], Awaitable[_T]],
        part: str = "",
        *,
        keep: bool = False,
    ) -> _T:
        """Run `act`, or with an Idempotency-Key that was used before give the answer of then.

        `act` keeps its answer in the write that it makes; with `keep` it makes none that could, and its
        answer is kept afterwards.
        """
        if isinstance(user_id, str):
            self.users.add(user_id)
        key = self.header(b"idempotency-key")
        if key is None:
            return await act(None)
        receipts = self.service.core.receipts
        tenant, user, _, _ = self.service.principal
        name = receipts.key(tenant, user or "", key, part)
        request = await self._hashed()
        owner = UserKey(tenant, user_id if isinstance(user_id, str) else "")
        bound = not keep and user in (None, user_id) and _is_id(user_id)

        async def act_and_keep(receipt: ReceiptKey) -> _T:
            answer = await act(receipt)
            in_store = await may_keep(self.service.core, tenant, owner.user_id or None)
            await receipts.keep(owner, receipt, answer, in_store=in_store)
            return answer

        acting = act_and_keep if keep else act
        return await receipts.once(
            owner, name, with_key(key, request), answer_type, acting, bound=bound, earlier=request
        )

    async def _hashed(self) -> bytes:
        """A SHA-256 over what makes the request the same request; made once for all parts of a batch, kept nowhere."""
        if self._hash is None:
            digest = hashlib.sha256(self.scope["method"].encode() + b"\0" + self.path + b"\0")
            digest.update(self.scope.get("query_string", b"") + b"\0")
            body = await self.body()
            if len(body) > _HASHED_AT_ONCE_BYTES_MAX:
                await asyncio.to_thread(digest.update, body)
            else:
                digest.update(body)
            self._hash = digest.digest()
        return self._hash


def _is_id(user_id: Any) -> bool:
    try:
        check_id(user_id, "userId")
    except InvalidRequest:
        return False
    return True


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"The body may take {bytes_max} bytes at most.")


def _value(body: bytes | bytearray, decoder: msgspec.json.Decoder[Any]) -> Any:
    """What a body holds; InvalidJson where that is no JSON, InvalidRequest where it is no object."""
    if not body:
        raise InvalidJson("The request needs a JSON object as its body.")
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if decoder is not _json and isinstance(error, msgspec.ValidationError):
            raise InvalidRequest("The body must be a JSON object.") from None
        raise InvalidJson(f"The body is not valid JSON: {_safe(error)}.") from None


@lru_cache(maxsize=16)
def _only(names: Sequence[str]) -> msgspec.json.Decoder[Any]:
    """A decoder of these members alone: nothing is made of others, of which a body has room for millions."""
    fields = [(name, msgspec.Raw, msgspec.Raw(b"")) for name in names]
    return msgspec.json.Decoder(msgspec.defstruct("Members", fields))


def _check_parts(body: bytes | bytearray) -> None:
    """TooLarge for a body of so many objects, lists and members that making them would hold up everybody else."""
    most = limits.BODY_PARTS_MAX
    if _parts(body) > most and _parts(_STRINGS.sub(b"", body)) > most:
        raise TooLarge(f"The body may hold {most} objects, lists and members; send less at once.")


def _parts(text: bytes | bytearray) -> int:
    return text.count(b"[") + text.count(b"{") + text.count(b":")


def _check_media_type(value: bytes) -> None:
    media_type = value.split(b";", 1)[0].strip().lower()
    if media_type != JSON and not (media_type.startswith(b"application/") and media_type.endswith(b"+json")):
        raise UnsupportedMediaType


def _check_coding(value: bytes) -> None:
    """Nothing is unpacked: a small body that becomes a huge one would be anybody's to send."""
    if value.strip().lower() not in (b"", b"identity", b"chunked"):
        raise UnsupportedMediaType(
            "The body must come as it is: send it without compression and without Content-Encoding.",
            coding=True,
        )


def _safe(error: BaseException) -> str:
    """A decoder's message, without what the caller sent."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    return str(error).split(":", 1)[0]
