"""Periodic sync: one publisher for each database, one puller for each link."""
