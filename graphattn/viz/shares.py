"""How a share is written in captions: never as all, or nothing, where it is not."""


def percent(share: float) -> str:
    """Returns a share in per cent.

    >>> percent(0.81234), percent(0.99999), percent(1.0), percent(1e-6), percent(0.0)
    ('81.2 %', 'over 99.9 %', '100 %', 'under 0.1 %', '0 %')
    """
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    if share > 0.999 or share < 0.001:
        return "over 99.9 %" if share > 0.5 else "under 0.1 %"
    return f"{100 * share:.1f} %"
