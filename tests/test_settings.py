"""`authz.yaml`: errors name the file, the key and what was expected; paths are relative to the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.errors import ConfigError
from authz.settings import of_worker, read_settings


def write(folder: Path, text: str) -> Path:
    path = folder / "authz.yaml"
    path.write_text(text)
    return path


def test_an_empty_file_is_the_defaults_beside_it(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, ""))
    assert settings.bundle == str(tmp_path / "policies")
    assert settings.store == f"sqlite:///{tmp_path / 'var/authz.db'}"
    assert settings.listen.socket == str(tmp_path / "run/authz.sock")
    assert settings.listen.check_socket == str(tmp_path / "run/authz.check.sock")
    assert settings.upstream.key_env == "GROQ_API_KEY"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("bundel: x", "bundel: unknown field"),
        ("listen: {drain_s: soon}", "listen.drain_s: expected `float`, got `str`"),
        ("upstream: {}", "expected exactly one of `key_env` and `key_file`"),
        ("upstream: {key_env: A, key_file: b}", "expected exactly one of `key_env` and `key_file`"),
        ("store: mysql://x", "store: expected `sqlite:///PATH`"),
        ("retention_days: 0", "retention_days: expected at least 1 day"),
        ("reservation_ttl_s: 0", "reservation_ttl_s: expected at least 1 second"),
        ("listen: {transport: http}", "listen.transport: invalid enum value 'http'"),
        ("listen: {workers: 0}", "listen.workers: expected 1 to 64"),
        ("listen: {queue: 1}", "listen.queue: expected 8 to 100000"),
        ("envoy: {max_body_bytes: 3}", "envoy.max_body_bytes: expected at least 1024 bytes"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    assert problem in caught.value.problem
    assert str(caught.value).startswith(str(path))


def test_each_worker_has_its_own_sockets_and_port_and_its_share(tmp_path: Path) -> None:
    text = "listen: {workers: 2, socket: a.sock}\nmetrics: {listen: '127.0.0.1:9464'}\nreplicas: 3\n"
    text += "admin: {listen: '127.0.0.1:9901'}"
    settings = read_settings(write(tmp_path, text))
    workers = [of_worker(settings, number) for number in range(2)]
    assert [each.listen.socket for each in workers] == [str(tmp_path / "a.0.sock"), str(tmp_path / "a.1.sock")]
    assert [each.listen.check_socket for each in workers] == [str(tmp_path / f"a.{number}.check.sock") for number in range(2)]
    assert [each.metrics.listen for each in workers] == ["127.0.0.1:9464", "127.0.0.1:9465"]
    assert [each.admin.listen for each in workers] == ["127.0.0.1:9901", ""]
    assert [each.replicas for each in workers] == [6, 6]
    assert list(settings.listen.each()) == [each.listen for each in workers]
    with pytest.raises(ConfigError, match="one process's own memory"):
        of_worker(read_settings(write(tmp_path, "store: 'sqlite:///:memory:'\nlisten: {workers: 2}")), 0)


def test_on_grpcio_there_is_one_socket_for_all(tmp_path: Path) -> None:
    listen = read_settings(write(tmp_path, "listen: {transport: grpcio}")).listen
    assert listen.check_socket == listen.socket


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: no such file"):
        read_settings(tmp_path / "nowhere.yaml")
