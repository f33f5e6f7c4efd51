"""Who may do what on the people's listener: one table, by method and route.

Owns the three roles and what each route needs. A route that is not in the table is refused, and
a test fails: whoever adds one decides here who may use it. The Unix socket has no roles.
"""

from __future__ import annotations

from typing import Final, Literal

Role = Literal["viewer", "operator", "admin"]
Needed = Literal["anyone", "viewer", "operator", "admin"]
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")
_RANK: Final[dict[str, int]] = {"anyone": 0, "viewer": 1, "operator": 2, "admin": 3}

RIGHTS: Final[dict[tuple[str, str], Needed]] = {
    # the page, and what monitoring asks
    ("GET", "/"): "anyone",
    ("GET", "/{file}"): "anyone",
    ("GET", "/js/{file}"): "anyone",
    ("GET", "/js/pages/{file}"): "anyone",
    ("GET", "/healthz"): "anyone",
    ("GET", "/readyz"): "anyone",
    ("GET", "/metrics"): "anyone",
    # oneself
    ("POST", "/api/login"): "anyone",
    ("POST", "/api/login/link"): "anyone",
    ("POST", "/api/logout"): "viewer",
    ("GET", "/api/me"): "viewer",
    ("POST", "/api/me/password"): "viewer",
    # looking
    ("GET", "/api/openapi.json"): "viewer",
    ("GET", "/api/admin/overview"): "viewer",
    ("GET", "/api/admin/events"): "viewer",
    ("GET", "/api/admin/status"): "viewer",
    ("GET", "/api/admin/check"): "viewer",
    ("GET", "/api/admin/jobs"): "viewer",
    ("GET", "/api/admin/jobs/{job}"): "viewer",
    ("GET", "/api/admin/jobs/{job}/events"): "viewer",
    ("GET", "/api/admin/sync/lag"): "viewer",
    ("GET", "/api/admin/members"): "viewer",
    ("GET", "/api/admin/peers"): "viewer",
    ("GET", "/api/admin/peers/invites"): "viewer",
    ("GET", "/api/admin/peers/pending"): "viewer",
    ("GET", "/api/admin/conflicts"): "viewer",
    ("GET", "/api/admin/conflicts/{id}"): "viewer",
    ("GET", "/api/admin/quarantine"): "viewer",
    ("GET", "/api/admin/quarantine/{id}"): "viewer",
    ("GET", "/api/admin/tables"): "viewer",
    ("GET", "/api/admin/sequences/check"): "viewer",
    ("GET", "/api/admin/bulk-sync"): "viewer",
    ("GET", "/api/admin/bulk-sync/{id}"): "viewer",
    ("GET", "/api/admin/sets"): "viewer",
    ("GET", "/api/admin/sets/history"): "viewer",
    ("GET", "/api/admin/schedules"): "viewer",
    ("GET", "/api/admin/notify"): "viewer",
    ("GET", "/api/admin/statistics"): "viewer",
    ("GET", "/api/admin/statistics/export"): "viewer",
    ("GET", "/api/admin/statistics/anomalies"): "viewer",
    ("GET", "/api/admin/statistics/cost"): "viewer",
    ("GET", "/api/admin/statistics/lag"): "viewer",
    ("GET", "/api/admin/verify"): "viewer",
    ("GET", "/api/admin/verify/{id}"): "viewer",
    ("GET", "/api/admin/repair"): "viewer",
    ("GET", "/api/admin/repair/{id}"): "viewer",
    ("GET", "/api/admin/proofs"): "viewer",
    ("GET", "/api/complete-sync/history"): "viewer",
    ("GET", "/api/complete-sync/{id}"): "viewer",
    ("GET", "/api/sync/backup-progress"): "viewer",
    ("GET", "/api/sync/history"): "viewer",
    ("GET", "/api/sync/statistics"): "viewer",
    # questions that have a body; they change nothing, and a peer is asked for rows
    ("GET", "/api/admin/trace"): "operator",
    ("POST", "/api/admin/trace"): "operator",
    ("POST", "/api/admin/sequences/plan"): "operator",
    ("POST", "/api/admin/sets/plan"): "operator",
    # starting, stopping, settling
    ("POST", "/api/admin/sync/full-sync"): "operator",
    ("POST", "/api/sync/safe"): "operator",
    ("POST", "/api/admin/sync/now"): "operator",
    ("POST", "/api/admin/sync/pause"): "operator",
    ("POST", "/api/admin/jobs/{job}/cancel"): "operator",
    ("POST", "/api/admin/jobs/{job}/resume"): "operator",
    ("POST", "/api/admin/conflicts/{id}/restore"): "operator",
    ("POST", "/api/admin/conflicts/{id}/resolve"): "operator",
    ("POST", "/api/admin/conflicts/settle"): "operator",
    ("POST", "/api/admin/quarantine/retry"): "operator",
    ("POST", "/api/admin/quarantine/{id}/edit"): "operator",
    ("POST", "/api/admin/quarantine/{id}/skip"): "operator",
    ("POST", "/api/admin/verify"): "operator",
    ("POST", "/api/admin/verify/{id}/cancel"): "operator",
    ("POST", "/api/admin/repair"): "operator",
    ("POST", "/api/admin/repair/{id}/apply"): "operator",
    ("POST", "/api/admin/repair/{id}/cancel"): "operator",
    ("GET", "/api/admin/verify/{id}/values"): "operator",  # what is in rows
    ("POST", "/api/complete-sync"): "operator",
    ("POST", "/api/complete-sync/{id}/cancel"): "operator",
    ("POST", "/api/admin/bulk-sync"): "operator",
    ("POST", "/api/admin/bulk-sync/{id}/cancel"): "operator",
    ("POST", "/api/admin/sets/run"): "operator",
    ("POST", "/api/admin/schedules/{name}/pause"): "operator",
    ("POST", "/api/admin/schedules/{name}/resume"): "operator",
    ("POST", "/api/admin/schedules/{name}/run"): "operator",
    ("POST", "/api/admin/notify/test"): "operator",
    ("POST", "/api/admin/notify/quiet"): "operator",
    ("POST", "/api/admin/notify/dismiss"): "operator",
    # what changes who takes part, what is synced, and what can't be had back
    ("POST", "/api/admin/jobs/{job}/undo"): "admin",
    ("POST", "/api/admin/peers/invite"): "admin",
    ("POST", "/api/admin/peers/join"): "admin",
    ("DELETE", "/api/admin/peers/invites/{id}"): "admin",
    ("POST", "/api/admin/peers/pending/{id}/accept"): "admin",
    ("POST", "/api/admin/peers/pending/{id}/refuse"): "admin",
    ("PUT", "/api/admin/peers/{name}/rights"): "admin",
    ("DELETE", "/api/admin/peers/{name}"): "admin",
    ("POST", "/api/admin/members/expire"): "admin",
    ("POST", "/api/admin/members/direction"): "admin",
    ("POST", "/api/admin/periodic/leave"): "admin",
    ("POST", "/api/admin/tables"): "admin",
    ("POST", "/api/admin/sequences/apply"): "admin",
    ("DELETE", "/api/sync/history"): "admin",
    # accounts
    ("GET", "/api/admin/settings"): "admin",
    ("GET", "/api/admin/users"): "admin",
    ("POST", "/api/admin/users"): "admin",
    ("PATCH", "/api/admin/users/{name}"): "admin",
    ("DELETE", "/api/admin/users/{name}"): "admin",
    ("POST", "/api/admin/users/{name}/link"): "admin",
    ("GET", "/api/admin/sessions"): "admin",
    ("DELETE", "/api/admin/sessions/{id}"): "admin",
    ("DELETE", "/api/admin/sessions"): "admin",
    ("GET", "/api/admin/tokens"): "admin",
    ("POST", "/api/admin/tokens"): "admin",
    ("DELETE", "/api/admin/tokens/{id}"): "admin",
}


def needed(method: str, pattern: str) -> Needed | None:
    """The least role for a route as it was added to the router; None: nobody may."""
    return RIGHTS.get(("GET" if method == "HEAD" else method, pattern))


def may(role: Role | None, wanted: Needed) -> bool:
    """Whether `role` (None: not logged in) is enough."""
    return _RANK[role or "anyone"] >= _RANK[wanted]
