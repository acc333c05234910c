"""All constants that can be tuned, each with its unit in its name or comment.

No other module repeats one of these values. This module imports nothing of the project.
"""

from __future__ import annotations

from typing import Final

# --- Release -----------------------------------------------------------------------------------------------
# Seconds until an asynchronous step of a cleanup is cancelled.
RESOURCE_CLEANUP_TIMEOUT: Final = 0.1
HTTP_CLIENT_CLEANUP_TIMEOUT: Final = 0.2
FILE_CLEANUP_TIMEOUT: Final = 0.3
# Seconds that a cancelled closer has to end, before it is left behind.
CLEANUP_GRACE_S: Final = 0.05
# Collect garbage if a resource is still alive after its cleanup. False turns off this collection and nothing else.
ENABLE_FORCED_GC: bool = True
# The largest share of the process's time that forced full collections may take.
FORCED_GC_TIME_SHARE: Final = 0.05
# A full collection of so many seconds may come before the time that it is a share of. With pandas loaded, one takes
# 10 to 19 ms.
FORCED_GC_ADVANCE_S: Final = 0.05

# Seconds that leaving waits for work in threads, which was told to stop, to end the step at hand.
THREAD_STOP_TIMEOUT_S: Final = 0.5
# Seconds that a child process has to end in order, and again after it was killed.
PROCESS_STOP_TIMEOUT_S: Final = 0.2
# Whoever waits for a child process looks so often whether he was told to stop.
PROCESS_WAIT_S: Final = 0.05

# --- Identity ----------------------------------------------------------------------------------------------
SYMBOL_LENGTH_MAX: Final = 64

# --- Archives ----------------------------------------------------------------------------------------------
# The largest CSV a kline archive may hold: a month of 1s bars is about 410 MB. An archive of a shorter period or of
# longer bars is bounded by its rows: so many times those of its grid, because months with each row three times were
# published, and of so many bytes, where the longest row seen has 172.
ARCHIVE_CSV_NBYTES_MAX: Final = 1 << 30
ARCHIVE_ROWS_FACTOR_MAX: Final = 4
ARCHIVE_ROW_NBYTES_MAX: Final = 400
# A longer line is no row.
ARCHIVE_LINE_NBYTES_MAX: Final = 4096
# Text is inflated into blocks of this size and parsed there. With what parsing makes of it, a block fits the
# second-level cache.
TEXT_BLOCK_NBYTES: Final = 1 << 20
# How many open times a report lists. It counts all of them.
REPORT_EXAMPLES_MAX: Final = 1000
# Bars without a trade at the end of a series are reported if they last so long. Bars of an illiquid pair, or of a
# short halt, are usual.
UNTRADED_TAIL_MIN_MS: Final = 86_400_000

# --- Segments ----------------------------------------------------------------------------------------------
# Columns of at least this size start on a page of their own. Shorter columns share pages.
SEGMENT_PAGE_NBYTES: Final = 4096
# A longer header is refused. Headers have at most some thousands of provenance records.
SEGMENT_HEADER_NBYTES_MAX: Final = 64 << 20
# Of so many files a process remembers which columns it found intact. One that is forgotten is checked again.
CHECKED_SEGMENTS_MAX: Final = 4096
# Two changes of a file within this time may have the same time of change: FAT counts in two seconds, ext4 in a few
# milliseconds. The clock of a file server may be behind by as much.
FILE_TIME_STEP_S: Final = 2.0
# The highest revision: a writer that takes one each second gets there in 31 years. Higher ones are not believed.
SEGMENT_REVISION_MAX: Final = 999_999_999

