"""Notifications: what is worth one, and the ways on which it leaves."""
