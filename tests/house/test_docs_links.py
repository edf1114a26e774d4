"""Links of README.md and CONTRIBUTING.md lead somewhere (those inside docs/ are checked by the strict build)."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
import yaml

from tests.house.pages import REPOSITORY, page_id

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s#]+)(?:#[^)]*)?\)")


def links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [target for target in LINK.findall(text) if "://" not in target]


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"], ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    found = links(page)
    assert found
    assert [target for target in found if not (page.parent / target).exists()] == []


def test_the_picture_of_the_report_is_a_picture() -> None:
    content = (REPOSITORY / "docs" / "images" / "report.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    assert width >= 800 and height >= 400


def test_every_page_is_in_the_navigation() -> None:
    """And in one place of it only."""

    def entries(node: object) -> list[str]:
        if isinstance(node, str):
            return [node]
        children = node if isinstance(node, list) else list(node.values()) if isinstance(node, dict) else []
        return [entry for child in children for entry in entries(child)]

    navigation = entries(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    docs = REPOSITORY / "docs"
    assert sorted(navigation) == sorted(str(path.relative_to(docs)) for path in docs.rglob("*.md"))