# --- Cache -------------------------------------------------------------------------------------------------
# Readers that a KlineCache keeps open between reads.
CACHE_OPEN_SEGMENTS_MAX: Final = 128
# For so long the inodes of a listing alone tell that open segments still have their names. Then their status is
# looked at again.
CACHE_STATUS_TRUST_S: Final = 0.1
# Names in the listings that a KlineCache keeps while their folders are unchanged: some 30 MB.
CACHE_KNOWN_NAMES_MAX: Final = 1 << 17
# For so long it is believed what kind of file system a device has.
CACHE_DEVICE_TRUST_S: Final = 1.0
# How often a read is tried in a race with writers.
CACHE_READ_ATTEMPTS_MAX: Final = 16
# How often the completion of a span is tried if others change the span meanwhile.
COMPLETION_ATTEMPTS_MAX: Final = 4
# A panel with at least this many cells for each symbol is filled in threads.
PANEL_THREAD_CELLS_MIN: Final = 100_000
# Fetched archives are stored in groups of at most this many archives, with this total size.
INGEST_GROUP_ARCHIVES_MAX: Final = 64
INGEST_GROUP_NBYTES_MAX: Final = 4 << 20
# How many archives may be on disk, fetched but not stored yet, besides those in transfer, and how many bytes with
# them. Small ones wait for others of their series.
INGEST_BACKLOG_ARCHIVES_MAX: Final = 192
INGEST_BACKLOG_NBYTES_MAX: Final = 512 << 20
# Archives of so many bytes in all are worth processes of their own. Each takes a quarter of a second to start.
INGEST_PROCESSES_NBYTES_MIN: Final = 32 << 20
# At most so many processes, whatever number of processors there is.
INGEST_PROCESSES_MAX: Final = 16
# Bytes of an archive for each of its bars: mostly 30 to 60.
ARCHIVE_BAR_NBYTES: Final = 60
# Daily archives of a mirror in a folder that are read in one batch.
FOLDER_BATCH_DAYS_MAX: Final = 64
# The largest number of rows in a packed segment: more than five years of 1m.
PACK_ROWS_MAX: Final = 3_000_000

# --- Maintenance -------------------------------------------------------------------------------------------
# How long a writer waits for another writer of the same series. Publishing takes milliseconds.
SERIES_LOCK_TIMEOUT_S: Final = 30.0
# The first and the longest pause between attempts to take a lock that another process holds.
LOCK_PAUSE_FIRST_S: Final = 0.001
LOCK_PAUSE_MAX_S: Final = 0.05
# A folder with at most this many names is listed in one system call, so the listing is a snapshot.
LISTING_ATOMIC_NAMES_MAX: Final = 128
LISTING_ATTEMPTS_MAX: Final = 64
# How often a folder is created again if it is pruned before anything is in it.
FOLDER_ATTEMPTS_MAX: Final = 8
# Segments are packed when the result is this many times longer than the longest of them, so that a bar is copied
# about three times in all. A year is 11.8 times as long as its longest month, and becomes one segment.
PACK_GROWTH_MIN: Final = 11
# The same for the last packing, which gives at least half of PACK_ROWS_MAX.
PACK_LAST_GROWTH_MIN: Final = 2
# The cost of a segment besides its rows, in rows. It keeps segments of no or few rows from being copied for
# nothing.
PACK_SEGMENT_COST_ROWS: Final = 16
# Rows copied or compared at a time. This bounds the memory of packing, verification and export.
MAINTENANCE_CHUNK_ROWS: Final = 1 << 16
# Rows of a record batch or row group in exported files.
EXPORT_GROUP_ROWS: Final = 1 << 18
# Where locks do not work, a temporary file or the folder of a download that nobody has changed for this long is a
# leftover.
UNLOCKED_LEFTOVER_AGE_MIN_S: Final = 86_400.0

