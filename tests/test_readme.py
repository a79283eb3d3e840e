"""The README's Python runs as it stands and prints what its comments say; its links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
LINKS = re.findall(r"\]\((?!https?://|#)([^)#]+)", README)


@pytest.mark.parametrize("block", BLOCKS, ids=[f"block{i}" for i in range(len(BLOCKS))])
def test_block_runs_alone_and_prints_its_comments(block: str, tmp_path: Path) -> None:
    expected = re.findall(r"^print\(.*\) +# (.*)$", block, flags=re.MULTILINE)
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{block}"  # away from the clone, no file of it is at hand
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == expected


def test_quick_start_is_short_and_prints_a_result() -> None:
    quick_start = BLOCKS[0].splitlines()
    assert len(quick_start) < 20
    assert any(line.startswith("print(") for line in quick_start)


@pytest.mark.parametrize("link", LINKS)
def test_relative_link_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).exists()
