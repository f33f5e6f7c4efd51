"""`check` names what would stop a sync, and commands refuse names that mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.plugins.clusters import MakeDatabase
from tests.plugins.nodes import MakeNode, Node


def result(node: Node, name: str) -> dict[str, str]:
    answer = node.run("check", "--json", check=False).json
    return next(check for check in answer["checks"] if check["name"] == name)


def test_a_spool_that_cannot_be_used_is_named_by_check_and_refused_by_pull(
    make_database: MakeDatabase, make_node: MakeNode, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    source = make_node("server-a", make_database())
    target = make_node("server-b", make_database(), start=False)
    text = target.config.read_text()
    place = file / "spool"
    target.config.write_text(text.replace("# spool_dir =", f'spool_dir = "{place}" #', 1))
    target.start()
    target.pair_with(source)
    found = result(target, "disk for spool")
    assert found["state"] == "failed"
    assert found["text"] == f"{place}: {file} is a file, not a directory"
    assert "node.spool_dir" in found["fix"]
    refused = target.pull("server-a", check=False)
    assert refused.code == 7, refused.err
    assert refused.json["error"]["code"] == "config-invalid"
    assert str(place) in refused.err and "set node.spool_dir" in refused.err
    assert "Traceback" not in target.log


def test_the_agent_of_another_node_is_told_from_ones_own(
    make_database: MakeDatabase, make_node: MakeNode
) -> None:
    a, b = (make_node(name, make_database()) for name in ("server-a", "server-b"))
    assert result(a, "agent")["state"] == "ok"
    text = b.config.read_text()
    b.config.write_text(text.replace(f'"{b.home}/s"', f'"{a.home}/s"'))
    found = result(b, "agent")
    assert found["state"] == "failed"
    assert "belongs to another node: server-a" in found["text"]
    b.config.write_text(text.replace('"server-b"', '"server-c"'))
    found = result(b, "agent")
    assert found["state"] == "warning"
    assert "still as server-b" in found["text"]


@pytest.fixture
def node(make_database: MakeDatabase, make_node: MakeNode) -> Node:
    return make_node("server-a", make_database())


def test_names_that_cannot_be_are_usage_errors_with_a_next_step(
    node: Node, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    make_node("server-b", make_database()).pair_with(node)
    for command in (
        ("jobs", "show", ""),
        ("jobs", "cancel", ""),
        ("jobs", "show", "a/b?c#d é"),
        ("peer", "remove", ""),
        ("peer", "remove", ".."),
        ("peer", "remove", "a/b?c"),
        ("peer", "remove", b"\xff".decode(errors="surrogateescape")),
        ("peer", "allow", "", "--pull"),
        ("peer", "allow", "server-b", "--pull", "--database", ""),
        ("peer", "invite", "--address", ""),
    ):
        refused = node.run(*command, check=False)
        assert refused.code == 2, (command, refused.err)
        assert "next:" in refused.err and "internal" not in refused.err, (command, refused.err)
        assert "route" not in refused.err
    binary = node.popen("peer", "join", "-", stdin=-1, stdout=-1, stderr=-1)
    _, err = binary.communicate(bytes(range(256)) * 100)
    assert (binary.returncode, b"not an invite line" in err) == (2, True)


def test_a_right_is_given_for_configured_databases_only(
    node: Node, make_database: MakeDatabase, make_node: MakeNode
) -> None:
    make_node("server-b", make_database()).pair_with(node)
    for verb in ("allow", "deny"):
        refused = node.run(
            "peer", verb, "server-b", "--pull", "--database", "nope", "--json", check=False
        )
        error = json.loads(refused.out)["error"]
        assert (refused.code, error["code"]) == (2, "not-found")
        assert error["detail"] == "configured: shop"
    (peer,) = node.run("peer", "list", "--json").json["peers"]
    assert list(peer["rights"]) == ["*"]
    node.run("peer", "deny", "server-b", "--pull", "--database", "shop")
    node.run("peer", "allow", "server-b", "--pull", "--database", "*")
    (peer,) = node.run("peer", "list", "--json").json["peers"]
    assert peer["rights"]["shop"]["pull"] is False and peer["rights"]["*"]["pull"] is True
