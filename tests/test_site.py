"""Sites as text: they parse, print and round-trip; patterns name what they say."""

from __future__ import annotations

import pytest

from strandscope.errors import InputError
from strandscope.subject.site import Site, parse_pattern


@pytest.mark.parametrize(
    "text", ["embed", "resid:0", "attn:12", "mlp:3", "module:model.layers.3.mlp.up_proj", "module:head", "module:0.a"]
)
def test_a_site_prints_as_it_was_written_and_parses_back(text: str) -> None:
    site = Site.parse(text)
    assert str(site) == text
    assert Site.parse(str(site)) == site == Site.parse(site)


def test_a_path_with_a_dot_needs_no_prefix() -> None:
    assert Site.parse("model.norm") == Site("module", path="model.norm")


@pytest.mark.parametrize(
    "text", ["", "resid", "resid:", "resid:-1", "resid:1.5", "norm", "module:", "module:a..b", "Resid:1", "resid:1 "]
)
def test_what_is_not_a_site_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(InputError, match="resid:12"):
        Site.parse(text)


def test_a_module_path_may_begin_with_a_number_as_in_a_sequential() -> None:
    assert Site.parse("module:0").path == "0"
    assert Site.parse("module:features.0.conv").path == "features.0.conv"


def test_patterns_name_ranges_with_both_ends_and_keep_the_order_written() -> None:
    assert [str(site) for site in parse_pattern("resid:1-3, embed,attn:0", 5)] == [
        "resid:1",
        "resid:2",
        "resid:3",
        "embed",
        "attn:0",
    ]
    assert parse_pattern("mlp:*", 3) == [Site("mlp", index) for index in range(3)]
    assert parse_pattern("resid:1,resid:*", 2) == [Site("resid", 1), Site("resid", 0)]


@pytest.mark.parametrize("pattern", ["resid:3-1", "resid:0-5", "resid:5-9"])
def test_a_range_outside_the_network_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="0 to 4"):
        parse_pattern(pattern, 5)
