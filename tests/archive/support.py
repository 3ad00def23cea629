"""A user with something of everything, and archives taken apart."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from samvad import Samvad
from samvad.archive.making import UserArchive
from samvad.auth.erasure_receipts import ErasureSigner
from samvad.records import UserKey
from samvad.types import trusted
from tests.http.support import Api, encoded

CANARY = "canary9b2e"  # in everything of the others
LONG = "क" * 21_845  # 64 KiB of UTF-8, but for a byte
ASHA = "asha"


async def populate(
    samvad: Samvad, user: str = ASHA, tenant: str = "default", mark: str = "", documents: bool = True
) -> None:
    """Everything that a user can have; `mark` is in all of it, and in all ids."""
    service = samvad.acting_as(trusted(tenant))
    await service.save_user_state(user, {"city": f"पुणे{mark}", "n": [1, 2.0, None, 10**30], "é\u2028": {}})
    await service.save_user_state(user, {"step": 2})
    await service.save_user_profile(user, {"language": "hi", "mark": mark})
    for name in ("phone", "old"):
        await service.save_session(f"{name}{mark}", user, language="hi", colour=mark, metadata={"os": "a"})
    await service.end_session(f"old{mark}")
    await service.record_interruption(f"old{mark}", f"i{mark}", 1_700_000_000_123, b'{"id":"i","x":1}')
    said: list[dict[str, Any]] = [
        {
            "role": "user",
            "content": f"नमस्ते {mark} *b* <b>\n# h\n```\n\u202eשלום",
            "sessionId": f"phone{mark}",
        },
        {"role": "assistant", "content": "Good", "interrupted": True, "unheardText": " morning", "x": [1.50]},
        {
            "role": "assistant",
            "content": "c",
            "toolCalls": [{"id": "c", "name": "n", "arguments": {"a": "``"}}],
        },
        {"role": "tool", "content": "r", "toolCallId": "c", "id": f"given{mark}"},
        {"role": "user", "content": LONG, "name": "A", "metadata": {"deep": {"n": 1e-7}}},
    ]
    await service.append_many(user, said)
    if not documents:
        return
    knowledge = samvad.knowledge.acting_as(trusted(tenant))
    text = f"# Loans {mark}\n\nA <script> of mine.\n\n## More\n\n[x](http://y)"
    await knowledge.add_text(f"Note *{mark}*", text, type="markdown", id=f"kb_{user}{mark}", user_id=user)


async def answers(api: Api, user: str = ASHA, sessions: tuple[str, ...] = ("phone", "old")) -> list[Any]:
    """What the API says of a user, byte for byte."""
    path = f"/api/session/{encoded(user)}"
    found = [
        (await api.get(f"{path}/{what}")).body for what in ("profile", "history?limit=1000".partition("?")[0])
    ]
    state = json.loads((await api.get(f"{path}/state")).body)["state"]
    state.pop("isActive")  # that depends on what time it is
    found.append(json.dumps(state).encode())
    for name in sessions:
        session = json.loads((await api.get(f"/api/session/{name}")).body)["session"]
        session.pop("isActive")
        found.append(json.dumps(session).encode())
    found += [
        repr(await api.samvad.store.interruptions("default", name, 10)).encode() for name in sorted(sessions)
    ]
    page = await api.get("/api/knowledge/list", query=f"userId={encoded(user)}")
    found.append(page.body)
    return found


async def archive(
    samvad: Samvad, user: str = ASHA, tenant: str = "default", signer: ErasureSigner | None = None
) -> bytes:
    """The archive of a user."""
    made = UserArchive(samvad, UserKey(tenant, user), signer=signer)
    await made.begin()
    return b"".join([piece async for piece in made.pieces()])


def members(data: bytes | Path) -> dict[str, bytes]:
    """The members of an archive, in order."""
    with zipfile.ZipFile(io.BytesIO(data) if isinstance(data, bytes) else data) as opened:
        assert opened.testzip() is None
        return {info.filename: opened.read(info) for info in opened.infolist()}


def packed(
    found: dict[str, bytes], *, counts: dict[str, int] | None = None, keep: bool = False, **changes: Any
) -> bytes:
    """An archive of these members; its manifest is made right for them, unless `keep`."""
    manifest = json.loads(found["manifest.json"])
    if not keep:
        manifest["members"] = [
            {"name": name, "bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
            for name, body in found.items()
            if name not in ("manifest.json", "signature.json")
        ]
    manifest["counts"] |= counts or {}
    manifest |= changes
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, body in found.items():
            made.writestr(name, json.dumps(manifest) if name == "manifest.json" else body)
    return out.getvalue()
