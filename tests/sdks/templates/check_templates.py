"""Templates, built as the client's users build them. Each image takes seconds: several things are checked of one."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from e2b import (
    BuildException,
    CopyItem,
    Sandbox,
    SandboxException,
    SandboxQuery,
    Template,
    TemplateBuildStatus,
    wait_for_file,
    wait_for_port,
)
from e2b.template.logger import LogEntry

STAMP = f"{time.time_ns()}"
"""In what must not be known from an earlier run."""


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What users have in their directories."""
    root = tmp_path_factory.mktemp("context")
    (root / "app/data").mkdir(parents=True)
    (root / "app/main.py").write_text("print('main')\n")
    (root / "app/data/one.txt").write_text("one")
    (root / "app/link").symlink_to("main.py")
    (root / "notes.txt").write_text(STAMP)
    (root / "secret").write_text("s")
    _wheel(root / "tmplb_demo-1.0-py3-none-any.whl")
    _npm(root / "demo-1.0.0.tgz")
    return root


def _wheel(path: Path) -> None:
    info = "tmplb_demo-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tmplb_demo.py", "VALUE = 42\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tmplb-demo\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def _npm(path: Path) -> None:
    content = b'{"name": "demo", "version": "1.0.0", "main": "index.js"}'
    with tarfile.open(path, "w:gz") as tar:
        for name, data in {"package/package.json": content, "package/index.js": b"module.exports = 7"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def main_template(context: Path) -> Template:
    return (
        Template(file_context_path=context, file_ignore_patterns=["secret"])
        .from_python_image("3")
        .set_envs({"GREETING": "hello $USER", "PLAIN": "it's \\$5"})
        .run_cmd([f"echo {STAMP} > ~/made", "echo to-stdout", "echo to-stderr >&2"])
        .copy("notes.txt", "/opt/notes/renamed.txt", mode=0o640, user="root")
        .copy_items([CopyItem(src="app", dest="/home/user/app"), CopyItem(src="*.txt", dest="texts/")])
        .run_cmd("rm -r app/data && sudo rm /usr/bin/tree && touch /tmp/scratch")
        .set_user("worker")
        .set_workdir("deep/er")
        .make_dir("of-worker")
        .set_start_cmd("cd / && echo started >/tmp/started && exec python3 -m http.server 8123", wait_for_port(8123))
    )


@pytest.fixture(scope="session")
def built(context: Path) -> tuple[str, list[LogEntry]]:
    """The name of a template that is built, and what was said meanwhile."""
    said: list[LogEntry] = []
    info = Template.build(main_template(context), "tmplb-main", cpu_count=1, memory_mb=640, on_build_logs=said.append)
    assert info.name == "tmplb-main" and info.template_id and info.build_id and info.tags == ["default"]
    return info.name, said


def test_a_sandbox_of_it_has_what_the_steps_have_made(built: tuple[str, list[LogEntry]]) -> None:
    sandbox = Sandbox.create(built[0], timeout=120)
    try:
        look = "id -un; pwd; echo $GREETING; echo $PLAIN; cat ~user/made; cat /tmp/started; ls"
        assert sandbox.commands.run(look).stdout.split("\n") == [
            *("worker", "/home/user/deep/er", "hello user", "it's $5", STAMP, "started", "of-worker", "")
        ]
        look = (
            "stat -c '%a %U %n' /opt/notes/renamed.txt of-worker; cd ~user; ls app texts; readlink app/link; which tree"
        )
        found = sandbox.commands.run(f"{look}; true", user="root").stdout
        assert found.split() == [
            *("640", "root", "/opt/notes/renamed.txt", "755", "worker", "of-worker"),
            *("app:", "link", "main.py", "texts:", "notes.txt", "main.py"),
        ]
        assert sandbox.commands.run("curl -sf localhost:8123/tmp/started").stdout == "started\n"
        info = sandbox.get_info()
        assert (info.cpu_count, info.memory_mb, info.name) == (1, 640, "tmplb-main")
    finally:
        sandbox.kill()


def test_its_log_has_steps_and_what_they_print(built: tuple[str, list[LogEntry]]) -> None:
    lines = [(entry.level, entry.message) for entry in built[1]]
    assert ("info", "to-stdout") in lines and ("warn", "to-stderr") in lines
    assert any(message.startswith("[2/9] RUN echo") for _, message in lines)
    assert any("Debian 12" in message for level, message in lines if level == "warn")


def test_what_was_built_is_not_built_again(built: tuple[str, list[LogEntry]], context: Path) -> None:
    said: list[LogEntry] = []
    Template.build(main_template(context), built[0], cpu_count=1, memory_mb=640, on_build_logs=said.append)
    messages = [entry.message for entry in said]
    assert sum(message.startswith("CACHED [") for message in messages) == 9 and "to-stdout" not in messages
    assert "Skipping upload of 'app', already cached" in messages


def test_names_and_tags(built: tuple[str, list[LogEntry]]) -> None:
    name = built[0]
    assert Template.exists(name) and Template.alias_exists(f"team/{name}") and not Template.exists("tmplb-none")
    (default,) = Template.get_tags(name)
    assert default.tag == "default"
    assigned = Template.assign_tags(f"{name}:default", ["v1", "stable"])
    assert assigned.build_id == default.build_id and assigned.tags == ["v1", "stable"]
    assert {each.tag for each in Template.get_tags(name)} == {"default", "v1", "stable"}
    sandbox = Sandbox.create(f"{name}:v1", timeout=60)
    assert [each.sandbox_id for each in Sandbox.list(query=SandboxQuery(template=name)).next_items()] == [
        sandbox.sandbox_id
    ]
    sandbox.kill()
    Template.remove_tags(name, ["v1", "stable"])
    assert [each.tag for each in Template.get_tags(name)] == ["default"]
    for call in (lambda: Sandbox.create(f"{name}:v1"), lambda: Template.assign_tags(f"{name}:v1", ["v2"])):
        with pytest.raises(SandboxException, match="404"):
            call()


def test_one_stands_on_another_with_all_kinds_of_packages(built: tuple[str, list[LogEntry]], context: Path) -> None:
    clear = "truncate -s 0 /etc/apt/sources.list"  # no address outside is asked
    repository = "git init -q repo && cd repo && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m first"
    deb = "mkdir -p deb/DEBIAN && printf 'Package: tmplb\\nVersion: 1\\nArchitecture: all\\nMaintainer: t <t@t>\\n"
    deb += "Description: t\\n' >deb/DEBIAN/control && dpkg-deb -b deb /tmp/tmplb.deb"
    template = (
        Template(file_context_path=context)
        .from_template(built[0])
        .set_user("user")
        .set_workdir("/home/user")
        .copy(["tmplb_demo-1.0-py3-none-any.whl", "demo-1.0.0.tgz"], "./")
        .pip_install("--no-index ./tmplb_demo-1.0-py3-none-any.whl")
        .npm_install("--offline ./demo-1.0.0.tgz")
        .run_cmd([repository, "cd ..", deb])
        .run_cmd(f"sudo {clear}")
        .git_clone("/home/user/repo", "cloned")
        .apt_install("/tmp/tmplb.deb", no_install_recommends=True)
        .remove("deb", recursive=True)
    )
    started = Template.build_in_background(template, "tmplb-child:v2", tags=["also"])
    assert sorted(started.tags) == ["also", "v2"]
    seen = 0
    while (status := Template.get_build_status(started, logs_offset=seen)).status in ("building", "waiting"):
        seen += len(status.log_entries)
        time.sleep(0.2)
    assert status.status == TemplateBuildStatus.READY, status.reason
    assert status.build_id == started.build_id and status.template_id == started.template_id and seen > 0
    sandbox = Sandbox.create("tmplb-child:also", timeout=60)
    try:
        look = (
            "python3 -c 'import tmplb_demo as d; print(d.VALUE)'; node -p 'require(\"demo\")'; dpkg -s tmplb | head -1"
        )
        look += "; git -C cloned log --format=%s; echo $GREETING; ls -d deb; curl -sf localhost:8123/tmp/started"
        found = sandbox.commands.run(look).stdout.split("\n")
        assert found == ["42", "7", "Package: tmplb", "first", "hello user", "started", ""]
    finally:
        sandbox.kill()


def test_a_step_that_fails_is_told_with_what_it_said(context: Path) -> None:
    template = Template().from_base_image().run_cmd("echo fine").run_cmd("echo why it fails >&2; exit 3")
    said: list[LogEntry] = []
    with pytest.raises(BuildException, match=r"step 2, RUN echo why it fails.*exit code 3: why it fails") as caught:
        Template.build(template, "tmplb-failing", on_build_logs=said.append)
    assert caught.traceback[-1].path.name == "check_templates.py" or caught.traceback
    assert not Template.exists("tmplb-failing") and said[-2].level == "error"
    with pytest.raises(SandboxException, match="not found"):
        Sandbox.create("tmplb-failing")


def test_what_cannot_be_built_says_why(context: Path) -> None:
    for template, why in (
        (Template().from_image("registry.invalid/no/such:1").run_cmd("true"), "registry.invalid"),
        (Template().from_template("tmplb-none").run_cmd("true"), "there is no template 'tmplb-none'"),
        (Template().from_base_image().run_cmd("true", user="nobody-at-all"), "nobody-at-all"),
        (Template().from_base_image().set_user("no way"), "is no name for a user"),
    ):
        with pytest.raises(BuildException, match=why):
            Template.build(template, "tmplb-wrong")
    for name in ("standard", "base!", ""):
        with pytest.raises(Exception, match=r"name|Name"):
            Template.build(Template().from_base_image(), name)


def test_a_start_command_that_dies_fails_the_build() -> None:
    template = Template().from_base_image().set_start_cmd("echo no database; exit 4", wait_for_file("/tmp/never"))
    with pytest.raises(BuildException, match=r"exit code 4; it said: no database"):
        Template.build(template, "tmplb-dying")


def test_two_builds_of_one_name_at_once(built: tuple[str, list[LogEntry]], context: Path) -> None:
    template = main_template(context)
    both = [Template.build_in_background(template, built[0], cpu_count=1, memory_mb=640) for _ in range(2)]
    until = time.monotonic() + 120
    while any(Template.get_build_status(each).status in ("building", "waiting") for each in both):
        assert time.monotonic() < until
        time.sleep(0.2)
    assert [Template.get_build_status(each).status for each in both] == ["ready", "ready"]
    assert [each.build_id for each in Template.get_tags(built[0])] == [both[1].build_id]


def test_a_large_file_is_copied_and_found_again(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(64 << 20)
        file.write(STAMP.encode())
    digest = subprocess.run(["sha256sum", tmp_path / "large"], capture_output=True, text=True, check=True)
    template = Template(file_context_path=tmp_path).from_base_image().copy("large", "/srv/large")
    with pytest.raises(BuildException, match=digest.stdout.split()[0]):  # a step that fails shows what it has found
        Template.build(template.run_cmd("sha256sum /srv/large; exit 1"), "tmplb-large")
