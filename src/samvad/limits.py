"""Every bound in the system, with its unit in its name. A limit on everything; full means 503, never silence."""

from __future__ import annotations

from typing import Final

# Names
ID_BYTES_MAX: Final = 256
RESERVED_IDS: Final = frozenset({"create", "refresh", "stats", "user", "batch", "cost"})
RESERVED_MEMBER: Final = "samvad.sealed"  # of what is kept where encryption is on
IDEMPOTENCY_KEY_CHARS_MAX: Final = 255

# Messages and history
CONTENT_BYTES_MAX: Final = 64 * 1024
MESSAGE_FIELDS_BYTES_MAX: Final = 64 * 1024  # all that a message carries beside its content
MESSAGES_PER_APPEND_MAX: Final = 100
WINDOW_MESSAGES: Final = 100
WINDOW_MESSAGES_MAX: Final = 1_000
PAGE_MESSAGES: Final = 100
PAGE_MESSAGES_MAX: Final = 1_000
PAGE_BYTES_MAX: Final = 4 * 1024 * 1024

# State, preferences, sessions
STATE_BYTES_MAX: Final = 256 * 1024
PREFERENCES_BYTES_MAX: Final = 64 * 1024
SESSION_BYTES_MAX: Final = 64 * 1024
JSON_DEPTH_MAX: Final = 32
SESSIONS_IN_RECORD_MAX: Final = 256

# HTTP
BODY_BYTES_MAX: Final = 8 * 1024 * 1024
BODY_PARTS_MAX: Final = 300_000  # objects, lists and members in a body that is larger than the next
SMALL_BODY_BYTES_MAX: Final = 1024 * 1024  # where nothing larger than a state is taken
PDF_BODY_BYTES_MAX: Final = 72 * 1024 * 1024  # of add-pdf: base64 takes four bytes for three
FETCHES_MAX: Final = 32  # pages that are fetched at once
DOCUMENTS_READ_EACH_MAX: Final = (
    4  # pages that are fetched for one person at once, and files of theirs that are read
)
UPLOADS_BYTES_MAX: Final = 2 * PDF_BODY_BYTES_MAX  # of all bodies of add-pdf that are in memory at once
OPERATIONS_PER_BATCH_MAX: Final = 500
IDEMPOTENCY_TTL_S: Final = 24 * 3600

# Interruptions
INTERRUPTIONS_PER_SESSION_MAX: Final = 3
INTERRUPTION_SESSIONS_MAX: Final = 100_000
INTERRUPTION_TEXT_BYTES_MAX: Final = 64 * 1024

# The knowledge base
DOCUMENT_CHARS_MAX: Final = 4_000_000
DOCUMENT_METADATA_BYTES_MAX: Final = 16 * 1024
TITLE_CHARS_MAX: Final = 512
CATEGORY_CHARS_MAX: Final = 128
SOURCE_CHARS_MAX: Final = 2_048
TAGS_MAX: Final = 32
TAG_CHARS_MAX: Final = 64
QUERY_CHARS_MAX: Final = 2_000
RESULTS: Final = 3
RESULTS_MAX: Final = 50
PAGE_DOCUMENTS: Final = 50
PAGE_DOCUMENTS_MAX: Final = 500
CHAT_CHARS: Final = 4_000
ANSWER_CONFIDENCE_MIN: Final = 0.6
KNOWLEDGE_STALE_S_MAX: Final = 5
REMOVAL_NOTE_KEPT_S: Final = 24 * 3600
STATISTICS: Final = 20  # documents and questions that are told
COUNTED_DOCUMENTS_MAX: Final = 2_000  # of an owner, whose citations are counted
UNFOUND_MAX: Final = 200  # questions of one asker that found nothing
UNFOUND_CHARS_MAX: Final = 200
UNFOUND_DAYS_MAX: Final = 90
VECTORS_BYTES_MAX: Final = 1024 * 1024 * 1024  # of passages' vectors in the search engine's memory
EMBED_QUERY_S_MAX: Final = 0.5  # that a search waits for the embedder; then it goes by words alone
EMBED_TEXTS_MAX: Final = 64  # in one request to an embedder
EMBED_TEXT_CHARS_MAX: Final = 8_000
EMBED_S_MAX: Final = 60  # for one such request

# Time
RECORD_TTL_S: Final = 30 * 60
SESSION_IDLE_S_MAX: Final = 24 * 3600
ACTIVE_WINDOW_S: Final = 30 * 60
DRAIN_S_MAX: Final = 8

# Memory and queues
CACHE_BYTES_MAX: Final = 256 * 1024 * 1024
SESSION_OWNERS_MAX: Final = 100_000
COMMITS_QUEUED_MAX: Final = 20_000
COMMIT_BYTES_QUEUED_MAX: Final = 64 * 1024 * 1024
COMMITS_PER_GROUP_MAX: Final = 1_000
COMMIT_RETRIES_MAX: Final = 16

# Archives of users
EXPORTS_AT_ONCE_MAX: Final = 4
EXPORT_SEND_S_MAX: Final = 60  # that a client takes for one piece
EXPORT_S_MAX: Final = 3_600
ARCHIVE_BYTES_MAX: Final = 16 * 1024 * 1024 * 1024  # of all members of one that is taken in

# The audit log
AUDIT_FILE_BYTES_MAX: Final = 64 * 1024 * 1024  # then the next file is begun
AUDIT_ENTRIES_QUEUED_MAX: Final = 10_000  # while it cannot be written
AUDIT_BURST_S: Final = 60.0  # refusals of one caller within this time are told together
AUDIT_REFUSED_OF_PERSON_MIN: Final = 20  # requests refused in that time that are an attempt, and no mistake
AUDIT_REFUSED_OF_PROGRAM_MIN: Final = 100
AUDIT_CALLERS_MAX: Final = 10_000  # that are told apart at a time

