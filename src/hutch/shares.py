"""What a node has for all sandboxes together, and none of them may take from the others."""

from __future__ import annotations

from collections.abc import Sized

FEWEST = 128
"""For how many sandboxes parts are kept, however few there are: more may come."""


class Shares:
    """So much of something for all. One half is for whoever comes first, up to `most_of_one`. Of the other half each
    sandbox has a part that is always its own, however much the others take. `among`: the sandboxes."""

    def __init__(self, most: int, most_of_one: int, among: Sized) -> None:
        self.most = most
        self.most_of_one = most_of_one
        self._among = among
        self._taken = 0
        self._of: dict[str, int] = {}

    @property
    def own(self) -> int:
        """The part of each."""
        return own_part(self.most, len(self._among))

    def of(self, sandbox: str) -> int:
        """What it has."""
        return self._of.get(sandbox, 0)

    def may(self, sandbox: str, amount: int = 1) -> bool:
        """Whether it may have so much more."""
        has = self.of(sandbox) + amount
        return has <= self.most_of_one and (has <= self.own or self._taken + amount <= self.most // 2)

    def take(self, sandbox: str, amount: int = 1) -> bool:
        """The same, and it has so much more then."""
        if not self.may(sandbox, amount):
            return False
        self._of[sandbox] = self.of(sandbox) + amount
        self._taken += amount
        return True

    def give(self, sandbox: str, amount: int = 1) -> None:
        """It has so much less."""
        has = self._of.pop(sandbox, 0)
        assert 0 <= amount <= has
        self._taken -= amount
        if has > amount:
            self._of[sandbox] = has - amount


def own_part(most: int, sandboxes: int) -> int:
    """Of so much for all, what is kept for each."""
    return most // (2 * max(FEWEST, sandboxes))