# --- Network -----------------------------------------------------------------------------------------------
VISION_URL: Final = "https://data.binance.vision"
VISION_LISTING_URL: Final = "https://s3-ap-northeast-1.amazonaws.com/data.binance.vision"
DOWNLOAD_CONCURRENCY: Final = 8
CONNECT_TIMEOUT_S: Final = 10.0
# A transfer without data for this long has stalled.
STALL_TIMEOUT_S: Final = 20.0
# The time limit of one attempt at one archive. No other attempt begins after attempts that took this long together.
TRANSFER_TIMEOUT_S: Final = 900.0
# The same for an answer in memory: a page of a listing or of bars, a CHECKSUM file.
ANSWER_TIMEOUT_S: Final = 60.0
# The least speed of a transfer, on average since it began, and the time before it counts. With the usual number of
# transfers at a time it is 32 kB/s, a tenth of a slow line.
LEAST_SPEED_NBYTES_S: Final = 4096
LEAST_SPEED_GRACE_S: Final = 30.0
# The longest answer in memory. A page of a listing has 1,000 keys of at most 1,024 bytes, which percent-encoding
# makes three times as long, and up to 900 bytes about each. A page of bars has 1,500 rows of some 200 bytes.
ANSWER_NBYTES_MAX: Final = 4 << 20
# A CHECKSUM file has a hash and a name: some 100 bytes.
CHECKSUM_NBYTES_MAX: Final = 4096
# The longest address to be redirected to, and the longest text of a header that is kept (ETag, Last-Modified).
ADDRESS_LENGTH_MAX: Final = 4096
HEADER_LENGTH_MAX: Final = 256
RETRY_ATTEMPTS_MAX: Final = 5
RETRY_BACKOFF_FIRST_S: Final = 0.5
RETRY_BACKOFF_MAX_S: Final = 30.0
# A longer pause that a server asks for is an error.
RETRY_AFTER_MAX_S: Final = 120.0
# XML elements on a page of a listing. A page has 1,000 keys, and up to ten elements for each.
LISTING_ELEMENTS_MAX: Final = 20_000
# Files in the listing of one series. A file and its CHECKSUM for each day of forty years are 29,220.
LISTING_FILES_MAX: Final = 32_768
# Pages of one listing. A server may send fewer keys on a page than it could; eight times as many pages are enough.
LISTING_PAGES_MAX: Final = 256
# A series without a bar for so long has ended, if its sources say so. An update asks again for its end when as much
# time has passed.
ENDED_LOOK_AGAIN_MS: Final = 86_400_000
# A download of at least this many archives of a series fetches the listing first.
LISTING_WORTH_ARCHIVES_MIN: Final = 4

# --- REST --------------------------------------------------------------------------------------------------
REST_URL_SPOT: Final = "https://api.binance.com"
REST_URL_UM: Final = "https://fapi.binance.com"
REST_URL_CM: Final = "https://dapi.binance.com"
# Has only market data of spot. It also serves regions that the first address refuses.
REST_URL_SPOT_ALTERNATIVE: Final = "https://data-api.binance.vision"
REST_CONCURRENCY: Final = 8
# The longest list of all symbols of a market. That of USD-M has 2 MB, that of spot, with its sets of permissions,
# some ten times as much.
EXCHANGE_INFO_NBYTES_MAX: Final = 64 << 20
# Request weight that an IP address may use in each minute of the exchange's clock.
REST_WEIGHT_LIMIT_SPOT: Final = 6000
REST_WEIGHT_LIMIT_FUTURES: Final = 2400
REST_WEIGHT_WINDOW_S: Final = 60.0
# Requests for funding rates have a limit of their own for each IP address, in five minutes.
REST_FUNDING_LIMIT: Final = 500
REST_FUNDING_WINDOW_S: Final = 300.0
# The largest share of the limit that one client uses. The rest is for other processes behind the same IP address.
REST_WEIGHT_SHARE: Final = 0.8
# This machine's clock may be ahead of the exchange's by at most this. So a bar that closed more recently may still
# change.
CLOCK_AHEAD_MAX_MS: Final = 60_000
# No coin-margined contract or index has bars before 2020.
REST_CM_EARLIEST_MS: Final = 1_577_836_800_000

# --- Universe ----------------------------------------------------------------------------------------------
# A longer snapshot is refused. One of spot, with 4,000 lives, has some 2 MB.
SNAPSHOT_NBYTES_MAX: Final = 64 << 20
# Two sources mean the same listing if their dates differ by at most so many milliseconds: the first archive may be
# that of the day after the listing date, or of the one after that.
SAME_LISTING_MS: Final = 2 * 86_400_000
# The archives of a symbol go on if its last one is at most so much older than the newest of the market. A day may
# be published late.
ARCHIVES_LATE_MS: Final = 3 * 86_400_000
# Snapshots that a process keeps parsed.
SNAPSHOTS_KEPT_MAX: Final = 8
