"""Every constant that can be tuned, each with its unit in its name or its comment.

Nothing else lives here, and no other module repeats one of these values. It imports nothing of the project.
"""

from __future__ import annotations

from typing import Final

# --- Release -----------------------------------------------------------------------------------------------
# Seconds an asynchronous step of a cleanup may take before it is cancelled and left behind.
RESOURCE_CLEANUP_TIMEOUT: Final = 0.1
HTTP_CLIENT_CLEANUP_TIMEOUT: Final = 0.2
FILE_CLEANUP_TIMEOUT: Final = 0.3
# After the time is up, a cancelled closer gets this long to end by itself.
CLEANUP_GRACE_S: Final = 0.05
# Collect garbage when a resource is still alive after its cleanup. False turns that off, nothing else.
ENABLE_FORCED_GC: bool = True
# Of the time a process runs, forced full collections may take at most this share.
FORCED_GC_TIME_SHARE: Final = 0.05

# --- Identity ----------------------------------------------------------------------------------------------
SYMBOL_LENGTH_MAX: Final = 64

# --- Archives ----------------------------------------------------------------------------------------------
# The largest CSV a kline archive may hold: a month of 1s bars is about 410 MB.
ARCHIVE_CSV_NBYTES_MAX: Final = 1 << 30
# Text looked through at a time; rows are read in blocks of a fraction of it, which stay in the second-level cache.
PARSE_BLOCK_NBYTES: Final = 2 << 20
# How many open times a report lists one by one; it counts all of them.
REPORT_EXAMPLES_MAX: Final = 1000

# --- Segments ----------------------------------------------------------------------------------------------
# Columns at least this long start on a page of their own; shorter ones share pages.
SEGMENT_PAGE_NBYTES: Final = 4096
# A header longer than this is not read: it holds at most some thousands of provenance records.
SEGMENT_HEADER_NBYTES_MAX: Final = 64 << 20

# --- Cache -------------------------------------------------------------------------------------------------
# Readers that a KlineCache keeps open between two reads.
CACHE_OPEN_SEGMENTS_MAX: Final = 128
# How often a read that lost a race with a writer looks again before it gives up.
CACHE_READ_ATTEMPTS_MAX: Final = 16
# How often a part of a series is looked at again that others changed while it was completed.
COMPLETION_ATTEMPTS_MAX: Final = 4
# A panel is filled by several threads from so many cells a symbol on.
PANEL_THREAD_CELLS_MIN: Final = 100_000
# What waits to be stored is stored in groups: at most so many archives, of so many bytes together.
INGEST_GROUP_ARCHIVES_MAX: Final = 64
INGEST_GROUP_NBYTES_MAX: Final = 4 << 20
# Archives that are fetched and not stored yet, beside those on the line: they lie on the disk. Days wait for others
# of their month, months for nothing.
INGEST_BACKLOG_DAYS_MAX: Final = 192
INGEST_BACKLOG_MONTHS_MAX: Final = 8
# Days of a mirror in a folder that are looked at together.
FOLDER_BATCH_DAYS_MAX: Final = 64
# A packed segment holds at most this many rows: five years of 1m.
PACK_ROWS_MAX: Final = 3_000_000

# --- Maintenance -------------------------------------------------------------------------------------------
# How long a writer waits for another one of the same series. Publishing takes milliseconds.
SERIES_LOCK_TIMEOUT_S: Final = 30.0
# Between two looks at a lock that another process holds.
LOCK_PAUSE_FIRST_S: Final = 0.001
LOCK_PAUSE_MAX_S: Final = 0.05
# A folder with at most this many names is listed in one system call, and so at one moment.
LISTING_ATOMIC_NAMES_MAX: Final = 128
LISTING_ATTEMPTS_MAX: Final = 64
# How often a folder is made again that was pruned away before anything was in it.
FOLDER_ATTEMPTS_MAX: Final = 8
# Segments are merged when the result is this many times longer than the longest of them, so that a bar is copied
# about three times in its life. A year is 11.8 times as long as its longest month, and becomes one segment.
PACK_GROWTH_MIN: Final = 11
# The last merge, to at least half of PACK_ROWS_MAX, may grow less.
PACK_LAST_GROWTH_MIN: Final = 2
# What a segment costs beside its rows, in rows: it keeps those of no or few rows from being copied for nothing.
PACK_SEGMENT_COST_ROWS: Final = 16
# Rows copied or compared at a time: it bounds the memory of packing, verifying and exporting.
MAINTENANCE_CHUNK_ROWS: Final = 1 << 16
# Rows of a record batch or row group in exported files.
EXPORT_GROUP_ROWS: Final = 1 << 18
# A temporary file that nobody has locked, and that was not changed for this long, is a leftover.
LEFTOVER_AGE_MIN_S: Final = 60.0
# The same for what carries no lock, such as the folder of a download.
UNLOCKED_LEFTOVER_AGE_MIN_S: Final = 86_400.0

# --- Network -----------------------------------------------------------------------------------------------
VISION_URL: Final = "https://data.binance.vision"
VISION_LISTING_URL: Final = "https://s3-ap-northeast-1.amazonaws.com/data.binance.vision"
DOWNLOAD_CONCURRENCY: Final = 8
CONNECT_TIMEOUT_S: Final = 10.0
# A transfer that brings nothing for this long has stalled.
STALL_TIMEOUT_S: Final = 20.0
# One attempt at one archive may take this long in all.
TRANSFER_TIMEOUT_S: Final = 900.0
RETRY_ATTEMPTS_MAX: Final = 5
RETRY_BACKOFF_FIRST_S: Final = 0.5
RETRY_BACKOFF_MAX_S: Final = 30.0
# A server that asks for a longer pause than this is reported and not waited for.
RETRY_AFTER_MAX_S: Final = 120.0
# A download that wants at least this many archives of a series asks for the listing first.
LISTING_WORTH_ARCHIVES_MIN: Final = 4

# --- REST --------------------------------------------------------------------------------------------------
REST_URL_SPOT: Final = "https://api.binance.com"
REST_URL_UM: Final = "https://fapi.binance.com"
REST_URL_CM: Final = "https://dapi.binance.com"
# Market data of spot only, and served where the first address refuses the region.
REST_URL_SPOT_ALTERNATIVE: Final = "https://data-api.binance.vision"
REST_CONCURRENCY: Final = 8
# Request weight that an address may use in a minute of the exchange's clock.
REST_WEIGHT_LIMIT_SPOT: Final = 6000
REST_WEIGHT_LIMIT_FUTURES: Final = 2400
REST_WEIGHT_WINDOW_S: Final = 60.0
# Of the limit, one client uses at most this share. The rest is for other processes behind the same address.
REST_WEIGHT_SHARE: Final = 0.8
# A bar that is closed by this machine's clock, and by at most so much, may still form by that of the exchange.
CLOCK_AHEAD_MAX_MS: Final = 60_000
# No coin-margined contract or index has bars before 2020.
REST_CM_EARLIEST_MS: Final = 1_577_836_800_000
