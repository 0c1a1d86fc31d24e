#!/usr/bin/env python3
"""Makes datasets/commontext/words.txt and unseen-words.txt from SCOWL (http://wordlist.aspell.net, package `scowl` of Debian).

    python3 tests/reference/commontext_words.py FOLDER_OF_SCOWL/final

The 5,000 words: size 10 whole, filled up from size 20 in the order of the words' SHA-256. The unseen words: the next 1,000 of
size 20. Left out: slurs, insults, and words of sex and violence, which nobody wants on a generated sign.
"""

import hashlib
import pathlib
import re
import sys

LEFT_OUT = set(
    """
    abort aborted aborting abortion aborts abuse abused abuses abusing abusive ass assault attack attacked attacking attacks balls
    bastard bastards blood bloody bomb bombed bombing bombs bugger buggers corpse corpses crap damn damnation damned damning damns
    dead deadly death deaths die died dies drown drowned drowning drowns drug drugs dumb execution explosion explosions explosive fat
    genocide gun guns hate hated hates hell heroin idiot idiotic idiots jerk kidnap kidnapped kidnapping kidnaps kill killed killer
    killing kills lunatic lust mad moron morons murder murdered murderer murdering murders naked perverse pornography prostitute
    prostitutes rape screw screwed screwing screws sex sexes sexist sexual sexually sexuality sexy slag slave slaves sod stripped
    stripping stupid stupidity suicidal suicide terrorism terrorist terrorists torture ugly victim victims violence violent violently
    war wars weapon weapons
    """.split()
)
WORDS, UNSEEN = 5000, 1000


def load(folder, size):
    found = set()
    for kind in ("english", "american"):
        text = (folder / f"{kind}-words.{size}").read_text(encoding="latin-1")
        found |= {word for word in text.split() if re.fullmatch("[a-z]{2,16}", word) or word in ("a", "i")}
    return found - LEFT_OUT


def write(name, words, what):
    path = pathlib.Path(__file__).parents[2] / "datasets" / "commontext" / name
    head = f"# {what}, from SCOWL 2020.12.07, (c) 2000-2018 Kevin Atkinson; see THIRD-PARTY-NOTICES.md.\n"
    path.write_text(head + "".join(f"{word}\n" for word in sorted(words)), encoding="utf-8")


def main():
    folder = pathlib.Path(sys.argv[1])
    first, second = load(folder, 10), load(folder, 20)
    rest = sorted(second - first, key=lambda word: hashlib.sha256(word.encode()).hexdigest())
    fill = WORDS - len(first)
    write("words.txt", first | set(rest[:fill]), "5,000 common English words")
    unseen = [word for word in rest[fill:] if len(word) > 2][:UNSEEN]
    write("unseen-words.txt", unseen, "1,000 words that words.txt lacks")


main()
