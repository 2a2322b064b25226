"""The address of a Redis: every form, and that none of it stands in an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.errors import ConfigError
from authz.model import Secret
from authz.settings import read_settings
from authz.store import open_store
from authz.store.redis import SCHEMES, Options, parse_uri
from authz.store.redis.uri import Login, Tls, Topology

SINGLE, SENTINEL, CLUSTER = Topology.SINGLE, Topology.SENTINEL, Topology.CLUSTER
APP = Login("app", Secret("p@ss/:"))


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("redis://localhost", Options(SINGLE, (("localhost", 6379),))),
        ("redis://10.0.0.1:7000/3", Options(SINGLE, (("10.0.0.1", 7000),), db=3)),
        ("redis://[::1]:7000", Options(SINGLE, (("::1", 7000),))),
        ("redis://[::1]", Options(SINGLE, (("::1", 6379),))),
        ("redis://app:p%40ss%2F%3A@h", Options(SINGLE, (("h", 6379),), login=APP)),
        ("redis://:p%40ss%2F%3A@h/", Options(SINGLE, (("h", 6379),), login=Login("", Secret("p@ss/:")))),
        ("rediss://h", Options(SINGLE, (("h", 6379),), tls=Tls())),
        ("rediss://h?ca_file=/ca&cert_file=/c&key_file=/k", Options(SINGLE, (("h", 6379),), tls=Tls("/ca", "/c", "/k"))),
        ("redis://h?organisation=a%26b", Options(SINGLE, (("h", 6379),), organisation="a&b")),
        ("unix:///run/redis.sock", Options(SINGLE, socket="/run/redis.sock")),
        ("unix://app:p%40ss%2F%3A@/run/a%20b.sock?db=2", Options(SINGLE, socket="/run/a b.sock", db=2, login=APP)),
        ("redis+sentinel://a,b:1/main", Options(SENTINEL, (("a", 26379), ("b", 1)), service="main")),
        ("redis+sentinel://app:p%40ss%2F%3A@a/main/4", Options(SENTINEL, (("a", 26379),), service="main", db=4, login=APP)),
        ("rediss+cluster://a,b:1", Options(CLUSTER, (("a", 6379), ("b", 1)), tls=Tls())),
    ],
)
def test_forms(text: str, options: Options) -> None:
    assert parse_uri(text) == options


def test_passwords_from_files(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("p@ss/:\n")
    (tmp_path / "two").write_text("other")
    options = parse_uri(
        f"redis+sentinel://app@a/s?password_file={tmp_path}/one&sentinel_username=s&sentinel_password_file={tmp_path}/two"
    )
    assert (options.login, options.sentinel_login) == (APP, Login("s", Secret("other")))
    with pytest.raises(ValueError, match="password file `/nowhere`, expected one that can be read"):
        parse_uri("redis://h?password_file=/nowhere")


@pytest.mark.parametrize(
    "text",
    [
        "redis://",
        "redis://u:s3cret@",
        "redis:///0",
        "redis://u:s3cret@h:port",
        "redis://u:s3cret@h:0",
        "redis://u:s3cret@h:70000",
        "redis://u:s3cret@h/zero",
        "redis://u:s3cret@h/-1",
        "redis://u:s3cret@a,b",
        "redis://u:s3cret@h?unknown=1",
        "redis://u:s3cret@h?organisation=",
        "redis://u:s3cret@h?password_file=/s3cret",
        "redis://u:s3cret@h?ca_file=/ca",
        "redis://u:s3cret@[::1",
        "unix://u:s3cret@run/redis.sock",
        "unix://",
        "redis+sentinel://u:s3cret@a",
        "redis+sentinel://u:s3cret@a,/s",
        "redis+cluster://u:s3cret@a/3",
        "postgres://u:s3cret@a",
        "s3cret",
        "",
    ],
)
def test_other_forms_are_refused_and_nothing_is_given_away(text: str) -> None:
    with pytest.raises(ValueError, match=r"^found .*, expected ") as caught:
        open_store(text)
    assert "s3cret" not in str(caught.value)


def test_the_secret_does_not_print() -> None:
    assert "p@ss" not in repr(parse_uri("redis://app:p%40ss%2F%3A@h"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_settings_take_them_as_they_are(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "authz.yaml").write_text(f"store: {scheme}://somewhere\n")
    assert read_settings(tmp_path / "authz.yaml").store == f"{scheme}://somewhere"


def test_settings_do_not_repeat_a_password(tmp_path: Path) -> None:
    (tmp_path / "authz.yaml").write_text("store: postgres://u:s3cret@h\n")
    with pytest.raises(ConfigError, match="store: expected ") as caught:
        read_settings(tmp_path / "authz.yaml")
    assert "s3cret" not in str(caught.value)
