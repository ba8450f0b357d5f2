"""``pipeline/resident.py``."""

import subprocess
import sys

import numpy as np

from wsikit.pipeline.resident import peak_rss_mb

CHILD = """
import numpy as np
from wsikit.pipeline.resident import peak_rss_mb
before = peak_rss_mb()
np.ones(50 << 20, np.uint8)
print(before, peak_rss_mb())
"""


def test_a_child_does_not_claim_its_parents_peak() -> None:
    fat = np.ones(1500 << 20, np.uint8)
    said = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True).stdout
    before, after = map(float, said.split())
    assert peak_rss_mb() > fat.nbytes >> 20
    assert before < 600
    assert 45 < after - before < 70


def test_memory_that_was_given_back_counts() -> None:
    before = peak_rss_mb()
    np.ones(int(before + 200) << 20, np.uint8)
    assert peak_rss_mb() > before + 150