# The journal
JOURNAL_BYTES_MAX: Final = 1024 * 1024 * 1024
PENDING_MEMORY_BYTES_MAX: Final = 1024 * 1024 * 1024  # what waits for the store is held in memory as well
PENDING_ENTRY_BYTES: Final = 1_000  # of memory, beside twice its bytes in the journal
JOURNAL_SEGMENT_BYTES: Final = 16 * 1024 * 1024
JOURNAL_ENTRY_BYTES_MAX: Final = 64 * 1024 * 1024
JOURNAL_GROUP_BYTES_MAX: Final = 8 * 1024 * 1024

# Live conversations
LIVE_SOCKETS_MAX: Final = 2_000
LIVE_SOCKETS_PER_USER_MAX: Final = 32
LIVE_CONVERSATIONS_MAX: Final = 4_000  # with those that wait for their client to come back
LIVE_OUTBOX_BYTES_MAX: Final = 2 * 1024 * 1024
LIVE_TEXT_FRAME_BYTES_MAX: Final = 128 * 1024
LIVE_AUDIO_FRAME_BYTES_MAX: Final = 64 * 1024
LIVE_SILENCE_SAMPLE_MAX: Final = 327  # 1 % of full scale: what is never louder is silence
LIVE_INSTRUCTION_BYTES_MAX: Final = 16 * 1024
LIVE_START_S_MAX: Final = 15
LIVE_ERRORS_MAX: Final = 100  # malformed frames on one connection
LIVE_DETACHED_S_MAX: Final = 120
LIVE_TOKEN_TTL_S: Final = 900
LIVE_CONTEXT_MESSAGES: Final = 10
LIVE_REPLAY_MESSAGES_MAX: Final = 1_000
LIVE_CHECKPOINT_S: Final = 1
LIVE_FALSE_ALARM_S: Final = 2
LIVE_BATCHES_WAITING_MAX: Final = 256  # of one conversation's messages, while the store is down
LIVE_TOOL_S_MAX: Final = 30
LIVE_TOOL_CALLS_MAX: Final = 16  # at once, in one conversation
LIVE_IDLE_S: Final = 600
LIVE_DURATION_S: Final = 7_200
LIVE_WARNING_S: Final = 60

# Credentials
TOKEN_BYTES_MAX: Final = 8 * 1024
TOKEN_LEEWAY_S: Final = 30  # by which clocks may differ
USER_TOKEN_TTL_S: Final = 900
USER_TOKEN_TTL_S_MAX: Final = 3_600
TOKENS_CACHED_MAX: Final = 10_000
KEYS_REFRESH_S: Final = 5  # a revoked key stops working within this time
KEYS_STALE_S_MAX: Final = (
    24 * 3600
)  # keys as they were last known go on for so long, where their place is down
KEYS_MAX: Final = 1_000
KEY_USED_S: Final = 600  # how exactly it is noted when a key was last used
JWKS_STALE_S_MAX: Final = 24 * 3600
LIMITED_KEYS_MAX: Final = 200_000  # windows in memory: of users, keys and addresses
NETWORK_QUOTA_FACTOR: Final = 10  # as much as an address may ask, all of an IPv6 /48 together
USER_REQUESTS_AT_ONCE_MAX: Final = 20  # of one user, carried out as they come; further ones wait
USER_REQUESTS_PER_S: Final = 50  # in turn; more where a user may ask more than 600 times a minute
USER_REQUESTS_WAITING_MAX: Final = 5_000  # for their turn, of all users together
REFUSALS_PER_S: Final = 20  # of one user, key or address, that are told at once; further ones wait
REFUSAL_HELD_S_MAX: Final = 5
REFUSALS_HELD_EACH_MAX: Final = 1_000  # of one of them at a time; the connections of further ones are closed
REFUSALS_HELD_MAX: Final = 2_000

# Who answers in live conversations
LIVE_PROVIDER_OPEN_S_MAX: Final = 30
LIVE_PROVIDER_SETUP_S_MAX: Final = 10
LIVE_PROVIDER_SEND_S_MAX: Final = 10
LIVE_PROVIDER_STALL_S_MAX: Final = 30
LIVE_PROVIDER_CLOSE_S_MAX: Final = 2
LIVE_PROVIDER_FIRST_ATTEMPTS_MAX: Final = 3
LIVE_PROVIDER_NOISES_MAX: Final = 100  # frames in a row that nobody understands
LIVE_PROVIDER_SENDS_MAX: Final = 2
LIVE_PROVIDER_HEARD_BYTES_MAX: Final = 320_000  # of 16 kHz
LIVE_PROVIDER_UTTERANCE_BYTES_MAX: Final = 1_920_000
LIVE_PROVIDER_SPOKEN_BYTES_MAX: Final = 4 * 1024 * 1024  # of 24 kHz
LIVE_PROVIDER_EVENT_BYTES_MAX: Final = 4 * 1024 * 1024  # one event of a chat endpoint's stream
LIVE_CHAT_CONNECT_S_MAX: Final = 5
LIVE_CHAT_FIRST_CHUNK_S_MAX: Final = 60
LIVE_CHAT_NEXT_CHUNK_S_MAX: Final = 20
LIVE_CHAT_RETRIES_MAX: Final = 2
LIVE_CHAT_ROUNDS_MAX: Final = 8
LIVE_PROMPT_MESSAGES_MAX: Final = 60
LIVE_PROMPT_CHARS_MAX: Final = 48_000
LIVE_PROMPT_STATE_CHARS_MAX: Final = 2_000
LIVE_PROMPT_SEED_CHARS_MAX: Final = 32_000
LIVE_TOOL_RESULT_BYTES_MAX: Final = 32 * 1024
