"""A fake Gemini Live server, for tests of what talks to Gemini through Google's own client.

    async with FakeGeminiLive() as fake:
        fake.reply(Heard("what documents do I need"), Say("Your passport and a photograph."))
        client = genai.Client(api_key="x", http_options=fake.http_options())
        ...

It speaks TLS, in both modes of the client (API key and Vertex AI), and keeps what a real one keeps: a memory for
each conversation, handles by which it goes on, one connection a conversation. Without a script it answers
"You said: …". It is no model, and shows nothing of what a model would say.
"""

from samvad.testing.gemini.connection import Connection
from samvad.testing.gemini.script import (
    Abort,
    CallTool,
    CancelCalls,
    Close,
    Frame,
    GoAway,
    Heard,
    Interrupt,
    Pause,
    Say,
    Step,
    Until,
    Usage,
    UserTurn,
    Wait,
)
from samvad.testing.gemini.server import FakeGeminiLive

__all__ = [
    "Abort",
    "CallTool",
    "CancelCalls",
    "Close",
    "Connection",
    "FakeGeminiLive",
    "Frame",
    "GoAway",
    "Heard",
    "Interrupt",
    "Pause",
    "Say",
    "Step",
    "Until",
    "Usage",
    "UserTurn",
    "Wait",
]
