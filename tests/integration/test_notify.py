"""Real agents that say what goes wrong: mail that arrives, channels that fail, quiet."""

from __future__ import annotations

import json
import socket
from email.message import EmailMessage

from tests.integration.notify_rig import Post, mail_server
from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node, free_port, introduce
from tests.plugins.waiting import eventually

MAIL = """
[[channel]]
name = "admins"
kind = "mail"
host = "127.0.0.1"
port = {port}
tls = "none"
sender = "peersync@example.org"
to = ["admins@example.org"]
events = ["failed", "recovered", "partial", "silent", "completed"]
"""
HOOK = """
[[channel]]
name = "hook"
kind = "webhook"
url = "http://127.0.0.1:{port}/SECRET"
timeout_s = 1
"""
TABLE = 'CREATE TABLE "<img src=x onerror=1>" (id int PRIMARY KEY, word text {check});'


def subjects(post: Post) -> list[str]:
    return [mail["Subject"].removeprefix("[peersync] server-b: ") for mail in post.mails]


def text_of(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    text: str = body.get_content()
    return text


def waiting_mails(node: Node) -> int:
    channels = node.run("notify", "list", "--json").json["channels"]
    (waiting,) = (channel["waiting"] for channel in channels if channel["kind"] == "mail")
    return int(waiting)


def pair(make_database: MakeDatabase, make_node: MakeNode, settings: str) -> tuple[Node, Node]:
    source = make_node("server-a", make_database(18), start=False)
    at_once = {"PEERSYNC_NOTIFY_GROUP_S": "0"}
    second = make_database(18, nth=1)
    target = make_node("server-b", second, start=False, settings=settings, env=at_once)
    introduce(target, source)
    source.launch()
    target.launch()
    source.wait_until_ready()
    target.wait_until_ready()
    return source, target


def test_a_failed_sync_is_mailed_once_and_its_recovery_with_how_long_it_lasted(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    with mail_server() as post, socket.create_server(("127.0.0.1", 0)) as hangs:
        hook = HOOK.format(port=hangs.getsockname()[1])  # it takes connections and says nothing
        settings = MAIL.format(port=post.port) + hook
        source, target = pair(make_database, make_node, settings)
        bad = "INSERT INTO \"<img src=x onerror=1>\" VALUES (1, 'bad')"
        source.database.psql(TABLE.format(check="") + bad)
        target.database.psql(TABLE.format(check="CHECK (word <> 'bad')"))
        assert target.pull("server-a", check=False).code == 1
        eventually("a mail", lambda: len(post.mails) == 1)
        (mail,) = post.mails
        assert subjects(post) == ["the full sync of shop from server-a failed"]
        plain, html = text_of(mail, "plain"), text_of(mail, "html")
        assert "node:   server-b, database shop, peer server-a" in plain
        assert "impact: rows of server-a are missing here" in plain
        assert "next:   peersync jobs show" in plain
        assert "<img src=x onerror=1>" in plain
        assert "<img" not in html
        assert "&lt;img src=x onerror=1&gt;" in html
        eventually("it knows that the mail arrived", lambda: not waiting_mails(target))
        target.stop()
        target.start()  # it neither says it again nor forgets that it was said
        lasting = target.run("notify", "list", "--json").json
        assert [i["title"] for i in lasting["incidents"]] == [subjects(post)[0]]
        source.database.psql("UPDATE \"<img src=x onerror=1>\" SET word = 'good'")
        target.pull("server-a")
        eventually(
            "the recovery", lambda: any(s.startswith("recovered after") for s in subjects(post))
        )
        ends = "\n".join(text_of(mail, "plain") for mail in post.mails[1:])
        assert "the full sync of shop from server-a has completed" in ends
        assert ends.count("failed") == 1  # that it has recovered
        assert "SECRET" not in target.log


def test_channels_are_tested_by_hand_and_one_that_fails_is_shown(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    with mail_server() as post:
        settings = MAIL.format(port=post.port) + HOOK.format(port=free_port())
        _, target = pair(make_database, make_node, settings)
        assert target.run("notify", "test", "admins").out.startswith("✔ admins: sent")
        assert subjects(post) == ["this is a test"]
        both = target.run("notify", "test", check=False)
        assert (both.code, "✘ hook: 127.0.0.1 can't be reached" in both.err) == (1, True)
        told = target.run("notify", "test", "--json", check=False).json["tests"]
        assert [(one["channel"], one["sent"]) for one in told] == [
            ("admins", True),
            ("hook", False),
        ]
        status = target.run("status", check=False)
        assert "warning: channel hook fails: 127.0.0.1 can't be reached" in status.err
        listed = target.run("notify", "list")
        assert "fails (2)" in listed.out
        everything = json.dumps(told) + both.err + status.err + listed.out + listed.err + target.log
        assert "SECRET" not in everything
        unknown = target.run("notify", "test", "nobody", check=False)
        assert (unknown.code, "configured: admins, hook" in unknown.err) == (2, True)


def test_while_it_is_quiet_nothing_is_said_and_afterwards_what_still_lasts(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    with mail_server() as post:
        source, target = pair(make_database, make_node, MAIL.format(port=post.port))
        assert target.run("notify", "quiet", "2h").out.startswith("Quiet until ")
        source.database.psql("CREATE TABLE words (id int); INSERT INTO words VALUES (1)")
        target.database.psql("CREATE TABLE words (id int CHECK (id > 1))")
        assert target.pull("server-a", check=False).code != 0
        eventually("an incident", lambda: target.run("notify", "list", "--json").json["incidents"])
        assert post.mails == []
        assert "not said yet" in target.run("notify", "list").out
        assert target.run("notify", "quiet", "off").out == "Notifications are sent.\n"
        eventually("a mail", lambda: len(post.mails) == 1)
        assert subjects(post)[0].startswith("the full sync of shop from server-a")
        for wrong in ("soon", "2020-01-01 00:00"):
            assert target.run("notify", "quiet", wrong, check=False).code == 2
