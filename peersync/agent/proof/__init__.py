"""Proving that two databases are the same: digests for peers, verifications, what they found."""
