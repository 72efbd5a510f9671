"""The price table."""

from __future__ import annotations

from pathlib import Path

import pytest

from hutch.egress.llm.prices import PriceTable, Tokens
from hutch.errors import InvalidRequest

TABLE = PriceTable.load()
MILLION = 1_000_000


def cost(model: str, used: Tokens) -> float:
    price = TABLE.find(model)
    assert price is not None, model
    return price.cost(used)


@pytest.mark.parametrize(
    ("model", "dollars"),
    [
        ("claude-opus-5-5", 24.0),
        ("claude-opus-4-6", 30.0),
        ("claude-opus-4-1-20250805", 90.0),
        ("claude-sonnet-4-5-20250929", 18.0),
        ("claude-sonnet-5-5[1m]", 12.0),
        ("claude-haiku-4-5@20251001", 6.0),
        ("gpt-5", 11.25),
        ("gpt-5-2025-08-07", 11.25),
        ("gpt-5-mini", 2.25),
        ("gpt-5.3-codex", 15.75),
        ("gpt-4o-mini-2024-07-18", 0.75),
    ],
)
def test_list_price_of_a_million_tokens_in_and_out(model: str, dollars: float) -> None:
    assert cost(model, Tokens(input=MILLION)) + cost(model, Tokens(output=MILLION)) == pytest.approx(dollars)


@pytest.mark.parametrize("model", ["", "gpt-5-unheard-of", "my-llama", "claude", "xgpt-5", "gpt-5.10"])
def test_unknown_model_has_no_price(model: str) -> None:
    assert TABLE.find(model) is None


def test_cached_input_has_its_own_prices() -> None:
    assert cost("claude-opus-4-8", Tokens(cache_read=MILLION)) == pytest.approx(0.5)
    assert cost("claude-opus-4-8", Tokens(cache_write=MILLION)) == pytest.approx(6.25)
    assert cost("claude-opus-4-8", Tokens(cache_write=MILLION, cache_write_1h=MILLION)) == pytest.approx(10.0)


def test_long_prompt_pays_its_own_prices_on_every_token() -> None:
    short = Tokens(input=50_000, cache_read=50_000, output=1000)
    long = Tokens(input=50_001, cache_read=50_000, output=1000)
    assert cost("claude-haiku-5-5", short) == pytest.approx(0.05 * 0.1 + 0.05 * 0.01 + 0.001 * 0.5)
    assert cost("claude-haiku-5-5", long) == pytest.approx(0.050001 * 0.5 + 0.05 * 0.05 + 0.001 * 2.5)


def test_searches_cost_beside_tokens() -> None:
    assert cost("claude-opus-5-5", Tokens(searches=3)) == pytest.approx(0.03)


def test_tier_multiplies_the_price_and_an_unknown_one_does_not() -> None:
    plain = cost("gpt-6.1-sol", Tokens(output=MILLION))
    assert cost("gpt-6.1-sol", Tokens(output=MILLION, tier="priority")) == pytest.approx(2 * plain)
    assert cost("gpt-6.1-sol", Tokens(output=MILLION, tier="flex")) == pytest.approx(plain / 2)
    assert cost("gpt-6.1-sol", Tokens(output=MILLION, tier="default")) == pytest.approx(plain)


def test_own_table_replaces_the_built_in_one_and_the_longest_match_wins(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(
        '[models."my-*"]\ninput = 1\noutput = 2\n'
        '[models."my-best-*"]\ninput = 10\noutput = 20\n'
        '[models."*"]\ninput = 0\noutput = 0\n'
    )
    table = PriceTable.load(path)
    found = [table.find(model) for model in ("my-small", "my-best-one", "other")]
    assert [price.input for price in found if price] == [1, 10, 0]


@pytest.mark.parametrize(
    "text",
    [
        "not toml [",
        '[models."m"]\ninput = -1\noutput = 1\n',
        '[models."m"]\ninput = 1\n',
        "models = 3\n",
        '[models."m"]\ninput = 1\noutput = 1\ncolour = 3\n',
    ],
)
def test_table_that_is_wrong_says_which_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        PriceTable.load(path)
    assert str(path) in str(caught.value)


def test_missing_table_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        PriceTable.load(tmp_path / "nowhere.toml")


def test_many_made_up_names_do_not_pile_up() -> None:
    table = PriceTable.load()
    for number in range(5000):
        table.find(f"made-up-{number}")
    assert len(table._found) <= 1002
