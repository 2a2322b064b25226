"""`authz check --envoy`: what the bootstrap relies on cannot be edited away unseen."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from authz.cli import cli
from authz.envoy.bootstrap import Tls, render
from authz.envoy.inspection import inspect
from authz.review.findings import Severity
from tests.envoy.test_bootstrap import CLIENTS, options

Edit = Callable[[Any], Any]


def parts(config: Any) -> tuple[Any, Any, Any]:
    """The connection manager, the ext_authz filter, the last route."""
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return manager, manager["http_filters"][0], manager["route_config"]["virtual_hosts"][0]["routes"][-1]


def edited(edit: Callable[[Any, Any, Any], Any]) -> Any:
    config = json.loads(json.dumps(yaml.safe_load(render(options()))))  # without the anchors' shared values
    edit(*parts(config))
    return config


@pytest.mark.parametrize("tls", [None, CLIENTS, Tls("a", "b")])
def test_what_we_write_is_clean(tmp_path: Path, tls: Tls | None) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(render(options(tls=tls, trace_to="127.0.0.1:4317")))
    assert inspect(file) == ()
    done = CliRunner().invoke(cli, ["check", "--envoy", str(file)])
    assert (done.exit_code, done.output) == (0, "nothing goes round\n")


PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
LUA = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"

EDITS: dict[str, tuple[Callable[[Any, Any, Any], Any], str]] = {
    "fails open": (lambda m, f, r: f["typed_config"].update(failure_mode_allow=True), "failure_mode_allow"),
    "off": (lambda m, f, r: f.update(disabled=True), "disabled"),
    "gone": (lambda m, f, r: m["http_filters"].pop(0), "no ext_authz"),
    "behind the router": (
        lambda m, f, r: m["http_filters"].append(m["http_filters"].pop(0)),
        "no ext_authz, expected one before",
    ),
    "for some": (lambda m, f, r: f["typed_config"].update(filter_enabled={}), "filter_enabled"),
    "clears the route": (lambda m, f, r: f["typed_config"].update(clear_route_cache=True), "clear_route_cache"),
    "no body": (lambda m, f, r: f["typed_config"].pop("with_request_body"), "with_request_body"),
    "half a body": (
        lambda m, f, r: f["typed_config"]["with_request_body"].update(allow_partial_message=True),
        "allow_partial_message",
    ),
    "a body as text": (lambda m, f, r: f["typed_config"]["with_request_body"].pop("pack_as_bytes"), "pack_as_bytes"),
    "unchecked answers": (lambda m, f, r: f["typed_config"].pop("validate_mutations"), "validate_mutations"),
    "off for a route": (
        lambda m, f, r: r.update(typed_per_filter_config={"x": {"@type": PER_ROUTE, "disabled": True}}),
        "disabled",
    ),
    "off for a host": (
        lambda m, f, r: m["route_config"]["virtual_hosts"][0].update(
            typed_per_filter_config={"envoy.filters.http.ext_authz": {"disabled": True}}
        ),
        "disabled",
    ),
    "off for all routes": (
        lambda m, f, r: m["route_config"].update(
            typed_per_filter_config={"x": {"@type": "…route.v3.FilterConfig", "config": {"@type": PER_ROUTE, "disabled": True}}}
        ),
        "disabled",
    ),
    "a route without its body": (
        lambda m, f, r: r.update(
            typed_per_filter_config={"x": {"@type": PER_ROUTE, "check_settings": {"disable_request_body_buffering": True}}}
        ),
        "disable_request_body_buffering",
    ),
    "upgrades": (lambda m, f, r: m.update(upgrade_configs=[{"upgrade_type": "websocket"}]), "upgrade_configs"),
    "upgrades of a route": (
        lambda m, f, r: r["route"].update(upgrade_configs=[{"upgrade_type": "CONNECT"}]),
        "upgrade_configs",
    ),
    "a mirror": (lambda m, f, r: r["route"].update(request_mirror_policies=[{"cluster": "x"}]), "request_mirror_policies"),
    "retries": (lambda m, f, r: r["route"].update(retry_policy={"retry_on": "5xx"}), "retry_policy"),
    "retries of a host": (
        lambda m, f, r: m["route_config"]["virtual_hosts"][0].update(retry_policy={"retry_on": "5xx"}),
        "retry_policy",
    ),
    "a request id of the client's": (
        lambda m, f, r: m.update(preserve_external_request_id=True),
        "preserve_external_request_id",
    ),
    "an address of the client's": (lambda m, f, r: m.update(use_remote_address=False), "use_remote_address"),
    "two spellings": (lambda m, f, r: m.pop("normalize_path"), "normalize_path"),
    "slashes": (lambda m, f, r: m.update(merge_slashes=False), "merge_slashes"),
    "escaped slashes": (lambda m, f, r: m.update(path_with_escaped_slashes_action="UNESCAPE_AND_FORWARD"), "escaped_slashes"),
    "underscores": (
        lambda m, f, r: m["common_http_protocol_options"].pop("headers_with_underscores_action"),
        "headers_with_underscores_action",
    ),
    "routes from elsewhere": (lambda m, f, r: (m.pop("route_config"), m.update(rds={"route_config_name": "x"})), "rds"),
    "filters from elsewhere": (
        lambda m, f, r: m["http_filters"].insert(0, {"name": "x", "config_discovery": {"a": 1}}),
        "config_discovery",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_each_way_round_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    edit, problem = EDITS[name]
    file = tmp_path / "envoy.yaml"
    file.write_text(yaml.safe_dump(edited(edit)))
    findings = inspect(file)
    assert len(findings) == 1, findings
    assert problem in findings[0].message
    assert findings[0].severity is Severity.ERROR
    assert findings[0].line > 0
    done = CliRunner().invoke(cli, ["check", "--envoy", str(file)])
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == "1 way round"
    assert json.loads(CliRunner().invoke(cli, ["check", "--json", "--envoy", str(file)]).output)["findings"]


def test_a_filter_behind_ext_authz_that_may_change_the_request_is_told(tmp_path: Path) -> None:
    row = {"name": "lua", "typed_config": {"@type": LUA}}
    file = tmp_path / "envoy.yaml"
    file.write_text(yaml.safe_dump(edited(lambda m, f, r: m["http_filters"].insert(1, row))))
    (finding,) = inspect(file)
    assert (finding.severity, finding.message.split(" ")[0]) == (Severity.WARNING, "`lua`")
    file.write_text(yaml.safe_dump(edited(lambda m, f, r: m["http_filters"].insert(0, row))))
    assert inspect(file) == (), "what it changes before is what is decided on"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no HTTP connection manager"),
        ("[]", "no HTTP connection manager"),
        ("a: [", "not YAML"),
        ("a: 1\na: 2", "stands twice"),
        ("dynamic_resources: {lds_config: {}}\n", "fetches from elsewhere"),
        ("[" * 100, "nested deeper"),
    ],
)
def test_a_file_that_says_nothing_or_too_much_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "envoy.yaml"
    file.write_text(text)
    assert any(problem in finding.message for finding in inspect(file))


def test_no_file_is_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "authz", "check", "--envoy", str(tmp_path / "nothing.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such file, expected an Envoy configuration" in done.stderr


def test_a_listener_that_forwards_nothing_is_left_alone(tmp_path: Path) -> None:
    kind = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    health = {"@type": kind, "route_config": {"virtual_hosts": [{"routes": [{"direct_response": {"status": 200}}]}]}}
    file = tmp_path / "envoy.yaml"
    file.write_text(yaml.safe_dump({"ours": yaml.safe_load(render(options())), "more": health}))
    assert inspect(file) == ()
