"""What `samvad doctor` says of a Firestore database: each trouble told apart, with the command that mends it.

What Google answers is judged by gRPC's status and the reason of its ErrorInfo where there is one, and else by the
sentence: a database in Datastore mode, a missing index and one that is being built share a status.
https://cloud.google.com/apis/design/errors, https://cloud.google.com/firestore/docs/understand-error-codes
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from samvad.cli.checks import Finding

if TYPE_CHECKING:
    from samvad.stores.firestore_examination import Seen, Trouble
    from samvad.stores.firestore_indexes import Index

DEFAULT_DATABASE: Final = "(default)"
_ROLE: Final = "roles/datastore.user"
_LOGIN: Final = (
    "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to the file of a "
    "service account."
)


class Place(NamedTuple):
    """Which database is looked at, as it is configured. `location` is where the server runs (may be empty)."""

    project: str
    database: str = DEFAULT_DATABASE
    emulator_host: str | None = None
    location: str = ""
    account: str = ""

    def gcloud(self, command: str) -> str:
        """A command of gcloud's for this project, to be pasted."""
        return f"`gcloud {command} --project={shlex.quote(self.project)}`"

    @property
    def named(self) -> str:
        """The flag that names the database; empty for the default one, which gcloud takes by itself."""
        return "" if self.database == DEFAULT_DATABASE else f" --database={shlex.quote(self.database)}"


def findings(place: Place, *, address: str | None = None) -> list[Finding]:
    """Look at the database, and say what was found. `address` stands in for Google's (or the emulator's) in tests."""
    return asyncio.run(_look(place, address or place.emulator_host))


async def _look(place: Place, address: str | None) -> list[Finding]:
    from samvad.stores.firestore_examination import examine

    found = list(_emulator(place))
    missing: list[Index] = []
    async for seen in examine(place.project, place.database, emulator_host=address):
        place = place._replace(account=seen.account or place.account)
        if seen.look == "index" and seen.trouble is not None and _lacks_index(seen.trouble):
            if seen.wanted is not None:
                missing.append(seen.wanted)
            found.append(_index(place, seen))
        elif seen.look != "index" or seen.trouble is not None:
            found.append(tell(place, seen))
            if seen.look == "index":
                break  # what keeps one query from being answered keeps the others too
    else:
        if not missing and any(finding.subject == "read" and finding.level == "ok" for finding in found):
            told = "every query is answered"
            if place.emulator_host:
                told += " (the emulator asks for no index)"
            found.append(Finding("ok", "indexes", told))
    if len(missing) > 1:
        todo = f"All at once, from this repository: `firebase deploy --only firestore --project {place.project}`."
        found.append(Finding("warn", "indexes", f"{len(missing)} are missing", todo))
    return found


def _emulator(place: Place) -> Iterator[Finding]:
    name = f"projects/{place.project}/databases/{place.database}"
    if place.emulator_host is None:
        yield Finding("ok", "database", name)
        return
    todo = "It keeps nothing: unset FIRESTORE_EMULATOR_HOST to use Google's Firestore."
    yield Finding("warn", "database", f"{name} in the emulator at {place.emulator_host}", todo, True)


def tell(place: Place, seen: Seen) -> Finding:
    """One look as a line of the doctor's table."""
    if seen.trouble is None:
        return _well(place, seen)
    if seen.look == "index" and _lacks_index(seen.trouble):
        return _index(place, seen)
    if seen.look == "database":
        return _unknown_database(place, seen.trouble)
    found, todo = _judge(place, seen, seen.trouble)
    return Finding("fail", "index" if seen.look == "index" else seen.look, found, todo)


def _well(place: Place, seen: Seen) -> Finding:
    if seen.look == "credentials":
        if place.emulator_host:
            return Finding("ok", "credentials", "none are needed")
        return Finding("ok", "credentials", f"of {seen.account}" if seen.account else "found")
    if seen.look == "database":
        return _region(place, seen)
    return Finding("ok", seen.look, {"read": "allowed", "write": "allowed"}.get(seen.look, "there"))


def _region(place: Place, seen: Seen) -> Finding:
    if not seen.native:
        return Finding("fail", "mode", "Datastore mode", _native(place))
    far = place.location and not _near(place.location, seen.location)
    if far:
        todo = (
            f"Each call crosses from {place.location} to {seen.location}: run the server there, or make a database "
            "here: " + place.gcloud(f"firestore databases create --database=NAME --location={place.location}")
        )
        return Finding("warn", "region", f"{seen.location}, the server is in {place.location}", todo, True)
    return Finding("ok", "region", seen.location or "not told")


def _near(server: str, database: str) -> bool:
    """Whether a server's region is the database's, or one of its multi-region.

    https://firebase.google.com/docs/firestore/locations
    """
    server = server.lower()
    if database in ("nam5", "nam7"):
        return server.startswith("us-central")
    if database == "eur3":
        return server in ("europe-west1", "europe-west4")
    return server == database.lower()


def _unknown_database(place: Place, trouble: Trouble) -> Finding:
    if place.emulator_host or trouble.status == "UNIMPLEMENTED":
        return Finding("ok", "region", "not known: the emulator has none")
    return Finding("ok", "region", f"not known ({trouble.status}: it takes datastore.databases.getMetadata)")


# --- what Google answers -----------------------------------------------------------------------------------


