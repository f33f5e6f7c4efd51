"""The table of the routes that are about verifications and repairs: what two servers have."""

from __future__ import annotations

from typing import Final

from peersync.agent.people.operation import FOUND, TAKEN, Operation
from peersync.agent.proof.repair_view import RepairRequest, RepairView
from peersync.agent.proof.verify_api import ProofsQuery, ShowQuery
from peersync.agent.proof.view import ProofView, VerifyRequest, VerifyView
from peersync.agent.script_api import OfDatabaseQuery

PROOF_OPERATIONS: Final = (
    Operation(
        "POST",
        "/api/admin/verify",
        "Compare what two servers have",
        {202: list[VerifyView]},
        body=VerifyRequest,
        errors=TAKEN,
    ),
    Operation(
        "GET",
        "/api/admin/verify",
        "Verifications, newest first",
        {200: list[VerifyView]},
        query=OfDatabaseQuery,
        errors=FOUND,
    ),
    Operation(
        "GET",
        "/api/admin/verify/{id}",
        "One of them",
        {200: VerifyView},
        query=ShowQuery,
        errors=FOUND,
    ),
    Operation(
        "GET",
        "/api/admin/verify/{id}/values",
        "The same with the values that differ",
        {200: VerifyView},
        errors=FOUND,
    ),
    Operation("POST", "/api/admin/verify/{id}/cancel", "Stop it", {202: VerifyView}, errors=TAKEN),
    Operation(
        "GET",
        "/api/admin/proofs",
        "The newest proof of each table with each peer",
        {200: list[ProofView]},
        query=ProofsQuery,
        errors=FOUND,
    ),
    Operation(
        "POST",
        "/api/admin/repair",
        "Make what differs the same again",
        {202: RepairView},
        body=RepairRequest,
        errors=TAKEN,
    ),
    Operation(
        "GET",
        "/api/admin/repair",
        "Repairs, newest first",
        {200: list[RepairView]},
        query=OfDatabaseQuery,
        errors=FOUND,
    ),
    Operation("GET", "/api/admin/repair/{id}", "One of them", {200: RepairView}, errors=FOUND),
    Operation(
        "POST",
        "/api/admin/repair/{id}/apply",
        "Go on with one that was planned",
        {202: RepairView},
        errors=TAKEN,
    ),
    Operation("POST", "/api/admin/repair/{id}/cancel", "Stop it", {202: RepairView}, errors=TAKEN),
)
