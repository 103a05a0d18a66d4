import re
from pathlib import Path

import pytest

from emorec.config import Config

ROOT = Path(__file__).parents[2]
SECTIONS = "|".join(Config.model_fields)
SETTING = re.compile(rf"""["'\s(]((?:{SECTIONS})\.[a-z_]+)=""")
FILES = [*ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*.md"), ROOT / "README.md"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_that_are_named_exist(path):
    for name in SETTING.findall(path.read_text()):
        section, setting = name.split(".")
        known = Config.model_fields[section].annotation.model_fields
        assert setting in known, f"{path.name} names {name}, which is not a setting"
