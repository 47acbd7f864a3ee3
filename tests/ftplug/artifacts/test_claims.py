"""What a manifest says of the package that wrote it: shown, and never as a command to paste."""

import pytest

from ftplug.artifacts.methods import writer


@pytest.mark.parametrize(
    ("distribution", "version", "shown"),
    [
        ("ftplug", "0.1.0", "ftplug 0.1.0"),
        ("ftplug_my-lora", "1.0rc1", "ftplug_my-lora 1.0rc1"),
        ("ftplug", None, "ftplug"),
        (None, None, ""),
        ("--index-url http://evil x", "1", "'--index-url http://evil x 1'"),
        ("x", "1 --pre -i http://evil", "'x 1 --pre -i http://evil'"),
        ("x @ http://evil/x.whl", "1", "'x @ http://evil/x.whl 1'"),
        ("x[all]", "1", "'x[all] 1'"),
        ("x", "1,<9", "'x 1,<9'"),
        ("x", "1; python_version > '3'", "\"x 1; python_version > '3'\""),
        ("x\n$(rm -r y)", "1", "'x $(rm -r y) 1'"),
        ("x" * 900, "1\u202e", f"'{'x' * 80}\\u2026'"),
    ],
)
def test_what_is_no_package_is_quoted(distribution, version, shown):
    assert writer({"distribution": distribution, "version": version}) == shown


def test_the_card_and_show_say_it_so(tmp_path):
    import tiny
    from ftplug_registry.showing import rows, show

    import ftplug
    from ftplug.artifacts.card import card_files
    from ftplug.artifacts.manifest import read_manifest

    folder = ftplug.save(ftplug.apply(tiny.bert(), "bitfit"), tmp_path / "artifact")
    manifest = read_manifest(folder)
    manifest.methods[0]["distribution"] = "-i http://evil x"
    assert "plugin '-i http" in card_files(manifest)["README.md"].decode()
    content = show(folder)
    content["methods"][0]["distribution"] = "-i http://evil x"
    assert dict(rows(content))["Plugin"].startswith("'-i http://evil x ")
