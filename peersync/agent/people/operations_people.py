"""The table of the routes that are about people: logins, accounts, tokens, the page's stream."""

from __future__ import annotations

from typing import Any, Final

from peersync.agent.people.login_api import (
    LinkRequest,
    LoggedIn,
    LoginRequest,
    Me,
    PasswordRequest,
)
from peersync.agent.people.operation import EVENTS, FOUND, TAKEN, Operation
from peersync.agent.people.overview import Overview
from peersync.agent.people.overview_api import OverviewQuery
from peersync.agent.people.people_api import (
    NewToken,
    NewUser,
    OneTimeLink,
    SessionView,
    Settings,
    TokenView,
    UserChange,
    UserQuery,
    UserView,
)

_REFUSED: Final = (401, 429)

PEOPLE_OPERATIONS: Final = (
    Operation(
        "POST",
        "/api/login",
        "Log in with a name and a password",
        {200: LoggedIn},
        body=LoginRequest,
        errors=(*_REFUSED, 403),
    ),
    Operation(
        "POST",
        "/api/login/link",
        "Log in with a one-time link, and set the password",
        {200: LoggedIn},
        body=LinkRequest,
        errors=(*_REFUSED, 403),
    ),
    Operation("POST", "/api/logout", "End this session", {200: dict[str, str]}),
    Operation("GET", "/api/me", "Who asks", {200: Me}),
    Operation(
        "POST",
        "/api/me/password",
        "Change one's own password",
        {200: LoggedIn},
        body=PasswordRequest,
        errors=_REFUSED,
    ),
    Operation("GET", "/api/openapi.json", "This document", {200: dict[str, Any]}),
    Operation(
        "GET",
        "/api/admin/overview",
        "The whole node on one page, the worst peers first",
        {200: Overview},
        query=OverviewQuery,
    ),
    Operation(
        "GET",
        "/api/admin/events",
        "Everything that the page shows, as it changes",
        {200: str},
        media=(EVENTS,),
    ),
    Operation("GET", "/api/admin/settings", "The configuration in use", {200: Settings}),
    # --- users --------------------------------------------------------------------------------
    Operation("GET", "/api/admin/users", "Who may log in", {200: list[UserView]}),
    Operation(
        "POST",
        "/api/admin/users",
        "Add a user, and make a one-time link",
        {201: OneTimeLink},
        body=NewUser,
        errors=TAKEN,
    ),
    Operation(
        "PATCH",
        "/api/admin/users/{name}",
        "Change the role or the password of a user",
        {200: UserView},
        body=UserChange,
        errors=TAKEN,
    ),
    Operation(
        "DELETE",
        "/api/admin/users/{name}",
        "Remove a user and end all sessions of it",
        {200: UserView},
        errors=TAKEN,
    ),
    Operation(
        "POST",
        "/api/admin/users/{name}/link",
        "Make a one-time link",
        {201: OneTimeLink},
        errors=FOUND,
    ),
    # --- sessions and tokens ------------------------------------------------------------------
    Operation("GET", "/api/admin/sessions", "Who is logged in", {200: list[SessionView]}),
    Operation(
        "DELETE",
        "/api/admin/sessions",
        "End the other sessions",
        {200: list[SessionView]},
        query=UserQuery,
    ),
    Operation(
        "DELETE", "/api/admin/sessions/{id}", "End a session", {200: SessionView}, errors=FOUND
    ),
    Operation("GET", "/api/admin/tokens", "The tokens of programs", {200: list[TokenView]}),
    Operation(
        "POST",
        "/api/admin/tokens",
        "Make a token; its text is told once",
        {201: TokenView},
        body=NewToken,
        errors=TAKEN,
    ),
    Operation("DELETE", "/api/admin/tokens/{id}", "Revoke a token", {200: TokenView}, errors=FOUND),
)
