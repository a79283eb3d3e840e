"""How an expression is written: the `origin` of a graph says which operations made it, as one would type them."""


def grouped(origin: str, symbol: str) -> str:
    """Puts an operand in brackets where the expression would read otherwise without them.

    Args:
        origin: the expression that made the operand.
        symbol: what comes next to it: one of `| & - ^ @ ~`, or "." for a method.

    >>> grouped("bond | window", "&"), grouped("bond | window", "|"), grouped("~bond", "."), grouped("~bond", "&")
    ('(bond | window)', 'bond | window', '(~bond)', '~bond')
    """
    depth, operators = 0, set()
    for before, char in zip(" " + origin, origin):
        depth += (char in "([") - (char in ")]")
        if depth == 0 and before == " " and char in "|&-^@~":
            operators.add(char)
    if symbol != ".":
        operators.discard("~")  # binds tighter than the rest, but not than a method
    if not operators or (operators == {symbol} and symbol in "|&"):
        return origin
    return f"({origin})"


def shortened(origin: str, width: int = 160) -> str:
    """Returns the expression, its middle left out where it is longer than `width` characters.

    >>> shortened("window(1) | window(2) | window(3)", width=18)
    'window(1) … window(3)'
    """
    return origin if len(origin) <= width else f"{origin[: width // 2]} … {origin[-width // 2 :]}"
