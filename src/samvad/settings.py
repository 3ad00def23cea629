"""All settings, in one typed object: from flags, the environment, a `.env` file and defaults, in that order.

Every field is the variable `SAMVAD_<NAME>` and, where a command takes it, the flag `--<name>`. `PROJECT_ID`
and `LOCATION` keep the names that Google's tools gave them. A variable that begins with `SAMVAD_` and names
no setting is an error, because a misspelt setting that is ignored is found out in production.

The loader is written by hand: pydantic-settings would cost half of the start-up time that we allow ourselves.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple
from urllib.parse import quote

import msgspec
from msgspec import Meta

from samvad import limits
from samvad.env_file import ENV_FILE, PREFIX, read_env_file
from samvad.errors import SetupError
from samvad.settings_retention import RetentionSettings

DATABASE_NAME: Final = "samvad.db"

# Variables that begin like settings and are none: the tests' own, and the token of `samvad chat`.
_NOT_SETTINGS = frozenset({"SAMVAD_SOAK", "SAMVAD_TOKEN"})
_FOREIGN_NAMES = {"project_id": "PROJECT_ID", "location": "LOCATION"}
_OPTIONS: Final = (  # settings that the service takes as they are
    "durability", "window_messages", "language", "record_ttl_s", "session_idle_s", "active_window_s",
    "record_interruptions", "listen", "keep_questions", "fetch_networks", "content", "content_none_tenants",
    "person_roles", "person_instruction", "price_reads_usd", "price_writes_usd", "price_deletes_usd",
)  # fmt: skip
_YEAR_S = 366 * 24 * 3600
# https://kubernetes.io/docs/concepts/containers/container-environment/#cluster-information
_SERVICE_LINK = re.compile(r"SAMVAD_(?:SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)")

Seconds = Annotated[float, Meta(gt=0, le=10 * _YEAR_S)]


class Settings(RetentionSettings, frozen=True, kw_only=True):
    """How this process is to run. Times are seconds."""

    host: Annotated[
        str,
        Meta(
            description="Address to listen on. Any but a loopback address needs credentials, or --insecure."
        ),
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port to listen on; 0 picks a free one.")] = 8080
    store: Annotated[
        str | None,
        Meta(
            description="Where conversations are kept: sqlite:///PATH, memory:// or "
            f"firestore://PROJECT_ID[/DATABASE]. Left out, it is {DATABASE_NAME} in the data directory."
        ),
    ] = None
    data_dir: Annotated[
        str,
        Meta(min_length=1, description="Directory of the database and of what else must survive a restart."),
    ] = "data"
    durability: Annotated[
        Literal["auto", "store", "memory"],
        Meta(
            description="When a write is acknowledged. auto: as soon as it is safe; store: once the store "
            "itself has it; memory: at once, and lost if the process dies."
        ),
    ] = "auto"
    window_messages: Annotated[
        int,
        Meta(
            ge=1,
            le=limits.WINDOW_MESSAGES_MAX,
            description="How many of a user's last messages a profile holds.",
        ),
    ] = limits.WINDOW_MESSAGES
    language: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*$",
            description="Language of users and sessions that name none (BCP 47, such as en or hi-IN).",
        ),
    ] = "en"
    record_ttl_s: Annotated[Seconds, Meta(description="How long a user's record stays in memory unused.")] = (
        float(limits.RECORD_TTL_S)
    )
    cache_mib: Annotated[
        int, Meta(ge=1, le=1024 * 1024, description="Memory for users' records at most, in MiB.")
    ] = limits.CACHE_BYTES_MAX // (1024 * 1024)
    journal_mib: Annotated[
        int,
        Meta(
            ge=1,
            le=1024 * 1024,
            description="What may wait behind the journal at most, in MiB; when that is full, writes are 503.",
        ),
    ] = limits.JOURNAL_BYTES_MAX // (1024 * 1024)
    session_idle_s: Annotated[
        Seconds, Meta(description="After this long without activity a session counts as ended.")
    ] = float(limits.SESSION_IDLE_S_MAX)
    active_window_s: Annotated[
        Seconds, Meta(description="A user touched within this time counts as active.")
    ] = float(limits.ACTIVE_WINDOW_S)
    record_interruptions: Annotated[
        bool, Meta(description="Keep interruptions in the store as well, not in memory alone.")
    ] = False
    listen: Annotated[
        bool,
        Meta(
            description="Hear at once what other replicas write, where the store is shared. "
            "A single replica can do without."
        ),
    ] = True
    insecure: Annotated[
        bool,
        Meta(description="Listen on a host that others can reach, although no credentials are asked for."),
    ] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least level that is logged.")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Meta(description="How log lines look; auto: console on a terminal, else json."),
    ] = "auto"
    drain_s: Annotated[
        float,
        Meta(ge=0, le=300, description="How long a stop may take to finish requests and writes under way."),
    ] = float(limits.DRAIN_S_MAX)
    price_reads_usd: Annotated[
        float,
        Meta(
            ge=0, le=1_000, description="What 100,000 document reads cost, in US dollars, for `samvad cost`."
        ),
    ] = 0.06
    price_writes_usd: Annotated[
        float, Meta(ge=0, le=1_000, description="What 100,000 document writes cost, in US dollars.")
    ] = 0.18
    price_deletes_usd: Annotated[
        float, Meta(ge=0, le=1_000, description="What 100,000 document deletes cost, in US dollars.")
    ] = 0.02
    project_id: Annotated[
        str | None, Meta(description="Google Cloud project, where a firestore:// URL names none.")
    ] = None
    location: Annotated[str | None, Meta(description="Google Cloud location, for Vertex AI.")] = None
    live_provider: Annotated[
        str,
        Meta(
            min_length=1,
            description="Who answers in a live conversation: extractive, vertex, gemini, openai, openai_realtime, "
            "or one that another package brings.",
        ),
    ] = "extractive"
    live_model: Annotated[str | None, Meta(description="The live provider's model.")] = None
    live_documents: Annotated[
        str | None,
        Meta(description="Folder of text and Markdown from which the extractive provider answers."),
    ] = None
    live_idle_s: Annotated[
        Seconds, Meta(description="A live conversation in which nobody says anything ends after this long.")
    ] = float(limits.LIVE_IDLE_S)
    live_duration_s: Annotated[Seconds, Meta(description="A live conversation lasts this long at most.")] = (
        float(limits.LIVE_DURATION_S)
    )
    live_token_secret: Annotated[
        Annotated[str, Meta(min_length=16)] | None,  # of a union, msgspec bounds the parts alone
        Meta(
            description="Secret that signs resume tokens, for several servers behind one address; "
            "left out, each keeps a key in its data directory.",
            extra={"secret": True},
        ),
    ] = None
    keep_questions: Annotated[
        Literal["no", "memory", "store"],
        Meta(description="Where questions that found nothing are kept in their words, for statistics."),
    ] = "memory"
    fetch_networks: Annotated[
        str,
        Meta(
            description="Networks beside the public internet from which pages may be fetched for the knowledge base, "
            "with commas between, such as 10.1.0.0/16."
        ),
    ] = ""
    embedding_provider: Annotated[
        Literal["none", "openai", "gemini", "vertex", "local"],
        Meta(
            description="Who makes the vectors by which the knowledge base finds passages by their meaning."
        ),
    ] = "none"
    embedding_model: Annotated[
        str | None, Meta(description="The embedding model; for local, the folder that it is in.")
    ] = None
    embedding_dimensions: Annotated[
        int,
        Meta(
            ge=0,
            le=4096,
            description="How long vectors are to be, where the model can cut them; 0: its own way.",
        ),
    ] = 0
    embedding_languages: Annotated[
        str | None,
        Meta(description="Languages that the model knows, such as en,hi, or all; others are found by words."),
    ] = None
    embedding_base_url: Annotated[
        str | None,
        Meta(
            description="Address of embeddings in OpenAI's protocol; left out, that of SAMVAD_OPENAI_BASE_URL."
        ),
    ] = None
    embedding_api_key: Annotated[
        str | None,
        Meta(description="Key for it; left out, that of SAMVAD_OPENAI_API_KEY.", extra={"secret": True}),
    ] = None
    embedding_query_prefix: Annotated[
        str, Meta(description="What goes before a query, such as 'query:'.")
    ] = ""
    embedding_document_prefix: Annotated[str, Meta(description="What goes before a passage, likewise.")] = ""
    openai_base_url: Annotated[str | None, Meta(description="Address of an API in OpenAI's protocol.")] = None
    openai_api_key: Annotated[str | None, Meta(description="Key for that API.", extra={"secret": True})] = (
        None
    )

    def __repr__(self) -> str:
        shown = ", ".join(f"{spec.name}={_shown(spec, getattr(self, spec.name))}" for spec in _specs())
        return f"Settings({shown})"

    def store_url(self) -> str:
        """The URL of the store: the one that is set, or the database in the data directory."""
        if self.store is None:
            return f"sqlite:///{quote(str(self.data_path() / DATABASE_NAME))}"
        if self.store.rstrip("/") == "firestore:":
            if self.project_id is None:
                raise SetupError(
                    f"{self.store!r} names no project; write firestore://PROJECT_ID, or set PROJECT_ID."
                )
            return f"firestore://{self.project_id}"
        return self.store

    def data_path(self) -> Path:
        """The data directory, `~` resolved; it need not exist yet."""
        try:
            return Path(self.data_dir).expanduser()
        except RuntimeError:
            raise SetupError(
                f"The home directory in {self.data_dir!r} is not known; write the whole path."
            ) from None

    def service_options(self) -> dict[str, Any]:
        """What `open_samvad` takes, beside the URL."""
        same = {name: getattr(self, name) for name in _OPTIONS}
        mib = 1024 * 1024
        same |= self.retention_options()
        return same | {"cache_bytes_max": self.cache_mib * mib, "journal_bytes_max": self.journal_mib * mib}


class Description(NamedTuple):
    """One setting: its name, its variable, its default as text, what it is for, and whether nobody may see it."""

    name: str
    env: str
    default: str
    description: str
    secret: bool


class Given(NamedTuple):
    """A value as it was given: where it stands (as in `SAMVAD_PORT in .env`), and the value itself."""

    source: str
    value: Any


class _Spec(NamedTuple):
    name: str
    env: str
    type: Any
    default: Any
    description: str
    expected: str
    secret: bool


def describe() -> list[Description]:
    """Every setting in the order of the class; documentation is made from it and tested against it."""
    return [
        Description(
            spec.name,
            spec.env,
            "" if spec.default is None else _plain(spec.default),
            spec.description,
            spec.secret,
        )
        for spec in _specs()
    ]


def load(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    env_file: Path = ENV_FILE,
) -> Settings:
    """The settings that hold: of `flags` those that are not None, then `environ`, then `env_file`, then defaults.

    SetupError, in one line, for an unknown name, a value that cannot be, or a file that cannot be read.
    """
    environ = os.environ if environ is None else environ
    file = read_env_file(env_file)
    unknown = unknown_names(environ, file, env_file)
    if unknown:
        raise SetupError(unknown[0])
    found = given(flags, environ=environ, file=file, env_file=env_file)
    return Settings(
        **{spec.name: _convert(spec, found[spec.name]) for spec in _specs() if spec.name in found}
    )


def given(
    flags: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str],
    file: Mapping[str, str] | None = None,
    env_file: Path = ENV_FILE,
) -> dict[str, Given]:
    """What is set at all, by name, as it was given. An empty variable counts as not set."""
    found: dict[str, Given] = {}
    for spec in _specs():
        flag = (flags or {}).get(spec.name)
        if flag is not None:
            found[spec.name] = Given("--" + spec.name.replace("_", "-"), flag)
        elif environ.get(spec.env):
            found[spec.name] = Given(spec.env, environ[spec.env])
        elif file and file.get(spec.env):
            found[spec.name] = Given(f"{spec.env} in {env_file}", file[spec.env])
    return found


def unknown_names(
    environ: Mapping[str, str], file: Mapping[str, str], env_file: Path = ENV_FILE
) -> list[str]:
    """A sentence for each variable that looks like a setting and is none."""
    known = {spec.env for spec in _specs()} | _NOT_SETTINGS
    sentences = []
    for names, place in ((environ, ""), (file, f" in {env_file}")):
        for name in sorted(names):
            if name in known or not name.upper().startswith(PREFIX):
                continue
            if _SERVICE_LINK.fullmatch(name):
                sentences.append(
                    f"{name} is not a setting: Kubernetes sets it for a Service named samvad; "
                    "put 'enableServiceLinks: false' into the pod's spec."
                )
                continue
            near = difflib.get_close_matches(name.upper(), sorted(known - _NOT_SETTINGS), n=1, cutoff=0.0)
            sentences.append(f"{name}{place} is not a setting; did you mean {near[0]}?")
    return sentences


# --- inside ------------------------------------------------------------------------------------------------

_kept: list[_Spec] = []


def _specs() -> list[_Spec]:
    """The settings, read from the class: it is the one place where they are written down."""
    if not _kept:
        hints = typing.get_type_hints(Settings, include_extras=True)
        for field in msgspec.structs.fields(Settings):
            metas = [meta for meta in hints[field.name].__metadata__ if isinstance(meta, Meta)]
            described = metas[-1]
            _kept.append(
                _Spec(
                    name=field.name,
                    env=_FOREIGN_NAMES.get(field.name, PREFIX + field.name.upper()),
                    type=hints[field.name],
                    default=field.default,
                    description=described.description or "",
                    expected=(described.extra or {}).get("expected")
                    or _expected(hints[field.name].__origin__, metas),
                    secret=bool((described.extra or {}).get("secret")),
                )
            )
    return _kept


def _expected(kind: Any, metas: list[Meta]) -> str:
    """What a value of this type must be, as the end of a sentence."""
    if typing.get_origin(kind) is Literal:
        *most, last = typing.get_args(kind)
        return f"{', '.join(most)} or {last}"
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        what = "a whole number" if kind is int else "a number"
        above = next((meta.gt for meta in metas if meta.gt is not None), None)
        low = next((meta.ge for meta in metas if meta.ge is not None), None)
        high = next((meta.le for meta in metas if meta.le is not None), None)
        if above is not None:
            return f"{what} greater than {above:g}, at most {high:g}"
        return f"{what} from {low} to {high}"
    if any(meta.pattern for meta in metas):
        return "a language tag such as en or hi-IN"
    parts = (meta for part in typing.get_args(kind) for meta in getattr(part, "__metadata__", ()))
    least = next((meta.min_length for meta in parts), None)
    return f"a text of at least {least} characters" if least else "a text that is not empty"


def _convert(spec: _Spec, one: Given) -> Any:
    value = one.value
    if isinstance(value, str):
        value = value.strip()
        if spec.expected == "true or false":
            value = {"yes": True, "on": True, "no": False, "off": False}.get(value.lower(), value)
    try:
        converted = msgspec.convert(value, spec.type, strict=False)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise msgspec.ValidationError
        if isinstance(converted, str) and ("\0" in converted or not converted):
            raise msgspec.ValidationError
    except msgspec.ValidationError:
        text = str(one.value)
        shown = "" if spec.secret else f", not {text if len(text) <= 60 else text[:57] + '...'!r}"
        raise SetupError(f"{one.source} must be {spec.expected}{shown}.") from None
    return converted


def _shown(spec: _Spec, value: Any) -> str:
    return "'…'" if spec.secret and value is not None else repr(value)


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
