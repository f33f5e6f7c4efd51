"""Joins the database and the network: the node, its jobs and its supervision."""
