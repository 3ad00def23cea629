"""`README.md` of an archive: what it is, for the person whose data it holds."""

from __future__ import annotations

from samvad.archive.form import Manifest
from samvad.archive.markdown import inline, line

_TEXT = """# Everything that is kept about {user}

This archive was made on {day} at {clock} (UTC) by Samvad, the service that keeps conversations for an assistant. It
holds all that is kept about you there, in files that people can read (`.md`, plain text) and in files that programs
can read (`.json`, `.jsonl`), so that you can look at it (GDPR, article 15) and take it elsewhere (article 20).

| file | how many | what is in it |
|---|---|---|
| `conversation.md` | {messages} | what was said, to be read, by day and session |
| `history.jsonl` | {messages} | the same messages with every field, one on each line |
| `user.json` | | what the assistant notes about you (state), your preferences, and since when |
| `sessions.json` | {sessions} | your sessions, with {interruptions} places at which the assistant was cut off |
| `documents/` | {documents} | documents that were added to the knowledge base for you alone |
| `questions.json` | | what was counted of your searches, and questions that found nothing |
| `audit.jsonl` | {audit} | what the log of who did what with the data says of you |
| `manifest.json` | | how much there is, and a checksum (SHA-256) of each file |
{signature}
Names of others are not in the audit entries: where another person did something, it says so and not who.
{missing}
## What else is kept, without being in this archive

{kept}
Copies that the operator keeps elsewhere (backups, logs of other programs) are not known to Samvad: ask the operator.

## What you can do with it

- Check that a file is as it was made: `sha256sum conversation.md`, and compare with `manifest.json`.
- Take it to another Samvad: `samvad user import FILE.zip`.
- Ask the operator to correct it, or to erase it (articles 16 and 17). An erasing can be proven with a signed receipt.

Keep this file where only you can read it: it is not encrypted.
"""


_SIGNATURE = "| `signature.json` | | which server made this (Ed25519): no change of it goes unseen |\n"


def readme(manifest: Manifest, *, signed: bool) -> bytes:
    """The page; `signed`: there will be a signature beside it."""
    counts = manifest.counts
    day, _, clock = manifest.exported_at.partition("T")
    missing = ""
    if manifest.missing:
        items = "\n".join(f"- {line(each)}" for each in manifest.missing)
        missing = (
            f"\n**Not in here**, because it could not be looked into from where this was made:\n\n{items}\n"
        )
    return _TEXT.format(
        user=inline(manifest.user_id),
        day=day,
        clock=clock[:5],
        messages=f"{counts.messages:,}",
        sessions=f"{counts.sessions:,}",
        interruptions=f"{counts.interruptions:,}",
        documents=f"{counts.documents:,}",
        audit=f"{counts.audit_entries:,}",
        missing=missing,
        signature=_SIGNATURE if signed else "",
        kept="".join(f"- {line(k.what)}: {line(k.where)}, {line(k.until)}.\n" for k in manifest.also_kept),
    ).encode()