def _lacks_index(trouble: Trouble) -> bool:
    return (
        trouble.status == "FAILED_PRECONDITION"
        and "requires a" in trouble.message
        and "index" in (trouble.message.lower())
    )


def _index(place: Place, seen: Seen) -> Finding:
    assert seen.wanted is not None and seen.trouble is not None
    name = seen.wanted.name
    if "currently building" in seen.trouble.message:
        todo = "Wait until it is built: " + place.gcloud(f"firestore indexes composite list{place.named}")
        return Finding("fail", "index", f"{name} is being built", todo)
    fields = " ".join(
        f"--field-config=field-path={field},order={order.lower()}" for field, order in seen.wanted.fields
    )
    create = f"firestore indexes composite create --collection-group={seen.wanted.collection} {fields}{place.named}"
    return Finding("fail", "index", f"{name} is missing", place.gcloud(create))


def _native(place: Place) -> str:
    update = f"firestore databases update{place.named or ' --database=' + shlex.quote(DEFAULT_DATABASE)}"
    return (
        f"An empty one can be changed: {place.gcloud(update + ' --type=firestore-native')}. Else name another "
        "database in the store's URL, firestore://PROJECT/DATABASE."
    )


def _judge(place: Place, seen: Seen, trouble: Trouble) -> tuple[str, str]:
    """What is wrong, and what to do."""
    status, text = trouble.status, trouble.message
    if status == "NO_CREDENTIALS":
        return "there are none", _LOGIN
    if status == "UNAUTHENTICATED" or "Getting metadata from plugin failed" in text:
        return f"these are refused ({_first(text)})", f"They have expired or were revoked. {_LOGIN}"
    if status in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return _unreachable(place, trouble)
    if status == "NOT_FOUND":
        found = f"there is no database {place.database} in the project {place.project}"
        create = f"firestore databases create --location=REGION{place.named}"
        todo = (
            f"See which there are: {place.gcloud('firestore databases list')}, and name one in the store's URL; or "
            f"make this one: {place.gcloud(create)}"
        )
        return found, todo
    if status == "PERMISSION_DENIED":
        return _denied(place, seen, trouble)
    if status == "FAILED_PRECONDITION" and "Datastore Mode" in text:
        return f"the database {place.database} is in Datastore mode", _native(place)
    if status == "RESOURCE_EXHAUSTED":
        todo = (
            "The quota is used up: look at it in the console under IAM > Quotas, or wait; without billing it is "
            "50,000 reads and 20,000 writes a day."
        )
        return _first(text) or "quota exceeded", todo
    if status == "INVALID_ARGUMENT":
        todo = "Check the project and the database in the store's URL: firestore://PROJECT_ID[/DATABASE]."
        return f"this is not a name that Firestore takes ({_first(text)})", todo
    return (
        f"{status}: {_first(text)}",
        "Look this up at https://cloud.google.com/firestore/docs/understand-error-codes",
    )


def _unreachable(place: Place, trouble: Trouble) -> tuple[str, str]:
    late = trouble.status == "DEADLINE_EXCEEDED"
    why = "no answer in time" if late else _first(trouble.message)
    if place.emulator_host:
        todo = (
            f"Start it: `gcloud emulators firestore start --host-port={place.emulator_host}`, or unset "
            "FIRESTORE_EMULATOR_HOST to use Google's Firestore."
        )
        return f"the emulator at {place.emulator_host} cannot be reached ({why})", todo
    todo = "firestore.googleapis.com, port 443, must be reachable from here: look at DNS, firewall and proxy."
    return f"Firestore cannot be reached ({why})", todo


def _denied(place: Place, seen: Seen, trouble: Trouble) -> tuple[str, str]:
    reason, text = trouble.reason, trouble.message
    if reason == "SERVICE_DISABLED" or "has not been used in project" in text:
        return "the Firestore API is not enabled", place.gcloud("services enable firestore.googleapis.com")
    if reason == "BILLING_DISABLED":
        todo = place.gcloud(
            "billing projects link " + shlex.quote(place.project) + " --billing-account=ACCOUNT"
        )
        return f"the project {place.project} has no billing", todo
    if reason == "USER_PROJECT_DENIED":
        todo = "`gcloud auth application-default set-quota-project " + shlex.quote(place.project) + "`"
        return "these credentials may not use their quota project", todo
    if reason == "CONSUMER_INVALID" or "Permission denied on resource project" in text:
        todo = "Check the project's id in the store's URL: `gcloud projects list` shows those you may see."
        return f"there is no project {place.project}, or these credentials may not see it", todo
    if reason == "SECURITY_POLICY_VIOLATED":
        todo = "Run the server inside the service perimeter, or have the perimeter's owner let it in."
        return "a VPC Service Controls perimeter keeps this out", todo
    member = place.account or f"NAME@{place.project}.iam.gserviceaccount.com"
    grant = f"projects add-iam-policy-binding {shlex.quote(place.project)}"
    todo = f"`gcloud {grant} --member=serviceAccount:{member} --role={_ROLE}`"
    if seen.look == "write":
        return "these credentials may read, and not write", todo
    return f"these credentials lack a role ({_first(text)})", todo


def _first(text: str) -> str:
    """The beginning of a sentence of Google's, for a table."""
    return text if len(text) <= 160 else text[:159] + "…"
