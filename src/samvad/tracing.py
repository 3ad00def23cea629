"""Traces with OpenTelemetry, where somebody has asked for them; where nobody has, nothing is imported.

`use` turns them on for this process, with a TracerProvider; `adopt` does so where the application that embeds Samvad
has set its own. Spans never hold what was said: no text, no title, no text of an exception. Users and conversations
stand under the keyed hash that the logs use.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar

from samvad.errors import SamvadError
from samvad.logs import user_hash

if TYPE_CHECKING:
    from opentelemetry.trace import Link, Span, SpanContext, TracerProvider

_T = TypeVar("_T")
NAME: Final = "samvad"
LINKS_MAX: Final = 128  # of one span; more than the SDK keeps by default would be dropped in silence
_OFF: Final[contextlib.AbstractContextManager[Any]] = contextlib.nullcontext()

tracer: Any = None
"""What makes spans; None while traces are off. Look at it before anything that costs."""

_listeners: list[Callable[[], None]] = []


def when_used(listener: Callable[[], None]) -> None:
    """Call this when traces are turned on: for spans that are not worth a look at `tracer` each time."""
    _listeners.append(listener)
    if tracer is not None:
        listener()


def use(provider: TracerProvider) -> None:
    """Make spans with this provider from now on."""
    global tracer
    first = tracer is None
    tracer = provider.get_tracer(NAME)
    if first:
        for listener in _listeners:
            listener()


def stop() -> None:
    """Make no more spans."""
    global tracer
    tracer = None


def adopt() -> None:
    """Make spans where the application around us has a TracerProvider of its own. Imports nothing."""
    loaded = sys.modules.get("opentelemetry.trace")
    if tracer is not None or loaded is None:
        return
    provider = loaded.get_tracer_provider()
    if not isinstance(provider, loaded.ProxyTracerProvider | loaded.NoOpTracerProvider):
        use(provider)


# --- names -------------------------------------------------------------------------------------------------


def user_attributes(tenant: str, user_id: str) -> dict[str, str]:
    """Who it is about, as OpenTelemetry names a pseudonym."""
    return {"enduser.pseudo.id": user_hash(tenant, user_id)}


def conversation_hash(tenant: str, session_id: str) -> str:
    """What a session is called: its id may be the user's name, or hold it."""
    return "s" + user_hash(tenant, f"session\0{session_id}")[1:]


def fault(error: BaseException) -> str:
    """An error as `error.type`: a code, or the name of a type; never what it says."""
    return error.code if isinstance(error, SamvadError) else type(error).__qualname__


# --- spans -------------------------------------------------------------------------------------------------


def begin(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    kind: str = "INTERNAL",
    links: Iterable[Link] = (),
    context: Any = None,
) -> Span:
    """A span that somebody ends (`finish`); below what is under way, or below `context`. Traces must be on."""
    from opentelemetry.trace import SpanKind

    span: Span = tracer.start_span(
        name,
        context=context,
        kind=SpanKind[kind],
        attributes=dict(attributes or {}),
        links=tuple(links)[:LINKS_MAX],
        record_exception=False,
        set_status_on_exception=False,
    )
    return span


def finish(span: Span, error: BaseException | str | None = None) -> None:
    """The end of a span; an error as the error, or as its type. Ending it twice is fine."""
    if error is not None and span.is_recording():
        from opentelemetry.trace import Status, StatusCode

        span.set_attribute("error.type", error if isinstance(error, str) else fault(error))
        span.set_status(Status(StatusCode.ERROR))
    span.end()


@contextlib.contextmanager
def _spanning(span: Span) -> Iterator[Span]:
    from opentelemetry.trace import use_span

    error: BaseException | None = None
    try:
        with use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            yield span
    except BaseException as raised:
        error = raised
        raise
    finally:
        finish(span, error)


def spanning(
    name: str,
    attributes: Mapping[str, Any] | None = None,
    *,
    kind: str = "INTERNAL",
    links: Iterable[Link] = (),
    context: Any = None,
) -> contextlib.AbstractContextManager[Any]:
    """A span around a `with`; it gives the span, or None where traces are off."""
    if tracer is None:
        return _OFF
    return _spanning(begin(name, attributes, kind=kind, links=links, context=context))


def nothing() -> Any:
    """The context of no span at all: what begins here is a trace of its own."""
    from opentelemetry.context import Context

    return Context()


def below(span: Span) -> Any:
    """The context of a span, for those that begin below it."""
    from opentelemetry.trace import set_span_in_context

    return set_span_in_context(span)


def here() -> SpanContext | None:
    """The span that is under way, for links and log lines."""
    if tracer is None:
        return None
    from opentelemetry.trace import get_current_span

    found = get_current_span().get_span_context()
    return found if found.is_valid else None


def links_to(found: Iterable[SpanContext | None]) -> list[Link]:
    """A link to each of these spans, each once."""
    from opentelemetry.trace import Link

    once = {(each.trace_id, each.span_id): each for each in found if each is not None}
    return [Link(each) for each in once.values()]


def under(span: Span) -> contextlib.AbstractContextManager[Any]:
    """A span under way within a `with`, which does not end it."""
    from opentelemetry.trace import use_span

    return use_span(span, end_on_exit=False, record_exception=False, set_status_on_exception=False)


def timed(
    name: str,
    done: Callable[[_T], None],
    attributes: Mapping[str, Any] | None = None,
    *,
    kind: str = "INTERNAL",
) -> Callable[[_T], None]:
    """A callback that ends a span which begins now, and goes on where this was called, not where it is called."""
    if tracer is None:
        return done
    span = begin(name, attributes, kind=kind)
    now = copy_context()

    def ended(result: _T) -> None:
        finish(span, result if isinstance(result, BaseException) else None)
        now.run(done, result)

    return ended


def wrap(owner: type, names: Iterable[str], name: str, attributes: Callable[..., Mapping[str, Any]]) -> None:
    """Put a span around coroutine methods of a class, for as long as traces are on; `attributes` of its arguments.

    Done when traces are turned on, so that a process without them does not even look.
    """
    for each in names:
        method = getattr(owner, each)
        if not hasattr(method, "__samvad_traced__"):
            setattr(owner, each, _wrapped(method, f"{name} {each}", attributes))


def _wrapped(method: Any, name: str, attributes: Callable[..., Mapping[str, Any]]) -> Any:
    from functools import wraps

    @wraps(method)
    async def traced(self: Any, *args: Any, **kwargs: Any) -> Any:
        if tracer is None:
            return await method(self, *args, **kwargs)
        with spanning(name, attributes(self, *args, **kwargs)):
            return await method(self, *args, **kwargs)

    traced.__samvad_traced__ = True  # type: ignore[attr-defined]
    return traced


# --- HTTP --------------------------------------------------------------------------------------------------


def parent_of(headers: Iterable[tuple[bytes, bytes]]) -> Any:
    """The context that a request brings (W3C traceparent and tracestate); None where a span is under way already."""
    from opentelemetry.trace import get_current_span
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if get_current_span().get_span_context().is_valid:
        return None  # of a framework around us, which has taken it from the same headers
    told = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name in _CARRIED}
    return TraceContextTextMapPropagator().extract(told, nothing())


_CARRIED: Final = frozenset({b"traceparent", b"tracestate"})
