"""What it costs to compare a table beside sending it, by the size of its rows and the network.

Pure. Seconds a row, fitted to measurements of short and of long rows (docs/full-sync.md, "When a
comparison pays"): only their ratios matter, so another machine changes little. What differs is not
known before, so a comparison is thought to pay as long as it would if the missing rows were all
that differs.
"""

from __future__ import annotations

from typing import Final

_LEAST_MISSING: Final = 0.2
_MOST_MISSING: Final = 0.4
_MOST_MISSING_SLOW: Final = 0.8
_DIFFERING: Final = (0.3, 0.75)
_SPREAD: Final = 0.38  # of what is saved; few rows of a differing block differ, or all of them
_PACKED: Final = 0.3  # of a row's bytes travel, as zstd packs them
_BLOCK_BYTES: Final = 10 / 64  # of its digest, a row
_HASH_BYTES: Final = 24  # of a row's key and hash


def send_s(row_bytes: float, rate: float | None) -> float:
    """To dump, transfer, stage and merge a row. `rate`: bytes a second, where it is known."""
    return (0.5 + 0.03 * row_bytes) * 1e-6 + (_PACKED * row_bytes / rate if rate else 0)


def compare_s(row_bytes: float, rate: float | None) -> float:
    """To hash a row on both sides at once, and to send its share of the digests."""
    return (0.8 + 0.012 * row_bytes) * 1e-6 + (_BLOCK_BYTES / rate if rate else 0)


def most_missing(row_bytes: float, rate: float | None) -> float:
    """Which share of the source's rows may be missing here for a comparison to pay."""
    most = _MOST_MISSING_SLOW if rate else _MOST_MISSING
    saved = 1 - compare_s(row_bytes, rate) / send_s(row_bytes, rate)
    return min(most, max(_LEAST_MISSING, saved))


def most_differing(row_bytes: float, rate: float | None) -> float:
    """Which share of the blocks may differ before sending all rows costs less than going on."""
    again = 2 * compare_s(row_bytes, None) + (_HASH_BYTES / rate if rate else 0)
    least, most = _DIFFERING
    return min(most, max(least, _SPREAD * send_s(row_bytes, rate) / again))
