"""Parse the text of a filter into a syntax tree, with Python's own parser."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from aisle.errors import SearchError

__all__ = ["GRAMMAR", "Expression", "column_name", "function_of", "is_unicode", "window"]

MAX_CHARACTERS = 1_000_000
SHOWN_CHARACTERS = 100
# Each replacement is as long as the SQL word, so positions in the text do not change.
WORDS = {
    **{word.upper(): word for word in ("and", "or", "not", "in", "is")},
    **{"NULL": "None", "null": "None", "TRUE": "True", "true": "True", "FALSE": "False", "false": "False"},
}
OTHER_OPERATORS = {"=": "==", "<>": "!=", "&&": "and", "||": "or"}
GRAMMAR = (
    "a filter is made of comparisons of columns with numbers, quoted texts, True and False, joined by "
    "and, or, not, in, is None and parentheses, and of contains(title, 'sofa') and startswith(title, 'red'); "
    "write col('list price') for a column name with spaces or signs"
)


@dataclass(frozen=True)
class Expression:
    """A filter as the user typed it."""

    text: str
    """Text of the filter: a single line, without blanks around it."""
    names: Collection[str]
    """Names of the products' columns."""

    @classmethod
    def of(cls, text: str, names: Collection[str]) -> Expression:
        """Return the expression of a text, which may have several lines."""
        return cls(text.strip().translate({10: " ", 13: " "}), names)

    def tree(self) -> ast.expr:
        """Return the expression's syntax tree."""
        if not self.text:
            raise SearchError(f"where: the expression is empty; {GRAMMAR}")
        if len(self.text) > MAX_CHARACTERS:
            raise self.refusal(
                0, f"must have at most {MAX_CHARACTERS:,} characters, found {len(self.text):,}"
            )
        try:
            self.text.encode()
            return ast.parse(self._as_python(), mode="eval").body
        except UnicodeEncodeError as error:
            raise self.refusal(error.start, "is not valid Unicode; repair its encoding") from None
        except SyntaxError as error:
            at = error.offset - 1 if error.lineno == 1 and error.offset else len(self.text)
            day = re.search(r"(?<!['\"\d-])\d{4}-0?\d{1,2}-0?\d{1,2}(?!['\"\d])", self.text)
            rule = f"a date is written in quotes: '{day.group()}'" if day else error.msg
            raise self.refusal(day.start() if day else at, f"{rule}; {GRAMMAR}") from None
        except tokenize.TokenError:
            raise self.refusal(len(self.text), f"a bracket or quote has no partner; {GRAMMAR}") from None
        except (ValueError, RecursionError, MemoryError) as error:
            raise self.refusal(
                0, f"cannot be read: {str(error) or 'it is nested too deeply'}; {GRAMMAR}"
            ) from None

    def _as_python(self) -> str:
        """Return the text with SQL's words replaced by Python's; refuse what Python reads differently."""
        characters = list(self.text)
        words = {word: WORDS[word] for word in WORDS.keys() - set(self.names)}
        before = tokenize.TokenInfo(tokenize.ENCODING, "", (1, 0), (1, 0), "")
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            start, end = token.start[1], token.end[1]
            joined = before.string + token.string if before.end == token.start else token.string
            for symbol in {token.string, joined} & set(OTHER_OPERATORS):
                if token.type in {tokenize.OP, tokenize.ERRORTOKEN}:
                    raise self.refusal(start, f"write {OTHER_OPERATORS[symbol]} instead of {symbol}")
            if token.type == tokenize.COMMENT:
                raise self.refusal(start, "a # outside of quotes begins a comment; leave it out")
            if token.type == before.type == tokenize.STRING:
                raise self.refusal(start, "two texts side by side; put a comma between them")
            if token.type == tokenize.NAME and token.string in words:
                characters[start:end] = words[token.string]
            before = token
        return "".join(characters)

    def part(self, node: ast.expr) -> str:
        """Return the part of the text that a node of the tree was read from."""
        return self.text.encode()[node.col_offset : node.end_col_offset].decode()

    def refusal(self, where: ast.expr | int, rule: str) -> SearchError:
        """Return an error that states the rule and quotes the wrong part of the text."""
        if isinstance(where, int):
            at = min(where, len(self.text) - 1)
            return SearchError(f"where: {rule} (character {at + 1} of {window(self.text, at)})")
        at = len(self.text.encode()[: where.col_offset].decode())
        part = window(self.part(where), 0)
        return SearchError(f"where: {rule} (at {part}, character {at + 1} of {window(self.text, at)})")


def window(text: str, at: int) -> str:
    """Return the text in quotes; of a long text, only the part around a position."""
    start = max(0, at - SHOWN_CHARACTERS) if len(text) > 2 * SHOWN_CHARACTERS else 0
    end = max(at, SHOWN_CHARACTERS) + SHOWN_CHARACTERS
    return f"{'...' * (start > 0)}{text[start:end]!r}{'...' * (end < len(text))}"


def function_of(node: ast.expr) -> tuple[str, ast.expr, Sequence[ast.expr]] | None:
    """Return name, column and other arguments of a filter's function; None for any other node."""
    match node:
        case ast.Call(func=ast.Name(id=("contains" | "startswith") as name), args=[of, *rest], keywords=[]):
            return name, of, rest
        case ast.Call(
            func=ast.Attribute(value=of, attr=("contains" | "startswith") as name), args=rest, keywords=[]
        ):
            return name, of, rest
    return None


def column_name(node: ast.AST) -> str | None:
    """Return the name in `price` or `col("list price")`; None for any other node."""
    if isinstance(node, ast.Name):
        return node.id
    match node:
        case ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str(name))], keywords=[]):
            return name
    return None


def is_unicode(text: str) -> bool:
    """Return whether a text has no lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
