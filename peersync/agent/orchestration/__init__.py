"""Whole databases brought up to date with all their peers: on request, on schedule, set by set."""
