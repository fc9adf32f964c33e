"""Texts with equal words are near-duplicates; texts that name other products are not."""

from itertools import combinations

import pytest

from aisle.mining.text_keys import words_of


@pytest.mark.parametrize(
    "different",
    [
        ("เสื้อ", "เสื่อ", "เสือ"),  # shirt, mat, tiger
        ("जूता", "जूते", "जाती"),
        ("Handbook C", "Handbook C++", "Handbook C#", "handbook F#"),
        ("C handbook", "C++ handbook", "C# handbook"),
        ("size 1.5 cm", "size 1-5 cm", "size 15 cm", "size 1,5 cm"),
        (".5 kg", "5 kg", "0.5 kg"),
        ("USB 3.0", "USB 3", "USB 30"),
        ("½ inch", "2 inch"),
    ],
)
def test_other_products_have_other_words(different):
    assert all(words_of(one) != words_of(other) for one, other in combinations(different, 2))


@pytest.mark.parametrize(
    "equal",
    [
        ("Red sofa, for two!", "red  sofa (for two)", "RED SOFA \u2013 FOR TWO."),
        ("2-seater", "2 seater"),
        ("caf\u00e9", "cafe\u0301", "CAF\u00c9"),
        ("size 5.", "size 5"),
        ("Groß", "GROSS"),
        ("C#, 2nd edition", "c# 2nd edition"),
    ],
)
def test_punctuation_case_and_composition_make_no_difference(equal):
    assert len({words_of(text) for text in equal}) == 1


def test_answers_are_whole_words():
    assert words_of("C") not in words_of("C++ and C#")
    assert words_of("1.5") in words_of("It weighs 1.5.")
    assert not words_of("?! …").strip()
