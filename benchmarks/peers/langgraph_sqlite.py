"""langgraph's ``AsyncSqliteSaver``: a session is a thread, its history the ``messages`` channel of a checkpoint.

What a graph with ``MessagesState`` writes in a turn is one checkpoint at its start and one after each node,
with the intermediate writes besides. Here a pair is one ``aput`` of one checkpoint that holds the messages so
far and the two new ones: the least that keeps a turn, and the kindest reading. The messages are kept in memory
between turns, so that an append does not load first (a graph does).

A checkpoint holds the whole history. With ``window`` the list is cut to that many messages, as the documents
advise for long conversations; without, it grows, as ``add_messages`` lets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from benchmarks.peers.engine import WINDOW, Engine, Message


class LanggraphSqlite(Engine):
    """A pair is one ``aput``, a load is one ``aget_tuple``."""

    distribution = "langgraph-checkpoint-sqlite"
    note = (
        "a pair is one `aput` of the `messages` channel, kept in memory between turns (a graph writes two or "
        "more checkpoints a turn and loads before); in the first tables the channel is cut to 100 messages"
    )

    async def open(self, path: Path) -> None:
        """Open the one connection that the saver shares among its callers."""
        self._stack = AsyncExitStack()
        self._saver = await self._stack.enter_async_context(AsyncSqliteSaver.from_conn_string(str(path)))
        self._messages: dict[str, list[BaseMessage]] = {}
        self._configs: dict[str, RunnableConfig] = {}
        self._serial = 0

    async def _put(self, session_id: str, new: Sequence[Message]) -> None:
        messages = self._messages.get(session_id)
        if messages is None:
            messages = await self.load(session_id)
        messages = [*messages, *(self._message(role, text) for role, text in new)]
        if self.window is not None:
            messages = messages[-self.window :]
        config = self._configs.get(session_id) or {
            "configurable": {"thread_id": session_id, "checkpoint_ns": ""}
        }
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"messages": messages}
        checkpoint["channel_versions"] = {"messages": f"{len(messages):032}.0"}
        self._configs[session_id] = await self._saver.aput(
            config, checkpoint, {"source": "loop", "step": 1}, {}
        )
        self._messages[session_id] = messages

    def _message(self, role: str, text: str) -> BaseMessage:
        self._serial += 1
        kind = HumanMessage if role == "user" else AIMessage
        return kind(content=text, id=f"message-{self._serial}")

    async def append_pair(self, session_id: str, user_text: str, assistant_text: str) -> None:
        """Put a checkpoint with the two messages at the end of its history."""
        await self._put(session_id, (("user", user_text), ("assistant", assistant_text)))

    async def load(self, session_id: str) -> Any:
        """Give the last messages of the newest checkpoint, as langchain message objects."""
        found = await self._saver.aget_tuple({"configurable": {"thread_id": session_id, "checkpoint_ns": ""}})
        return found.checkpoint["channel_values"]["messages"][-WINDOW:] if found is not None else []

    async def fill(self, session_id: str, messages: Sequence[Message]) -> None:
        """Put one checkpoint that holds them all."""
        await self._put(session_id, messages)

    def texts(self, loaded: Any) -> list[str]:
        """Read ``content``."""
        return [message.content for message in loaded]

    async def close(self) -> None:
        """Close the connection."""
        await self._stack.aclose()


ENGINE = LanggraphSqlite
