"""Formula text to words and signs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bayeslmm.errors import FormulaError
from bayeslmm.formula.tokens import scan, text_of

NAMES = st.from_regex(r"[a-zA-Zäß][a-zA-Z0-9_.äß]*", fullmatch=True)
SIGNS = st.sampled_from(
    [
        "+",
        "-",
        "*",
        "/",
        "**",
        "//",
        "==",
        "!=",
        "<=",
        ">=",
        "<",
        ">",
        "=",
        "!",
        "%",
        ":",
        "|",
        ",",
        ".",
    ]
)
NUMBERS = st.one_of(st.integers(0, 10**9), st.floats(0, 1e9)).map(str)
STRINGS = st.text("ab '^~", max_size=5).map(lambda text: '"' + text + '"')
BACKQUOTED = st.text('ab "^~', max_size=5).map(lambda text: "`" + text + "`")


def kinds(text: str) -> list[str]:
    return [token.kind for token in scan(text)]


@given(st.lists(st.one_of(NAMES, SIGNS, NUMBERS, STRINGS, BACKQUOTED), max_size=20))
def test_what_was_written_is_what_is_read(words):
    tokens = scan(" ".join(words))
    assert [token.lexeme for token in tokens] == words
    assert scan(text_of(tokens)) == tokens


def test_a_model_formula():
    tokens = scan("log(y)~x^2+(1|g)")
    assert text_of(tokens) == "log ( y ) ~ x ** 2 + ( 1 | g )"
    assert [token.kind for token in tokens[:6]] == [
        "IDENTIFIER", "LEFT_PAREN", "IDENTIFIER", "RIGHT_PAREN", "TILDE", "IDENTIFIER",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), (".5", 0.5), ("1e-3", 0.001), ("2.5E6", 2.5e6), ("True", True)],
)
def test_numbers_and_literals_have_their_value(text, value):
    (token,) = scan(text)
    assert token.literal == value
    assert type(token.literal) is type(value)


def test_a_name_after_a_number_is_not_an_exponent():
    assert kinds("2e") == ["NUMBER", "IDENTIFIER"]
    assert kinds("1e5x") == ["NUMBER", "IDENTIFIER"]


def test_a_quote_ends_with_its_own_kind():
    (token,) = scan('"it\'s"')
    assert token.literal == "it's"


def test_carets_and_tildes_inside_quotes_stay():
    assert [token.lexeme for token in scan('`a^b~c` ~ "x^2"')] == ["`a^b~c`", "~", '"x^2"']


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("y ~ x²", None),
        ("y ~ ²", "digits 0 to 9"),
        ("y ~ " + "9" * 500, "number that cannot be read"),
        ("y ~ _x", "backquotes"),
        ("y ~ x $ z", "unexpected character '\\$'"),
        ("y ~ f('a)", "quoted string is not closed"),
        ("y ~ `a", "backquote is not closed"),
        ("y ~ x ~ z", "more than one '~'"),
        ("y ~ (x", "bracket is not closed"),
        ("y ~ (x]", "Unexpected ']'"),
    ],
)
def test_what_cannot_be_read_is_said(text, said):
    if said is None:
        assert kinds(text)[-1] == "IDENTIFIER"
        return
    with pytest.raises(FormulaError, match=said):
        scan(text)
