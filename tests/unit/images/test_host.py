"""What of the machine goes into a build, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from hutch.errors import TemplateBuildFailed
from hutch.images import host
from hutch.images.host import BUILD_DIR, DebianSources

SOURCES = DebianSources(
    codename="bookworm",
    repositories=(
        ("http://me:secret@mirror.example/debian/", "bookworm", ("main", "contrib")),
        ("http://mirror.example/debian/", "bookworm-updates", ("main",)),
        ("http://mirror.example/security/", "bookworm-security", ("main",)),
        ("http://mirror.example/debian/", "bookworm-backports", ("main",)),
        ("https://tools.example/apt/", "stable", ("main",)),
    ),
    apt_options=('Acquire::http::Proxy "http://proxy:3128";',),
)


def test_only_the_release_itself_goes_into_a_build() -> None:
    assert SOURCES.lines("bookworm") == [
        "deb http://me:secret@mirror.example/debian/ bookworm main contrib",
        "deb http://mirror.example/debian/ bookworm-updates main",
        "deb http://mirror.example/security/ bookworm-security main",
    ]


def test_another_release_comes_from_the_same_mirror() -> None:
    assert SOURCES.lines("trixie")[1] == "deb http://mirror.example/debian/ trixie-updates main"


def test_a_mirrors_password_stays_out_of_the_image() -> None:
    assert SOURCES.lines("bookworm", public=True)[0] == "deb http://mirror.example/debian/ bookworm main contrib"


def test_a_machine_without_a_debian_source_is_told_what_to_do() -> None:
    with pytest.raises(TemplateBuildFailed) as caught:
        DebianSources("bookworm", (), ()).lines("bookworm")
    assert "/etc/apt" in str(caught.value)


async def test_this_machines_sources_are_found() -> None:
    sources = await host.debian_sources()
    assert any(line.startswith("deb ") for line in sources.lines(sources.codename))
    assert all(option.startswith("Acquire::") and option.endswith(";") for option in sources.apt_options)


def test_registries_and_proxies_of_the_machine_are_used() -> None:
    env = host.build_environment(
        {
            "HTTPS_PROXY": "http://proxy:3128",
            "no_proxy": "localhost",
            "PIP_INDEX_URL": "https://mirror.example/simple",
            "NPM_CONFIG_REGISTRY": "https://mirror.example/npm/",
        }
    )
    assert env["HTTPS_PROXY"] == "http://proxy:3128"
    assert env["no_proxy"] == "localhost"
    assert env["PIP_INDEX_URL"] == "https://mirror.example/simple"
    assert env["NPM_CONFIG_REGISTRY"] == "https://mirror.example/npm/"


@pytest.mark.parametrize("value", ["/opt/wheels", "https://a.example file:///srv", "~/x", "./x"])
def test_paths_of_the_machine_do_not_go_in(value: str) -> None:
    assert "PIP_FIND_LINKS" not in host.build_environment({"PIP_FIND_LINKS": value})


def test_secrets_of_the_machine_do_not_go_in() -> None:
    env = host.build_environment({"ANTHROPIC_API_KEY": "sk-secret", "HUTCH_API_KEY": "hk_secret", "PATH": "/odd"})
    assert "secret" not in repr(env)
    assert "/odd" not in env["PATH"]


def test_the_machines_own_certificate_authority_is_given_to_every_tool(tmp_path: Path) -> None:
    bundle = tmp_path / "company.crt"
    bundle.write_text("COMPANY")
    environ = {"PIP_CERT": str(bundle), "SSL_CERT_FILE": str(bundle)}
    assert host.certificates(environ).count(b"COMPANY") == 1
    env = host.build_environment(environ)
    for name in ("PIP_CERT", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO"):
        assert env[name] == f"{BUILD_DIR}/ca.crt"
    files = host.build_files(SOURCES, environ)
    assert b"COMPANY" in files["ca.crt"]
    assert b"Acquire::http::Proxy" in files["apt.conf"]


def test_npm_settings_go_in_without_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".npmrc").write_text(
        "registry=https://mirror.example/npm/\n//mirror.example/npm/:_authToken=token\ncafile=/etc/company.crt\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    npmrc = host.build_files(SOURCES, {})["npmrc"].decode()
    assert "registry=https://mirror.example/npm/" in npmrc
    assert "_authToken=token" in npmrc
    assert "cafile" not in npmrc
