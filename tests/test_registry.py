"""Names to implementations."""

from __future__ import annotations

import sys

import pytest

from wsikit.errors import ConfigError, UnknownNameError
from wsikit.predictors import PREDICTORS
from wsikit.registry import Registry
from wsikit.sinks import SINKS
from wsikit.slides import READERS

TABLE = Registry("thing", [("zeta", "json:dumps"), ("alpha", "json:loads"), ("broken", "wsikit.no_such_module:x")])


def test_a_name_gives_its_implementation() -> None:
    assert TABLE.load("alpha")("[1]") == [1]


def test_the_order_is_that_of_the_rows() -> None:
    assert list(TABLE) == ["zeta", "alpha", "broken"]


def test_an_unknown_name_lists_the_choices_and_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"no thing 'alfa'.*zeta, alpha, broken.*Did you mean 'alpha'\?"):
        TABLE.load("alfa")


def test_a_far_name_gets_no_suggestion() -> None:
    with pytest.raises(UnknownNameError) as caught:
        TABLE["qqqqq"]
    assert "Did you mean" not in str(caught.value)


def test_it_is_a_mapping_for_names_it_lacks_too() -> None:
    assert "alpha" in TABLE
    assert "alfa" not in TABLE
    assert TABLE.get("alfa") is None


def test_a_duplicate_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'a' is registered twice: m:one and m:two"):
        Registry("thing", [("a", "m:one"), ("a", "m:two")])


def test_rows_are_imported_only_on_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    table = Registry("thing", [("lazy", "colorsys:rgb_to_hsv")])
    assert "lazy" in table
    assert "colorsys" not in sys.modules
    table.load("lazy")
    assert "colorsys" in sys.modules


@pytest.mark.parametrize(("table", "name"), [(t, n) for t in (READERS, SINKS, PREDICTORS) for n in t])
def test_every_built_in_row_leads_somewhere(table: Registry, name: str) -> None:
    assert isinstance(table.load(name), type)
