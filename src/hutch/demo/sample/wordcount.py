"""Count the most frequent words of a text."""

import re
import sys
from collections import Counter

WORD = re.compile(r"[a-z]+")


def top_words(text: str, count: int = 10) -> list[tuple[str, int]]:
    """The most frequent words, most frequent first, and words of equal count by the alphabet.

    >>> top_words("a b a")
    [('a', 2), ('b', 1)]
    >>> top_words("pear fig apple", 2)
    [('apple', 1), ('fig', 1)]
    >>> top_words("The cat and the dog", 1)
    [('the', 2)]
    """
    words = Counter(WORD.findall(text))
    return sorted(words.items(), key=lambda item: (-item[1], item[0]))[:count]


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        for word, number in top_words(file.read()):
            sys.stdout.write(f"{number:6} {word}\n")
