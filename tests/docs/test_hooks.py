"""The documentation is built in an environment without ibrobust's own requirements."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_the_leaderboard_of_the_documentation_needs_neither_torch_nor_rich():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'rich', 'typer'))); "
        "from ibrobust.reporting.html.report import write_report; "
        "from ibrobust.study.setting_words import usual_settings"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
